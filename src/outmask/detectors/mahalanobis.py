"""Mahalanobis distance of decoder features to the nearest class (Lee et al. 2018)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from outmask.detectors.detector import FittedDetector, Observation, Subject, feature_classifier
from outmask.errors import OutmaskError

# Pixels whose features are converted to float64 at a time: 32 MB of 256 channels.
_CHUNK = 16384


@dataclass(frozen=True)
class Mahalanobis(FittedDetector):
    """Squared distance to the nearest class in the features that the head classifies (Lee et al. 2018, eq. 1-2).

    ``min_c (f - mu_c)^T Sigma^-1 (f - mu_c)``, ``mu_c`` the mean feature of the pixels **labelled** c in the training
    set, ``Sigma`` the covariance about these means, one for all classes. The features are the last ones, at the
    decoder's resolution, and so are the distances, which are then resized; the paper's input perturbation and its
    combination of layers, which is trained on outliers, are not included. (The baseline of SegmentMeIfYouCan has a
    covariance for each class instead.)

    ``Sigma^-1`` is the pseudo-inverse that float32 features determine: directions with less than ``D eps`` of the
    largest variance (channels that a ReLU never opens) are left out.

    Statistics: ``means``, ``(classes that occur, D)``, and ``whitening``, ``(D, rank)``, whose product with its
    transpose is ``Sigma^-1``; float32.
    """

    name: ClassVar[str] = "mahalanobis"
    equation: ClassVar[str] = "min_c (f - mu_c)^T Sigma^-1 (f - mu_c), f the features that the head classifies"
    source: ClassVar[str] = "Mahalanobis distance to class means with one covariance (Lee et al. 2018)"
    needs_features: ClassVar[bool] = True

    @torch.no_grad()
    def __call__(self, segmenter: Subject, pixels: Tensor) -> Tensor:
        """See :class:`Detector`."""
        model, statistics = feature_classifier(segmenter, self.name), self.statistics(segmenter)
        means, whitening = (statistics[name].to(pixels.device) for name in ("means", "whitening"))
        features = model.features(pixels).float()
        # Relative to the middle of the classes, so that no large values are subtracted from each other.
        middle = means.mean(0)
        white = (features.flatten(2).transpose(1, 2) - middle) @ whitening
        centres = ((means - middle) @ whitening).expand(len(white), -1, -1)
        distances = torch.cdist(white, centres, compute_mode="donot_use_mm_for_euclid_dist").amin(2) ** 2
        maps = distances.view(-1, 1, *features.shape[-2:])
        return F.interpolate(maps, size=pixels.shape[-2:], mode="bilinear", align_corners=False)[:, 0]

    def display_range(self, segmenter: Subject, num_classes: int) -> tuple[float, float]:
        """The mean distance to the own class over the training set, which is the rank; twice as far away."""
        rank = float(self.statistics(segmenter)["whitening"].shape[1])
        return rank, 4 * rank

    def fitting(self, num_classes: int) -> ClassGaussians:
        """Statistics of no image yet."""
        return ClassGaussians(num_classes)


class ClassGaussians:
    """Class means and their common covariance, in one pass.

    Partial sums of squares are about their own means and merged exactly (Chan et al. 1983), in float64.
    """

    def __init__(self, num_classes: int) -> None:
        self._count = torch.zeros(num_classes, 1, dtype=torch.float64)
        self._means = torch.zeros(num_classes, 0, dtype=torch.float64)
        self._scatter = torch.zeros(0, 0, dtype=torch.float64)

    def update(self, observation: Observation) -> None:
        """Take one image in; each feature has the label at its centre."""
        assert observation.features is not None
        features = observation.features[0]
        at_centres = F.interpolate(
            observation.labels[None, None].float(), size=features.shape[-2:], mode="nearest-exact"
        ).flatten()
        known = at_centres < len(self._count)
        labels, pixels = at_centres[known].long().cpu(), features.flatten(1).T[known.to(features.device)]
        for start in range(0, len(labels), _CHUNK):
            self._add(pixels[start : start + _CHUNK].cpu().double(), labels[start : start + _CHUNK])

    def _add(self, features: Tensor, labels: Tensor) -> None:
        """``(n, D)`` features and their ``(n,)`` classes."""
        classes, dim = len(self._count), features.shape[1]
        if not self._scatter.numel():
            self._means, self._scatter = self._means.new_zeros(classes, dim), self._scatter.new_zeros(dim, dim)
        count = torch.bincount(labels, minlength=classes).double()[:, None]
        means = features.new_zeros(classes, dim).index_add_(0, labels, features) / count.clamp(min=1)
        own = features - means[labels]
        total = (self._count + count).clamp(min=1)
        moved = means - self._means
        self._scatter += own.T @ own + (moved * (self._count * count / total)).T @ moved
        self._means += moved * count / total
        self._count += count

    def compute(self) -> dict[str, Tensor]:
        """``means`` of the classes that occurred, and ``whitening``.

        Raises:
            OutmaskError: where no pixel has a class, or all features of each class are equal.
        """
        occurred = self._count[:, 0] > 0
        if not occurred.any():
            raise OutmaskError("no pixel of the training images has a class: no features to learn from")
        variances, directions = torch.linalg.eigh(self._scatter / self._count.sum())
        kept = variances > len(variances) * torch.finfo(torch.float32).eps * variances[-1]
        if not variances[-1] > 0:
            raise OutmaskError("all pixels of a class have the same features: there are no distances to measure by")
        return {
            "means": self._means[occurred].float(),
            "whitening": (directions[:, kept] / variances[kept].sqrt()).float().contiguous(),
        }
