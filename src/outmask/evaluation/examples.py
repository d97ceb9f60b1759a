"""The images of a benchmark that show best what a score finds and what it misses, as panels to be looked at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from outmask.data.images import read_image
from outmask.evaluation.benchmarks import ANOMALY, KNOWN, OUTSIDE, Benchmark, Record
from outmask.evaluation.maps import MapSource
from outmask.evaluation.report import Report, ScoreReport, Values
from outmask.metrics.pixel import Curve
from outmask.openset.semantic import open_labels
from outmask.output.pictures import heat_map, open_map, outline
from outmask.types import OpenSetResult, Taxonomy

DisplayRange = Callable[[str], tuple[float, float]]

_EACH = 4
"""The worst images, and the best ones."""
_SIDE = 640
"""The longest side of a panel, in pixels."""
_OUTSIDE_BRIGHTNESS = 0.35


@dataclass(frozen=True)
class Panel:
    """A picture and what it shows, in a few words."""

    picture: Image.Image
    shows: str


@dataclass(frozen=True)
class Example:
    """One image of a benchmark.

    Attributes:
        name: the record's.
        metrics: the image's own pixel metrics, in percent.
        FPR: its known pixels above the score's first threshold, in percent; NaN without any, None without a threshold.
        panels: photo with the ground truth, heat map, and what the first threshold selects, where there is one.
        class_ids: the classes of the last panel, ``taxonomy.unknown_id`` included; empty where it shows none.
    """

    name: str
    metrics: Values
    FPR: float | None
    panels: tuple[Panel, ...]
    class_ids: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Examples:
    """Examples chosen by one rule, which the title states."""

    title: str
    members: tuple[Example, ...]


def examples(
    report: Report,
    benchmark: Benchmark,
    source: MapSource,
    taxonomy: Taxonomy | None = None,
    display_range: DisplayRange | None = None,
) -> list[Examples]:
    """The worst and the best images of the report's first score, and the worst one without anomalies.

    Args:
        report: of this benchmark and source.
        benchmark: gives images and labels.
        source: gives the maps again.
        taxonomy: the classes of the source's labels; None where they are not known.
        display_range: a score's values that are drawn as certainly known and certainly unknown; by default those of
            its own pixels, see :func:`own_range`.

    Returns:
        what there is to see, in the order in which it should be; nothing for a report without scores.

    Raises:
        OutmaskError: where an image, a label or a map cannot be read.
    """
    if not report.scores:
        return []
    name, score = next(iter(report.scores.items()))
    ends = own_range(score.curve) if display_range is None else display_range(name)

    def drawn(title: str, records: list[Record]) -> Examples:
        return Examples(title, tuple(_example(record, source, name, score, taxonomy, ends) for record in records))

    found = []
    ranked = _by_ap(benchmark, score)
    if len(ranked) > 2 * _EACH:
        found.append(drawn(f"The {_EACH} worst images by AP of {name}", ranked[:_EACH]))
        found.append(drawn(f"The {_EACH} best images by AP of {name}", ranked[: -_EACH - 1 : -1]))
    elif ranked:
        found.append(drawn(f"All images with anomalies, the worst by AP of {name} first", ranked))
    noisiest = _most_false_positives(benchmark, source, name, score)
    if noisiest is not None:
        found.append(drawn("Without any anomaly: the image with the most false positives", [noisiest]))
    return found


def own_range(curve: Curve) -> tuple[float, float]:
    """A display range out of a score's own values, for scores that come from elsewhere.

    Known pixels are drawn black up to their median, the upper half of the anomaly pixels at full brightness; where that
    leaves no range, the finite scores are drawn from the lowest to the highest.
    """
    finite = curve.scores[np.isfinite(curve.scores)]
    if not finite.size:
        return 0.0, 1.0
    low, high = float(finite[-1]), float(finite[0])
    if curve.known and curve.anomaly:
        known, anomaly = (
            float(np.clip(curve.scores[np.argmax(counts >= total / 2)], low, high))
            for counts, total in ((curve.false_positives, curve.known), (curve.true_positives, curve.anomaly))
        )
        if known < anomaly:
            return known, anomaly
    return low, high if high > low else low + 1


def _by_ap(benchmark: Benchmark, score: ScoreReport) -> list[Record]:
    """The records with anomalies, the lowest AP first."""
    ap = {name: values["AP"] for name, values in score.per_image.items() if not np.isnan(values["AP"])}
    return sorted((record for record in benchmark if record.name in ap), key=lambda record: ap[record.name])


def _most_false_positives(benchmark: Benchmark, source: MapSource, name: str, score: ScoreReport) -> Record | None:
    """Of the records with known pixels only, the one with the most of them above the first threshold."""
    if not score.thresholds:
        return None
    worst, most = None, -1
    for record in benchmark:
        if record.label is not None and score.per_image.get(record.name, {}).get("anomaly_share") == 0:
            label = record.label()
            maps = source.maps(record, [name], (label.shape[0], label.shape[1]))
            count = int(
                np.count_nonzero(
                    (maps.scores[name] > np.float32(score.thresholds[0].at.of(record.group))) & (label == KNOWN)
                )
            )
            if count > most:
                worst, most = record, count
    return worst


def _example(
    record: Record,
    source: MapSource,
    name: str,
    score: ScoreReport,
    taxonomy: Taxonomy | None,
    ends: tuple[float, float],
) -> Example:
    assert record.label is not None
    label = record.label()
    height, width = label.shape
    maps = source.maps(record, [name], (height, width))
    image = read_image(record.image)
    if image.shape[:2] != label.shape:
        image = np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    panels = [
        _panel(_ground_truth(image, label), "photo, anomalies of the ground truth outlined"),
        _panel(heat_map(maps.scores[name], ends), f"heat map of {name}"),
    ]
    if not score.thresholds:
        return Example(record.name, score.per_image[record.name], None, tuple(panels))

    threshold = np.float32(score.thresholds[0].at.of(record.group))
    unknown = maps.scores[name] > threshold
    known = label == KNOWN
    fpr = 100 * float(unknown[known].mean()) if known.any() else float("nan")
    class_ids: frozenset[int] = frozenset()
    if taxonomy is None or maps.labels is None:
        selected = image.copy()
        outline(selected, unknown)
        panels.append(_panel(selected, "photo, unknown pixels outlined"))
    else:
        labels = maps.labels.astype(np.int32)
        opened = open_labels(labels, maps.scores[name], float(threshold), taxonomy.unknown_id)
        class_ids = frozenset(np.unique(opened).tolist())
        result = OpenSetResult(
            image=image,
            score=maps.scores[name],
            labels=labels,
            taxonomy=taxonomy,
            score_name=name,
            display_range=ends,
            threshold=float(threshold),
            open_labels=opened,
        )
        panels.append(_panel(open_map(result), "open labels, unknown outlined"))
    return Example(record.name, score.per_image[record.name], fpr, tuple(panels), class_ids)


def _ground_truth(image: NDArray[np.uint8], label: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The photo with its anomalies outlined, and darkened where nothing is evaluated."""
    picture = image.copy()
    outside = label == OUTSIDE
    picture[outside] = picture[outside] * _OUTSIDE_BRIGHTNESS
    outline(picture, label == ANOMALY)
    return picture


def _panel(picture: NDArray[Any] | Image.Image, shows: str) -> Panel:
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    image.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    return Panel(image, shows)
