"""Streaming pixel metrics against scikit-learn."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from outmask.errors import OutmaskError
from outmask.metrics import PixelMetrics
from outmask.metrics.pixel import Curve

Arrays = tuple[np.ndarray, np.ndarray]
EXACT = 1e-9  # percent: sums of the same float64 terms in another order


def sklearn_metrics(score: np.ndarray, label: np.ndarray) -> dict[str, float]:
    """The same percentages by scikit-learn, on the pixels labelled 0 and 1."""
    counted = label <= 1
    score, label = score[counted].astype(np.float32), label[counted]
    fpr, tpr, _ = roc_curve(label, score, drop_intermediate=False)
    precision, recall, _ = precision_recall_curve(label, score)
    return {
        "AP": 100 * average_precision_score(label, score),
        "AUROC": 100 * roc_auc_score(label, score),
        "FPR95": 100 * fpr[np.argmax(tpr >= 0.95)],
        "FPR90": 100 * fpr[np.argmax(tpr >= 0.90)],
        "best_F1": 100 * np.max(2 * precision * recall / np.maximum(precision + recall, 1e-300)),
        "anomaly_share": 100 * label.mean(),
    }


def streamed(score: np.ndarray, label: np.ndarray, images: int = 7, **options: int | None) -> PixelMetrics:
    metrics = PixelMetrics(**options)
    for score_part, label_part in zip(np.array_split(score, images), np.array_split(label, images), strict=True):
        metrics.update(score_part, label_part)
    return metrics


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def saturated(count: int, rng: np.random.Generator) -> Arrays:
    """Mask-level scores as a trained model gives them: most known pixels within 1e-3 of -1."""
    label = (rng.random(count) < 0.02).astype(np.uint8)
    logits = np.where(label == 1, rng.normal(3.5, 2.5, count), rng.normal(9, 1.5, count))
    return (-sigmoid(logits)).astype(np.float32), label


def make(kind: str, count: int, rng: np.random.Generator) -> Arrays:
    if kind == "saturated":
        return saturated(count, rng)
    label = rng.choice(np.array([0, 1, 255], np.uint8), count, p=[0.85, 0.1, 0.05])
    score = rng.normal(label == 1, 1.0)
    return {
        "random": score,
        "tied": np.round(score * 4) / 4,
        "constant": np.full(count, -1.0),
        "two values": (score > 0.7).astype(float),
        "huge": score * 1e37,
        "tiny": score * 1e-40,
        "negative": -np.exp(-score),
        "float16": score.astype(np.float16),
        "saturated to one": np.float32(1) - np.exp(-np.abs(score) * 8).astype(np.float32),
        "inverted": -score,
    }[kind], label


KINDS = ["random", "tied", "constant", "two values", "huge", "tiny", "negative", "float16"]
KINDS += ["saturated to one", "inverted", "saturated"]


@pytest.mark.parametrize("kind", KINDS)
def test_equals_scikit_learn_exactly_within_the_budget(kind: str) -> None:
    score, label = make(kind, 30_000, np.random.default_rng(1))
    assert streamed(score, label).compute() == pytest.approx(sklearn_metrics(score, label), abs=EXACT)


@pytest.mark.parametrize("kind", KINDS)
def test_is_within_a_thousandth_beyond_the_budget(kind: str) -> None:
    """600,000 pixels in 30 images, with a tenth of the default budget; 1e-3 is 0.1 percent."""
    score, label = make(kind, 600_000, np.random.default_rng(2))
    metrics = streamed(score, label, images=30, budget=200_000)
    assert metrics.compute() == pytest.approx(sklearn_metrics(score, label), abs=0.1)


def test_saturated_scores_of_two_million_pixels_keep_their_order() -> None:
    """The case in which 65,536 bins of float32's top bits give AP 74 for 81 and FPR95 100 for 18."""
    score, label = saturated(2_000_000, np.random.default_rng(3))
    expected = sklearn_metrics(score, label)
    assert 80 < expected["AP"] < 82
    assert 17 < expected["FPR95"] < 19
    assert streamed(score, label, images=4).compute() == pytest.approx(expected, abs=EXACT)
    assert streamed(score, label, images=4, budget=200_000).compute() == pytest.approx(expected, abs=0.05)


def test_rare_anomalies_are_resolved() -> None:
    """One anomaly pixel in 2,000, most of them on top: known pixels must not be lumped together up there."""
    rng = np.random.default_rng(4)
    label = (rng.random(600_000) < 5e-4).astype(np.uint8)
    score = rng.normal(3.0 * label, 1.0)
    metrics = streamed(score, label, images=20, budget=200_000)
    assert metrics.compute() == pytest.approx(sklearn_metrics(score, label), abs=0.1)


