"""Operating points: thresholds chosen on validation data, with their provenance."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from outmask.data.labels import Sample
from outmask.errors import OutmaskError
from outmask.evaluation.benchmarks import ANOMALY, KNOWN, OUTSIDE, Benchmark, Record
from outmask.evaluation.evaluate import Progress
from outmask.evaluation.maps import MapSource, naming
from outmask.evaluation.report import Threshold
from outmask.metrics import PixelMetrics
from outmask.metrics.pixel import Curve, OperatingPoint


@dataclass(frozen=True)
class Rule:
    """How a threshold is chosen from a curve.

    Attributes:
        kind: ``"tpr"``: the highest threshold that finds so many anomaly pixels; ``"fpr"``: the lowest that calls so
            many known pixels unknown; ``"f1"``: the best pixel F1.
        percent: the rate of ``tpr`` and ``fpr``, above 0 and at most 100.
    """

    kind: str
    percent: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Rule:
        """``tpr95``, ``fpr5``, ``fpr0.5`` or ``f1``.

        Raises:
            OutmaskError: on anything else.
        """
        if text == "f1":
            return cls("f1")
        match = re.fullmatch(r"(tpr|fpr)(\d+(?:\.\d+)?)", text)
        if match is None or not 0 < float(match[2]) <= 100:
            raise OutmaskError(f"unknown rule {text!r}: expected f1, tpr95 or another rate up to 100, or fpr5")
        return cls(match[1], float(match[2]))

    def __str__(self) -> str:
        return "best pixel F1" if self.kind == "f1" else f"{self.kind.upper()} {self.percent:g}"

    def apply(self, curve: Curve) -> OperatingPoint:
        """The point of a curve that the rule picks.

        Raises:
            OutmaskError: where the curve has no such point.
        """
        if self.kind == "f1":
            point = curve.best_f1()
        else:
            point = curve.at_tpr(self.percent) if self.kind == "tpr" else curve.at_fpr(self.percent)
        if point is None:
            raise OutmaskError(
                f"no threshold gives {self}: {curve.anomaly} anomaly and {curve.known} known pixels were found"
            )
        return point


def calibrate(
    source: MapSource,
    benchmark: Benchmark,
    scores: Sequence[str],
    rules: Sequence[Rule],
    progress: Progress = lambda records, what: records,
) -> list[dict[str, dict[str, Any]]]:
    """Choose thresholds for each score on a benchmark's labelled images, in one pass over them.

    Returns:
        for each rule, entries of a model's ``operating_points``, by score: ``threshold``; ``origin``, a sentence;
        ``rule``; ``benchmark``, ``split`` and ``images`` it was chosen on, and ``image_hashes``, what tells whether an
        evaluation is on some of the same images; ``TPR``, ``FPR``, ``precision`` and ``F1`` there, in percent, None
        where undefined.

    Raises:
        OutmaskError: where the labels are hidden, or no threshold fits a rule.
    """
    metrics = {name: PixelMetrics() for name in scores}
    hashes = []
    for record in progress(benchmark, "calibrate"):
        if record.label is None:
            continue
        label = record.label()
        maps = source.maps(record, scores, (label.shape[0], label.shape[1]))
        for name in scores:
            with naming(record, name):
                metrics[name].update(maps.scores[name], label)
        hashes.append(image_hash(record))
    if not hashes:
        raise OutmaskError(f"{benchmark.name}, split {benchmark.split}, has no labels of anomalies to choose by")
    curves = {name: metric.curve() for name, metric in metrics.items()}
    return [{name: _entry(rule, curve, benchmark, hashes) for name, curve in curves.items()} for rule in rules]


def _entry(rule: Rule, curve: Curve, benchmark: Benchmark, hashes: Sequence[str]) -> dict[str, Any]:
    point = rule.apply(curve)
    return {
        "threshold": point.threshold,
        "origin": f"{rule} on {benchmark.name} {benchmark.split} ({len(hashes)} images)",
        "rule": str(rule),
        "benchmark": benchmark.name,
        "split": benchmark.split,
        "images": len(hashes),
        "image_hashes": " ".join(hashes),
        **{name: None if isnan(rate) else round(rate, 2) for name, rate in point.rates().items()},
    }


def image_hash(record: Record) -> str:
    """Eight hexadecimal digits of an image's content: of its file's bytes, or of its pixels where it is an array."""
    image = record.image
    try:
        content = image.read_bytes() if isinstance(image, Path) else image.tobytes()
    except OSError as error:
        raise OutmaskError(f"{image} cannot be read ({error.strerror})") from error
    return hashlib.sha256(content).hexdigest()[:8]


def thresholds_of(operating_points: Mapping[str, Mapping[str, Any]], benchmark: Benchmark) -> dict[str, Threshold]:
    """A model's operating points as thresholds of an evaluation: oracles where they were chosen on any of its images.

    Raises:
        OutmaskError: on a point whose threshold is no number.
    """
    own = frozenset(map(image_hash, benchmark)) if any("image_hashes" in p for p in operating_points.values()) else ()
    thresholds = {}
    for name, point in operating_points.items():
        value = point.get("threshold")
        if not isinstance(value, int | float):
            raise OutmaskError(f"the model's operating point of {name} has the threshold {value!r}, expected a number")
        shared = not frozenset(str(point.get("image_hashes", "")).split()).isdisjoint(own)
        thresholds[name] = Threshold(float(value), str(point.get("origin", "not stated")), oracle=shared)
    return thresholds


def pasted_benchmark(name: str, samples: Sequence[Sample], num_classes: int) -> Benchmark:
    """Validation images with pasted objects as a benchmark: pasted pixels are anomalies, unlabelled ones outside.

    Args:
        name: says whose validation images they are.
        samples: the images.
        num_classes: K; labels below it are known.
    """

    def label(sample: Sample) -> NDArray[np.uint8]:
        known = sample.labels < num_classes
        return np.where(sample.outlier, ANOMALY, np.where(known, KNOWN, OUTSIDE)).astype(np.uint8)

    records = tuple(
        Record(f"{index:05d}", sample.image, label=partial(label, sample)) for index, sample in enumerate(samples)
    )
    return Benchmark(name, "validation", records)
