"""``outmask evaluate``: a benchmark's table, and the same numbers as JSON."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

from rich.table import Table

import outmask
from outmask import scores
from outmask.app import DONE
from outmask.app.terminal import progress_bar, stdout
from outmask.errors import OutmaskError
from outmask.evaluation import Record, Report, evaluate, open_benchmark
from outmask.output.files import write_json

_METRICS = ("AP", "FPR95", "FPR90", "AUROC")


def measure(benchmark: str, root: str, model: str, score: str, json: str | None, anomaly_id: int | None) -> int:
    """Evaluate scores, given as ``a,b,c``, on a benchmark and print the table; returns the exit code.

    Raises:
        OutmaskError: on anything that would make the numbers incomplete: an unknown score or benchmark, another
            layout, an image or label that cannot be read.
    """
    names = [name.strip() for name in score.split(",")]
    for name in names:
        scores.check(name)
    opened = open_benchmark(benchmark, root, anomaly_id)
    if json is not None and not Path(json).absolute().parent.is_dir():
        raise OutmaskError(f"--json {json}: its folder does not exist; create it first")
    segmenter = outmask.load(model)
    with progress_bar() as progress:

        def shown(records: Iterable[Record]) -> Iterable[Record]:
            return progress.track(records, total=len(opened), description=f"evaluate {benchmark}")

        report = evaluate(segmenter, opened, names, shown)
    stdout.print(_table(report))
    if json is not None:
        write_json(Path(json), report.to_json())
    return DONE


def _table(report: Report) -> Table:
    table = Table(
        title=f"{report.benchmark}, {report.images} images, model {report.model}",
        caption=f"percent; {_number(report.anomaly_share)} of the evaluated pixels are anomalous, the AP of chance",
    )
    table.add_column("score")
    for metric in _METRICS:
        table.add_column(metric, justify="right")
    for name, values in report.scores.items():
        table.add_row(name, *(_number(values[metric]) for metric in _METRICS))
    return table


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"
