"""The grid of an ablation, as YAML: rows of recipes, seeds, the benchmarks that every model meets, and the tables."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser

from outmask.ablation.entries import (
    BenchmarkEntry,
    HistogramEntry,
    PicturesEntry,
    Quick,
    Row,
    TableEntry,
    Way,
)
from outmask.errors import OutmaskError
from outmask.openset import inference

BUNDLED = Path(__file__).parent
"""Where the package's own grids are."""
_QUICK = (
    "**Made with `--quick`: few iterations, few images, one seed. These numbers show that the machinery works, not "
    "what the methods can do.**"
)


@dataclass(frozen=True)
class Grid:
    """What an ablation trains and measures.

    Attributes:
        seeds: of every row.
        benchmarks: that every model meets.
        rows: what is trained.
        ways: to find unknown objects, which rows name.
        tables, histograms, pictures: what the report shows.
        attention: rows of mask transformers whose negative attention the report shows, of the first seed (Mask2Anomaly
            figure 12).
        name: stem of the report's files.
        title, text: of the report.
        quick: how it is done quickly; None where it can't be.

    Raises:
        OutmaskError: on names that repeat, mean nothing or can't name files, and on unknown scores.
    """

    seeds: list[int]
    benchmarks: list[BenchmarkEntry]
    rows: list[Row]
    ways: list[Way] = field(default_factory=list)
    tables: list[TableEntry] = field(default_factory=list)
    histograms: list[HistogramEntry] = field(default_factory=list)
    pictures: PicturesEntry | None = None
    attention: list[str] = field(default_factory=list)
    name: str = "ablation"
    title: str = "Ablation"
    text: str = ""
    quick: Quick | None = None

    def __post_init__(self) -> None:
        for what, members in (("seeds", self.seeds), ("benchmarks", self.benchmarks), ("rows", self.rows)):
            if not members:
                raise OutmaskError(f"{what} is empty: name at least one")
        _refuse_repeated("seeds", self.seeds)
        _refuse_repeated("benchmarks' labels", (entry.slug for entry in self.benchmarks))
        _refuse_repeated("ways' labels", (way.label for way in self.ways))
        _refuse_repeated("rows", (row.name for row in self.rows))
        if not re.fullmatch(r"\w[\w-]*", self.name):
            raise OutmaskError(f"name {self.name!r} can't name files: take letters, digits, _ and -")
        for way in self.ways:
            for score in way.scores:
                inference.check(score)
        earlier: set[str] = set()
        for row in self.rows:
            _check_row(row, earlier)
            _refuse_strangers(f"row {row.name!r}", "way", row.ways, [way.label for way in self.ways])
            earlier.add(row.name)
        for table in self.tables:
            self._check_table(table)
        for histogram in self.histograms:
            self._check_histogram(histogram)
        if self.pictures is not None:
            self._check_pictures(self.pictures)
        if self.quick is not None:
            _check_quick(self.quick)
        _refuse_strangers("attention", "row", self.attention, [row.name for row in self.rows])

    def way(self, label: str) -> Way:
        """The way of that label."""
        return next(way for way in self.ways if way.label == label)

    def shortened(self) -> Grid:
        """The grid that is done quickly; recipes are shortened by ``outmask.ablation.runs.plan``.

        Raises:
            OutmaskError: where the grid does not say how.
        """
        if self.quick is None:
            raise OutmaskError("this grid can't be done quickly: it has no 'quick', which says how")
        return replace(
            self,
            seeds=self.seeds[: self.quick.seeds],
            benchmarks=[replace(entry, images=self.quick.images) for entry in self.benchmarks],
            text="\n\n".join(filter(None, (_QUICK, self.text))),
        )

    def _check_table(self, table: TableEntry) -> None:
        where = f"table {table.title!r}"
        if table.shows == "scores":
            measured = {label: row.scores for row in self.rows for label in labels(row)}
        else:
            measured = {row.name: row.scores for row in self.rows}
        _refuse_strangers(where, "row", table.rows, list(measured))
        if table.shows in ("scores", "open_iou", "thresholds"):
            for name in table.rows:
                if not set(table.scores) & set(measured[name]):
                    raise OutmaskError(f"{where}: row {name!r} has none of its scores {', '.join(table.scores)}")
        if table.shows == "open_iou" and not any(entry.open_iou for entry in self.benchmarks):
            raise OutmaskError(f"{where}: no benchmark has open_iou")
        if table.shows == "thresholds" and not any(entry.calibration for entry in self.benchmarks):
            raise OutmaskError(f"{where}: no benchmark has a calibration split")
        if table.shows == "unknown_objects":
            self._check_ways(where, table.rows, table.ways)
        if table.shows == "known_segments":
            for row in self.rows:
                if row.name in table.rows and not row.ways:
                    raise OutmaskError(f"{where}: row {row.name!r} has no ways, so that no segments are measured")

    def _check_histogram(self, histogram: HistogramEntry) -> None:
        where = f"histogram {histogram.title!r}"
        _refuse_strangers(where, "benchmark", [histogram.benchmark], [entry.label for entry in self.benchmarks])
        measured = {label: row.scores for row in self.rows for label in labels(row)}
        for name in histogram.rows:
            if histogram.score not in measured.get(name, ()):
                raise OutmaskError(f"{where}: no row {name!r} with score {histogram.score}")

    def _check_pictures(self, pictures: PicturesEntry) -> None:
        if pictures.scenes < 1:
            raise OutmaskError(f"pictures: scenes must be at least 1, got {pictures.scenes}")
        _refuse_strangers("pictures", "benchmark", [pictures.benchmark], [entry.label for entry in self.benchmarks])
        _refuse_strangers("pictures", "row", pictures.rows, [row.name for row in self.rows])
        self._check_ways("pictures", pictures.rows, pictures.ways)

    def _check_ways(self, where: str, rows: Sequence[str], ways: Sequence[str]) -> None:
        _refuse_strangers(where, "way", ways, [way.label for way in self.ways])
        for row in self.rows:
            if row.name in rows and not set(ways) & set(row.ways):
                raise OutmaskError(f"{where}: row {row.name!r} has none of its ways {', '.join(ways)}")


