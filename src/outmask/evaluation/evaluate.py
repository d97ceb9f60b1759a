"""Scores measured on a benchmark: streaming metrics over score maps, whoever made them.

The first walk over the images gives everything that needs no threshold, and the thresholds; the second one, where the
benchmark has components, unknown classes or objects, gives what they select.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from outmask.data.datasets import NO_SUCH_ID, lookup_table
from outmask.data.taxonomies import mapping_between
from outmask.errors import OutmaskError
from outmask.evaluation.benchmarks import ANOMALY, KNOWN, OUTSIDE, Benchmark, Record
from outmask.evaluation.maps import ImageMaps, MapSource, Size
from outmask.evaluation.report import BorderReport, MaskHistogram, Report, ScoreReport, ThresholdReport, Values
from outmask.metrics import ClosedSetMetrics, ComponentMetrics, InstanceAP, OpenIoU, PixelMetrics
from outmask.metrics.bootstrap import ImageCounts
from outmask.metrics.components import MINIMUM_AREAS, connected_components
from outmask.metrics.pixel import Curve
from outmask.metrics.semantic import image_weighted_mean
from outmask.types import Taxonomy

Emulation = Literal["float16"]

_CURVE_BINS = 4096
"""Of the curves that reports draw; metrics come from all of them."""
_HISTOGRAM_BINS = 50
MASK_SCORE = "am"
"""The score whose negative is the largest mask probability (M2F-EAM eq. 4)."""
_FOUND = 95.0
"""TPR of the threshold at borders and of StreetHazards' towns, in percent."""


class Progress(Protocol):
    """Wraps the records of one walk, for a progress bar."""

    def __call__(self, records: Iterable[Record], what: str) -> Iterable[Record]: ...


@dataclass(frozen=True)
class Threshold:
    """A threshold to be measured.

    Attributes:
        value: scores above it are unknown; by group (StreetHazards' town) where each has its own.
        origin: where it was chosen.
        oracle: whether it was chosen on the pixels that are evaluated.
    """

    value: float | Mapping[str, float]
    origin: str
    oracle: bool = False

    def of(self, record: Record) -> float:
        """The value for one image."""
        return self.value if isinstance(self.value, float) else self.value[record.group]


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
    classes = _Classes.of(benchmark, taxonomy)
    if not labelled and classes is None:
        raise OutmaskError(
            f"nothing can be measured on {benchmark.name}, split {benchmark.split}: "
            + (
                "the model's classes are not its classes"
                if benchmark.taxonomy is not None
                else "its labels are hidden; outmask submit writes what its evaluation server takes"
            )
        )
    wanted = [*names, MASK_SCORE] if settings.mask_histogram and names and MASK_SCORE not in names else names

    walk = _FirstWalk(benchmark, names, settings, classes)
    for record in progress(benchmark, "evaluate"):
        truth = _Truth.of(record, classes)
        walk.add(record, truth, source.maps(record, wanted, truth.size))
    curves = {name: metrics.curve() for name, metrics in walk.pixels.items()}

    thresholds: dict[str, tuple[ThresholdReport, ...]] = dict.fromkeys(names, ())
    chosen = {name: _thresholds(name, curves[name], walk.groups[name], settings) for name in names}
    if any(chosen.values()):
        second = _SecondWalk(benchmark, chosen, classes if walk.classified else None)
        if second.measures_anything:
            for record in progress(benchmark, "thresholds"):
                truth = _Truth.of(record, classes)
                second.add(record, truth, source.maps(record, wanted, truth.size))
        thresholds = second.reports(curves)
    return walk.report(source.name, curves, thresholds)


@dataclass(frozen=True)
class _Classes:
    """The benchmark's classes, in the ids of the model's.

    Attributes:
        taxonomy: the model's.
        table: ``(256,)`` uint8: the benchmark's label id -> the model's class id, its K for unknown, 255 outside.
    """

    taxonomy: Taxonomy
    table: NDArray[np.uint8]

    @classmethod
    def of(cls, benchmark: Benchmark, taxonomy: Taxonomy | None) -> _Classes | None:
        """None where the benchmark has no classes, or the model's are others."""
        own = benchmark.taxonomy
        if own is None:
            return None
        target = own if taxonomy is None else taxonomy
        mapping = mapping_between(own, target)
        if mapping is None:
            return None
        plain = Taxonomy(own.names, own.colors)  # a benchmark's labels hold 0 ... K-1, whatever its files do
        table = lookup_table(plain, target, mapping)
        table[table == NO_SUCH_ID] = OUTSIDE
        table[table >= target.num_classes] = OUTSIDE
        table[own.num_classes] = target.num_classes
        return cls(target, table)

    def by_name(self, values: Values) -> dict[str, Any]:
        """Metrics with their tables by class id turned into tables by class name."""
        return {
            key: {self.taxonomy.names[index]: iou for index, iou in value.items()} if isinstance(value, dict) else value
            for key, value in values.items()
        }


