"""What a grid is made of: benchmarks, ways to find unknown objects, rows, and what the report shows of them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Literal

from jsonargparse import ArgumentError, ArgumentParser

from outmask.errors import OutmaskError
from outmask.openset.unknown_objects import Finder, finder
from outmask.types import Unknown


@dataclass(frozen=True)
class BenchmarkEntry:
    """One benchmark.

    Attributes:
        label: what the tables call it.
        name: as of ``outmask evaluate --benchmark``.
        root: its folder, relative to the data's.
        split: its split; by default the one that papers report.
        anomaly_id: of ``folder``: the anomalies' label value.
        open_iou: also measure open-IoU; of two groups of images at the threshold that finds 95 % on the other one.
        calibration: the split on which thresholds are chosen, by each of ``outmask.ablation.numbers.RULES``: those
            above which unknown objects are found, and one more for open-IoU.
        images: so many of each group's images (of each town's), spread evenly, here and of ``calibration``; by default
            all.
    """

    label: str
    name: str
    root: str
    split: str | None = None
    anomaly_id: int | None = None
    open_iou: bool = False
    calibration: str | None = None
    images: int | None = None

    def __post_init__(self) -> None:
        if self.images is not None and self.images < 1:
            raise OutmaskError(f"benchmark {self.label!r}: images must be at least 1, got {self.images}")

    @property
    def slug(self) -> str:
        """The label as a file's stem."""
        return re.sub(r"[^a-z0-9]+", "-", self.label.lower()).strip("-")


@dataclass(frozen=True)
class Way:
    """A way to find unknown objects.

    Attributes:
        label: what tables call it.
        way: as of ``Segmenter.predict``.
        scores: above whose thresholds objects are found, each measured; none of a way that needs no threshold.
        settings: of its class in ``outmask.openset.unknown_objects``, where they are not the papers'.

    Raises:
        OutmaskError: on settings that the way does not have or that make no sense, and on missing or needless scores.
    """

    label: str
    way: Unknown
    scores: list[str] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.finder.needs_threshold and not self.scores:
            raise OutmaskError(f"way {self.label!r}: name the scores above whose thresholds {self.way} finds objects")
        if self.scores and not self.finder.needs_threshold:
            raise OutmaskError(f"way {self.label!r}: {self.way} needs no scores, leave {', '.join(self.scores)} out")

    @property
    def finder(self) -> Finder:
        """The way with its settings."""
        parser = ArgumentParser(exit_on_error=False)
        parser.add_class_arguments(type(finder(self.way)), "settings")
        try:
            values = parser.instantiate_classes(parser.parse_object({"settings": self.settings}))
        except (ArgumentError, OutmaskError) as error:
            raise OutmaskError(f"way {self.label!r}: {error}") from None
        found: Finder = values.settings
        return found


@dataclass(frozen=True)
class Variant:
    """Another way to use the same model.

    Attributes:
        label: what tables call it, after the row's name: ``ROW/LABEL``.
        refine: lower the scores in confident masks of ``"stuff"``, or of ``"things"`` (Mask2Anomaly table V(d)).
    """

    label: str
    refine: Literal["stuff", "things"]


@dataclass(frozen=True)
class Row:
    """One recipe, trained with every seed.

    Attributes:
        name: of the row and its folder.
        recipe: a YAML file, relative to the grid's, or a bundled recipe's name.
        scores: that are measured of it, and detectors; those with statistics need them in the model's folder.
        start_from: an earlier row, whose model of the same seed is fine-tuned.
        variants: that are measured beside the model as it is.
        ways: labels of the grid's ways to find unknown objects, measured on benchmarks with panoptic labels.
    """

    name: str
    recipe: str
    scores: list[str]
    start_from: str | None = None
    variants: list[Variant] = field(default_factory=list)
    ways: list[str] = field(default_factory=list)


Shown = Literal["scores", "open_iou", "known_segments", "unknown_objects", "thresholds"]
"""What a table shows: pixel metrics; open-IoU and the closed set's mIoU; PQ of known things and stuff; PQ of unknown
objects, by each way; or the rates at the thresholds where they were chosen."""


@dataclass(frozen=True)
class TableEntry:
    """A table of the report: one kind of numbers.

    Attributes:
        title: its heading.
        rows: names of rows, ``ROW/VARIANT`` for a variant, in their order.
        scores: to show, of those that the rows have; of ``unknown_objects`` all are shown that the ways have.
        shows: the kind of numbers.
        ways: of ``unknown_objects``: labels of ways to show, of those that the rows have.
        text: what a reader should know of it.
    """

    title: str
    rows: list[str]
    scores: list[str] = field(default_factory=list)
    shows: Shown = "scores"
    ways: list[str] = field(default_factory=list)
    text: str = ""


@dataclass(frozen=True)
class HistogramEntry:
    """A figure of the report: how a score is distributed over known and anomaly pixels (Mask2Anomaly figure 14).

    Attributes:
        title: its heading.
        rows: names of rows, as in tables, a panel for each.
        benchmark: a benchmark's label.
        score: which all of the rows have.
    """

    title: str
    rows: list[str]
    benchmark: str
    score: str


@dataclass(frozen=True)
class PicturesEntry:
    """Pictures of the report: a few scenes, their truth, and the segments that the first seed's models find in them.

    Attributes:
        title: its heading.
        rows: names of rows, a picture for each.
        benchmark: a benchmark's label; one with panoptic labels.
        ways: labels of ways to find unknown objects, of those that the rows have; each by the first of its scores.
        scenes: so many of each group, spread evenly.
    """

    title: str
    rows: list[str]
    benchmark: str
    ways: list[str]
    scenes: int = 2


@dataclass(frozen=True)
class Quick:
    """How a grid is done quickly, to see that all of it works.

    Attributes:
        seeds: so many of the grid's.
        images: of each benchmark, as of :class:`BenchmarkEntry`, and the most that a training is validated on.
        iterations: share of each recipe's, warm-up included.
    """

    seeds: int
    images: int
    iterations: float
