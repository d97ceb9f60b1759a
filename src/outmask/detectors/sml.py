"""Standardised max-logits (Jung et al. 2021)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from outmask import scores
from outmask.detectors.detector import FittedDetector, Observation, Subject, pixel_prediction
from outmask.errors import OutmaskError


@dataclass(frozen=True)
class StandardisedMaxLogits(FittedDetector):
    """The max-logit, relative to what it usually is where that class is predicted (Jung et al. 2021, eq. 1-4).

    ``SML = -(C_y - mu_y) / sigma_y`` with ``y = argmax_k C_k``; ``mu_c`` and ``sigma_c^2`` are mean and variance of the
    max-logit over those pixels of the training set that are **predicted** as class c, right or wrong, void or not, as
    in the released code. (That takes them from 50 random crops; here from whole images, at the size of inference.)

    This is the standardisation alone: the paper's iterative boundary suppression and dilated smoothing, which replace
    and blur scores near predicted borders and would improve any score alike, are not included.

    Statistics: ``mean`` and ``deviation``, ``(K,)`` float32.
    """

    name: ClassVar[str] = "sml"
    equation: ClassVar[str] = "-(C_y - mu_y) / sigma_y of y = argmax_k C_k, mu and sigma of the training set"
    source: ClassVar[str] = "standardised max-logits (Jung et al. 2021), without boundary suppression and smoothing"
    needs_features: ClassVar[bool] = False

    @torch.no_grad()
    def __call__(self, segmenter: Subject, pixels: Tensor) -> Tensor:
        """See :class:`Detector`."""
        prediction = pixel_prediction(segmenter, pixels, self.name)
        statistics = self.statistics(segmenter)
        mean, deviation = (statistics[name].to(pixels.device) for name in ("mean", "deviation"))
        maps = scores.evaluate(prediction, ["maxlogit"], (pixels.shape[-2], pixels.shape[-1]))
        labels = maps["labels"]
        return (maps["maxlogit"] + mean[labels]) / deviation[labels]

    def display_range(self, segmenter: Subject, num_classes: int) -> tuple[float, float]:
        """One deviation above the class's mean; three below it."""
        return -1.0, 3.0

    def fitting(self, num_classes: int) -> MaxLogitMoments:
        """Statistics of no image yet."""
        return MaxLogitMoments(num_classes)


class MaxLogitMoments:
    """Mean and variance of the max-logit of each predicted class, in one pass.

    Partial sums of squares are about their own means and merged exactly (Chan et al. 1983), in float64.
    """

    def __init__(self, num_classes: int) -> None:
        self._count, self._mean, self._scatter = torch.zeros(3, num_classes, dtype=torch.float64)

    def update(self, observation: Observation) -> None:
        """Take one image in."""
        maps = scores.evaluate(observation.prediction, ["maxlogit"], observation.size)
        labels, values = maps["labels"].flatten().cpu(), -maps["maxlogit"].flatten().cpu().double()

        def by_class(weights: Tensor | None = None) -> Tensor:
            return torch.bincount(labels, weights, minlength=len(self._count))

        count = by_class().double()
        mean = by_class(values) / count.clamp(min=1)
        scatter = by_class((values - mean[labels]) ** 2)
        total = (self._count + count).clamp(min=1)
        self._scatter += scatter + (mean - self._mean) ** 2 * self._count * count / total
        self._mean += (mean - self._mean) * count / total
        self._count += count

    def compute(self) -> dict[str, Tensor]:
        """``mean`` and ``deviation``; a class that was predicted for fewer than two pixels gets those of all together.

        Raises:
            OutmaskError: where all classes together have no two values.
        """
        pixels = self._count.sum()
        mean = (self._count * self._mean).sum() / pixels.clamp(min=1)
        scatter = (self._scatter + self._count * (self._mean - mean) ** 2).sum()
        if not scatter > 0:
            raise OutmaskError("the max-logit is the same at every training pixel: there is nothing to standardise by")
        known = (self._count >= 2) & (self._scatter > 0)
        variance = torch.where(known, self._scatter / (self._count - 1).clamp(min=1), scatter / (pixels - 1))
        return {"mean": torch.where(known, self._mean, mean).float(), "deviation": variance.sqrt().float()}
