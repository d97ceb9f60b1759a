"""The report of an ablation, from what its runs have left on disk so far: Markdown, and the same numbers as CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from outmask.ablation.entries import HistogramEntry, TableEntry
from outmask.ablation.grid import Grid, labels
from outmask.ablation.images import Images
from outmask.ablation.numbers import Scores
from outmask.ablation.pictures import RULE, Pictures
from outmask.ablation.pieces import pieces
from outmask.ablation.runs import Run
from outmask.ablation.tables import Cell, markdown, numbers_of, table_section
from outmask.checkpoints.folder import read_config
from outmask.evaluation.plots import score_plot
from outmask.evaluation.report import Histogram
from outmask.models import build_architecture
from outmask.models.counting import count_multiply_adds
from outmask.output.files import replacing

ATTENTION = "figures/attention.png"


def write_report(out: Path, grid: Grid, runs: Sequence[Run], benchmarks: Sequence[Images]) -> None:
    """Write ``NAME.md`` and the CSV files, each whole or not at all.

    Args:
        out: the ablation's folder.
        grid: its name and its tables; where it has none, one table of everything.
        runs, benchmarks: all of the grid's; what is not done yet is left out.

    Raises:
        OutmaskError: where a file can't be written.
    """
    numbers = numbers_of(runs, grid, benchmarks)
    models = [_model(run) for run in runs if run.trained]
    everything = TableEntry(
        "All rows",
        [label for row in grid.rows for label in labels(row)],
        list(dict.fromkeys(score for row in grid.rows for score in row.scores)),
    )
    sections = [
        f"# {grid.title}",
        *([grid.text] if grid.text else []),
        f"{len(models)} of {len(runs)} models are trained. Percent: mean ± sample standard deviation (n - 1), the "
        f"latter from two seeds on; (n of {len(grid.seeds)}) where not all seeds are done.",
        *(part for table in grid.tables or [everything] for part in table_section(table, grid, numbers)),
        *(
            part
            for number, entry in enumerate(grid.histograms)
            for part in _histograms(entry, grid, runs, benchmarks, out, f"figures/histogram-{number}.svg")
        ),
        *_pictures(grid, runs, benchmarks, out),
        *_attention(grid, out),
        *_models_table(grid, models),
    ]
    _write(report_path(out, grid), "\n\n".join(sections) + "\n")
    for kind, own in numbers.items():
        if own.values or kind == "scores":
            name = grid.name if kind == "scores" else f"{grid.name}_{kind}"
            _write_csv(out / f"{name}.csv", own.single_lines())
            _write_csv(out / f"{name}_means.csv", own.mean_lines(len(grid.seeds)))
    _write_csv(out / f"{grid.name}_models.csv", models)


def report_path(out: Path, grid: Grid) -> Path:
    """The Markdown file."""
    return out / f"{grid.name}.md"


def _histograms(
    entry: HistogramEntry, grid: Grid, runs: Sequence[Run], benchmarks: Sequence[Images], out: Path, path: str
) -> list[str]:
    """The figure, once one of its rows is measured; shares are means over the seeds."""
    found: dict[str, list[dict[str, list[float]]]] = {}
    for run in runs:
        for piece in pieces(run, grid, benchmarks):
            if isinstance(piece, Scores) and piece.label in entry.rows and piece.images.entry.label == entry.benchmark:
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


def _pictures(grid: Grid, runs: Sequence[Run], benchmarks: Sequence[Images], out: Path) -> list[str]:
    drawn = [
        piece
        for run in runs
        for piece in pieces(run, grid, benchmarks)
        if isinstance(piece, Pictures) and not piece.missing()
    ]
    if not drawn or grid.pictures is None:
        return []
    text = (
        f"Models of seed {grid.seeds[0]}. Unknown objects are outlined; where a score has a say, they are found above "
        f"the threshold of the {RULE} on {drawn[0].images.entry.calibration}. What is not tinted is void."
    )
    parts = [f"## {grid.pictures.title}", text]
    for piece in drawn:
        row = piece.run.row.name
        parts += [f"### {row}", f"![Segments by {row}]({piece.figure.relative_to(out).as_posix()})"]
    return parts


def _attention(grid: Grid, out: Path) -> list[str]:
    if not (out / ATTENTION).exists():
        return []
    text = (
        f"One minus the attention averaged over all queries, of seed {grid.seeds[0]}: bright where nothing looks; each "
        "map relative to its largest attention, coarsest level first."
    )
    return ["## Negative attention", f"![Negative attention]({ATTENTION})", text]


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
    return ["## Models", markdown(heading, lines, text_columns=1), text]


def _write_csv(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """A column for every key that some line has; undefined numbers are empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for line in lines for key in line)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    _write(path, text.getvalue())


def _write(path: Path, text: str) -> None:
    with replacing(path) as file:
        file.write(text.encode())
