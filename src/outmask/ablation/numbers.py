"""The numbers of an ablation's models, kept beside them with hashes of what they depend on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import outmask
from outmask.ablation.grid import BenchmarkEntry, Variant
from outmask.ablation.runs import Run
from outmask.checkpoints.folder import read_config
from outmask.checkpoints.statistics import STATISTICS
from outmask.detectors import DETECTORS, FittedDetector
from outmask.errors import OutmaskError
from outmask.evaluation import Benchmark, ModelMaps, evaluate, open_benchmark
from outmask.evaluation.evaluate import Progress
from outmask.output.files import write_json
from outmask.segmenter import Segmenter

Walks = Callable[[Benchmark], Progress]
"""A progress bar for each walk over a benchmark."""

_BINS = 40
"""Of the histograms, over the range that pictures show; what lies beyond counts in the outermost bins."""


@dataclass(frozen=True)
class Images:
    """A benchmark, opened.

    Attributes:
        entry: of the grid.
        benchmark: its images and pixel labels.
        fingerprint: of the images' names and sizes in bytes.
    """

    entry: BenchmarkEntry
    benchmark: Benchmark
    fingerprint: str


def open_images(entry: BenchmarkEntry, data_root: Path) -> Images:
    """Open a benchmark for its pixel metrics; nothing else is measured, so that one walk over it is enough.

    Raises:
        OutmaskError: where it is not there, or has no labels of anomalies.
    """
    opened = open_benchmark(entry.name, data_root / entry.root, entry.split, entry.anomaly_id)
    records = tuple(replace(record, semantic=None, instances=None) for record in opened if record.label is not None)
    if not records:
        raise OutmaskError(f"benchmark {entry.label!r} has no labels of anomalies, which an ablation measures")
    files = [
        (record.name, record.image.stat().st_size if isinstance(record.image, Path) else 0)
        for record in sorted(records, key=lambda record: record.name)
    ]
    return Images(entry, replace(opened, records=records, track=None, taxonomy=None), _hash(files))


@dataclass(frozen=True)
class Piece:
    """What one model gives on one benchmark, used in one way.

    Attributes:
        run: whose model.
        images: the benchmark.
        variant: the way; None for the model as it is.
    """

    run: Run
    images: Images
    variant: Variant | None

    @property
    def name(self) -> str:
        """For messages."""
        variant = "" if self.variant is None else f" ({self.variant.label})"
        return f"{self.run.name} on {self.images.entry.label}{variant}"

    @property
    def label(self) -> str:
        """For tables: the row's name, and the variant's."""
        return self.run.row.name if self.variant is None else f"{self.run.row.name}/{self.variant.label}"

    @property
    def path(self) -> Path:
        """The file of its numbers."""
        variant = "" if self.variant is None else f".{self.variant.label}"
        return self.run.folder / "numbers" / f"{self.images.entry.slug}{variant}.json"

    def kept(self) -> dict[str, dict[str, Any]]:
        """The scores that were measured, with their metrics in percent; none where what they depend on has changed."""
        if not self.run.trained:
            return {}
        try:
            values = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        scores: dict[str, dict[str, Any]] = values["scores"] if values.get("depends_on") == self._depends_on() else {}
        return scores

    def missing(self) -> list[str]:
        """The scores that are still to be measured."""
        kept = self.kept()
        return [score for score in self.run.row.scores if score not in kept]

    def measure(self, segmenter: Segmenter, walks: Walks) -> None:
        """Measure what is missing, in one pass of the model over the images, and write it beside the rest.

        Raises:
            OutmaskError: as of ``outmask.evaluation.evaluate``, and where the file can't be written.
        """
        kept = self.kept()
        refine_by = None if self.variant is None else segmenter.taxonomy
        remove = "stuff" if self.variant is None else self.variant.refine
        source = ModelMaps(segmenter, refine_by, remove=remove)
        benchmark = self.images.benchmark
        report = evaluate(source, benchmark, self.missing(), progress=walks(benchmark))
        found = report.to_json()
        for name, score in report.scores.items():
            edges = np.linspace(*segmenter.display_range(name), _BINS + 1)
            known, anomaly = score.curve.shares(edges)
            found["scores"][name]["histogram"] = {
                "edges": edges.tolist(),
                "known": known.tolist(),
                "anomaly": anomaly.tolist(),
            }
        values = {
            "depends_on": self._depends_on(),
            **{name: found[name] for name in ("images", "anomaly_share", "outmask")},
            "scores": {**kept, **found["scores"]},
        }
        write_json(self.path, values)

    def _depends_on(self) -> dict[str, str | None]:
        entry, config = self.images.entry, read_config(self.run.model)
        model = {name: config.get(name) for name in ("hashes", "architecture", "taxonomy", "preprocessing")}
        return {
            "model": _hash(model),
            "statistics": self._statistics(),
            "benchmark": entry.name,
            "split": self.images.benchmark.split,
            "images": self.images.fingerprint,
            "refine": None if self.variant is None else self.variant.refine,
        }

    def _statistics(self) -> str | None:
        """Of what detectors have learned from the training set, where the row has such detectors."""
        file = self.run.model / STATISTICS
        fitted = any(isinstance(DETECTORS.get(score), FittedDetector) for score in self.run.row.scores)
        return hashlib.sha256(file.read_bytes()).hexdigest() if fitted and file.is_file() else None


def pieces(run: Run, benchmarks: Sequence[Images]) -> list[Piece]:
    """All that is measured of a run's model."""
    return [Piece(run, images, variant) for images in benchmarks for variant in (None, *run.row.variants)]


def load(run: Run) -> Segmenter:
    """The run's model, ready to be measured."""
    return outmask.load(run.model)


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
