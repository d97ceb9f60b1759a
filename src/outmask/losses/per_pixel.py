"""The losses of per-pixel classifiers, closed-set and with pasted negatives.

Per-pixel cross-entropy can't say of a pixel that it belongs to no class, as mask losses can (M2F-EAM 3.4), so each of
the outlier-aware losses has a term of its own for pasted pixels. All take the targets of the mask losses: *ignore*
counts nowhere, *void* that was not pasted in the void classifier only. Logits are resized bilinearly to the targets'
size first. Means are over the pixels of all processes of ``torch.distributed``: the averaged gradients of N processes
are those of one with the joint batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, distributed
from torch.nn import functional as F

from outmask.errors import OutmaskError
from outmask.losses.masks import check_targets
from outmask.types import PixelPrediction

if TYPE_CHECKING:
    from outmask.data.labels import Target

UNLABELLED = -1  # in label maps; every cross-entropy here leaves it out


@dataclass(frozen=True)
class LabelledPixels:
    """A prediction at the resolution of its targets, and these as label maps.

    Attributes:
        logits: ``(B, K, H, W)`` float32, or float64 where the prediction is.
        outlier_logits: ``(B, H, W)`` of the same type, of a network with an outlier head.
        labels: ``(B, H, W)`` int64: class ids, or ``UNLABELLED``.
        outlier: ``(B, H, W)`` bool, pasted pixels.
        void: ``(B, H, W)`` bool, pixels that are neither of a class nor ignored; the pasted ones are among them.
    """

    logits: Tensor
    outlier_logits: Tensor | None
    labels: Tensor
    outlier: Tensor
    void: Tensor

    @property
    def known(self) -> Tensor:
        """``(B, H, W)`` bool, pixels of a class."""
        return self.labels != UNLABELLED

    @cached_property
    def log_probabilities(self) -> Tensor:
        """``log P``, ``(B, K, H, W)``."""
        return self.logits.log_softmax(1)

    @property
    def log_likelihood(self) -> Tensor:
        """``logsumexp_k C_k``, ``(B, H, W)``: the unnormalised log-likelihood, the negative energy."""
        return self.logits.logsumexp(1)

    def cross_entropy(self) -> Tensor:
        """``-log P_label``, summed over the pixels of a class."""
        return F.nll_loss(self.log_probabilities, self.labels, ignore_index=UNLABELLED, reduction="sum")


def label_maps(targets: Sequence[Target]) -> tuple[Tensor, Tensor, Tensor]:
    """``labels``, ``outlier`` and ``void`` of :class:`LabelledPixels`; where masks overlap, the last one counts."""
    labels, outlier, void = [], [], []
    for target in targets:
        map_ = torch.full(target.ignore.shape, UNLABELLED, device=target.ignore.device)
        for class_id, mask in zip(target.class_ids, target.masks, strict=True):
            map_.masked_fill_(mask, class_id)
        map_.masked_fill_(target.ignore | target.outlier, UNLABELLED)
        labels.append(map_)
        outlier.append(target.outlier & ~target.ignore)
        void.append((map_ == UNLABELLED) & ~target.ignore)
    return torch.stack(labels), torch.stack(outlier), torch.stack(void)


def average_counts(*masks: Tensor) -> Tensor:
    """True pixels of each mask per process; a sum over them, divided by it, is a mean over those of all processes.

    Returns:
        ``(len(masks),)`` float32, the same in all processes; where no process has any pixel, not 0 all the same.
    """
    counts = torch.stack([mask.sum() for mask in masks]).float()
    processes = 1
    if distributed.is_available() and distributed.is_initialized():
        distributed.all_reduce(counts)
        processes = distributed.get_world_size()
    return counts.clamp(min=1) / processes


@dataclass(frozen=True)
class PixelCriterion(ABC):
    """A loss of per-pixel classifiers.

    Attributes:
        num_classes: K.
        needs_outlier_logits: whether the network needs an outlier head.
        score: the anomaly score that it trains for.

    Raises:
        OutmaskError: where K is below 1, or a weight below 0.
    """

    num_classes: int
    needs_outlier_logits: ClassVar[bool] = False
    score: ClassVar[str] = "msp"

    def __post_init__(self) -> None:
        if self.num_classes < 1:
            raise OutmaskError(f"num_classes must be at least 1, got {self.num_classes}")
        for name, value in vars(self).items():
            if name.endswith("weight") and value < 0:
                raise OutmaskError(f"{name} must not be negative, got {value}")

    def __call__(self, prediction: PixelPrediction, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Weighted losses of a batch; their sum is the total.

        Args:
            prediction: of B images, with outlier logits exactly if the loss is of an outlier head.
            targets: of the same B images, all of one size, on the prediction's device; that size is usually 4 times
                that of the logits.

        Returns:
            scalars, float32 or, where the prediction is, float64: ``class``, the cross-entropy, and what else the loss
            has. A term without any pixel is 0 and still differentiable.

        Raises:
            OutmaskError: where targets don't fit the prediction, or the prediction doesn't fit the loss.
        """
        self._validate(prediction, targets)
        labels, outlier, void = label_maps(targets)
        logits, outlier_logits = _at_size(prediction.logits, labels.shape[1:]), prediction.outlier_logits
        if outlier_logits is not None:
            outlier_logits = _at_size(outlier_logits[:, None], labels.shape[1:])[:, 0]
        return self._losses(LabelledPixels(logits, outlier_logits, labels, outlier, void))

    @abstractmethod
    def _losses(self, pixels: LabelledPixels) -> dict[str, Tensor]: ...

    def _validate(self, prediction: PixelPrediction, targets: Sequence[Target]) -> None:
        name = type(self).__name__
        if not isinstance(prediction, PixelPrediction):
            raise OutmaskError(
                f"{name} is a loss of per-pixel classifiers, got a {type(prediction).__name__}: use SetCriterion"
            )
        if prediction.num_classes != self.num_classes:
            raise OutmaskError(
                f"the prediction has {prediction.num_classes} classes and the criterion {self.num_classes}: "
                "give both the same"
            )
        if (prediction.outlier_logits is not None) != self.needs_outlier_logits:
            verb, has = ("needs", True) if self.needs_outlier_logits else ("does not train", False)
            raise OutmaskError(f"{name} {verb} outlier_logits: build the model with outlier_head={has}")
        check_targets(targets, len(prediction.logits), self.num_classes)


