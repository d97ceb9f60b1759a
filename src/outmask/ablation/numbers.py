"""The numbers of an ablation's models, kept beside them with hashes of what they depend on."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

import outmask
from outmask.ablation.entries import Variant, Way
from outmask.ablation.images import Images, hash_of
from outmask.ablation.runs import Run
from outmask.checkpoints.folder import read_config
from outmask.checkpoints.statistics import STATISTICS
from outmask.detectors import DETECTORS, FittedDetector
from outmask.evaluation import Benchmark, ModelMaps, Settings, Threshold, evaluate
from outmask.evaluation.calibrate import Rule, calibrate
from outmask.evaluation.evaluate import Progress
from outmask.evaluation.segments import measure_segments
from outmask.output.files import write_json
from outmask.segmenter import Segmenter

Walks = Callable[[Benchmark], Progress]
"""A progress bar for each walk over a benchmark."""

RULES = (Rule("tpr", 95), Rule("f1"))
"""By which thresholds are chosen on a benchmark's calibration split: the papers', by which a weak model calls most of a
picture unknown, and the best pixel F1."""

_BINS = 40
"""Of the histograms, over the range that pictures show; what lies beyond counts in the outermost bins."""
_RANKING = "eam"
"""Ranks the objects of ways that need no score; no panoptic quality depends on it."""


@dataclass(frozen=True)
class Piece(ABC):
    """A part of what one model gives on one benchmark: measured at once, and written as one file.

    Attributes:
        run: whose model.
        images: the benchmark.
    """

    holds: ClassVar[str]
    """What the file calls its numbers."""

    run: Run
    images: Images

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.run.name} on {self.images.entry.label} ({self.holds})"

    @property
    def path(self) -> Path:
        """The file of its numbers."""
        return self.run.folder / "numbers" / self.holds / f"{self.images.entry.slug}.json"

    def kept(self) -> dict[str, dict[str, Any]]:
        """The numbers that were measured, by name; none where what they depend on has changed."""
        if not self.run.trained:
            return {}
        try:
            values = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        kept: dict[str, dict[str, Any]] = values[self.holds] if values.get("depends_on") == self._depends_on() else {}
        return kept

    @abstractmethod
    def missing(self) -> list[str]:
        """Names of the numbers that are still to be measured."""

    @abstractmethod
    def measure(self, segmenter: Segmenter, walks: Walks) -> None:
        """Measure what is missing, and write it beside the rest.

        Raises:
            OutmaskError: as what measures, and where the file can't be written.
        """

    def _depends_on(self) -> dict[str, Any]:
        config = read_config(self.run.model)
        model = {name: config.get(name) for name in ("hashes", "architecture", "taxonomy", "preprocessing")}
        return {
            "model": hash_of(model),
            "statistics": self._statistics(),
            "benchmark": self.images.entry.name,
            "split": self.images.benchmark.split,
            "images": self.images.fingerprint,
        }

    def _statistics(self) -> str | None:
        """Of what detectors have learned from the training set, where the row has such detectors."""
        file = self.run.model / STATISTICS
        fitted = any(isinstance(DETECTORS.get(score), FittedDetector) for score in self.run.row.scores)
        return hashlib.sha256(file.read_bytes()).hexdigest() if fitted and file.is_file() else None

    def _write(self, numbers: dict[str, Any], **about: Any) -> None:
        write_json(self.path, {"depends_on": self._depends_on(), **about, self.holds: numbers})


@dataclass(frozen=True)
class Thresholds(Piece):
    """The thresholds of each score by each of :data:`RULES`, chosen on the benchmark's calibration split.

    Attributes:
        ways: of the row; the scores that they need are calibrated, too.
    """

    holds = "thresholds"

    ways: tuple[Way, ...] = ()

    def missing(self) -> list[str]:
        """Scores without thresholds."""
        wanted = dict.fromkeys([*self.run.row.scores, *(score for way in self.ways for score in way.scores)])
        kept = self.kept()
        return [score for score in wanted if score not in kept]

    def measure(self, segmenter: Segmenter, walks: Walks) -> None:
        """See :class:`Piece`."""
        assert self.images.calibration is not None
        scores, benchmark = self.missing(), self.images.calibration
        found = calibrate(ModelMaps(segmenter), benchmark, scores, RULES, walks(benchmark))
        points = {score: {each[score]["rule"]: each[score] for each in found} for score in scores}
        self._write({**self.kept(), **points})

    def chosen(self, rule: Rule) -> dict[str, Threshold]:
        """The thresholds that are known by now, by score."""
        origin = self.origin(rule)
        return {score: Threshold(points[str(rule)]["threshold"], origin) for score, points in self.kept().items()}

    def origin(self, rule: Rule) -> str:
        """What tables call a threshold."""
        return f"{rule} on {self.images.entry.calibration}"

    def _depends_on(self) -> dict[str, Any]:
        return {**super()._depends_on(), "images": self.images.calibration_fingerprint}


@dataclass(frozen=True)
class Scores(Piece):
    """Each score's pixel metrics, and open-IoU where the grid asks for it.

    Attributes:
        variant: the way in which the model is used; None for the model as it is.
        thresholds: where the benchmark has them, the best pixel F1's is one for open-IoU.
    """

    holds = "scores"

    variant: Variant | None = None
    thresholds: Thresholds | None = None

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

    def missing(self) -> list[str]:
        """Scores without metrics."""
        kept = self.kept()
        return [score for score in self.run.row.scores if score not in kept]

    def measure(self, segmenter: Segmenter, walks: Walks) -> None:
        """See :class:`Piece`; all in one pass of the model over the images."""
        kept = self.kept()
        refine_by = None if self.variant is None else segmenter.taxonomy
        remove = "stuff" if self.variant is None else self.variant.refine
        source = ModelMaps(segmenter, refine_by, remove=remove)
        benchmark = self.images.benchmark if self._open_iou else self.images.of_pixels
        report = evaluate(
            source,
            benchmark,
            self.missing(),
            settings=Settings({} if self.thresholds is None else self.thresholds.chosen(RULES[-1])),
            taxonomy=segmenter.taxonomy if self._open_iou else None,
            progress=walks(benchmark),
        )
        found = report.to_json()
        for name, score in report.scores.items():
            edges = np.linspace(*segmenter.display_range(name), _BINS + 1)
            known, anomaly = score.curve.shares(edges)
            found["scores"][name]["histogram"] = {
                "edges": edges.tolist(),
                "known": known.tolist(),
                "anomaly": anomaly.tolist(),
            }
        about = {name: found[name] for name in ("images", "anomaly_share", "outmask")}
        self._write({**kept, **found["scores"]}, **about)

    @property
    def _open_iou(self) -> bool:
        # Thresholds are the model's as it is: they mean nothing to refined scores.
        return self.images.entry.open_iou and self.variant is None

    def _depends_on(self) -> dict[str, Any]:
        values = {**super()._depends_on(), "refine": None if self.variant is None else self.variant.refine}
        # Numbers of benchmarks without open-IoU don't depend on it.
        return values | ({"open_iou": self.images.calibration_fingerprint} if self._open_iou else {})


@dataclass(frozen=True)
class Objects(Piece):
    """Known segments, and the unknown objects that each way finds.

    Attributes:
        ways: to find them.
        thresholds: above which they are found.
    """

    holds = "objects"

    ways: tuple[Way, ...]
    thresholds: Thresholds

    def missing(self) -> list[str]:
        """Labels of ways that were not measured, or with other settings or scores."""
        kept = self.kept()
        return [way.label for way in self.ways if kept.get(way.label, {}).get("definition") != definition(way)]

    def measure(self, segmenter: Segmenter, walks: Walks) -> None:
        """See :class:`Piece`."""
        missing = self.missing()
        kept = {label: values for label, values in self.kept().items() if label not in missing}
        found: dict[str, Any] = {
            label: {"definition": definition(way), "found": []}
            for label in missing
            for way in self.ways
            if way.label == label
        }
        together: dict[tuple[str, ...], list[Way]] = {}
        for way in self.ways:
            if way.label in missing:
                together.setdefault(tuple(way.scores), []).append(way)
        benchmark = self.images.benchmark
        for scores, ways in together.items():
            for rule in RULES if scores else (None,):
                values = measure_segments(
                    segmenter,
                    benchmark,
                    [way.finder for way in ways],
                    scores or (_RANKING,),
                    {} if rule is None else self.thresholds.chosen(rule),
                    progress=walks(benchmark),
                )
                rows = iter(values["segments"])  # of each way, each score
                for way in ways:
                    for score in scores or ("",):
                        row = next(rows)
                        origin = row.get("origin", "")
                        found[way.label]["found"].append({**row, "score": score, "origin": origin})
        self._write({**kept, **found}, outmask=outmask.__version__)

    def _depends_on(self) -> dict[str, Any]:
        return {**super()._depends_on(), "calibration": self.images.calibration_fingerprint}


def definition(way: Way) -> dict[str, Any]:
    """What a way's numbers depend on, its defaults included."""
    return {"finder": repr(way.finder), "scores": way.scores}
