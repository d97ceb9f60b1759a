"""ReAct: energy of clipped activations (Sun et al. 2021)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from outmask import scores
from outmask.detectors.detector import FittedDetector, Observation, Subject, feature_classifier
from outmask.errors import OutmaskError

PERCENTILE = 90.0
"""Of the training set's activations; the paper's choice (Sun et al. 2021, section 4)."""

_DROPPED_BITS = 12
# Values that are counted at a time: their keys take 8 MB.
_CHUNK = 1 << 20


@dataclass(frozen=True)
class ReAct(FittedDetector):
    """The energy of logits from clipped features (Sun et al. 2021, eq. 1-3).

    ``-logsumexp_k C_k`` of ``C = head(min(f, c))``, ``f`` the features that the head classifies and ``c`` the 90th
    percentile of all their values over the training set, all channels together. It was made for features behind a ReLU,
    as DeepLabV3+ has them; PerPixel's have both signs, and only their upper end is clipped.

    Statistics: ``threshold``, ``(1,)`` float32.
    """

    name: ClassVar[str] = "react"
    equation: ClassVar[str] = "-logsumexp_k C_k of C = head(min(f, c)), c the 90th percentile of the training features"
    source: ClassVar[str] = "ReAct with the energy score (Sun et al. 2021)"
    needs_features: ClassVar[bool] = True

    @torch.no_grad()
    def __call__(self, segmenter: Subject, pixels: Tensor) -> Tensor:
        """See :class:`Detector`."""
        model = feature_classifier(segmenter, self.name)
        threshold = self.statistics(segmenter)["threshold"].to(pixels.device)
        prediction = model.head(model.features(pixels).minimum(threshold))
        return scores.score(prediction, "energy", (pixels.shape[-2], pixels.shape[-1]))

    def display_range(self, segmenter: Subject, num_classes: int) -> tuple[float, float]:
        """The energy's."""
        return scores.display_range("energy", num_classes)

    def fitting(self, num_classes: int) -> ActivationPercentile:
        """Statistics of no image yet."""
        return ActivationPercentile()


class ActivationPercentile:
    """A percentile of any number of values in 8 MB: counts by the upper 20 bits of their float32 form.

    Eleven of these are the fraction's, so that the percentile lies at most a share of ``2^-11`` above the value that
    it stands for, far less than what the choice of 90 decides.
    """

    def __init__(self) -> None:
        self._counts: NDArray[np.int64] = np.zeros(1 << (32 - _DROPPED_BITS), np.int64)

    def update(self, observation: Observation) -> None:
        """Take one image in."""
        assert observation.features is not None
        values = observation.features.flatten().float().cpu().numpy()
        for start in range(0, len(values), _CHUNK):
            keys = _ordered(values[start : start + _CHUNK].view(np.int32)) >> _DROPPED_BITS
            self._counts += np.bincount(keys + len(self._counts) // 2, minlength=len(self._counts))

    def compute(self) -> dict[str, Tensor]:
        """``threshold``, the upper end of the bin that holds the percentile.

        Raises:
            OutmaskError: without any value.
        """
        reached = np.cumsum(self._counts)
        if not reached[-1]:
            raise OutmaskError("no activations: there are no training images to learn from")
        place = int(np.searchsorted(reached, PERCENTILE / 100 * reached[-1])) - len(self._counts) // 2
        highest = np.array([(place << _DROPPED_BITS) + (1 << _DROPPED_BITS) - 1], np.int32)
        return {"threshold": torch.from_numpy(_ordered(highest).view(np.float32).copy())}


def _ordered(bits: NDArray[np.int32]) -> NDArray[np.int32]:
    """Float32 bit patterns as integers of the same order; its own inverse."""
    return bits ^ ((bits >> 31) & np.int32(0x7FFFFFFF))