def test_scores_that_move_from_image_to_image_are_resolved() -> None:
    """Each image has its own level, so that bins made early hold little of what comes later, and the reverse."""
    rng = np.random.default_rng(5)
    label = (rng.random(400_000) < 0.1).astype(np.uint8)
    level = np.repeat(rng.normal(0, 0.5, 40), 10_000)
    score = level + rng.normal(label, 0.7)
    metrics = streamed(score, label, images=40, budget=200_000)
    assert metrics.compute() == pytest.approx(sklearn_metrics(score, label), abs=0.1)


def test_a_budget_of_none_is_exact() -> None:
    score, label = make("random", 300_000, np.random.default_rng(2))
    assert streamed(score, label, budget=None).compute() == pytest.approx(sklearn_metrics(score, label), abs=EXACT)


@pytest.mark.parametrize("budget", [128, 1_000, 20_000])
@pytest.mark.parametrize("images", [3, 40, 400])
def test_the_budget_is_kept_and_no_pixel_is_lost(budget: int, images: int) -> None:
    rng = np.random.default_rng(6)
    metrics = PixelMetrics(budget=budget)
    for _ in range(images):
        label = (rng.random(3_000) < 0.3).astype(np.uint8)
        metrics.update(rng.normal(label, 1.0), label)
        held = sum(len(run.scores) for part in (metrics._known, metrics._anomaly)
                   for run in [*part._exact, *(sketch for _, sketch in part._sketches)])  # fmt: skip
        assert held <= budget
    counts = metrics.counts()
    assert counts.known.sum() + counts.anomaly.sum() == 3_000 * images


def test_the_error_does_not_grow_with_the_number_of_images() -> None:
    """4,000 small images: were every image to move all pixels by a bin, nothing would be left of the order."""
    rng = np.random.default_rng(12)
    label = (rng.random(400_000) < 0.1).astype(np.uint8)
    score = rng.normal(label, 1.0)
    metrics = streamed(score, label, images=4_000, budget=200_000)
    assert metrics.compute() == pytest.approx(sklearn_metrics(score, label), abs=0.1)


def test_large_images_are_counted_in_chunks() -> None:
    """More pixels than one chunk; sorted, so that the chunks cover different ranges."""
    score, label = make("random", 3_000_000, np.random.default_rng(13))
    order = np.argsort(score)
    expected = sklearn_metrics(score, label)
    assert streamed(score[order], label[order], images=1).compute() == pytest.approx(expected, abs=0.1)


def test_bins_on_request_keep_the_curves() -> None:
    score, label = make("saturated", 100_000, np.random.default_rng(14))
    metrics = streamed(score, label)
    counts = metrics.counts(bins=1000)
    assert len(counts.scores) <= 1000
    assert Curve.of(counts).compute() == pytest.approx(metrics.compute(), abs=0.5)


def test_thresholds_select_what_their_point_says() -> None:
    """``score > threshold`` finds the pixels counted, ties included."""
    for kind in KINDS:
        score, label = make(kind, 20_000, np.random.default_rng(15))
        score = score.astype(np.float32)
        curve = streamed(score, label).curve()
        for point in (curve.at_tpr(95), curve.at_tpr(33.3), curve.at_fpr(5), curve.best_f1(), curve.at_tpr(100)):
            if point is None:  # no score calls so few known pixels unknown
                continue
            unknown = score > np.float32(point.threshold)
            hits, known = (label[unknown] == 1).sum(), (label[unknown] == 0).sum()
            assert pytest.approx(100 * hits / (label == 1).sum()) == point.TPR
            assert pytest.approx(100 * known / (label == 0).sum()) == point.FPR
            assert point.precision == pytest.approx(100 * hits / (hits + known))
            assert pytest.approx(200 * hits / (hits + known + (label == 1).sum())) == point.F1


def test_rates_are_reached_and_no_earlier_threshold_would_do() -> None:
    score, label = make("random", 20_000, np.random.default_rng(16))
    curve = streamed(score, label).curve()
    fpr, tpr, _ = roc_curve(label[label < 2], score[label < 2], drop_intermediate=False)
    for rate in (1, 50, 95, 99.9, 100):
        point = curve.at_tpr(rate)
        assert point is not None
        assert pytest.approx(100 * fpr[np.argmax(tpr >= rate / 100)]) == point.FPR
        point = curve.at_fpr(rate)
        assert point is not None
        assert pytest.approx(100 * tpr[np.flatnonzero(fpr <= rate / 100)[-1]]) == point.TPR


def test_the_curves_are_scikit_learns() -> None:
    score, label = make("tied", 20_000, np.random.default_rng(17))
    counted = label < 2
    curve = streamed(score, label).curve()
    precision, recall, _ = precision_recall_curve(label[counted], score[counted])
    np.testing.assert_allclose(curve.precision[::-1], precision[:-1])  # theirs rises and ends with the point (1, 0)
    np.testing.assert_allclose(curve.tpr[::-1], recall[:-1])
    fpr, tpr, _ = roc_curve(label[counted], score[counted], drop_intermediate=False)
    np.testing.assert_allclose(curve.fpr, fpr[1:])
    np.testing.assert_allclose(curve.tpr, tpr[1:])


