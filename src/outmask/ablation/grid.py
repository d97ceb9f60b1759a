"""The grid of an ablation, as YAML: rows of recipes, seeds, the benchmarks that every model meets, and the tables."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentError, ArgumentParser

from outmask.errors import OutmaskError
from outmask.openset import inference

_BUNDLED = Path(__file__).parent


@dataclass(frozen=True)
class BenchmarkEntry:
    """One benchmark.

    Attributes:
        label: what the tables call it.
        name: as of ``outmask evaluate --benchmark``.
        root: its folder, relative to the data's.
        split: its split; by default the one that papers report.
        anomaly_id: of ``folder``: the anomalies' label value.
    """

    label: str
    name: str
    root: str
    split: str | None = None
    anomaly_id: int | None = None

    @property
    def slug(self) -> str:
        """The label as a file's stem."""
        return re.sub(r"[^a-z0-9]+", "-", self.label.lower()).strip("-")


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
    """

    name: str
    recipe: str
    scores: list[str]
    start_from: str | None = None
    variants: list[Variant] = field(default_factory=list)


@dataclass(frozen=True)
class TableEntry:
    """A table of the report.

    Attributes:
        title: its heading.
        rows: names of rows, ``ROW/VARIANT`` for a variant, in their order.
        scores: to show, of those that the rows have.
    """

    title: str
    rows: list[str]
    scores: list[str]


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
class Grid:
    """What an ablation trains and measures.

    Attributes:
        seeds: of every row.
        benchmarks: that every model meets.
        rows: what is trained.
        tables, histograms: what the report shows.
        attention: rows of mask transformers whose negative attention the report shows, of the first seed (Mask2Anomaly
            figure 12).

    Raises:
        OutmaskError: on names that repeat, mean nothing or can't name files, and on unknown scores.
    """

    seeds: list[int]
    benchmarks: list[BenchmarkEntry]
    rows: list[Row]
    tables: list[TableEntry] = field(default_factory=list)
    histograms: list[HistogramEntry] = field(default_factory=list)
    attention: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for what, members in (("seeds", self.seeds), ("benchmarks", self.benchmarks), ("rows", self.rows)):
            if not members:
                raise OutmaskError(f"{what} is empty: name at least one")
        _refuse_repeated("seeds", self.seeds)
        _refuse_repeated("benchmarks' labels", (entry.slug for entry in self.benchmarks))
        _refuse_repeated("rows", (row.name for row in self.rows))
        earlier: set[str] = set()
        for row in self.rows:
            _check_row(row, earlier)
            earlier.add(row.name)
        measured = {label: row.scores for row in self.rows for label in labels(row)}
        for table in self.tables:
            for name in table.rows:
                if name not in measured:
                    raise OutmaskError(f"table {table.title!r}: there is no row {name!r} among {', '.join(measured)}")
                if not set(table.scores) & set(measured[name]):
                    raise OutmaskError(
                        f"table {table.title!r}: row {name!r} has none of its scores {', '.join(table.scores)}"
                    )
        for histogram in self.histograms:
            if histogram.benchmark not in (known := [entry.label for entry in self.benchmarks]):
                raise OutmaskError(
                    f"histogram {histogram.title!r}: there is no benchmark {histogram.benchmark!r} among "
                    + ", ".join(known)
                )
            for name in histogram.rows:
                if histogram.score not in measured.get(name, ()):
                    raise OutmaskError(f"histogram {histogram.title!r}: no row {name!r} with score {histogram.score}")
        if strangers := [name for name in self.attention if name not in earlier]:
            raise OutmaskError(f"attention: there is no row {strangers[0]!r} among {', '.join(earlier)}")


def labels(row: Row) -> list[str]:
    """What tables may show of a row: the model as it is, and its variants."""
    return [row.name, *(f"{row.name}/{variant.label}" for variant in row.variants)]


def read_grid(path: Path) -> Grid:
    """The grid in a YAML file, or in the bundled one of that name; recipes beside it are given with their path.

    Raises:
        OutmaskError: on a missing file, unknown or missing keys, or a grid that makes no sense.
    """
    bundled = sorted(grid.stem for grid in _BUNDLED.glob("*.yaml"))
    if not path.is_file() and str(path) in bundled:
        path = _BUNDLED / f"{path}.yaml"
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


def _refuse_repeated(what: str, names: Iterable[object]) -> None:
    if repeated := [str(name) for name, count in Counter(names).items() if count > 1]:
        raise OutmaskError(f"{what}: {', '.join(repeated)} more than once")
