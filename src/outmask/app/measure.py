"""``outmask evaluate``: a benchmark's tables, the same numbers as JSON, and a page with curves and pictures."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from rich.markup import escape
from rich.table import Table

import outmask
from outmask.app import DONE
from outmask.app.arguments import check_file, model_identity, open_model, score_names, unknown_ways
from outmask.app.terminal import progress_bar, say, stdout, tell, walks
from outmask.errors import OutmaskError
from outmask.evaluation import (
    Benchmark,
    CachedMaps,
    MapSource,
    ModelMaps,
    PredictionFiles,
    Report,
    Settings,
    Threshold,
    evaluate,
    open_benchmark,
)
from outmask.evaluation.calibrate import thresholds_of
from outmask.evaluation.evaluate import Emulation
from outmask.evaluation.examples import DisplayRange
from outmask.evaluation.page import write_page
from outmask.evaluation.panoptic import has_panoptic_predictions, measure_panoptic
from outmask.evaluation.report import METRICS
from outmask.evaluation.segments import measure_segments
from outmask.output.files import write_json
from outmask.scores.declarations import SCORES
from outmask.types import Taxonomy, Unknown

_DEFAULT = "eam"
_PREDICTED = "score"
"""What the scores of prediction files are called where nobody says."""


def measure(
    benchmark: str,
    root: str,
    split: str | None,
    model: str,
    predictions: str | None,
    score: str | None,
    threshold: float | None,
    refine: bool,
    flip: bool,
    emulate: Emulation | None,
    border: int | None,
    out: str | None,
    resume: bool,
    json: str | None,
    html: str | None,
    anomaly_id: int | None,
    unknown: str | None,
) -> int:
    """Evaluate scores, given as ``a,b,c``, on a benchmark and print the tables; returns the exit code.

    With ``unknown``, ways to find unknown objects given as ``a,b,c``, a model's segments are measured instead.

    Raises:
        OutmaskError: on anything that would make the numbers incomplete: an unknown score or benchmark, another
            layout, an image or label that cannot be read.
    """
    names = score_names(
        (_PREDICTED if predictions else _DEFAULT) if score is None else score, known=predictions is None
    )
    if predictions is not None:
        _refuse({"--refine": refine or None, "--flip": flip or None}, "--predictions are scores already")
        _refuse({"--unknown": unknown}, "--predictions are measured as they are")
    ways = None if unknown is None else unknown_ways(unknown)
    _check_usage(names, predictions, threshold, border, out, resume)
    check_file("--json", json)
    check_file("--html", html)
    opened = open_benchmark(benchmark, root, split, anomaly_id)
    given = {"--score": score, "--threshold": threshold, "--emulate": emulate, "--border": border, "--html": html}
    if predictions is not None and has_panoptic_predictions(Path(predictions)):
        _refuse(given, "panoptic predictions have no scores")
        return _measure_panoptic(opened, Path(predictions), json)

    if ways is not None:
        _refuse({"--out": out, "--emulate": emulate, "--border": border, "--html": html}, "--unknown measures segments")
        return _measure_segments(opened, ways, model, names, threshold, refine, flip, json)

    if all(record.label is None for record in opened) and opened.taxonomy is not None:
        del given["--html"]
        _refuse(given, f"{benchmark} measures classes only")

    taxonomy: Taxonomy | None = None
    display_range: DisplayRange | None = None
    thresholds: dict[str, Threshold] = {}
    if predictions is None:
        segmenter = open_model(model)
        taxonomy = segmenter.taxonomy
        thresholds = thresholds_of(segmenter.operating_points, opened)
        made: MapSource = ModelMaps(segmenter, taxonomy if refine else None, flip)
        display_range = segmenter.display_range
    else:
        made = PredictionFiles(Path(predictions), opened)
    if threshold is not None:
        thresholds = {names[0]: Threshold(threshold, "given with --threshold")}
    of_masks = predictions is None and any(name in SCORES for name in names)
    settings = Settings(thresholds, emulate, border, mask_histogram=html is not None and of_masks)
    run = {
        "benchmark": benchmark,
        "split": opened.split,
        "root": str(Path(root).resolve()),
        "model": model_identity(model) if predictions is None else made.name,
        "scores": names,
        "--refine": refine,
        "--flip": flip,
        "--html": settings.mask_histogram,  # which needs one score more
        "outmask": outmask.__version__,
    }
    with work_folder(out) as folder, progress_bar() as bar:
        source = CachedMaps(made, folder, run, resume) if predictions is None else made
        try:
            report = evaluate(source, opened, names, settings, taxonomy, walks(bar, opened))
        except KeyboardInterrupt:
            if out is not None:
                tell(f"interrupted; the same command with --resume goes on from {folder}")
            raise
        if html is not None:
            write_page(Path(html), report, opened, source, taxonomy, display_range)
    for table in _tables(report):
        stdout.print(table)
    for note in report.notes:
        say(f"note: {note}")
    if json is not None:
        write_json(Path(json), report.to_json())
    return DONE


def _check_usage(
    names: list[str],
    predictions: str | None,
    threshold: float | None,
    border: int | None,
    out: str | None,
    resume: bool,
) -> None:
    """Refuse options that don't go together."""
    if predictions is not None and len(names) > 1:
        raise OutmaskError(f"--predictions holds one score per image, but --score names {len(names)}")
    if predictions is not None and out is not None:
        raise OutmaskError("--out keeps the maps of a model; those of --predictions are on disk already")
    if threshold is not None and len(names) > 1:
        raise OutmaskError("--threshold is of one score: give one --score with it")
    if threshold is not None and not abs(threshold) <= float(np.finfo(np.float32).max):
        raise OutmaskError(f"--threshold must be a number in float32's range, got {threshold}")
    if border is not None and border < 1:
        raise OutmaskError(f"--border must be at least 1 pixel, got {border}")
    if resume and out is None:
        raise OutmaskError("--resume goes with --out, the folder of the evaluation that was interrupted")


