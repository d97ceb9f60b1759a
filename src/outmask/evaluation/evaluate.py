"""Scores measured on a benchmark: one model pass per image, every score from it, streaming metrics."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

import outmask
from outmask import scores as score_engine
from outmask.data.images import read_image
from outmask.errors import OutmaskError
from outmask.evaluation.benchmarks import Benchmark, Record
from outmask.metrics import PixelMetrics

if TYPE_CHECKING:
    from outmask.types import MaskPrediction


class Predictor(Protocol):
    """What evaluation needs of a segmenter."""

    @property
    def name(self) -> str: ...

    def prediction(self, image: NDArray[np.uint8]) -> MaskPrediction:
        """Masks of one ``(H, W, 3)`` image, batch 1."""


@dataclass(frozen=True)
class Report:
    """What an evaluation found.

    Attributes:
        benchmark: its name.
        model: the model's name.
        images: images evaluated.
        anomaly_share: anomaly pixels among the evaluated ones, in percent: the AP of chance.
        scores: for each score its metrics in percent, as ``PixelMetrics.compute`` names them.
    """

    benchmark: str
    model: str
    images: int
    anomaly_share: float
    scores: dict[str, dict[str, float]]

    def to_json(self) -> dict[str, Any]:
        """The report as plain JSON values; an undefined metric (NaN) is None."""
        return {
            "benchmark": self.benchmark,
            "model": self.model,
            "images": self.images,
            "anomaly_share": _or_none(self.anomaly_share),
            "scores": {
                name: {metric: _or_none(value) for metric, value in values.items()}
                for name, values in self.scores.items()
            },
            "outmask": outmask.__version__,
        }


def evaluate(
    segmenter: Predictor,
    benchmark: Benchmark,
    scores: Sequence[str],
    progress: Callable[[Iterable[Record]], Iterable[Record]] = iter,
) -> Report:
    """Measure scores on a benchmark, at the labels' resolution, all pixels of all images pooled.

    Args:
        segmenter: gives one ``MaskPrediction`` per image.
        benchmark: images and labels.
        scores: names as in ``outmask.scores.available()``; all are evaluated on the same model pass.
        progress: wraps the records, for a progress bar.

    Raises:
        OutmaskError: on an unknown score, an image or label that cannot be read or that do not fit each other, or a
            score with NaN; the message names the image.
    """
    names = list(dict.fromkeys(scores))
    if not names:
        raise OutmaskError(f"no score given; expected some of {', '.join(score_engine.available())}")
    for name in names:
        score_engine.check(name)
    metrics = {name: PixelMetrics() for name in names}
    for record in progress(benchmark):
        image, label = read_image(record.image), record.label()
        _check_sizes(record, image, label)
        maps = score_engine.evaluate(segmenter.prediction(image), names, label.shape)
        for name in names:
            try:
                metrics[name].update(maps[name][0], label)
            except OutmaskError as error:
                raise OutmaskError(f"{record.name}, score {name}: {error}") from error
    values = {name: counted.compute() for name, counted in metrics.items()}
    shares = [value.pop("anomaly_share") for value in values.values()]
    return Report(benchmark.name, segmenter.name, len(benchmark), shares[0], values)


def _check_sizes(record: Record, image: NDArray[np.uint8], label: NDArray[np.uint8]) -> None:
    """A label may be of another resolution than its image, never of another shape."""
    (height, width), (label_height, label_width) = image.shape[:2], label.shape
    scale = label_width / width
    if abs(height * scale - label_height) > 1 + scale:  # each side was rounded to whole pixels
        raise OutmaskError(
            f"{record.name}: the label of {label_width}x{label_height} pixels does not fit the image {record.image} "
            f"of {width}x{height} pixels"
        )


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value
