"""The plots of a report: right where they can be read back, the same every time, and small."""

from __future__ import annotations

from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest

from outmask.evaluation.plots import mask_plot, pr_plot, roc_plot, score_plot
from outmask.evaluation.report import Histogram, ScoreReport
from outmask.metrics import PixelMetrics
from outmask.metrics.pixel import Curve


def score(pixels: int = 200_000, bins: int = 4096, share: float = 0.1, seed: int = 0) -> ScoreReport:
    rng = np.random.default_rng(seed)
    label = (rng.random(pixels) < share).astype(np.uint8)
    metrics = PixelMetrics()
    metrics.update((rng.normal(size=pixels) + 2 * label).astype(np.float32), label)
    return ScoreReport(metrics.compute(), {}, Curve.of(metrics.counts(bins)), {})


SCORES = {"eam": score(), "am": score(seed=1)}
HISTOGRAM = Histogram(np.linspace(0, 1, 5), np.array([0, 0.1, 0.2, 0.7]), np.array([0.6, 0.3, 0.1, 0]))

PANELS = {"margin": HISTOGRAM, "released": Histogram(HISTOGRAM.edges, HISTOGRAM.anomaly, HISTOGRAM.known)}


def test_plots_are_small_and_the_same_every_time_whatever_the_users_style() -> None:
    first = [pr_plot(SCORES, 10.0), roc_plot(SCORES), mask_plot(HISTOGRAM), score_plot(PANELS, "m2a")]
    with matplotlib.rc_context({"font.size": 30, "svg.fonttype": "none", "axes.facecolor": "black"}):
        second = [pr_plot(SCORES, 10.0), roc_plot(SCORES), mask_plot(HISTOGRAM), score_plot(PANELS, "m2a")]
    assert first == second
    for plot in first:
        assert plot is not None
        assert len(plot) < 200_000
        assert ElementTree.fromstring(plot).tag == "{http://www.w3.org/2000/svg}svg"


def test_scores_that_differ_are_drawn_differently() -> None:
    assert roc_plot(SCORES) != roc_plot(dict(reversed(SCORES.items())))


def test_names_are_not_read_as_formulas() -> None:
    assert pr_plot({r"$\frac{$": SCORES["eam"]}, 10.0) is not None


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_what_is_not_defined_is_not_drawn(share: float) -> None:
    scores = {"eam": score(pixels=100, share=share)}
    assert roc_plot(scores) is None
    assert (pr_plot(scores, 100 * share) is None) == (share == 0)


def test_a_histogram_of_one_kind_of_pixels_is_drawn_and_of_none_is_not() -> None:
    empty = np.zeros(4)
    one = mask_plot(Histogram(HISTOGRAM.edges, HISTOGRAM.known, empty))
    assert one is not None
    assert one != mask_plot(HISTOGRAM)
    assert mask_plot(Histogram(HISTOGRAM.edges, empty, empty)) is None
