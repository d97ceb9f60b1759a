"""The report of an ablation, from what its runs have left on disk so far: Markdown, and the same numbers as CSV."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np

from outmask.ablation.grid import Grid, HistogramEntry, TableEntry, labels
from outmask.ablation.numbers import Images, pieces
from outmask.ablation.runs import Run
from outmask.checkpoints.folder import read_config
from outmask.evaluation.plots import score_plot
from outmask.evaluation.report import METRICS, Histogram
from outmask.models import build_architecture
from outmask.models.counting import count_multiply_adds
from outmask.output.files import replacing

REPORT, SINGLE, MEANS, MODELS = "ablation.md", "ablation.csv", "ablation_means.csv", "ablation_models.csv"
ATTENTION = "figures/attention.png"

_SHOWN = ("AP", "FPR95")
"""Of the metrics, in the tables of the Markdown file."""


Key = tuple[str, str, str]
"""Row (``ROW/VARIANT``), benchmark and score: what has one number for each seed."""
Numbers = dict[Key, dict[int, dict[str, float]]]
"""Metrics by seed."""


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


def write_report(out: Path, grid: Grid, runs: Sequence[Run], benchmarks: Sequence[Images]) -> None:
    """Write ``ablation.md`` and the CSV files, each whole or not at all.

    Args:
        out: the ablation's folder.
        grid: its tables; where it has none, one table of everything.
        runs, benchmarks: all of the grid's; what is not done yet is left out.

    Raises:
        OutmaskError: where a file can't be written.
    """
    numbers = _numbers(runs, benchmarks)
    models = [_model(run) for run in runs if run.trained]
    everything = TableEntry(
        "All rows",
        [label for row in grid.rows for label in labels(row)],
        list(dict.fromkeys(score for row in grid.rows for score in row.scores)),
    )
    sections = [
        "# Ablation",
        f"{len(models)} of {len(runs)} models are trained. Percent: mean ± sample standard deviation (n - 1), the "
        f"latter from two seeds on; (n of {len(grid.seeds)}) where not all seeds are done.",
        *(part for table in grid.tables or [everything] for part in _table(table, grid, numbers)),
        *(
            part
            for number, entry in enumerate(grid.histograms)
            for part in _histograms(entry, runs, benchmarks, out, f"figures/histogram-{number}.svg")
        ),
        *_attention(grid, out),
        *_models_table(grid, models),
    ]
    _write(out / REPORT, "\n\n".join(sections) + "\n")
    _write_csv(out / SINGLE, _single_lines(numbers))
    _write_csv(out / MEANS, _mean_lines(grid, numbers))
    _write_csv(out / MODELS, models)


def _numbers(runs: Sequence[Run], benchmarks: Sequence[Images]) -> Numbers:
    found: Numbers = {}
    for run in runs:
        for piece in pieces(run, benchmarks):
            kept = piece.kept()
            for score in run.row.scores:
                if score in kept:  # what JSON has no number for is null there
                    metrics = {name: math.nan if (value := kept[score][name]) is None else value for name in METRICS}
                    found.setdefault((piece.label, piece.images.entry.label, score), {})[run.seed] = metrics
    return found


def _cell(grid: Grid, numbers: Numbers, key: Key, metric: str) -> Cell:
    values = [metrics[metric] for metrics in numbers.get(key, {}).values()]
    return Cell([value for value in values if not math.isnan(value)], len(grid.seeds))


def _table(table: TableEntry, grid: Grid, numbers: Numbers) -> list[str]:
    columns = [(entry.label, metric) for entry in grid.benchmarks for metric in _SHOWN]
    scores = {label: row.scores for row in grid.rows for label in labels(row)}
    lines = [
        [row, score, *(str(_cell(grid, numbers, (row, benchmark, score), metric)) for benchmark, metric in columns)]
        for row in table.rows
        for score in table.scores
        if score in scores[row]
    ]
    heading = ["row", "score", *(f"{benchmark} {metric}" for benchmark, metric in columns)]
    return [f"## {table.title}", _markdown(heading, lines, text_columns=2)]


def _histograms(
    entry: HistogramEntry, runs: Sequence[Run], benchmarks: Sequence[Images], out: Path, path: str
) -> list[str]:
    """The figure, once one of its rows is measured; shares are means over the seeds."""
    found: dict[str, list[dict[str, list[float]]]] = {}
    for run in runs:
        for piece in pieces(run, benchmarks):
            if piece.label in entry.rows and piece.images.entry.label == entry.benchmark:
                kept = piece.kept().get(entry.score, {})
                if "histogram" in kept:
                    found.setdefault(piece.label, []).append(kept["histogram"])
    if not found:
        return []
    panels = {label: _mean_histogram(found[label]) for label in entry.rows if label in found}
    with replacing(out / path) as file:
        file.write(score_plot(panels, entry.score))
    text = f"On {entry.benchmark}; what lies beyond the ends of the axis counts in the outermost bins."
    return [f"## {entry.title}", f"![{entry.title}]({path})", text]


def _mean_histogram(found: Sequence[dict[str, list[float]]]) -> Histogram:
    """Of several seeds; a benchmark without pixels of a kind has null for all of their shares."""
    values = (np.array([one[name] for one in found], dtype=np.float64) for name in ("edges", "known", "anomaly"))
    return Histogram(*(np.nan_to_num(value).mean(0) for value in values))


def _attention(grid: Grid, out: Path) -> list[str]:
    if not (out / ATTENTION).exists():
        return []
    text = (
        f"One minus the attention averaged over all queries, of seed {grid.seeds[0]}: bright where nothing looks; each "
        "map relative to its largest attention, coarsest level first."
    )
    return ["## Negative attention", f"![Negative attention]({ATTENTION})", text]


def _single_lines(numbers: Numbers) -> list[dict[str, Any]]:
    return [
        {"row": row, "seed": seed, "benchmark": benchmark, "score": score}
        | {name: _rounded(value) for name, value in metrics.items()}
        for (row, benchmark, score), seeds in numbers.items()
        for seed, metrics in seeds.items()
    ]


def _mean_lines(grid: Grid, numbers: Numbers) -> list[dict[str, Any]]:
    lines = []
    for key, seeds in numbers.items():
        line: dict[str, Any] = {**dict(zip(("row", "benchmark", "score"), key, strict=True)), "seeds": len(seeds)}
        for metric in METRICS:
            cell = _cell(grid, numbers, key, metric)
            line |= {f"{metric}_mean": _rounded(cell.mean), f"{metric}_deviation": _rounded(cell.deviation)}
        lines.append(line)
    return lines


def _model(run: Run) -> dict[str, Any]:
    """What is known of a trained model: its size, the cost of a pass, and what its last validation found."""
    config = read_config(run.model)
    provenance = config["provenance"]
    height, width = run.recipe.crop
    return {
        "row": run.row.name,
        "seed": run.seed,
        "parameters": provenance["parameters"]["all"],
        "trainable": provenance["parameters"]["trainable"],
        "multiply_adds": _multiply_adds(json.dumps(config["architecture"]), height, width),
        "height": height,
        "width": width,
        "training_hours": provenance["training_hours"],
        **{f"validation_{name}": value for name, value in provenance["validation"].items()},
    }


@cache
def _multiply_adds(architecture: str, height: int, width: int) -> int:
    return count_multiply_adds(partial(build_architecture, json.loads(architecture)), (height, width))


def _models_table(grid: Grid, models: Sequence[dict[str, Any]]) -> list[str]:
    heading = ["row", "parameters, M", "trainable, M", "input", "FLOPs, G", "training, h", "validation mIoU"]
    lines = []
    for row in grid.rows:
        own = [model for model in models if model["row"] == row.name]
        if own:
            first = own[0]
            hours, miou = (
                Cell([model[name] for model in own if model.get(name) is not None], len(grid.seeds))
                for name in ("training_hours", "validation_mIoU")
            )
            size = f"{first['height']}x{first['width']}"
            counts = [f"{first[name] / 1e6:.2f}" for name in ("parameters", "trainable")]
            lines.append([row.name, *counts, size, f"{first['multiply_adds'] / 1e9:.2f}", str(hours), str(miou)])
    text = (
        "FLOPs are those of one forward pass on one training crop; a multiply-add counts as one, as in the papers. "
        "Closed-set quality is that of the run's own validation images."
    )
    return ["## Models", _markdown(heading, lines, text_columns=1), text]


def _markdown(heading: Sequence[str], lines: Iterable[Sequence[str]], text_columns: int) -> str:
    rule = ["---" if index < text_columns else "---:" for index in range(len(heading))]
    return "\n".join(f"| {' | '.join(line)} |" for line in (heading, rule, *lines))


def _write_csv(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """A column for every key that some line has; undefined numbers are empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for line in lines for key in line)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    _write(path, text.getvalue())


def _rounded(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 4)


def _write(path: Path, text: str) -> None:
    with replacing(path) as file:
        file.write(text.encode())
