"""Losses of the second training stage: pasted negatives are to look unknown, known classes are not.

They are added to :class:`outmask.losses.SetCriterion`'s and compare one score per pixel with ``Target.outlier``.
Notation: ``P_q = softmax(C_q)`` over K classes and *no object*, which is dropped afterwards; ``m_q = sigmoid(M_q)``;
``L_k = sum_q m_q P_q(k)``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from outmask.errors import OutmaskError
from outmask.losses.masks import average_over_processes
from outmask.types import MaskPrediction

if TYPE_CHECKING:
    from outmask.data.labels import Target

ContrastiveVariant = Literal["margin", "released"]
CrossEntropyVariant = Literal["probability", "released"]


class OutlierLoss(ABC):
    """``1/2 (mean of a penalty over known pixels + mean of another over pasted ones)``, in every decoder layer.

    Two means, as in the released code of Mask2Anomaly and RbA, because pasted pixels are few: one mean over all pixels
    would hardly see them.

    *Pasted* is ``Target.outlier``; *known* is what lies in a target mask. Void that was not pasted (what a dataset
    leaves unlabelled) is neither: nobody knows what it shows, and the mask losses already push every mask off it, which
    a known pixel must not be. Mask2Anomaly's text asks for the same ("in-distribution class pixels"), its released
    code counts void as known; RbA's leaves it out. ``Target.ignore`` counts nowhere.

    Scores are computed at the resolution of the mask logits, then resized bilinearly, as in the released code (at
    inference it is the logits that are resized), here with the same pixel centres as everywhere else
    (``align_corners=False``).
    """

    name: ClassVar[str]

    def __call__(self, prediction: MaskPrediction, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Losses of a batch, each of weight 1.

        All processes of ``torch.distributed`` must call it in the same step: pixels are counted over all of them, so
        that gradients averaged over processes are those of one process with the joint batch.

        Args:
            prediction: of B images, with L - 1 auxiliary predictions.
            targets: of the same B images, all of one size, on the prediction's device.

        Returns:
            scalars ``name_0`` ... ``name_{L-2}`` of the auxiliary predictions and ``name``, float32 whatever the
            prediction's precision (float64 for float64). A mean over no pixels is 0 and still differentiable.

        Raises:
            OutmaskError: where targets do not fit the prediction.
        """
        pasted, weights = _pasted_and_weights(prediction, targets)
        suffixes = [*(f"_{index}" for index in range(len(prediction.auxiliary))), ""]
        losses = {}
        with torch.autocast(prediction.mask_logits.device.type, enabled=False):
            for suffix, layer in zip(suffixes, (*prediction.auxiliary, prediction), strict=True):
                # Recomputed in the backward pass. What it would keep is larger than all layers' mask logits (for R50 at
                # 512x1024, batch 2: 340 to 500 MB beside 250), and the forward pass is a third of the loss's time.
                losses[f"{self.name}{suffix}"] = checkpoint(
                    self._layer_loss,
                    layer.class_logits,
                    layer.mask_logits,
                    pasted,
                    weights,
                    use_reentrant=False,
                    preserve_rng_state=False,
                )
        return losses

    def _layer_loss(self, class_logits: Tensor, mask_logits: Tensor, pasted: Tensor, weights: Tensor) -> Tensor:
        dtype = torch.promote_types(torch.promote_types(class_logits.dtype, mask_logits.dtype), torch.float32)
        probabilities = class_logits.to(dtype).softmax(-1)[..., :-1]
        class_scores = torch.einsum("bqk,bqhw->bkhw", probabilities, mask_logits.to(dtype).sigmoid())
        score = self._score(class_scores)[:, None]
        score = F.interpolate(score, pasted.shape[1:], mode="bilinear", align_corners=False)[:, 0]
        return (torch.where(pasted, self._pasted_penalty(score), self._known_penalty(score)) * weights).sum()

    @abstractmethod
    def _score(self, class_scores: Tensor) -> Tensor:
        """``(B, K, h, w)`` closed-set scores ``L_k`` -> ``(B, h, w)``."""

    @abstractmethod
    def _known_penalty(self, score: Tensor) -> Tensor:
        """Of a pixel of a known class, any shape; finite wherever the score is."""

    @abstractmethod
    def _pasted_penalty(self, score: Tensor) -> Tensor:
        """Of a pasted pixel, any shape; finite wherever the score is."""