def _refuse(given: dict[str, Any], why: str) -> None:
    """Refuse options that would have no effect."""
    if names := [option for option, value in given.items() if value is not None]:
        raise OutmaskError(f"{why}: {', '.join(names)} would have no effect")


@contextmanager
def work_folder(out: str | None) -> Iterator[Path]:
    """The folder that keeps score maps: ``out``, made where it is missing, or one that is gone afterwards."""
    if out is None:
        with tempfile.TemporaryDirectory(prefix="outmask-") as folder:
            yield Path(folder)
    else:
        yield Path(out)


def _measure_segments(
    benchmark: Benchmark,
    ways: Sequence[Unknown],
    model: str,
    names: list[str],
    threshold: float | None,
    refine: bool,
    flip: bool,
    json: str | None,
) -> int:
    segmenter = open_model(model)
    thresholds = thresholds_of(segmenter.operating_points, benchmark)
    if threshold is not None:
        thresholds = {names[0]: Threshold(threshold, "given with --threshold")}
    with progress_bar() as bar:
        values = measure_segments(
            segmenter,
            benchmark,
            ways,
            names,
            thresholds,
            refine,
            flip,
            lambda records, what: bar.track(list(records), description=what),
        )
    of_objects = any("instances" in row for row in values["segments"])
    columns = ["AP", "AP50"] if of_objects else ["PQ", "PQ known", "PQ things", "PQ stuff"]
    table = _table(
        f"{benchmark.name}, split {benchmark.split}, {values['images']} images, {values['model']}",
        ["unknown objects by", "score", "threshold", *columns, "PQ unknown", "SQ unknown", "RQ unknown"],
        "percent; AP and PQ of unknown objects as masks" if of_objects else "percent; things and stuff are known ones",
    )
    for row in values["segments"]:
        quality = row["panoptic"]
        rates = [row["instances"][name] for name in ("AP", "AP50")] if of_objects else []
        if not of_objects:
            rates = [quality[f"PQ{suffix}"] for suffix in ("", "_known", "_known_things", "_known_stuff")]
        rates += [quality[f"{name}_unknown"] for name in ("PQ", "SQ", "RQ")]
        shown = Threshold(row["threshold"], row["origin"]) if "threshold" in row else "-"
        table.add_row(row["unknown"], row["score"], str(shown), *(_number(rate) for rate in rates))
    stdout.print(table)
    if json is not None:
        write_json(Path(json), values)
    return DONE