@dataclass(frozen=True)
class PixelCrossEntropy(PixelCriterion):
    """``class`` = mean of ``-log P_label`` over the pixels of a class: the closed-set loss."""

    def _losses(self, pixels: LabelledPixels) -> dict[str, Tensor]:
        (known,) = average_counts(pixels.known)
        return {"class": pixels.cross_entropy() / known}


@dataclass(frozen=True)
class VoidClassifier(PixelCriterion):
    """Void as class K + 1 (Blum et al. 2021): ``class`` = mean of ``-log softmax(C, O)_label``, the label of void O.

    Everything void is of that class, whether pasted or labelled so by the data set.
    """

    needs_outlier_logits: ClassVar[bool] = True
    score: ClassVar[str] = "void"

    def _losses(self, pixels: LabelledPixels) -> dict[str, Tensor]:
        assert pixels.outlier_logits is not None
        (count,) = average_counts(pixels.known | pixels.void)
        logits = torch.cat([pixels.logits, pixels.outlier_logits[:, None]], 1)
        labels = pixels.labels.masked_fill(pixels.void, self.num_classes)
        return {"class": F.cross_entropy(logits, labels, ignore_index=UNLABELLED, reduction="sum") / count}


@dataclass(frozen=True)
class OutlierHead(PixelCriterion):
    """A second head tells pasted pixels from those of a class (Bevandic et al. 2022).

    ``class`` as in :class:`PixelCrossEntropy`; ``outlier`` = ``outlier_weight`` x the mean binary cross-entropy of
    ``sigmoid(O)`` over pixels of a class (0) and pasted ones (1).

    Attributes:
        outlier_weight: 0.2 against 1 in the paper.
    """

    outlier_weight: float = 0.2
    needs_outlier_logits: ClassVar[bool] = True
    score: ClassVar[str] = "ood-head"

    def _losses(self, pixels: LabelledPixels) -> dict[str, Tensor]:
        known, both = average_counts(pixels.known, pixels.known | pixels.outlier)
        return {
            "class": pixels.cross_entropy() / known,
            "outlier": self.outlier_weight * _outlier_cross_entropy(pixels) / both,
        }