@dataclass(frozen=True)
class MaskContrastiveLoss(OutlierLoss):
    """Mask2Anomaly's mask contrastive loss, eq. 10-12: ``l_N^2`` on known pixels, ``max(0, m - l_N)^2`` on pasted ones.

    Attributes:
        variant: ``"margin"``: ``l_N = 1 - max_k L_k``, so that known pixels go to 0 and pasted ones beyond the margin;
            what the text describes. ``"released"``: ``l_N = -max_k L_k``, eq. 10 literally and the released code: both
            terms push ``max_k L_k`` to 0, and since ``l_N <= 0`` no pasted pixel ever reaches the margin.
        margin: m, above 0 and finite; the paper's 0.75.

    Raises:
        OutmaskError: on another variant or margin.
    """

    name: ClassVar[str] = "contrastive"

    variant: ContrastiveVariant = "margin"
    margin: float = 0.75

    def __post_init__(self) -> None:
        _check_variant(self.variant, get_args(ContrastiveVariant))
        if not 0 < self.margin < math.inf:
            raise OutmaskError(f"margin must be above 0 and finite, got {self.margin}")

    def _score(self, class_scores: Tensor) -> Tensor:
        return _negative_likelihood(class_scores, 0 if self.variant == "released" else 1)

    def _known_penalty(self, score: Tensor) -> Tensor:
        return score.square()

    def _pasted_penalty(self, score: Tensor) -> Tensor:
        return (self.margin - score).relu().square()


@dataclass(frozen=True)
class OutlierCrossEntropyLoss(OutlierLoss):
    """Binary cross-entropy between a score and the outlier mask, Mask2Anomaly eq. 26-27.

    Attributes:
        variant: ``"probability"``: ``l_N = 1 - max_k L_k`` is the probability of an outlier. ``"released"``:
            ``-max_k L_k`` is its *logit*, as in the released code: probabilities then stay below 1/2, so that known and
            pasted pixels are at most 0.23 apart where no masks overlap.
        eps: of ``"probability"``, in (0, 0.5): probabilities are clipped to [eps, 1], below eps along the tangent of
            the logarithm, whose slope there is 1 / eps. A plain clip would teach nothing where overlapping masks claim
            a pasted pixel more than once (``L_k > 1``), the pixels that are most wrong.

    Raises:
        OutmaskError: on another variant, or eps outside of its range.
    """

    name: ClassVar[str] = "outlier_bce"

    variant: CrossEntropyVariant = "probability"
    eps: float = 0.01

    def __post_init__(self) -> None:
        _check_variant(self.variant, get_args(CrossEntropyVariant))
        if not 0 < self.eps < 0.5:
            raise OutmaskError(f"eps must be in (0, 0.5), got {self.eps}")

    def _score(self, class_scores: Tensor) -> Tensor:
        return _negative_likelihood(class_scores, 0 if self.variant == "released" else 1)

    def _known_penalty(self, score: Tensor) -> Tensor:
        return F.softplus(score) if self.variant == "released" else _negative_log(1 - score, self.eps)

    def _pasted_penalty(self, score: Tensor) -> Tensor:
        return F.softplus(-score) if self.variant == "released" else _negative_log(score, self.eps)


