"""How much the pixel metrics would differ had other images been taken: a bootstrap over images, and each image's own.

Pixels of one image are anything but independent, so images are drawn with replacement, never pixels (Efron and
Tibshirani 1993, percentile interval).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from outmask.metrics.pixel import Counts, Curve, PixelMetrics

_IMAGE_BINS = 512
"""Of one image, for the bootstrap; 10 KB."""
_FEWEST_BINS, _MOST_BINS, _CELLS = 1024, 8192, 1 << 23
"""Bins that all images share in the bootstrap: as many as give a table of images and bins of about 70 MB."""
_BLOCK = 50
"""Resamples at a time."""

INTERVALS = ("AP", "FPR95", "AUROC")
"""The metrics that get a confidence interval."""


class Interval(NamedTuple):
    """A 95 % confidence interval, in percent; NaN where no resample defines the metric."""

    low: float
    high: float


class ImageCounts:
    """Each image's own metrics, exactly, and its pixels, binned by score, for the bootstrap."""

    def __init__(self) -> None:
        self._counts: list[Counts] = []
        self.per_image: dict[str, dict[str, float]] = {}
        """By the image's name, as ``PixelMetrics.compute`` gives them."""

    def add(self, name: str, metrics: PixelMetrics) -> None:
        """Take in the pixels of the image called ``name``."""
        self.per_image[name] = metrics.compute()
        self._counts.append(metrics.counts(_IMAGE_BINS))

    def intervals(self, pooled: PixelMetrics, resamples: int = 1000) -> dict[str, Interval]:
        """95 % confidence intervals of :data:`INTERVALS` over images; the same at every call.

        Resamples are measured in bins that follow the pooled pixels; what the bins cost the metrics of all images
        together is taken off every interval.

        Args:
            pooled: the pixels of all the images.
            resamples: how many sets of images are drawn.
        """
        images = len(self._counts)
        exact = pooled.compute()
        bins = min(_MOST_BINS, max(_FEWEST_BINS, _CELLS // max(1, images)))
        scores = pooled.counts(bins).scores
        if not len(scores):
            return {name: Interval(float("nan"), float("nan")) for name in INTERVALS}
        known, anomaly = (np.zeros((images, len(scores))) for _ in range(2))
        for row, counts in enumerate(self._counts):
            # Of falling scores, bin i holds those from its own score up to below the one before.
            place = np.minimum(np.searchsorted(-scores, -counts.scores), len(scores) - 1)
            np.add.at(known[row], place, counts.known)
            np.add.at(anomaly[row], place, counts.anomaly)

        random = np.random.default_rng(0)
        drawn: dict[str, list[float]] = {name: [] for name in INTERVALS}
        for start in range(0, resamples, _BLOCK):
            block = min(_BLOCK, resamples - start)
            times = random.multinomial(images, np.full(images, 1 / images), block).astype(np.float64)
            for resample in zip(times @ known, times @ anomaly, strict=True):
                values = _measured(scores, *resample)
                for name in INTERVALS:
                    drawn[name].append(values[name])
        binned = _measured(scores, known.sum(0), anomaly.sum(0))
        return {name: _percentiles(np.array(drawn[name]) + (exact[name] - binned[name])) for name in INTERVALS}


def _measured(scores: NDArray[np.float32], known: NDArray[Any], anomaly: NDArray[Any]) -> dict[str, float]:
    """The metrics of pixels counted in bins, of which some may be empty."""
    filled = known + anomaly > 0
    whole = (part[filled].astype(np.int64) for part in (known, anomaly))
    return Curve.of(Counts(scores[filled], *whole)).compute()


def _percentiles(values: NDArray[np.float64]) -> Interval:
    defined = values[~np.isnan(values)]
    if not defined.size:
        return Interval(float("nan"), float("nan"))
    low, high = np.clip(np.percentile(defined, (2.5, 97.5)), 0, 100)
    return Interval(float(low), float(high))