@pytest.mark.parametrize("rate", [0, -5, 100.1])
def test_rates_that_are_none_are_refused(rate: float) -> None:
    curve = of([(0.5, 1), (0.1, 0)]).curve()
    for at in (curve.at_tpr, curve.at_fpr):
        with pytest.raises(OutmaskError, match="above 0 and at most 100"):
            at(rate)


def test_a_budget_too_small_is_refused() -> None:
    with pytest.raises(OutmaskError, match="at least 128"):
        PixelMetrics(budget=10)


SCORES = st.sampled_from([-np.inf, -1e30, -1.0, -0.5, -1e-45, -0.0, 0.0, 1e-45, 0.25, 0.3, 1.0, np.inf]) | st.floats(
    width=32, allow_nan=False
)
PIXELS = st.lists(st.tuples(SCORES, st.sampled_from([0, 0, 1, 255])), max_size=40)


def of(pixels: list[tuple[float, int]]) -> PixelMetrics:
    metrics = PixelMetrics()
    metrics.update(np.array([p[0] for p in pixels], np.float32), np.array([p[1] for p in pixels], np.uint8))
    return metrics


def merged(*parts: PixelMetrics) -> PixelMetrics:
    whole = PixelMetrics()
    for part in parts:
        whole.merge(part)
    return whole


@given(PIXELS, PIXELS, PIXELS)
@settings(max_examples=150, deadline=None)
def test_merging_in_any_order_equals_one_pass(
    a: list[tuple[float, int]], b: list[tuple[float, int]], c: list[tuple[float, int]]
) -> None:
    one_pass = of(a + b + c).compute()
    left, right = merged(merged(of(a), of(b)), of(c)), merged(of(a), merged(of(b), of(c)))
    for whole in (left, right, merged(of(c), of(b), of(a))):
        assert whole.compute() == pytest.approx(one_pass, abs=0, rel=0, nan_ok=True)


@given(PIXELS)
@settings(max_examples=150, deadline=None)
def test_any_pixels_equal_scikit_learn(pixels: list[tuple[float, int]]) -> None:
    labels = {label for _, label in pixels}
    finite = [(float(np.clip(score, -1e38, 1e38)), label) for score, label in pixels]  # scikit-learn refuses infinity
    values = of(finite).compute()
    if {0, 1} <= labels:
        expected = sklearn_metrics(*map(np.array, zip(*finite, strict=True)))
        assert values == pytest.approx(expected, abs=EXACT)
    elif 1 in labels:
        assert values["AP"] == 100
        assert np.isnan([values["AUROC"], values["FPR95"], values["FPR90"]]).all()
    else:
        assert np.isnan([values["AP"], values["AUROC"], values["FPR95"], values["FPR90"], values["best_F1"]]).all()
        assert values["anomaly_share"] == 0 or not {0, 1} & labels


def test_infinite_scores_are_the_most_and_the_least_anomalous() -> None:
    values = of([(np.inf, 1), (3e38, 0), (-3e38, 1), (-np.inf, 0)]).compute()
    assert values["AUROC"] == 75
    assert values["AP"] == pytest.approx(100 * (1 + 2 / 3) / 2)


def test_no_threshold_claims_pixels_at_minus_infinity() -> None:
    curve = of([(2.0, 1), (1.0, 0), (-np.inf, 1), (-np.inf, 0)]).curve()
    assert curve.compute()["FPR95"] == 100
    point = curve.at_tpr(95)
    assert point is not None
    assert (point.TPR, point.FPR) == (50, 50)


def test_images_that_share_their_scores_stay_exact() -> None:
    """1,000 scores in 50 images are within the budget, 50,000 would not be."""
    rng = np.random.default_rng(20)
    grid = rng.normal(size=1000).astype(np.float32)
    score = np.tile(grid, 50)
    label = (rng.random(50_000) < 1 / (1 + np.exp(-score))).astype(np.uint8)
    assert streamed(score, label, images=50, budget=2_000).compute() == pytest.approx(
        sklearn_metrics(score, label), abs=EXACT
    )


def test_many_tiny_updates_take_little_memory() -> None:
    metrics = PixelMetrics(budget=None)
    for index in range(3_000):
        metrics.update(np.array([0.5, index % 7], np.float32), np.array([0, 1], np.uint8))
    assert len(metrics._known._exact) <= 64
    assert metrics.counts().known.sum() == 3_000


def test_both_zeros_tie() -> None:
    assert of([(-0.0, 1), (0.0, 0)]).compute()["AUROC"] == 50


