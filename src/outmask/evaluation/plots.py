"""Curves and histograms of a report as SVG, for pages that need no network: the same bytes for the same report."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from outmask.evaluation.report import FOUND, Histogram, ScoreReport

# Okabe and Ito's palette, told apart with any colour vision; with the line styles, 28 scores get a look of their own.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_STYLES = ("-", "--", "-.", ":")
_KNOWN, _ANOMALY = _COLORS[0], _COLORS[1]
_CHANCE: dict[str, Any] = {"color": "#555555", "linewidth": 1.4, "linestyle": (0, (1, 1.5))}
_WIDTH, _HEIGHT, _LEGEND_ROW = 5.0, 4.2, 0.22
_PANEL_WIDTH, _PANEL_HEIGHT = 3.4, 3.4
"""Inches."""
_STYLE = {
    "axes.edgecolor": "#777777",
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.facecolor": "white",
    "font.size": 11,
    "grid.color": "#e4e4e4",
    "legend.fontsize": 10,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "path.simplify_threshold": 0.25,  # of a pixel at 72 an inch: thousands of points become hundreds, unseen
    "svg.fonttype": "path",  # looks the same without the font
    "svg.hashsalt": "outmask",
    "text.parse_math": False,
}
_LEGEND_COLUMNS = 2


def pr_plot(scores: Mapping[str, ScoreReport], anomaly_share: float) -> bytes | None:
    """Precision over recall of all scores, as SVG; None without anomaly pixels.

    The area below a line is the score's AP: each precision holds back to the recall before.
    """
    drawn = {name: score for name, score in scores.items() if score.curve.anomaly}
    if not drawn:
        return None
    with _figure(_legend_rows(len(drawn) + 1)) as (figure, axes, file):
        for index, (name, score) in enumerate(drawn.items()):
            curve = score.curve
            axes.step(
                100 * np.append(0, curve.tpr),
                100 * np.append(curve.precision[:1], curve.precision),
                where="pre",
                label=f"{name}, AP {_number(score.metrics['AP'])}",
                **_look(index),
            )
        axes.axhline(anomaly_share, label=f"chance, AP {_number(anomaly_share)}", **_CHANCE)
        _percent_axes(axes, "recall (TPR), %", "precision, %")
        _legend(figure, axes)
    return file.getvalue()


def roc_plot(scores: Mapping[str, ScoreReport]) -> bytes | None:
    """True over false positive rate of all scores, FPR95 marked, as SVG; None without pixels of both kinds."""
    drawn = {name: score for name, score in scores.items() if score.curve.anomaly and score.curve.known}
    if not drawn:
        return None
    with _figure(_legend_rows(len(drawn) + 1)) as (figure, axes, file):
        for index, (name, score) in enumerate(drawn.items()):
            curve = score.curve
            axes.plot(
                100 * np.append(0, curve.fpr),
                100 * np.append(0, curve.tpr),
                label=f"{name}, FPR95 {_number(score.metrics['FPR95'])}",
                **_look(index),
            )
            point = curve.at_tpr(FOUND)
            assert point is not None
            axes.plot(point.FPR, point.TPR, "o", color=_look(index)["color"], markersize=7, markeredgecolor="white")
        axes.plot((0, 100), (0, 100), label="chance, FPR95 95.00", **_CHANCE)
        _percent_axes(axes, "false positive rate, %", "true positive rate, %")
        _legend(figure, axes)
    return file.getvalue()


def mask_plot(histogram: Histogram) -> bytes | None:
    """Shares of known and anomaly pixels by their largest mask probability, as SVG (M2F-EAM figure 3)."""
    kinds = (("known pixels", histogram.known, _KNOWN, "-"), ("anomaly pixels", histogram.anomaly, _ANOMALY, "--"))
    drawn = [kind for kind in kinds if kind[1].any()]
    if not drawn:
        return None
    lowest = min(shares[shares > 0].min() for _, shares, _, _ in drawn)
    with _figure(_legend_rows(len(drawn))) as (figure, axes, file):
        axes.set_yscale("log")
        for label, shares, color, style in drawn:
            axes.stairs(100 * shares, histogram.edges, fill=True, alpha=0.15, color=color)
            axes.stairs(100 * shares, histogram.edges, label=label, color=color, linestyle=style, linewidth=1.8)
        axes.set_xlim(0, 1)
        axes.set_ylim(50 * lowest, 130)
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set_xlabel("largest mask probability")
        axes.set_ylabel("share of pixels, % (logarithmic)")
        _legend(figure, axes)
    return file.getvalue()


def score_plot(panels: Mapping[str, Histogram], score: str) -> bytes:
    """Shares of known and anomaly pixels by their score, as SVG: a panel for each model (Mask2Anomaly figure 14)."""
    file = io.BytesIO()
    with _styled(file, (_PANEL_WIDTH * len(panels), _PANEL_HEIGHT)) as figure:
        axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for one, (title, histogram) in zip(axes, panels.items(), strict=True):
            one.set_title(title, fontsize=11)
            one.set_yscale("log")
            for label, shares, color, style in (
                ("known pixels", histogram.known, _KNOWN, "-"),
                ("anomaly pixels", histogram.anomaly, _ANOMALY, "--"),
            ):
                one.stairs(100 * shares, histogram.edges, fill=True, alpha=0.15, color=color)
                one.stairs(100 * shares, histogram.edges, label=label, color=color, linestyle=style, linewidth=1.8)
            one.set_xlim(histogram.edges[0], histogram.edges[-1])
            one.set_ylim(0.05, 130)
            one.yaxis.set_major_formatter("{x:g}")
            one.set_xlabel(score)
        axes[0].set_ylabel("share of pixels, % (logarithmic)")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=_LEGEND_COLUMNS)
    return file.getvalue()


@contextmanager
def _figure(legend_rows: int) -> Iterator[tuple[Figure, Axes, io.BytesIO]]:
    """An empty plot that is written into the file when the block ends."""
    file = io.BytesIO()
    with _styled(file, (_WIDTH, _HEIGHT + _LEGEND_ROW * legend_rows)) as figure:
        yield figure, figure.subplots(), file


@contextmanager
def _styled(file: io.BytesIO, size: tuple[float, float]) -> Iterator[Figure]:
    """A figure of so many inches, written into the file when the block ends, in our style whatever the user's is."""
    with matplotlib.style.context(["default", _STYLE]):
        figure = Figure(figsize=size, layout="constrained")
        yield figure
        # Without a date the same plot is the same file.
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})


def _look(index: int) -> dict[str, Any]:
    return {"color": _COLORS[index % len(_COLORS)], "linestyle": _STYLES[index % len(_STYLES)]}


def _percent_axes(axes: Axes, x: str, y: str) -> None:
    axes.set_xlim(0, 100)
    axes.set_ylim(0, 101)
    axes.set_xlabel(x)
    axes.set_ylabel(y)


def _legend(figure: Figure, axes: Axes) -> None:
    """Below the axes: no curve is covered."""
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=_LEGEND_COLUMNS)


def _legend_rows(entries: int) -> int:
    return math.ceil(entries / _LEGEND_COLUMNS)


def _number(value: float) -> str:
    return f"{value:.2f}"