@dataclass(frozen=True)
class _Truth:
    """What is known of one image; each part None where the benchmark doesn't say.

    Attributes:
        label: ``(H, W)`` uint8 0 known, 1 anomaly, 255 outside.
        target: ``(H, W)`` uint8 ids of the model's classes, its K for unknown, 255 outside.
        objects: ``(H, W)`` int32 unknown objects.
    """

    label: NDArray[np.uint8] | None
    target: NDArray[np.uint8] | None
    objects: NDArray[np.int32] | None

    @classmethod
    def of(cls, record: Record, classes: _Classes | None) -> _Truth:
        """Read a record's files."""
        return cls(
            None if record.label is None else record.label(),
            None if record.semantic is None or classes is None else classes.table[record.semantic()],
            None if record.instances is None else record.instances(),
        )

    @property
    def size(self) -> Size | None:
        """``(H, W)`` at which the image is measured."""
        for part in (self.label, self.target, self.objects):
            if part is not None:
                return part.shape[0], part.shape[1]
        return None


class _FirstWalk:
    """Everything that needs no threshold."""

    def __init__(self, benchmark: Benchmark, names: list[str], settings: Settings, classes: _Classes | None) -> None:
        self._benchmark, self._settings, self._classes = benchmark, settings, classes
        self.pixels = {name: PixelMetrics() for name in names}
        self.groups: dict[str, dict[str, PixelMetrics]] = {name: {} for name in names}
        self._images = {name: ImageCounts(len(benchmark)) for name in names}
        self._rounded = {name: PixelMetrics() for name in names if settings.emulate is not None}
        self._border = {name: PixelMetrics() for name in names if settings.border is not None}
        self._histogram = np.zeros((2, _HISTOGRAM_BINS), np.int64)
        self._closed = None if classes is None else ClosedSetMetrics(classes.taxonomy.num_classes)
        self._resized = self._without_labels = 0

    def add(self, record: Record, truth: _Truth, maps: ImageMaps) -> None:
        self._resized += maps.resized_from is not None
        label, target = truth.label, truth.target
        if self._closed is not None and target is not None:
            if maps.labels is not None:
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
            image = _counted(record.name, name, score, label)
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
            bins = np.clip(-maps.scores[MASK_SCORE], 0, 1) * _HISTOGRAM_BINS
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
                intervals=self._images[name].intervals(),
                curve=Curve.of(self.pixels[name].counts(_CURVE_BINS)),
                per_image=self._images[name].per_image(),
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
        found = curve.at_tpr(_FOUND)
        inside = self._border[name].curve()
        nan = float("nan")
        near = far = nan
        if found is not None:
            above = int(np.searchsorted(-inside.scores, -np.float32(found.threshold)))  # scores > threshold
            near_hits = int(inside.false_positives[above - 1]) if above else 0
            far_hits = round(found.FPR / 100 * curve.known) - near_hits if curve.known else 0
            near = 100 * near_hits / (inside.known or nan)
            far = 100 * far_hits / ((curve.known - inside.known) or nan)
        return BorderReport(
            width=self._settings.border,
            borders_of="prediction" if self._classes is None else "labels",
            FPR95=near,
            FPR95_elsewhere=far,
            known_share=100 * inside.known / (curve.known or nan),
        )

    def _mask_histogram(self) -> MaskHistogram:
        shares = self._histogram / np.maximum(self._histogram.sum(1, keepdims=True), 1)
        return MaskHistogram(np.linspace(0, 1, _HISTOGRAM_BINS + 1), shares[KNOWN], shares[ANOMALY])