def labels(row: Row) -> list[str]:
    """What tables may show of a row: the model as it is, and its variants."""
    return [row.name, *(f"{row.name}/{variant.label}" for variant in row.variants)]


def read_grid(path: Path) -> Grid:
    """The grid in a YAML file, or in the bundled one of that name; recipes beside it are given with their path.

    Raises:
        OutmaskError: on a missing file, unknown or missing keys, or a grid that makes no sense.
    """
    bundled = sorted(grid.stem for grid in BUNDLED.glob("*.yaml"))
    if not path.is_file() and str(path) in bundled:
        path = BUNDLED / f"{path}.yaml"
    if not path.is_file():
        raise OutmaskError(f"{path}: no such file; --config is the ablation's grid, YAML, or {', '.join(bundled)}")
    parser = ArgumentParser(prog="outmask ablate", exit_on_error=False)
    parser.add_class_arguments(Grid)
    try:
        options = parser.parse_string(path.read_text(encoding="utf-8"))
        values: dict[str, Any] = parser.instantiate_classes(options).as_dict()
        grid = Grid(**{name: values[name] for name in Grid.__dataclass_fields__})
    except (ArgumentError, OutmaskError, UnicodeDecodeError) as error:
        message = re.sub(r"Problem with given class_path '[\w.]+': ", "", " ".join(str(error).split()))
        raise OutmaskError(f"{path}: {message}") from None
    rows = [
        replace(row, recipe=str(beside)) if (beside := path.parent / row.recipe).is_file() else row for row in grid.rows
    ]
    return replace(grid, rows=rows)


def _check_row(row: Row, earlier: set[str]) -> None:
    for name in (row.name, *(variant.label for variant in row.variants)):
        if not re.fullmatch(r"\w[\w-]*", name):
            raise OutmaskError(f"row {row.name!r}: {name!r} can't name a folder: take letters, digits, _ and -")
    _refuse_repeated(f"row {row.name!r}: variants", (variant.label for variant in row.variants))
    if row.start_from is not None and row.start_from not in earlier:
        raise OutmaskError(f"row {row.name!r}: start_from {row.start_from!r} is no row above it")
    if not row.scores:
        raise OutmaskError(f"row {row.name!r}: name at least one score")
    for score in row.scores:
        inference.check(score)


def _check_quick(quick: Quick) -> None:
    if quick.seeds < 1 or quick.images < 1 or not 0 < quick.iterations <= 1:
        raise OutmaskError(
            f"quick needs at least 1 seed, at least 1 image and a share of iterations up to 1, got {quick}"
        )


def _refuse_strangers(where: str, what: str, names: Iterable[str], known: Sequence[str]) -> None:
    if strangers := [name for name in names if name not in known]:
        raise OutmaskError(f"{where}: there is no {what} {strangers[0]!r} among {', '.join(known)}")


def _refuse_repeated(what: str, names: Iterable[object]) -> None:
    if repeated := [str(name) for name, count in Counter(names).items() if count > 1]:
        raise OutmaskError(f"{what}: {', '.join(repeated)} more than once")
