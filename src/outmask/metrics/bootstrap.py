"""How much the pixel metrics would differ had other images been taken: a bootstrap over images, and each image's own.

Pixels of one image are anything but independent, so images are drawn with replacement, never pixels (Efron and
Tibshirani 1993, percentile interval).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from outmask.metrics.pixel import Counts, Curve, PixelMetrics

_ROWS = 1 << 16
"""Bins of all images together: a resample takes a few milliseconds."""
_FEWEST, _MOST = 32, 1024
"""Bins of one image."""

INTERVALS = ("AP", "FPR95", "AUROC")
"""The metrics that get a confidence interval."""


class Interval(NamedTuple):
    """A 95 % confidence interval, in percent; NaN where no resample defines the metric."""

    low: float
    high: float


class ImageCounts:
    """The pixels of each image, binned by score.

    Args:
        images: how many images will come: the more, the fewer bins each of them gets.
    """

    def __init__(self, images: int) -> None:
        self._bins = min(_MOST, max(_FEWEST, _ROWS // max(1, images)))
        self._counts: dict[str, Counts] = {}

    def add(self, name: str, metrics: PixelMetrics) -> None:
        """Take in the pixels of the image called ``name``."""
        self._counts[name] = metrics.counts(self._bins)

    def per_image(self) -> dict[str, dict[str, float]]:
        """Each image's own metrics, as ``PixelMetrics.compute`` gives them, from its bins."""
        return {name: Curve.of(counts).compute() for name, counts in self._counts.items()}

    def intervals(self, resamples: int = 1000) -> dict[str, Interval]:
        """95 % confidence intervals of :data:`INTERVALS` over images; the same at every call."""
        counts = list(self._counts.values())
        image = np.repeat(np.arange(len(counts)), [len(one.scores) for one in counts])
        scores = np.concatenate([one.scores for one in counts]) if counts else np.empty(0, np.float32)
        order = np.argsort(-scores, kind="stable")
        scores, image = scores[order], image[order]
        known, anomaly = (np.concatenate([one[part] for one in counts])[order] if counts else scores for part in (1, 2))
        last = np.flatnonzero(np.append(scores[1:] != scores[:-1], True)[: len(scores)])

        random = np.random.default_rng(0)
        drawn: dict[str, list[float]] = {name: [] for name in INTERVALS}
        for _ in range(resamples if len(scores) else 0):
            times = random.multinomial(len(counts), np.full(len(counts), 1 / len(counts)))[image]
            above = [np.cumsum(part * times)[last] for part in (anomaly, known)]
            reached = above[0] + above[1] > 0  # rows of images that were not drawn
            values = Curve(scores[last][reached], above[0][reached], above[1][reached]).compute()
            for name in INTERVALS:
                drawn[name].append(values[name])
        return {name: _percentiles(np.array(values)) for name, values in drawn.items()}


def _percentiles(values: NDArray[np.float64]) -> Interval:
    defined = values[~np.isnan(values)]
    if not defined.size:
        return Interval(float("nan"), float("nan"))
    low, high = np.percentile(defined, (2.5, 97.5))
    return Interval(float(low), float(high))