@dataclass(frozen=True)
class MaximisedEntropy(PixelCriterion):
    """Pasted pixels shall be of all classes alike (Chan et al. 2021).

    ``class`` = ``(1 - outlier_weight)`` x that of :class:`PixelCrossEntropy`; ``outlier`` = ``outlier_weight`` x the
    mean cross-entropy to the uniform distribution, ``-1/K sum_k log P_k``, over pasted pixels. The paper's two
    expectations are each over their own pixels; its released code sums both over all pixels, ignored ones too, and so
    weighs outliers by their area. Outlier exposure (Hendrycks et al. 2019; 1 and 0.5) is ``outlier_weight`` = 1/3, up
    to a factor.

    Attributes:
        outlier_weight: lambda, in [0, 1].

    Raises:
        OutmaskError: on a weight out of range.
    """

    outlier_weight: float = 0.9
    score: ClassVar[str] = "entropy"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.outlier_weight > 1:
            raise OutmaskError(f"outlier_weight must be in [0, 1], got {self.outlier_weight}")

    def _losses(self, pixels: LabelledPixels) -> dict[str, Tensor]:
        known, outlier = average_counts(pixels.known, pixels.outlier)
        to_uniform = -pixels.log_probabilities.mean(1)
        return {
            "class": (1 - self.outlier_weight) * pixels.cross_entropy() / known,
            "outlier": self.outlier_weight * _sum(to_uniform, pixels.outlier) / outlier,
        }


@dataclass(frozen=True)
class EnergyMargin(PixelCriterion):
    """Low energy for pixels of a class, high energy for pasted ones: the energy term of PEBAL (Tian et al. 2022).

    ``E = -logsumexp_k C_k``; ``class`` as in :class:`PixelCrossEntropy`; ``energy`` = ``energy_weight / 2`` x (the mean
    of ``max(0, E - known_margin)^2`` over pixels of a class + the mean of ``max(0, outlier_margin - E)^2`` over pasted
    ones). PEBAL's abstention class, and its smoothness and sparsity terms, are not here.

    Attributes:
        known_margin: m_in, the energy below which a pixel of a class costs nothing.
        outlier_margin: m_out, the energy above which a pasted one costs nothing.
        energy_weight: the released code's, as in Liu et al. 2020.

    Raises:
        OutmaskError: where the margins don't rise.
    """

    known_margin: float = -12.0
    outlier_margin: float = -6.0
    energy_weight: float = 0.1
    score: ClassVar[str] = "energy"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.known_margin > self.outlier_margin:
            raise OutmaskError(
                f"known_margin must not be above outlier_margin, got {self.known_margin} and {self.outlier_margin}"
            )

    def _losses(self, pixels: LabelledPixels) -> dict[str, Tensor]:
        known, outlier = average_counts(pixels.known, pixels.outlier)
        energy = -pixels.log_likelihood
        too_high = (energy - self.known_margin).relu().square()
        too_low = (self.outlier_margin - energy).relu().square()
        return {
            "class": pixels.cross_entropy() / known,
            "energy": self.energy_weight
            * (_sum(too_high, pixels.known) / known + _sum(too_low, pixels.outlier) / outlier)
            / 2,
        }


@dataclass(frozen=True)
class DenseHybrid(PixelCriterion):
    """Class posterior, outlier posterior and likelihood of one network (Grcic et al. 2022).

    ``class`` and ``outlier`` as in :class:`OutlierHead`; ``likelihood`` = ``likelihood_weight`` x the mean of the
    unnormalised log-likelihood ``logsumexp_k C_k`` over pasted pixels, which is to be low; it has no lower end.

    Attributes:
        likelihood_weight: beta of the released code.
        outlier_weight: 10 beta there.
    """

    likelihood_weight: float = 0.03
    outlier_weight: float = 0.3
    needs_outlier_logits: ClassVar[bool] = True
    score: ClassVar[str] = "densehybrid"

    def _losses(self, pixels: LabelledPixels) -> dict[str, Tensor]:
        known, both, outlier = average_counts(pixels.known, pixels.known | pixels.outlier, pixels.outlier)
        return {
            "class": pixels.cross_entropy() / known,
            "outlier": self.outlier_weight * _outlier_cross_entropy(pixels) / both,
            "likelihood": self.likelihood_weight * _sum(pixels.log_likelihood, pixels.outlier) / outlier,
        }


def _outlier_cross_entropy(pixels: LabelledPixels) -> Tensor:
    """``-log sigmoid(O)`` of pasted pixels and ``-log(1 - sigmoid(O))`` of those of a class, summed."""
    assert pixels.outlier_logits is not None
    labels = pixels.outlier.to(pixels.outlier_logits.dtype)
    values = F.binary_cross_entropy_with_logits(pixels.outlier_logits, labels, reduction="none")
    return _sum(values, pixels.known | pixels.outlier)


def _sum(values: Tensor, where: Tensor) -> Tensor:
    # Not a product with the mask: where a value overflows outside of it, that would be NaN.
    return values.masked_fill(~where, 0).sum()


def _at_size(maps: Tensor, size: torch.Size) -> Tensor:
    """``(B, C, h, w)`` resized to ``(H, W)``, in float32 at least."""
    maps = maps.to(torch.promote_types(maps.dtype, torch.float32))
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)
