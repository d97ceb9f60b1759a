"""A report as one HTML page that needs nothing but itself: no network, no script, no other file."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path

import numpy as np

import outmask
from outmask.evaluation.benchmarks import Benchmark
from outmask.evaluation.examples import DisplayRange, Example, Examples, Panel, examples
from outmask.evaluation.maps import MapSource
from outmask.evaluation.plots import mask_plot, pr_plot, roc_plot
from outmask.evaluation.report import METRICS, Report, ScoreReport, ThresholdReport, Values
from outmask.output.files import replacing
from outmask.output.pictures import UNKNOWN_COLOR
from outmask.types import Taxonomy

_ORACLE = '<span class="badge">oracle</span>'
_AT_THRESHOLD = (
    ("pixels", "pixels", ("TPR", "FPR", "precision", "F1")),
    ("components", "components", ("sIoU", "PPV", "F1", "gt_components", "predicted_components")),
    ("open_set", "open set", ("open_mIoU", "mIoU")),
    ("instances", "unknown objects", ("AP", "AP50", "gt_instances", "predicted_instances")),
)
"""Parts of a ``ThresholdReport``: the attribute, its heading, and its metrics."""
_HEADINGS = {
    "best_F1": f"best F1 {_ORACLE}",
    "open_mIoU": "open mIoU",
    "gt_components": "true",
    "predicted_components": "predicted",
    "gt_instances": "true",
    "predicted_instances": "predicted",
}
_COMPONENT_F1 = "F1*"
_JPEG_QUALITY = 82


def write_page(
    path: Path,
    report: Report,
    benchmark: Benchmark,
    source: MapSource,
    taxonomy: Taxonomy | None = None,
    display_range: DisplayRange | None = None,
) -> None:
    """Write the page, whole or not at all; the same report and maps give the same bytes.

    Args:
        path: the HTML file; its folder is created where it is missing.
        report: what ``evaluate`` found.
        benchmark: what was evaluated; its images and labels are read again for the pictures.
        source: gives the score maps of the pictures, and of all images without anomalies.
        taxonomy: the classes of the source's labels; None where they are not known, then pictures show no classes.
        display_range: a score's values that pictures show as certainly known and certainly unknown; by default those
            that its own pixels suggest.

    Raises:
        OutmaskError: where an image, a label or a map cannot be read, or the page cannot be written.
    """
    sections = (
        _header(report),
        _scores(report),
        _thresholds(report),
        _closed_set(report),
        _curves(report),
        _border(report),
        _pictures(examples(report, benchmark, source, taxonomy, display_range), report, taxonomy),
    )
    title = escape(f"{report.benchmark} {report.split}: {report.model}")
    style = resources.files("outmask.evaluation").joinpath("page.css").read_text(encoding="utf-8")
    page = "\n".join(
        (
            "<!doctype html>",
            f'<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}</title>',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f'<meta name="generator" content="outmask {escape(outmask.__version__)}">',
            f"<style>\n{style}</style>\n</head>\n<body>",
            *filter(None, sections),
            "</body>\n</html>\n",
        )
    )
    with replacing(path) as file:
        # A file name may hold bytes that are no text.
        file.write(page.encode("utf-8", "xmlcharrefreplace"))


def _header(report: Report) -> str:
    facts = {
        "benchmark": report.benchmark,
        "split": report.split,
        "model": report.model,
        "images": str(report.images),
        "anomaly pixels": f"{_percent(report.anomaly_share)} %, the AP of chance",
        "outmask": outmask.__version__,
    }
    if not report.scores:
        del facts["anomaly pixels"]
    notes = "".join(f"<li>{escape(note)}</li>" for note in report.notes)
    return (
        f"<header>\n<h1>{escape(report.benchmark)}: {escape(report.model)}</h1>\n{_facts(facts)}"
        + (f'\n<ul class="notes">{notes}</ul>' if notes else "")
        + "\n</header>"
    )


def _scores(report: Report) -> str:
    if not report.scores:
        return ""
    best = {}
    for metric, better in METRICS.items():
        defined = [score.metrics[metric] for score in report.scores.values() if not math.isnan(score.metrics[metric])]
        best[metric] = _percent(better(defined)) if len(defined) > 1 else None

    rows = []
    for name, score in report.scores.items():
        cells = [_metric(score, metric, best[metric]) for metric in METRICS]
        rows.append(f'<tr><th scope="row">{escape(name)}</th>{"".join(cells)}</tr>')
        if score.float16 is not None:
            rounded = "".join(f"<td>{_percent(score.float16[metric])}</td>" for metric in METRICS)
            rows.append(f'<tr class="part"><th scope="row">as a naive float16 submission</th>{rounded}</tr>')
    headings = [_heading(metric) + (" ↑" if better is max else " ↓") for metric, better in METRICS.items()]
    about = "Percent, over all pixels of all images. In brackets: 95 % confidence interval, bootstrap over images."
    if any(best.values()):
        about += " Shaded: the best score."
    about += f" {_ORACLE} chosen on these very labels, out of reach in use."
    return _section("Scores", _table(_row(["score", *headings]), rows, about))


def _metric(score: ScoreReport, metric: str, best: str | None) -> str:
    value = _percent(score.metrics[metric])
    shown, kind = (f"<strong>{value}</strong>", ' class="best"') if value == best else (value, "")
    if (interval := score.intervals.get(metric)) is not None:
        shown += f"<small>[{_percent(interval.low)}, {_percent(interval.high)}]</small>"
    return f"<td{kind}>{shown}</td>"


def _thresholds(report: Report) -> str:
    given = [(name, threshold) for name, score in report.scores.items() for threshold in score.thresholds]
    if not given:
        return ""
    parts = [part for part in _AT_THRESHOLD if any(getattr(threshold, part[0]) is not None for _, threshold in given)]
    columns = [(part, metric) for part, _, metrics in parts for metric in metrics]
    rows = []
    for name, threshold in given:
        cells = [_measured(threshold, part, metric) for part, metric in columns]
        rows.append(
            f'<tr><th scope="row">{escape(name)}</th><td>{threshold.at}</td>'
            f'<td class="text">{_origin(threshold)}</td>{_cells(cells)}</tr>'
        )
        rows += _group_rows(threshold, columns)
    above = "".join(f'<th colspan="{len(metrics)}" scope="colgroup">{heading}</th>' for _, heading, metrics in parts)
    names = [_COMPONENT_F1 if (part, metric) == ("components", "F1") else _heading(metric) for part, metric in columns]
    head = (
        f'<tr><td></td><td></td><td></td>{above}</tr>\n<tr><th scope="col">score</th><th scope="col">threshold</th>'
        f'<th scope="col" class="text">origin</th>{"".join(_column(name) for name in names)}</tr>'
    )
    about = f"Percent; pixels with a score above the threshold are called unknown. {_ORACLE} chosen on these labels."
    if any(part == "components" for part, _, _ in parts):
        about += " sIoU, PPV and F1* (mean over the thresholds τ) as SegmentMeIfYouCan defines them."
    return _section("At thresholds", _table(head, rows, about) + _per_tau(given) + _per_class(given))


def _group_rows(threshold: ThresholdReport, columns: Sequence[tuple[str, str]]) -> list[str]:
    """A row for each town, where towns have their own thresholds or values."""
    values = (threshold.open_set or {}).get("groups", {})
    own = threshold.at.value if isinstance(threshold.at.value, Mapping) else {}
    rows = []
    for group in dict.fromkeys([*own, *values]):
        cells = [_value(values.get(group, {}).get(metric)) if part == "open_set" else "" for part, metric in columns]
        shown = str(np.float32(own[group])) if group in own else ""
        rows.append(
            f'<tr class="part"><th scope="row">{escape(group)}</th><td>{shown}</td><td></td>{_cells(cells)}</tr>'
        )
    return rows


def _per_tau(given: Iterable[tuple[str, ThresholdReport]]) -> str:
    rows, taus = [], []
    for name, threshold in given:
        if threshold.components is not None:
            f1 = threshold.components["F1_per_threshold"]
            taus = [f"τ = {tau} %" for tau in f1]
            rows.append(
                f'<tr><th scope="row">{escape(name)}</th><td>{threshold.at}</td>'
                f'<td class="text">{_origin(threshold)}</td>{_cells(_value(value) for value in f1.values())}</tr>'
            )
    head = (
        '<tr><th scope="col">score</th><th scope="col">threshold</th><th scope="col" class="text">origin</th>'
        + "".join(_column(tau) for tau in taus)
        + "</tr>"
    )
    return _details("Component F1 per τ", _table(head, rows)) if rows else ""


def _per_class(given: Iterable[tuple[str, ThresholdReport]]) -> str:
    """Open and closed IoU of each class: classes down, scores with their thresholds across."""
    columns: list[tuple[str, Values]] = []
    for name, threshold in given:
        if threshold.open_set is None:
            continue
        for group, values in threshold.open_set.get("groups", {"": threshold.open_set}).items():
            own = threshold.at.of(group)
            about = f"{escape(name)}{f', {escape(group)}' if group else ''}<br>above {np.float32(own)}"
            columns += [
                (f"{about}{f' {_ORACLE}' if threshold.at.oracle else ''}<br>{heading}", values[key])
                for key, heading in (("open_IoU", "open IoU"), ("IoU", "IoU"))
            ]
    if not columns:
        return ""
    classes = dict.fromkeys(class_ for _, values in columns for class_ in values)
    rows = [
        f'<tr><th scope="row">{escape(class_)}</th>{_cells(_value(values.get(class_)) for _, values in columns)}</tr>'
        for class_ in classes
    ]
    return _details(
        "Open and closed IoU per class", _table(_row(["class", *(heading for heading, _ in columns)]), rows)
    )


def _closed_set(report: Report) -> str:
    if report.closed_set is None:
        return ""
    values = report.closed_set
    facts = {"mIoU": f"{_percent(values['mIoU'])} %", "pixel accuracy": f"{_percent(values['pixel_accuracy'])} %"}
    classes = "\n".join(
        f'<div><dt>{escape(name)}</dt><dd>{_percent(iou)}</dd><dd class="bar" aria-hidden="true">'
        f'<i style="width:{0 if math.isnan(iou) else iou:.1f}%"></i></dd></div>'
        for name, iou in values["IoU"].items()
    )
    return _section("Closed set", f'{_facts(facts)}\n<h3>IoU per class, %</h3>\n<dl class="classes">\n{classes}\n</dl>')


def _curves(report: Report) -> str:
    names = ", ".join(report.scores)
    histogram = report.mask_histogram
    plots = (
        ("Precision and recall", f"PR curves of {names}", pr_plot(report.scores, report.anomaly_share)),
        ("ROC; dots: TPR 95 %", f"ROC curves of {names}", roc_plot(report.scores)),
        (
            "Largest mask probability",
            "histogram of the largest mask probability of known and of anomaly pixels",
            None if histogram is None else mask_plot(histogram),
        ),
    )
    figures = "\n".join(
        f"<figure><figcaption>{caption}</figcaption>{_image(svg, 'image/svg+xml', alt)}</figure>"
        for caption, alt, svg in plots
        if svg is not None
    )
    return _section("Curves", f'<div class="plots">\n{figures}\n</div>') if figures else ""


def _border(report: Report) -> str:
    borders = {name: score.border for name, score in report.scores.items() if score.border is not None}
    if not borders:
        return ""
    first = next(iter(borders.values()))
    where = "known classes of the ground truth" if first.borders_of == "labels" else "predicted classes"
    rows = [
        f'<tr><th scope="row">{escape(name)}</th>'
        f"{_cells(_percent(value) for value in (border.FPR95, border.FPR95_elsewhere, border.known_share))}</tr>"
        for name, border in borders.items()
    ]
    about = (
        f"Percent of the known pixels within {first.width} px of a border between {where}, and of the others, "
        "above the threshold that finds 95 % of all anomaly pixels."
    )
    head = _row(["score", "FPR95 at borders ↓", "FPR95 elsewhere ↓", "known pixels at borders"])
    return _section("At semantic borders", _table(head, rows, about))


def _pictures(chosen: Sequence[Examples], report: Report, taxonomy: Taxonomy | None) -> str:
    if not chosen:
        return ""
    name, score = next(iter(report.scores.items()))
    panels = chosen[0].members[0].panels
    order = "; ".join(escape(panel.shows) for panel in panels)
    intro = f"<p>From left to right, or downwards: {order}. Darkened: not evaluated.</p>"
    if score.thresholds:
        first = score.thresholds[0]
        intro += f"<p>Unknown: {escape(name)} above {first.at}, {_origin(first)}.</p>"
    used = frozenset[int]().union(*(example.class_ids for group in chosen for example in group.members))
    groups = "\n".join(
        f"<h3>{escape(group.title)}</h3>\n" + "\n".join(_example(example) for example in group.members)
        for group in chosen
    )
    return _section("Images", f"{intro}\n{_legend(taxonomy, used)}\n{groups}")


def _example(example: Example) -> str:
    values = example.metrics
    numbers = [f"{_percent(values['anomaly_share'])} % anomaly pixels"]
    if not math.isnan(values["AP"]):
        numbers = [f"AP {_percent(values['AP'])}", f"FPR95 {_percent(values['FPR95'])}", *numbers]
    if example.FPR is not None:
        numbers.append(f"FPR at the threshold {_percent(example.FPR)}")
    spans = " ".join(f"<span>{number}</span>" for number in numbers)
    images = "".join(_image(_jpeg(panel), "image/jpeg", f"{example.name}: {panel.shows}") for panel in example.panels)
    return (
        f'<figure class="example"><div>{images}</div>'
        f"<figcaption><b>{escape(example.name)}</b> {spans}</figcaption></figure>"
    )


def _legend(taxonomy: Taxonomy | None, used: frozenset[int]) -> str:
    """The colours of the classes that occur in the pictures."""
    if taxonomy is None or not used:
        return ""
    entries = [(taxonomy.names[i], taxonomy.colors[i]) for i in sorted(used) if i < taxonomy.num_classes]
    if taxonomy.unknown_id in used:
        entries.append(("unknown", UNKNOWN_COLOR))
    swatches = "".join(
        f'<li><i style="background:rgb({red} {green} {blue})"></i>{escape(name)}</li>'
        for name, (red, green, blue) in entries
    )
    return f'<ul class="legend">{swatches}</ul>'


def _jpeg(panel: Panel) -> bytes:
    file = io.BytesIO()
    panel.picture.save(file, "JPEG", quality=_JPEG_QUALITY)
    return file.getvalue()


def _image(data: bytes, kind: str, alt: str) -> str:
    return f'<img alt="{escape(alt)}" src="data:{kind};base64,{base64.b64encode(data).decode()}">'


def _section(title: str, content: str) -> str:
    return f"<section>\n<h2>{title}</h2>\n{content}\n</section>"


def _details(summary: str, content: str) -> str:
    return f"\n<details><summary>{summary}</summary>\n{content}\n</details>"


def _facts(facts: Mapping[str, str]) -> str:
    entries = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts.items())
    return f'<dl class="facts">{entries}</dl>'


def _table(head: str, rows: Iterable[str], about: str = "") -> str:
    """In a box of its own, which scrolls where the window is narrow; what it is about stays in sight above."""
    body = "\n".join(rows)
    table = f"<table>\n<thead>{head}</thead>\n<tbody>\n{body}\n</tbody></table>"
    return (f'<p class="quiet">{about}</p>\n' if about else "") + f'<div class="scroll">{table}</div>'


def _row(headings: Iterable[str]) -> str:
    return f"<tr>{''.join(_column(heading) for heading in headings)}</tr>"


def _column(heading: str) -> str:
    return f'<th scope="col">{heading}</th>'


def _cells(values: Iterable[str]) -> str:
    return "".join(f"<td>{value}</td>" for value in values)


def _heading(metric: str) -> str:
    return _HEADINGS.get(metric, metric)


def _measured(threshold: ThresholdReport, part: str, metric: str) -> str:
    values = getattr(threshold, part)
    if values is None:
        return _value(None)
    return _value(values[metric] if isinstance(values, Mapping) else getattr(values, metric))


def _origin(threshold: ThresholdReport) -> str:
    return escape(threshold.at.origin) + (f" {_ORACLE}" if threshold.at.oracle else "")


def _value(value: float | int | None) -> str:
    """A count, or a percentage."""
    return str(value) if isinstance(value, int) else _percent(math.nan if value is None else value)


def _percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2f}"
