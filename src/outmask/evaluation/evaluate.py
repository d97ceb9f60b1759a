"""Scores measured on a benchmark: streaming metrics over score maps, whoever made them.

The first walk over the images gives everything that needs no threshold, and the thresholds; the second one, where the
benchmark has components, unknown classes or objects, gives what they select.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from outmask.errors import OutmaskError
from outmask.evaluation.benchmarks import ANOMALY, KNOWN, OUTSIDE, Benchmark, Record
from outmask.evaluation.borders import border_band, border_report
from outmask.evaluation.maps import ImageMaps, MapSource, naming
from outmask.evaluation.report import (
    FOUND,
    BorderReport,
    Histogram,
    Report,
    ScoreReport,
    Threshold,
    ThresholdReport,
)
from outmask.evaluation.truth import Classes, Truth
from outmask.metrics import ClosedSetMetrics, ComponentMetrics, InstanceAP, OpenIoU, PixelMetrics
from outmask.metrics.bootstrap import ImageCounts
from outmask.metrics.components import MINIMUM_AREAS, connected_components
from outmask.metrics.pixel import Curve
from outmask.types import Taxonomy

Emulation = Literal["float16"]

_CURVE_BINS = 4096
"""Of the curves that reports draw; metrics come from all of them."""
_HISTOGRAM_BINS = 50
_MASK_SCORE = "am"
"""The score whose negative is the largest mask probability (M2F-EAM eq. 4)."""


class Progress(Protocol):
    """Wraps the records of one walk, for a progress bar."""

    def __call__(self, records: Iterable[Record], what: str) -> Iterable[Record]: ...


@dataclass(frozen=True)
class Settings:
    """What is measured beside the pixel metrics.

    Attributes:
        thresholds: of scores whose threshold is known; the oracle of the split is measured after it.
        emulate: also measure scores rounded like this, as a naive submission would round them.
        border: width in pixels of the band at semantic borders; None for none.
        mask_histogram: also count the largest mask probability.
    """

    thresholds: Mapping[str, Threshold] = field(default_factory=dict)
    emulate: Emulation | None = None
    border: int | None = None
    mask_histogram: bool = False


def evaluate(
    source: MapSource,
    benchmark: Benchmark,
    scores: Sequence[str],
    settings: Settings = Settings(),
    taxonomy: Taxonomy | None = None,
    progress: Progress = lambda records, what: records,
) -> Report:
    """Measure scores on a benchmark, at the labels' resolution, all pixels of all images pooled.

    Args:
        source: gives the maps of each image; asked twice where thresholds matter.
        benchmark: images and labels.
        scores: their names; all come from one pass of the model.
        settings: what to measure beside the pixel metrics.
        taxonomy: the classes of the source's labels; by default those of the benchmark.
        progress: wraps the records of each walk.

    Returns:
        everything that was measured; what the pixels do not define is NaN.

    Raises:
        OutmaskError: on an image or label that cannot be read or that do not fit each other, a score with NaN (the
            message names the image), or where nothing can be measured: no labels, or classes unknown to the model.
    """
    names = list(dict.fromkeys(scores))
    labelled = any(record.label is not None for record in benchmark)
    if not labelled:
        names = []
    elif not names:
        raise OutmaskError("no score given: name at least one")
    classes = Classes.of(benchmark, taxonomy)
    if not labelled and classes is None:
        raise OutmaskError(
            f"nothing can be measured on {benchmark.name}, split {benchmark.split}: "
            + (
                "the model's classes are not its classes"
                if benchmark.taxonomy is not None
                else "its labels are hidden; outmask submit writes what its evaluation server takes"
            )
        )
    wanted = [*names, _MASK_SCORE] if settings.mask_histogram and names and _MASK_SCORE not in names else names

    walk = _FirstWalk(benchmark, names, settings, classes)
    for record in progress(benchmark, "evaluate"):
        truth = Truth.of(record, classes)
        walk.add(record, truth, source.maps(record, wanted, truth.size))
    curves = {name: metrics.curve() for name, metrics in walk.pixels.items()}

    thresholds: dict[str, tuple[ThresholdReport, ...]] = dict.fromkeys(names, ())
    chosen = {name: _thresholds(name, curves[name], walk.groups[name], settings) for name in names}
    if any(chosen.values()):
        second = _SecondWalk(benchmark, chosen, classes if walk.classified else None)
        if second.measures_anything:
            for record in progress(benchmark, "thresholds"):
                truth = Truth.of(record, classes)
                second.add(record, truth, source.maps(record, wanted, truth.size))
        thresholds = second.reports(curves)
    return walk.report(source.name, curves, thresholds)


class _FirstWalk:
    """Everything that needs no threshold."""

    def __init__(self, benchmark: Benchmark, names: list[str], settings: Settings, classes: Classes | None) -> None:
        self._benchmark, self._settings, self._classes = benchmark, settings, classes
        self.pixels = {name: PixelMetrics() for name in names}
        self.groups: dict[str, dict[str, PixelMetrics]] = {name: {} for name in names}
        self._images = {name: ImageCounts() for name in names}
        self._rounded = {name: PixelMetrics() for name in names if settings.emulate is not None}
        self._border = {name: PixelMetrics() for name in names if settings.border is not None}
        self._histogram = np.zeros((2, _HISTOGRAM_BINS), np.int64)
        self._closed = None if classes is None else ClosedSetMetrics(classes.taxonomy.num_classes)
        self._resized = self._without_labels = 0

    def add(self, record: Record, truth: Truth, maps: ImageMaps) -> None:
        self._resized += maps.resized_from is not None
        label, target = truth.label, truth.target
        if self._closed is not None and target is not None:
            if maps.labels is not None:
                with naming(record):
                    self._closed.update(maps.labels, target)
            elif not self.pixels:
                raise OutmaskError(
                    f"{record.name}: no predicted classes, but {self._benchmark.name} measures nothing else"
                )
            else:
                self._without_labels += 1
        if label is None:
            return
        for name in self.pixels:
            score = maps.scores[name]
            image = PixelMetrics()
            with naming(record, name):
                image.update(score, label)
            self.pixels[name].merge(image)
            self._images[name].add(record.name, image)
            if record.group:
                self.groups[name].setdefault(record.group, PixelMetrics()).merge(image)
            if name in self._rounded:
                with np.errstate(over="ignore"):
                    self._rounded[name].update(score.astype(np.float16), label)
        if self._settings.border is not None:
            ids = target if target is not None else maps.labels
            if ids is None:
                raise OutmaskError(
                    f"{record.name}: --border needs classes, of the benchmark or of the model; this has neither"
                )
            band = border_band(ids, label, self._settings.border)
            for name, metrics in self._border.items():
                metrics.update(maps.scores[name], np.where(band, label, OUTSIDE).astype(np.uint8))
        if self._settings.mask_histogram:
            strongest = np.nan_to_num(-maps.scores[_MASK_SCORE])  # undefined pixels are outside, or refused above
            bins = np.clip(strongest, 0, 1) * _HISTOGRAM_BINS
            bins = np.minimum(bins.astype(np.intp), _HISTOGRAM_BINS - 1)
            for value in (KNOWN, ANOMALY):
                self._histogram[value] += np.bincount(bins[label == value], minlength=_HISTOGRAM_BINS)

    @property
    def classified(self) -> bool:
        """Whether every image had predicted classes."""
        return self._without_labels == 0

    def report(
        self, model: str, curves: Mapping[str, Curve], thresholds: Mapping[str, tuple[ThresholdReport, ...]]
    ) -> Report:
        scores = {}
        share = float("nan")
        for name, curve in curves.items():
            metrics = curve.compute()
            share = metrics.pop("anomaly_share")
            rounded = self._rounded[name].compute() if name in self._rounded else None
            if rounded is not None:
                rounded.pop("anomaly_share")
            scores[name] = ScoreReport(
                metrics=metrics,
                intervals=self._images[name].intervals(self.pixels[name]),
                curve=Curve.of(self.pixels[name].counts(_CURVE_BINS)),
                per_image=self._images[name].per_image,
                thresholds=thresholds[name],
                border=self._border_report(name, curve),
                float16=rounded,
            )
        closed = None
        if self._closed is not None and self._classes is not None and self.classified:
            closed = self._classes.by_name(self._closed.compute())
        notes = []
        if self._resized:
            notes.append(f"the scores of {self._resized} images were resized to the labels' resolution")
        if self._benchmark.taxonomy is not None and self._classes is None:
            notes.append("no closed-set or open-set numbers: the model's classes are not the benchmark's")
        if not self.classified:
            missing = f"{self._without_labels} of {len(self._benchmark)} images have no predicted classes"
            notes.append(f"no closed-set or open-set numbers: {missing}")
        return Report(
            benchmark=self._benchmark.name,
            split=self._benchmark.split,
            model=model,
            images=len(self._benchmark),
            anomaly_share=share,
            scores=scores,
            closed_set=closed,
            mask_histogram=self._mask_histogram() if self._settings.mask_histogram and scores else None,
            notes=tuple(notes),
        )

    def _border_report(self, name: str, curve: Curve) -> BorderReport | None:
        if self._settings.border is None:
            return None
        return border_report(curve, self._border[name].curve(), self._settings.border, self._classes is not None)

    def _mask_histogram(self) -> Histogram:
        shares = self._histogram / np.maximum(self._histogram.sum(1, keepdims=True), 1)
        return Histogram(np.linspace(0, 1, _HISTOGRAM_BINS + 1), shares[KNOWN], shares[ANOMALY])


def _thresholds(
    name: str, curve: Curve, groups: Mapping[str, PixelMetrics], settings: Settings
) -> tuple[Threshold, ...]:
    """The thresholds of a score: the one chosen elsewhere, those of the other town, and the split's oracle."""
    chosen = [settings.thresholds[name]] if name in settings.thresholds else []
    if len(groups) == 2:  # each town's threshold is chosen on the other (DenseHybrid's protocol)
        first, second = groups
        points = {group: groups[other].curve().at_tpr(FOUND) for group, other in ((first, second), (second, first))}
        swapped = {group: point.threshold for group, point in points.items() if point is not None}
        if len(swapped) == 2:
            chosen.append(Threshold(swapped, f"TPR {FOUND:.0f} on the other town"))
    best = curve.best_f1()
    if best is not None:
        chosen.append(Threshold(best.threshold, "best pixel F1 of this split", oracle=True))
    return tuple(chosen)