def _measure_panoptic(benchmark: Benchmark, predictions: Path, json: str | None) -> int:
    with progress_bar() as bar:
        values = measure_panoptic(benchmark, predictions, walks(bar, benchmark))
    table = Table(title=escape(f"{benchmark.name}, split {benchmark.split}, {len(benchmark)} images, {predictions}"))
    for column in ("", "PQ", "SQ", "RQ"):
        table.add_column(column, justify="right" if column else "left")
    for suffix in ("", "_things", "_stuff", "_known", "_known_things", "_known_stuff", "_unknown"):
        rates = (values["panoptic"][f"{name}{suffix}"] for name in ("PQ", "SQ", "RQ"))
        table.add_row(suffix.lstrip("_").replace("_", " ") or "all", *(_number(rate) for rate in rates))
    stdout.print(table)
    if json is not None:
        write_json(Path(json), values)
    return DONE


def _tables(report: Report) -> Iterator[Table]:
    """What a terminal shows of a report: pixels, thresholds, borders, classes; each only where it was measured."""
    title = f"{report.benchmark}, split {report.split}, {report.images} images, {report.model}"
    if report.scores:
        share = f"{_number(report.anomaly_share)} of the evaluated pixels are anomalous, the AP of chance"
        table = _table(title, ["score", *METRICS], f"percent, with 95 % intervals over images; {share}")
        for name, one in report.scores.items():
            table.add_row(name, *(_with_interval(one.metrics[m], one.intervals.get(m)) for m in METRICS))
            if one.float16 is not None:
                table.add_row(f"{name} in float16", *(_number(one.float16[m]) for m in METRICS))
        yield table
    yield from _threshold_tables(report)
    borders = {name: one.border for name, one in report.scores.items() if one.border is not None}
    if borders:
        first = next(iter(borders.values()))
        of = "classes of the labels" if first.borders_of == "labels" else "predicted classes"
        table = _table(
            f"false positives within {first.width} pixels of borders between {of}",
            ["score", "FPR95 near", "FPR95 elsewhere"],
            f"{_number(first.known_share)} percent of the known pixels are near",
        )
        for name, border in borders.items():
            table.add_row(name, _number(border.FPR95), _number(border.FPR95_elsewhere))
        yield table
    if report.closed_set is not None:
        table = _table(f"closed set: {title}", ["class", "IoU"])
        for name, iou in report.closed_set["IoU"].items():
            table.add_row(name, _number(iou))
        table.add_row("mIoU", _number(report.closed_set["mIoU"]), style="bold")
        table.add_row("pixel accuracy", _number(report.closed_set["pixel_accuracy"]))
        yield table


_AT_THRESHOLD: Mapping[str, Sequence[tuple[str, str]]] = {
    "components": [("sIoU", "sIoU"), ("PPV", "PPV"), ("F1", "F1*")],
    "open_set": [("open_mIoU", "open mIoU"), ("mIoU", "mIoU")],
    "instances": [("AP", "object AP"), ("AP50", "object AP50")],
}


def _threshold_tables(report: Report) -> Iterator[Table]:
    rows = [(name, one) for name, score in report.scores.items() for one in score.thresholds]
    parts = [part for part in _AT_THRESHOLD if any(getattr(one, part) is not None for _, one in rows)]
    if not rows:
        return
    headings = [heading for part in parts for _, heading in _AT_THRESHOLD[part]]
    table = _table("at a threshold", ["score", "threshold", "TPR", "FPR", *headings, "chosen as"])
    for name, one in rows:
        pixels = {} if one.pixels is None else one.pixels.rates()
        cells = [_number(pixels.get(rate, math.nan)) for rate in ("TPR", "FPR")]
        for part in parts:
            values = getattr(one, part) or {}
            cells += [_number(values.get(key, math.nan)) for key, _ in _AT_THRESHOLD[part]]
        table.add_row(escape(name), str(one.at), *cells, one.at.origin + " (oracle)" * one.at.oracle)
    yield table


def _table(title: str, columns: Sequence[str], caption: str | None = None) -> Table:
    table = Table(title=escape(title), caption=caption)
    for column in columns:
        table.add_column(column, justify="left" if column in ("score", "class", "chosen as") else "right")
    return table


def _with_interval(value: float, interval: tuple[float, float] | None) -> str:
    if interval is None or math.isnan(interval[0]):
        return _number(value)
    return f"{_number(value)} [{interval[0]:.1f}, {interval[1]:.1f}]"


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"