@dataclass(frozen=True)
class RbALoss(OutlierLoss):
    """RbA's outlier supervision (Nayal et al. 2023 eq. 6): ``max(0, alpha - RbA)^2`` on pasted pixels.

    ``RbA = -sum_k tanh(L_k)`` is never above 0. Where the inlier term is on, known pixels cost
    ``max(0, RbA - inlier)^2``.

    Attributes:
        alpha: outliers' lower limit, finite. The released models use 5: no pixel reaches it, so all of a pasted object
            is pushed, and pushed harder the more its classes still claim.
        inlier: known pixels' upper limit of RbA, or None for no term. The released models set 0, which RbA never
            exceeds: none; their configurations' default is -1.

    Raises:
        OutmaskError: on limits that are not finite, or an inlier limit that is not below alpha.
    """

    name: ClassVar[str] = "rba"

    alpha: float = 5.0
    inlier: float | None = None

    def __post_init__(self) -> None:
        if not math.isfinite(self.alpha):
            raise OutmaskError(f"alpha must be finite, got {self.alpha}")
        if self.inlier is not None and not -math.inf < self.inlier < self.alpha:
            raise OutmaskError(f"inlier must be finite and below alpha, got {self.inlier} and {self.alpha}")

    def _score(self, class_scores: Tensor) -> Tensor:
        return -class_scores.tanh().sum(1)

    def _known_penalty(self, score: Tensor) -> Tensor:
        return torch.zeros_like(score) if self.inlier is None else (score - self.inlier).relu().square()

    def _pasted_penalty(self, score: Tensor) -> Tensor:
        return (self.alpha - score).relu().square()


@dataclass(frozen=True)
class SuppressionLoss(OutlierLoss):
    """*Void-suppression* (Hwang et al. 2021): every known class is pushed down on void, ``-sum_k log(1 - L_k)``.

    Known pixels cost nothing. The paper does so in the classifier of region proposals; this is its counterpart for a
    mask classifier, whose classes compete at a pixel, not in a box.

    Attributes:
        eps: in (0, 0.5): ``1 - L_k`` is clipped to [eps, 1], as in :class:`OutlierCrossEntropyLoss`.

    Raises:
        OutmaskError: on eps outside of its range.
    """

    name: ClassVar[str] = "suppression"

    eps: float = 0.01

    def __post_init__(self) -> None:
        if not 0 < self.eps < 0.5:
            raise OutmaskError(f"eps must be in (0, 0.5), got {self.eps}")

    def _score(self, class_scores: Tensor) -> Tensor:
        return _negative_log(1 - class_scores, self.eps).sum(1)

    def _known_penalty(self, score: Tensor) -> Tensor:
        return torch.zeros_like(score)

    def _pasted_penalty(self, score: Tensor) -> Tensor:
        return score


def _negative_log(probability: Tensor, eps: float) -> Tensor:
    """``-log`` of probabilities clipped to [eps, 1], below eps along its tangent there."""
    return (eps - probability).relu() / eps - probability.clamp(eps, 1).log()


def _negative_likelihood(class_scores: Tensor, offset: int) -> Tensor:
    """``offset - max_k L_k``, ``(B, h, w)``."""
    return offset - class_scores.max(1).values


def _check_variant(variant: str, variants: tuple[str, ...]) -> None:
    if variant not in variants:
        raise OutmaskError(f"unknown variant {variant!r}: choose from {', '.join(variants)}")


def _pasted_and_weights(prediction: MaskPrediction, targets: Sequence[Target]) -> tuple[Tensor, Tensor]:
    """Which pixels are pasted, ``(B, H, W)`` bool, and what each pixel weighs, ``(B, H, W)`` float32.

    Over all processes, the weights of known pixels and those of pasted ones sum to half the number of processes each;
    all others weigh 0.
    """
    if len(targets) != len(prediction.class_logits):
        raise OutmaskError(
            f"expected one target per image, got {len(targets)} targets for {len(prediction.class_logits)} images"
        )
    if len(sizes := {tuple(target.ignore.shape) for target in targets}) > 1:
        raise OutmaskError(f"targets of a batch must have one size, got {sorted(sizes)}: crop or pad them to it")
    pasted = torch.stack([target.outlier & ~target.ignore for target in targets])
    known = torch.stack([target.masks.any(0) & ~target.outlier & ~target.ignore for target in targets])
    of_known, of_pasted = 0.5 / average_over_processes(torch.stack([known.sum(), pasted.sum()]), at_least=1)
    return pasted, known * of_known + pasted * of_pasted