def _thresholds(
    name: str, curve: Curve, groups: Mapping[str, PixelMetrics], settings: Settings
) -> tuple[Threshold, ...]:
    """The thresholds of a score: the one chosen elsewhere, those of the other town, and the split's oracle."""
    chosen = [settings.thresholds[name]] if name in settings.thresholds else []
    if len(groups) == 2:  # each town's threshold is chosen on the other (FACTS 5)
        first, second = groups
        points = {group: groups[other].curve().at_tpr(_FOUND) for group, other in ((first, second), (second, first))}
        swapped = {group: point.threshold for group, point in points.items() if point is not None}
        if len(swapped) == 2:
            chosen.append(Threshold(swapped, f"TPR {_FOUND:.0f} on the other town"))
    best = curve.best_f1()
    if best is not None:
        chosen.append(Threshold(best.threshold, "best pixel F1 of this split", oracle=True))
    return tuple(chosen)


class _SecondWalk:
    """What the thresholds select, as components, classes and objects."""

    def __init__(
        self, benchmark: Benchmark, chosen: Mapping[str, Sequence[Threshold]], classes: _Classes | None
    ) -> None:
        self._benchmark, self._chosen, self._classes = benchmark, chosen, classes
        keys = [(name, index) for name, members in chosen.items() for index in range(len(members))]
        self._components = {key: ComponentMetrics(benchmark.track) for key in keys} if benchmark.track else {}
        open_set = classes is not None and any(record.label and record.semantic for record in benchmark)
        self._open: dict[tuple[str, int], dict[str, OpenIoU]] = {key: {} for key in keys} if open_set else {}
        objects = any(record.instances for record in benchmark)
        self._instances = {key: InstanceAP() for key in keys} if objects else {}

    @property
    def measures_anything(self) -> bool:
        return bool(self._components or self._open or self._instances)

    def add(self, record: Record, truth: _Truth, maps: ImageMaps) -> None:
        label, target, objects = truth.label, truth.target, truth.objects
        for name, thresholds in self._chosen.items():
            for index, threshold in enumerate(thresholds):
                key, unknown = (name, index), maps.scores[name] > np.float32(threshold.of(record))
                if key in self._components and label is not None:
                    self._components[key].update(unknown, label)
                if key in self._open and target is not None:
                    assert self._classes is not None
                    assert maps.labels is not None, "the first walk saw them all"
                    num_classes = self._classes.taxonomy.num_classes
                    open_labels = np.where(unknown, num_classes, maps.labels.astype(np.int32))
                    metric = self._open[key].setdefault(record.group, OpenIoU(num_classes))
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
            threshold=threshold.value,
            origin=threshold.origin,
            oracle=threshold.oracle,
            pixels=curve.above(threshold.value) if isinstance(threshold.value, float) else None,
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
        images = {group: sum(record.group == group for record in self._benchmark) for group in parts}
        means = {
            name: image_weighted_mean({group: values[name] for group, values in parts.items()}, images)
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


def border_band(ids: NDArray[Any], label: NDArray[np.uint8], width: int) -> NDArray[np.bool_]:
    """Pixels within ``width`` of a border between two classes.

    A border lies between two adjacent pixels, above or beside each other, of different classes that are both known: at
    the edges of anomalies and of what is outside, other things than classes meet.

    Args:
        ids: ``(H, W)`` class ids.
        label: ``(H, W)`` 0 known, 1 anomaly, 255 outside.
        width: at least 1: the pixels on either side of a border have distance 1.

    Returns:
        ``(H, W)`` bool.
    """
    known = label == KNOWN
    edge = np.zeros(ids.shape, np.uint8)
    for first, second in (((slice(None), slice(None, -1)), (slice(None), slice(1, None))),
                          ((slice(None, -1), slice(None)), (slice(1, None), slice(None)))):  # fmt: skip
        differs = (ids[first] != ids[second]) & known[first] & known[second]
        edge[first] |= differs
        edge[second] |= differs
    reach = 2 * width - 1
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach))
    return np.asarray(cv2.dilate(edge, disc)).astype(np.bool_)


def _counted(record: str, name: str, score: NDArray[np.float32], label: NDArray[np.uint8]) -> PixelMetrics:
    metrics = PixelMetrics()
    try:
        metrics.update(score, label)
    except OutmaskError as error:
        raise OutmaskError(f"{record}, score {name}: {error}") from error
    return metrics
