"""Scores as float16: what rounding costs, what the map keeps, what is refused."""

import json
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outmask.errors import OutmaskError
from outmask.evaluation.float16 import Float16Map, ScoreSample, tie_share
from outmask.metrics import PixelMetrics

LEVELS = 15_361  # float16 values from 0 to 1: the bits 0 to 0x3C00
KINDS = ["saturated", "more saturated", "as EAM", "as M2A", "as unclaimed", "as the energies", "smooth", "constant"]


def sampled(*images: np.ndarray, **options: int) -> ScoreSample:
    sample = ScoreSample(**options)
    for image in images:
        sample.add(image)
    return sample


def measured(score: np.ndarray, label: np.ndarray) -> tuple[float, float]:
    metrics = PixelMetrics(budget=None)
    metrics.update(score, label)
    values = metrics.compute()
    return values["AP"], values["FPR95"]


# --- the map


@pytest.mark.parametrize("share", [0.02, 0.0005])
@pytest.mark.parametrize("kind", KINDS)
def test_the_map_keeps_ap_and_fpr95_to_two_in_ten_thousand(kind: str, share: float, make_scores: Any) -> None:
    """0.02 percent; a false-positive rate can move by one step, which holds at most 2 / 15,360 = 0.013 percent."""
    score, label = make_scores(kind, 300_000, share, np.random.default_rng(1))
    mapped = Float16Map.fit(sampled(score))(score)
    assert measured(mapped, label) == pytest.approx(measured(score, label), abs=0.02)


def test_the_saturated_row_of_the_documentation(make_scores: Any) -> None:
    """``docs/submitting.md``: 2 M pixels, known -sigmoid(N(9, 1.5)), anomalies -sigmoid(N(3.5, 2.5)), 2 %."""
    score, label = make_scores("saturated", 2_000_000, 0.02, np.random.default_rng(3))
    before = measured(score, label)
    assert "{:.2f} / {:.2f}".format(*before) == "80.99 / 17.90"

    def cost(values: np.ndarray) -> str:
        return "{:+.3f} / {:+.3f}".format(*np.subtract(measured(values, label), before))

    plain, mapped = score.astype(np.float16), Float16Map.fit(sampled(score))(score)
    assert cost(plain) == "-0.897 / +14.534"
    assert cost(np.log(1 + 1e-6 + score).astype(np.float16)) == "-0.019 / +0.048"
    assert cost(mapped) == "-0.006 / +0.003"
    assert [f"{tie_share(score, values):.1e}" for values in (plain, mapped)] == ["4.8e-01", "1.2e-05"]


def test_rare_anomalies_keep_their_order_though_the_sample_holds_few_of_them(make_scores: Any) -> None:
    """2 M pixels, 400 of them anomalies; a uniform sample of 32,768 pixels would see 7."""
    rng = np.random.default_rng(2)
    images = [make_scores("as EAM", 200_000, 2e-4, rng) for _ in range(10)]
    mapping = Float16Map.fit(sampled(*(score for score, _ in images), size=1 << 15, top=1 << 13))
    score, label = (np.concatenate(parts) for parts in zip(*images, strict=True))
    assert measured(mapping(score), label) == pytest.approx(measured(score, label), abs=0.02)


@pytest.mark.parametrize("kind", KINDS[:-1])
def test_a_step_is_small_in_share_and_in_relative_rank(kind: str, make_scores: Any) -> None:
    """The rule of the map, literally: unless it is a single score, a step holds at most 2 / 15,360 of the pixels, and
    ``log(1 + t / 1e-5)`` of the share t that scores higher grows by at most 2 / 15,360 of its whole range."""
    score, _ = make_scores(kind, 200_000, 0.02, np.random.default_rng(4))
    mapped = Float16Map.fit(sampled(score))(score)
    distinct = np.unique(np.stack([score, mapped.astype(np.float32)]), axis=1)[1]
    values, scores_of_step = np.unique(distinct, return_counts=True)
    assert len(values) >= min(15_000, len(distinct))  # the steps are used
    pixels = np.unique(mapped, return_counts=True)[1]
    reached = np.cumsum(pixels[::-1])[::-1] / len(score)  # share from this step upwards
    above = reached - pixels / len(score)
    share_grows = reached - above
    logarithm_grows = np.log1p(reached / 1e-5) - np.log1p(above / 1e-5)
    heaviest = np.unique(score, return_counts=True)[1].max() / len(score)  # steps end between scores, not inside one
    several = scores_of_step > 1
    assert (share_grows[several] <= 2 / 15_360 + heaviest).all()
    # The topmost score of a step straddles its boundary; below the first 2,000 pixels one score is little.
    low = several & (above > 2_000 / len(score))
    assert (logarithm_grows[low] <= 2 / 15_360 * np.log1p(1e5) + heaviest / above[low]).all()


def test_a_frequent_score_takes_one_step_and_leaves_the_others_to_the_rest() -> None:
    rng = np.random.default_rng(5)
    score = np.where(rng.random(300_000) < 0.6, -1, -rng.random(300_000)).astype(np.float32)
    assert len(Float16Map.fit(sampled(score)).edges) > 15_000


@pytest.mark.parametrize("count", [1, 2, 3, 256, LEVELS])
def test_up_to_15361_distinct_scores_are_kept_apart(count: int) -> None:
    score = np.random.default_rng(6).permutation(np.linspace(-3, 1, count).astype(np.float32).repeat(3))
    mapped = Float16Map.fit(sampled(score))(score)
    assert len(np.unique(mapped)) == len(np.unique(score)) == count
    assert tie_share(score, mapped) == 0


