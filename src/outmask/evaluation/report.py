"""What an evaluation found, as values and as JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import outmask
from outmask.errors import OutmaskError
from outmask.metrics.bootstrap import Interval
from outmask.metrics.pixel import Curve, OperatingPoint

Values = Mapping[str, Any]
"""Metrics by name, in percent; some metrics are tables of their own."""


METRICS: Mapping[str, Callable[[Iterable[float]], float]] = {
    "AP": max,
    "FPR95": min,
    "FPR90": min,
    "AUROC": max,
    "best_F1": max,
}
"""The pixel metrics that tables show, and which of several values is the best."""

FOUND = 95.0
"""TPR, in percent, at which false positives are compared: of FPR95, at borders, and of StreetHazards' towns."""


@dataclass(frozen=True)
class Threshold:
    """A threshold to be measured.

    Attributes:
        value: scores above it are unknown; by group (StreetHazards' town) where each has its own.
        origin: where it was chosen.
        oracle: whether it was chosen on the very pixels that are evaluated: such numbers cannot be had in use.
    """

    value: float | Mapping[str, float]
    origin: str
    oracle: bool = False

    def of(self, group: str) -> float:
        """The value for the images of one group.

        Raises:
            OutmaskError: where the groups have their own values, and this one has none.
        """
        if not isinstance(self.value, Mapping):
            return self.value
        if group not in self.value:
            raise OutmaskError(f"no threshold was chosen for the group {group!r}, only for {', '.join(self.value)}")
        return self.value[group]

    def __str__(self) -> str:
        """The value as it can be given to ``--threshold``: saturated scores differ in their last digits."""
        values = self.value.values() if isinstance(self.value, Mapping) else (self.value,)
        return ", ".join(str(np.float32(value)) for value in values)


@dataclass(frozen=True)
class ThresholdReport:
    """What calling all pixels with ``score > threshold`` unknown gives.

    Attributes:
        at: the threshold.
        pixels: TPR, FPR, precision and F1 at it; None where thresholds differ by group.
        components: ``ComponentMetrics``' values, of benchmarks with a track.
        open_set: ``OpenIoU``'s values, of benchmarks with classes and unknown pixels, classes by name.
        instances: ``InstanceAP``'s values, of benchmarks with unknown objects: an object is a component of unknown
            pixels, scored by its mean.
    """

    at: Threshold
    pixels: OperatingPoint | None = None
    components: Values | None = None
    open_set: Values | None = None
    instances: Values | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values; what was not measured is left out."""
        values: dict[str, Any] = {"threshold": self.at.value, "origin": self.at.origin, "oracle": self.at.oracle}
        if self.pixels is not None:
            values["pixels"] = self.pixels.rates()
        for name in ("components", "open_set", "instances"):
            if (part := getattr(self, name)) is not None:
                values[name] = part
        return values


@dataclass(frozen=True)
class BorderReport:
    """False positives near semantic borders (the claim of M2F-EAM figure 4).

    Attributes:
        width: of the band, in pixels to either side of a border.
        borders_of: ``"labels"``: between known classes of the ground truth; ``"prediction"``: between predicted
            classes, where the benchmark has no classes.
        FPR95: known pixels in the band above the threshold that finds 95 % of all anomaly pixels, in percent.
        FPR95_elsewhere: the same of the known pixels outside of the band.
        known_share: known pixels in the band among all known pixels, in percent.
    """

    width: int
    borders_of: str
    FPR95: float
    FPR95_elsewhere: float
    known_share: float


@dataclass(frozen=True)
class ScoreReport:
    """What was measured of one score.

    Attributes:
        metrics: pixel metrics in percent, as ``PixelMetrics.compute`` names them, without ``anomaly_share``.
        intervals: 95 % confidence intervals of some of them, over images.
        curve: the PR and ROC curves, in at most a few thousand points.
        per_image: each image's own pixel metrics.
        thresholds: what thresholds give, the first one first.
        border: false positives near borders, on request.
        float16: the pixel metrics after rounding to float16, on request: what a naive submission would score.
    """

    metrics: Values
    intervals: Mapping[str, Interval]
    curve: Curve
    per_image: Mapping[str, Values]
    thresholds: tuple[ThresholdReport, ...] = ()
    border: BorderReport | None = None
    float16: Values | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values; what was not measured is left out, and so are the curve and the single images."""
        values: dict[str, Any] = {
            **self.metrics,
            "intervals": {name: list(interval) for name, interval in self.intervals.items()},
            "thresholds": [one.to_json() for one in self.thresholds],
        }
        if self.border is not None:
            values["border"] = asdict(self.border)
        if self.float16 is not None:
            values["float16"] = dict(self.float16)
        return values


@dataclass(frozen=True)
class Histogram:
    """Relative frequencies of a value.

    Attributes:
        edges: ``(n + 1,)`` rising.
        known, anomaly: ``(n,)`` shares of the pixels of either kind; they add up to 1, or are 0 where there are none.
    """

    edges: NDArray[np.float64]
    known: NDArray[np.float64]
    anomaly: NDArray[np.float64]


@dataclass(frozen=True)
class Report:
    """What an evaluation found; percentages everywhere.

    Attributes:
        benchmark, split: what was evaluated.
        model: the model's name, or the folder of predictions.
        images: how many.
        anomaly_share: anomaly pixels among the evaluated ones: the AP of chance; NaN where no pixel is labelled.
        scores: by name.
        closed_set: mIoU, pixel accuracy and IoU by class name, where the benchmark has classes that the model knows.
        mask_histogram: of the largest mask probability (M2F-EAM figure 3), on request.
        notes: what a reader must know, such as resized scores.
    """

    benchmark: str
    split: str
    model: str
    images: int
    anomaly_share: float
    scores: Mapping[str, ScoreReport]
    closed_set: Values | None = None
    mask_histogram: Histogram | None = None
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The report as plain values; an undefined number is NaN."""
        values: dict[str, Any] = {
            "benchmark": self.benchmark,
            "split": self.split,
            "model": self.model,
            "images": self.images,
            "anomaly_share": self.anomaly_share,
            "scores": {name: score.to_json() for name, score in self.scores.items()},
        }
        if self.closed_set is not None:
            values["closed_set"] = self.closed_set
        return {**values, "notes": list(self.notes), "outmask": outmask.__version__}
