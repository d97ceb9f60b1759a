"""Numbers of an ablation's models as tables: means and deviations over seeds, as Markdown and as lines of CSV files."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean, stdev
from typing import Any

from outmask.ablation.entries import Shown, TableEntry
from outmask.ablation.grid import Grid
from outmask.ablation.images import Images
from outmask.ablation.numbers import RULES, Objects, Scores, Thresholds
from outmask.ablation.pieces import pieces
from outmask.ablation.runs import Run
from outmask.evaluation.report import METRICS

Key = tuple[str, ...]
"""Row (``ROW/VARIANT``), benchmark, and what else has one number for each seed, such as the score."""


@dataclass(frozen=True)
class Cell:
    """The same number of several seeds.

    Attributes:
        values: one of each seed that is done.
        of: how many seeds the grid has.
    """

    values: Sequence[float]
    of: int

    @property
    def mean(self) -> float:
        """NaN of none."""
        return mean(self.values) if self.values else math.nan

    @property
    def deviation(self) -> float:
        """The sample standard deviation (n - 1); NaN below two values."""
        return stdev(self.values) if len(self.values) > 1 else math.nan

    def __str__(self) -> str:
        """``12.34 ± 0.56``, and how many seeds that is of where some are not done yet."""
        if not self.values:
            return "-"
        deviation = "" if math.isnan(self.deviation) else f" ± {self.deviation:.2f}"
        share = "" if len(self.values) == self.of else f" ({len(self.values)} of {self.of})"
        return f"{self.mean:.2f}{deviation}{share}"


@dataclass
class Numbers:
    """One kind of numbers of all models.

    Attributes:
        names: of a key's parts.
        shown: metrics that tables show, and their headings; others are in the CSV files only.
        values: metrics by key and seed.
    """

    names: tuple[str, ...]
    shown: dict[str, str]
    values: dict[Key, dict[int, dict[str, float]]] = field(default_factory=dict)

    def add(self, key: Key, seed: int, metrics: Mapping[str, float | None]) -> None:
        """Note one model's numbers; what JSON has no number for is null there."""
        found = {name: math.nan if value is None else float(value) for name, value in metrics.items()}
        self.values.setdefault(key, {})[seed] = found

    def cell(self, key: Key, metric: str, seeds: int) -> Cell:
        """One number of a table."""
        values = [metrics.get(metric, math.nan) for metrics in self.values.get(key, {}).values()]
        return Cell([value for value in values if not math.isnan(value)], seeds)

    def single_lines(self) -> list[dict[str, Any]]:
        """A line for each key and seed."""
        return [
            {self.names[0]: key[0], "seed": seed, **dict(zip(self.names[1:], key[1:], strict=True))}
            | {name: _rounded(value) for name, value in metrics.items()}
            for key, seeds in self.values.items()
            for seed, metrics in seeds.items()
        ]

    def mean_lines(self, seeds: int) -> list[dict[str, Any]]:
        """A line for each key."""
        lines = []
        for key, found in self.values.items():
            line: dict[str, Any] = {**dict(zip(self.names, key, strict=True)), "seeds": len(found)}
            for metric in dict.fromkeys(name for metrics in found.values() for name in metrics):
                cell = self.cell(key, metric, seeds)
                line |= {f"{metric}_mean": _rounded(cell.mean), f"{metric}_deviation": _rounded(cell.deviation)}
            lines.append(line)
        return lines


def numbers_of(runs: Sequence[Run], grid: Grid, benchmarks: Sequence[Images]) -> dict[Shown, Numbers]:
    """What the models have given so far, by kind."""
    groups = dict.fromkeys(
        record.group for images in benchmarks if images.entry.open_iou for record in images.benchmark if record.group
    )
    found: dict[Shown, Numbers] = {
        "scores": Numbers(("row", "benchmark", "score"), {"AP": "AP", "FPR95": "FPR95"}),
        "open_iou": Numbers(
            ("row", "benchmark", "score", "threshold"),
            {"mIoU": "closed mIoU", **{f"open_mIoU_{group}": f"open-IoU {group}" for group in groups}}
            | {"open_mIoU": "open-IoU"},
        ),
        "thresholds": Numbers(
            ("row", "benchmark", "score", "threshold"), {name: name for name in ("TPR", "FPR", "precision", "F1")}
        ),
        "known_segments": Numbers(
            ("row", "benchmark"),
            {f"{rate}_known_{kind}": f"{rate} {kind}" for kind in ("things", "stuff") for rate in ("PQ", "SQ", "RQ")},
        ),
        "unknown_objects": Numbers(
            ("row", "benchmark", "way", "score", "threshold"),
            {f"{rate}_unknown": f"{rate} unknown" for rate in ("PQ", "SQ", "RQ")},
        ),
    }
    for run in runs:
        for piece in pieces(run, grid, benchmarks):
            if isinstance(piece, Scores):
                _add_scores(piece, found["scores"], found["open_iou"])
            elif isinstance(piece, Thresholds):
                _add_thresholds(piece, found["thresholds"])
            elif isinstance(piece, Objects):
                _add_objects(piece, found["known_segments"], found["unknown_objects"])
    return found