class _SecondWalk:
    """What the thresholds select, as components, classes and objects."""

    def __init__(
        self, benchmark: Benchmark, chosen: Mapping[str, Sequence[Threshold]], classes: Classes | None
    ) -> None:
        self._benchmark, self._chosen, self._classes = benchmark, chosen, classes
        keys = [(name, index) for name, members in chosen.items() for index in range(len(members))]
        self._components = {key: ComponentMetrics(benchmark.track) for key in keys} if benchmark.track else {}
        open_set = classes is not None and any(record.label and record.semantic for record in benchmark)
        self._open: dict[tuple[str, int], dict[str, OpenIoU]] = {key: {} for key in keys} if open_set else {}
        objects = any(record.instances for record in benchmark)
        self._instances = {key: InstanceAP(benchmark.smallest_object) for key in keys} if objects else {}

    @property
    def measures_anything(self) -> bool:
        return bool(self._components or self._open or self._instances)

    def add(self, record: Record, truth: Truth, maps: ImageMaps) -> None:
        label, target, objects = truth.label, truth.target, truth.objects
        for name, thresholds in self._chosen.items():
            for index, threshold in enumerate(thresholds):
                key, unknown = (name, index), maps.scores[name] > np.float32(threshold.of(record.group))
                if key in self._components and label is not None:
                    self._components[key].update(unknown, label)
                if key in self._open and target is not None:
                    assert self._classes is not None
                    assert maps.labels is not None, "the first walk saw them all"
                    num_classes = self._classes.taxonomy.num_classes
                    open_labels = np.where(unknown, num_classes, maps.labels.astype(np.int32))
                    metric = self._open[key].setdefault(record.group, OpenIoU(num_classes))
                    with naming(record):
                        metric.update(open_labels, target, maps.labels)
                if key in self._instances and objects is not None:
                    ids, confidence = unknown_objects(unknown, maps.scores[name], self._benchmark)
                    self._instances[key].update(ids, confidence, objects)

    def reports(self, curves: Mapping[str, Curve]) -> dict[str, tuple[ThresholdReport, ...]]:
        return {
            name: tuple(self._report((name, index), one, curves[name]) for index, one in enumerate(thresholds))
            for name, thresholds in self._chosen.items()
        }

    def _report(self, key: tuple[str, int], threshold: Threshold, curve: Curve) -> ThresholdReport:
        return ThresholdReport(
            at=threshold,
            pixels=None if isinstance(threshold.value, Mapping) else curve.above(threshold.value),
            components=self._components[key].compute() if key in self._components else None,
            open_set=self._open_set(self._open[key]) if self._open.get(key) else None,
            instances=self._instances[key].compute() if key in self._instances else None,
        )

    def _open_set(self, groups: Mapping[str, OpenIoU]) -> dict[str, Any]:
        """Of one group its values; of several each one's, and their image-weighted means."""
        assert self._classes is not None
        parts = {group: self._classes.by_name(metric.compute()) for group, metric in groups.items()}
        if len(parts) == 1:
            return next(iter(parts.values()))
        images = [sum(record.group == group for record in self._benchmark) for group in parts]
        means = {
            name: float(np.average([values[name] for values in parts.values()], weights=images))
            for name in ("open_mIoU", "mIoU")
        }
        return {**means, "groups": parts}


def unknown_objects(
    unknown: NDArray[np.bool_], score: NDArray[np.float32], benchmark: Benchmark
) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Unknown pixels as objects: 8-connected components, each scored by its mean.

    Args:
        unknown: ``(H, W)`` bool.
        score: ``(H, W)`` float32.
        benchmark: its track's size limit of predicted components applies; 50 pixels where it has none.

    Returns:
        ``(H, W)`` int32 ids from 1 to n, 0 elsewhere, and the ``(n,)`` scores.
    """
    smallest = MINIMUM_AREAS[benchmark.track or "obstacle"][0]
    ids, areas = connected_components(unknown, smallest)
    finite = np.clip(score, np.finfo(np.float32).min, np.finfo(np.float32).max)
    return ids, np.bincount(ids.ravel(), weights=finite.ravel())[1:] / areas