def test_merge_leaves_the_other_as_it_was() -> None:
    a, b = of([(0.5, 1), (0.1, 0)]), of([(0.7, 0)])
    before = b.compute()
    a.merge(b)
    a.update(np.ones(3, np.float32), np.zeros(3, np.uint8))
    np.testing.assert_equal(b.compute(), before)


@pytest.mark.parametrize("budget", [None, 1 << 21, 20_000])
def test_merging_with_itself_doubles_every_count(budget: int | None) -> None:
    score, label = make("random", 30_000, np.random.default_rng(18))
    metrics = streamed(score, label, budget=budget)
    before = metrics.compute()
    total = metrics.counts().known.sum()
    metrics.merge(metrics)
    assert metrics.counts().known.sum() == 2 * total
    assert metrics.compute() == pytest.approx(before, abs=0 if budget != 20_000 else 0.5)


@pytest.mark.parametrize(("into", "other"), [(None, 20_000), (20_000, None), (1 << 21, 20_000)])
def test_any_budgets_merge(into: int | None, other: int | None) -> None:
    score, label = make("random", 60_000, np.random.default_rng(19))
    whole = streamed(score[:30_000], label[:30_000], budget=into)
    whole.merge(streamed(score[30_000:], label[30_000:], budget=other))
    counts = whole.counts()
    assert counts.known.sum() + counts.anomaly.sum() == (label < 2).sum()
    assert whole.compute() == pytest.approx(sklearn_metrics(score, label), abs=0.5)


def test_tensors_and_arrays_are_the_same() -> None:
    score, label = make("random", 5_000, np.random.default_rng(7))
    half = torch.tensor(score).to(torch.bfloat16)
    metrics = PixelMetrics()
    metrics.update(half.reshape(50, 100), torch.tensor(label).reshape(50, 100).long())
    expected = streamed(half.float().numpy(), label, images=1)
    assert metrics.compute() == expected.compute()


def test_double_scores_beyond_single_precision_are_infinite_without_a_warning() -> None:
    metrics = PixelMetrics()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metrics.update(np.array([1e300, -1e300]), np.array([1, 0]))
    assert metrics.compute()["AUROC"] == 100


@pytest.mark.parametrize("label", [0, 1])
def test_nan_at_a_counted_pixel_is_refused(label: int) -> None:
    with pytest.raises(OutmaskError, match="NaN at 1 evaluated"):
        PixelMetrics().update(np.array([np.nan, 0.0]), np.array([label, 0]))


def test_nan_outside_is_not_looked_at() -> None:
    metrics = PixelMetrics()
    metrics.update(np.array([np.nan, 0.0, 1.0]), np.array([255, 0, 1]))
    assert metrics.compute()["AP"] == 100


@pytest.mark.parametrize(
    ("score", "label", "message"),
    [
        (np.zeros((2, 3)), np.zeros((3, 2), int), "same shape"),
        (np.zeros(3, int), np.zeros(3, int), "floating-point score"),
        (np.zeros(3), np.zeros(3), "integer label"),
    ],
)
def test_wrong_input_is_refused(score: np.ndarray, label: np.ndarray, message: str) -> None:
    with pytest.raises(OutmaskError, match=message):
        PixelMetrics().update(score, label)


def test_nothing_counted_is_undefined() -> None:
    assert np.isnan(list(PixelMetrics().compute().values())).all()


def test_merging_nothing_changes_nothing() -> None:
    a, b = PixelMetrics(), PixelMetrics()
    a.compute()
    b.compute()
    a.merge(b)
    assert np.isnan(a.compute()["AP"])
    a.merge(of([(0.5, 1), (0.1, 0)]))
    assert a.compute()["AP"] == 100


@given(seed=st.integers(0, 1000))
def test_the_shares_of_bins_are_those_of_a_histogram(seed: int) -> None:
    rng = np.random.default_rng(seed)
    score = (rng.integers(-20, 20, 200) / 16).astype(np.float32)
    label = rng.integers(0, 2, 200).astype(np.uint8)
    edges = np.linspace(-1, 1, 9)
    metrics = PixelMetrics()
    metrics.update(score, label)
    known, anomaly = metrics.curve().shares(edges)
    inner = np.clip(score, -1, 0.99)
    for shares, value in ((known, 0), (anomaly, 1)):
        expected = np.histogram(inner[label == value], edges)[0] / (label == value).sum()
        np.testing.assert_allclose(shares, expected, atol=1e-12)


def test_shares_of_nothing_are_undefined() -> None:
    metrics = PixelMetrics()
    metrics.update(np.zeros(3, np.float32), np.zeros(3, np.uint8))
    known, anomaly = metrics.curve().shares(np.arange(3))
    assert known.tolist() == [1.0, 0.0]
    assert np.isnan(anomaly).all()