def test_scores_that_were_float16_before_stay_as_they_are_ordered() -> None:
    """A submission can be made from another project's files without a loss."""
    before = np.arange(LEVELS, dtype=np.uint16).view(np.float16)
    mapping = Float16Map.fit(sampled(before.astype(np.float32)))
    np.testing.assert_array_equal(mapping(before).view(np.uint16), before.view(np.uint16))


FLOATS = st.floats(width=32, allow_nan=False)


@given(st.lists(FLOATS, min_size=1, max_size=50), st.lists(FLOATS, min_size=1, max_size=50))
@settings(max_examples=200, deadline=None)
def test_the_map_takes_any_score_and_never_reverses_an_order(fitted: list[float], scores: list[float]) -> None:
    mapping = Float16Map.fit(sampled(np.array(fitted, np.float32)))
    ordered = mapping(np.sort(np.array(fitted + scores, np.float32)))
    assert ordered.dtype == np.float16
    assert (np.diff(ordered.astype(np.float64)) >= 0).all()
    assert ordered.min() == 0
    assert ordered.max() == (1 if len(mapping.edges) else 0)


@given(st.integers(0, 1 << 30), st.integers(20_000, 60_000), st.sampled_from([0.0, 0.3, 2.0]))
@settings(max_examples=15, deadline=None)
def test_more_scores_than_steps_never_reverse_an_order(seed: int, count: int, rounding: float) -> None:
    rng = np.random.default_rng(seed)
    score = rng.standard_t(2, count).astype(np.float32)
    score[: count // 4] = np.round(score[: count // 4] * rounding)
    mapping = Float16Map.fit(sampled(score))
    ordered = mapping(np.sort(score)).astype(np.float64)
    assert len(mapping.edges) < LEVELS
    assert (np.diff(mapping.edges) > 0).all()
    assert (np.diff(ordered) >= 0).all()
    assert (ordered[0], ordered[-1]) == (0, 1)


def test_scores_beyond_the_fitted_ones_join_the_outermost() -> None:
    mapping = Float16Map.fit(sampled(np.array([-0.5, 0.0, 0.5], np.float32)))
    outside = np.array([-np.inf, -1e30, -0.5, 0.5, 1e30, np.inf], np.float32)
    np.testing.assert_array_equal(mapping(outside), [0, 0, 0, 1, 1, 1])


def test_infinite_scores_are_apart_from_all_finite_ones() -> None:
    score = np.array([-np.inf, -1e30, 0, 1e30, np.inf], np.float32)
    mapping = Float16Map.fit(sampled(score))
    assert len(set(mapping(score).tolist())) == 5
    json.dumps(mapping.to_json(), allow_nan=False)


def test_the_description_reproduces_the_map(make_scores: Any) -> None:
    score, _ = make_scores("as EAM", 50_000, 0.02, np.random.default_rng(7))
    mapping = Float16Map.fit(sampled(score))
    described = json.loads(json.dumps(mapping.to_json()))
    edges = np.array(described["edges"])
    below = np.array([(edges <= value).sum() for value in score[:500].astype(np.float64)])
    bits = np.round(15_360 * below / len(edges)).astype(np.uint16)
    np.testing.assert_array_equal(bits.view(np.float16), mapping(score[:500]))


@pytest.mark.parametrize(
    ("score", "message"),
    [(np.array([0.0, np.nan]), "NaN at 1 pixels"), (np.zeros(3, int), "floating-point score, got int64")],
)
def test_what_is_no_score_is_refused(score: np.ndarray, message: str) -> None:
    with pytest.raises(OutmaskError, match=message):
        ScoreSample().add(score)
    with pytest.raises(OutmaskError, match=message):
        Float16Map(np.zeros(1, np.float32))(score)


# --- the sample


def test_a_sample_holds_all_pixels_while_they_fit() -> None:
    images = [np.round(np.random.default_rng(i).normal(size=(20, 30)), 1).astype(np.float32) for i in range(5)]
    values, weights = sampled(*images).distribution()
    expected = np.unique(np.stack(images), return_counts=True)
    np.testing.assert_array_equal(values, expected[0])
    np.testing.assert_array_equal(weights, expected[1])


def test_a_sample_is_bounded_repeatable_and_exact_at_the_top() -> None:
    images = [np.random.default_rng(i).normal(size=5_000).astype(np.float32) for i in range(40)]
    sample = sampled(*images, size=4_000, top=500)
    assert 1_500 < len(sample.values()) <= 4_000  # halved when full, at the latest
    values, weights = sample.distribution()
    highest = np.sort(np.concatenate(images))[-499:]  # of the 500 kept the lowest stands for what is below
    np.testing.assert_array_equal(values[-499:], highest)
    np.testing.assert_array_equal(weights[-499:], 1)
    # Each of 200,000 pixels counts 64 with a chance of 1 / 64: a standard deviation of 3,550.
    assert weights.sum() == pytest.approx(200_000, abs=4 * 3_550)
    again = sampled(*images, size=4_000, top=500)
    np.testing.assert_array_equal(again.values(), sample.values())


SMALL = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 1)), max_size=12)


@given(SMALL)
def test_tie_share_counts_pairs(pixels: list[tuple[int, int]]) -> None:
    """Against all pairs; a map gives equal scores equal values."""
    values = dict(pixels)
    scores = [score for score, _ in pixels]
    pairs = [(a, b) for a, b in combinations(scores, 2) if a != b]
    tied = [(a, b) for a, b in pairs if values[a] == values[b]]
    expected = len(tied) / len(pairs) if pairs else 0
    mapped = np.array([values[score] for score in scores], np.float16)
    assert tie_share(np.array(scores, np.float32), mapped) == pytest.approx(expected, abs=1e-12)