def _add_scores(piece: Scores, pixels: Numbers, open_iou: Numbers) -> None:
    kept, benchmark, seed = piece.kept(), piece.images.entry.label, piece.run.seed
    for score in piece.run.row.scores:
        if score not in kept:
            continue
        pixels.add((piece.label, benchmark, score), seed, {name: kept[score][name] for name in METRICS})
        # The papers' first.
        for one in sorted(kept[score]["thresholds"], key=lambda one: not one["origin"].startswith(str(RULES[0]))):
            values = one.get("open_set")
            if values is not None and not one["oracle"]:
                parts = {f"open_mIoU_{group}": part["open_mIoU"] for group, part in values.get("groups", {}).items()}
                metrics = {**{name: values[name] for name in ("mIoU", "open_mIoU")}, **parts}
                open_iou.add((piece.label, benchmark, score, one["origin"]), seed, metrics)


def _add_thresholds(piece: Thresholds, numbers: Numbers) -> None:
    for score, points in piece.kept().items():
        for rule in RULES:
            point = points[str(rule)]
            metrics = {"value": point["threshold"], **{name: point[name] for name in numbers.shown}}
            key = (piece.run.row.name, piece.images.entry.label, score, piece.origin(rule))
            numbers.add(key, piece.run.seed, metrics)


def _add_objects(piece: Objects, known: Numbers, unknown: Numbers) -> None:
    kept, missing = piece.kept(), piece.missing()
    row, benchmark, seed = piece.run.row.name, piece.images.entry.label, piece.run.seed
    for label in (way.label for way in piece.ways if way.label not in missing):
        for found in kept[label]["found"]:
            key = (row, benchmark, label, found["score"], found["origin"])
            unknown.add(key, seed, {name: found["panoptic"][name] for name in unknown.shown})
            # Known segments are the same, however unknown objects are found.
            known.add((row, benchmark), seed, {name: found["panoptic"][name] for name in known.shown})


_TEXTS: Mapping[Shown, str] = {
    "scores": "",
    "open_iou": "Open-IoU (Mask2Anomaly eq. 23-24) of each town, and their mean weighted by images. The papers' "
    "threshold for one town is that which finds 95 % of the other's anomaly pixels; beside it one that was chosen on "
    "other images.",
    "thresholds": "The rates where the thresholds were chosen.",
    "known_segments": "Panoptic quality of known classes, whatever becomes of the unknown objects.",
    "unknown_objects": "Panoptic quality of unknown objects, all of them pooled into one class. Ways that need no "
    "score have no threshold.",
}


def table_section(table: TableEntry, grid: Grid, numbers: Mapping[Shown, Numbers]) -> list[str]:
    """A table of the report, in parts."""
    own = numbers[table.shows]
    benchmarks = [entry.label for entry in grid.benchmarks]
    if table.shows != "scores":
        benchmarks = [label for label in benchmarks if any(key[1] == label for key in own.values)]
    columns = [(label, metric) for label in benchmarks for metric in own.shown]
    lines = [
        [row, *(part or "-" for part in rest)]
        + [str(own.cell((row, label, *rest), metric, len(grid.seeds))) for label, metric in columns]
        for row, *rest in _lines(table, grid, own)
    ]
    texts = [name for name in own.names if name != "benchmark"]
    only = len(grid.benchmarks) == 1
    heading = [*texts, *(own.shown[metric] if only else f"{label} {own.shown[metric]}" for label, metric in columns)]
    text = " ".join(filter(None, (_TEXTS[table.shows], table.text)))
    return [f"## {table.title}", *([text] if text else []), markdown(heading, lines, text_columns=len(texts))]


def _lines(table: TableEntry, grid: Grid, numbers: Numbers) -> list[tuple[str, ...]]:
    """The row and what else tells the lines of a table apart, in the order of the table's rows, scores and ways."""
    rows = {row.name: row for row in grid.rows}
    if table.shows == "scores":
        scores = {name: rows[name.partition("/")[0]].scores for name in table.rows}
        return [(row, score) for row in table.rows for score in table.scores if score in scores[row]]
    found = dict.fromkeys((key[0], *key[2:]) for key in numbers.values)
    order = table.ways if table.shows == "unknown_objects" else table.scores
    if table.shows == "known_segments":
        return [(row,) for row in table.rows]
    return [line for row in table.rows for name in order for line in found if line[:2] == (row, name)]


def markdown(heading: Sequence[str], lines: Iterable[Sequence[str]], text_columns: int) -> str:
    """A table in Markdown; all but the first columns are right-aligned."""
    rule = ["---" if index < text_columns else "---:" for index in range(len(heading))]
    return "\n".join(f"| {' | '.join(line)} |" for line in (heading, rule, *lines))


def _rounded(value: float) -> float | None:
    return None if math.isnan(value) else float(f"{value:.7g}")
