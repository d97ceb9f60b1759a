"""The scores of per-pixel classifiers against their equations, read literally in float64."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from outmask.scores import describe, display_range, evaluate, pixelwise, score
from outmask.scores.pixelwise import PIXEL_SCORES
from outmask.types import PixelPrediction

# --- The equations: resized logits (B, K, H, W) and outlier logits (B, H, W). -----------------------------------------


def entropy(c: Tensor, o: Tensor) -> Tensor:
    p = c.softmax(1)
    return -torch.xlogy(p, p).sum(1)


def negated_divergence(c: Tensor, o: Tensor) -> Tensor:
    uniform = torch.full_like(c, 1 / c.shape[1])
    return -F.kl_div(c.log_softmax(1), uniform, reduction="none").sum(1)


ORACLES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "msp": lambda c, o: -c.softmax(1).amax(1),
    "maxlogit": lambda c, o: -c.amax(1),
    "entropy": entropy,
    "energy": lambda c, o: -c.logsumexp(1),
    "kl": negated_divergence,
    "void": lambda c, o: torch.cat([c, o[:, None]], 1).softmax(1)[:, -1],
    "ood-head": lambda c, o: o.sigmoid(),
    "densehybrid": lambda c, o: F.logsigmoid(o) - c.logsumexp(1),
}
NAMES = list(PIXEL_SCORES)


def random_prediction(
    seed: int = 0, batch: int = 1, classes: int = 5, in_size: tuple[int, int] = (5, 6), spread: float = 3.0
) -> PixelPrediction:
    generator = torch.Generator().manual_seed(seed)
    return PixelPrediction(
        torch.randn(batch, classes, *in_size, generator=generator) * spread,
        torch.randn(batch, *in_size, generator=generator) * spread,
    )


def resized(prediction: PixelPrediction, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Resized in the prediction's own type, as the engine has to, then exact."""
    assert prediction.outlier_logits is not None
    maps = torch.cat([prediction.logits, prediction.outlier_logits[:, None]], 1)
    maps = F.interpolate(maps, size, mode="bilinear", align_corners=False).double()
    return maps[:, :-1], maps[:, -1]


def assert_equal_to_the_equations(prediction: PixelPrediction, size: tuple[int, int]) -> None:
    maps, (c, o) = evaluate(prediction, NAMES, size), resized(prediction, size)
    for name in NAMES:
        expected, got = ORACLES[name](c, o), maps[name].double()
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")
    chosen = c.gather(1, maps["labels"][:, None])[:, 0]
    torch.testing.assert_close(chosen, c.amax(1), rtol=1e-5, atol=1e-5)


def test_every_score_has_an_oracle() -> None:
    assert set(ORACLES) == set(PIXEL_SCORES)


@pytest.mark.parametrize("size", [(20, 24), (5, 6), (13, 7), (1, 1), (2, 31)])
@pytest.mark.parametrize(("batch", "classes"), [(2, 5), (1, 1), (3, 2), (1, 19)])
def test_scores_and_labels_are_the_equations(batch: int, classes: int, size: tuple[int, int]) -> None:
    assert_equal_to_the_equations(random_prediction(1, batch, classes), size)


def test_logits_are_resized_before_anything_else() -> None:
    # Halfway between two pixels that are each certain, of different classes, the mean logits are undecided.
    logits = torch.tensor([[20.0, -20.0], [-20.0, 20.0]]).view(1, 2, 1, 2)
    values = score(PixelPrediction(logits), "msp", (1, 3))[0, 0]
    assert values.tolist() == pytest.approx([-1, -0.5, -1], abs=1e-6)


@pytest.mark.parametrize("extreme", [1e4, 200.0, 20.0, 0.5, 0.0])
def test_scores_are_the_equations_at_extreme_logits(extreme: float) -> None:
    signs = random_prediction(2, in_size=(8, 9))
    assert signs.outlier_logits is not None
    prediction = PixelPrediction(signs.logits.sign() * extreme, signs.outlier_logits.sign() * extreme)
    # A pixel that is certain of its class and one that is certain of none, as the signs alone seldom are.
    prediction.logits[0, :, 0, 0] = -extreme
    prediction.logits[0, 1, 0, :2] = extreme
    assert_equal_to_the_equations(prediction, (8, 9))
    assert all(map_.isfinite().all() for map_ in evaluate(prediction, NAMES, (21, 30)).values())


@pytest.mark.parametrize("lead", [10.0, 30.0, 60.0, 80.0])
def test_entropies_of_certain_pixels_still_differ(lead: float) -> None:
    # From a lead of 17 on, the softmax is 1 in float32, and a naive entropy 0 for all.
    logits = torch.zeros(1, 19, 1, 1)
    logits[0, 3] = lead
    others = 18 * math.exp(-lead)  # against 1: log s + others lead / s with s = 1 + others
    expected = math.log1p(others) + others * lead / (1 + others)
    assert score(PixelPrediction(logits), "entropy", (1, 1)).item() == pytest.approx(expected, rel=1e-6)


def test_float64_predictions_are_scored_in_float64() -> None:
    made = random_prediction(5, spread=60.0)
    assert made.outlier_logits is not None
    prediction = PixelPrediction(made.logits.double(), made.outlier_logits.double())
    maps, (c, o) = evaluate(prediction, NAMES, (12, 9)), resized(prediction, (12, 9))
    for name, oracle in ORACLES.items():
        assert maps[name].dtype == torch.float32
        # Half a unit in the last place of the float32 that is given back; -KL is a difference of numbers below 250.
        torch.testing.assert_close(maps[name].double(), oracle(c, o), rtol=6e-8, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_predictions_are_scored_in_float32(dtype: torch.dtype) -> None:
    made = random_prediction(4)
    assert made.outlier_logits is not None
    half = PixelPrediction(made.logits.to(dtype), made.outlier_logits.to(dtype))
    assert half.outlier_logits is not None
    exact = evaluate(PixelPrediction(half.logits.float(), half.outlier_logits.float()), NAMES, (12, 9))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        maps = evaluate(half, NAMES, (12, 9))
    assert all(torch.equal(maps[name], exact[name]) for name in exact)


def test_tiles_do_not_show() -> None:
    prediction, scores = random_prediction(6, batch=2), list(PIXEL_SCORES.values())
    whole = pixelwise.evaluate(prediction, scores, (29, 33), tile_rows=29)
    for tile_rows in (1, 4, 28):
        tiled = pixelwise.evaluate(prediction, scores, (29, 33), tile_rows=tile_rows)
        for name, map_ in whole.items():  # vectorised and leftover pixels may round differently
            torch.testing.assert_close(tiled[name], map_, rtol=1e-6, atol=1e-6)


def test_predictions_stay_as_they_are_and_scores_carry_no_gradients() -> None:
    prediction = random_prediction(7)
    before = prediction.logits.clone()
    prediction.logits.requires_grad_()
    maps = evaluate(prediction, NAMES, (5, 6))
    assert torch.equal(prediction.logits, before)
    assert not any(map_.requires_grad for map_ in maps.values())


def test_labels_are_the_first_of_equals() -> None:
    ties = torch.tensor([0.0, 1.0, 1.0, 0.0]).view(1, 4, 1, 1).expand(1, 4, 3, 5)
    assert (evaluate(PixelPrediction(ties), [], (3, 5))["labels"] == 1).all()


# --- What holds for every prediction. ---------------------------------------------------------------------------------

predictions = st.builds(
    random_prediction,
    seed=st.integers(0, 2**31),
    batch=st.integers(1, 2),
    classes=st.integers(1, 8),
    in_size=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    spread=st.sampled_from([0.0, 0.1, 1.0, 5.0, 50.0]),
)
sizes = st.tuples(st.integers(1, 12), st.integers(1, 12))


@settings(max_examples=40, deadline=None)
@given(predictions, sizes)
def test_bounds_and_identities(prediction: PixelPrediction, size: tuple[int, int]) -> None:
    maps, classes = evaluate(prediction, NAMES, size), prediction.num_classes
    assert all(map_.isfinite().all() for map_ in maps.values())
    # Sums of at most 8 terms below 3, each rounded to float32: 24 x 2^-24 < 2e-6.
    assert ((maps["msp"] >= -1) & (maps["msp"] <= -1 / classes + 2e-6)).all()
    assert ((maps["entropy"] >= 0) & (maps["entropy"] <= math.log(classes) + 2e-6)).all()
    # Differences of logits below 300, whose float32 rounding is 2^-16, or 2e-5.
    assert (maps["kl"] <= 1e-4).all()
    assert (maps["energy"] <= maps["maxlogit"]).all()
    assert (maps["energy"] >= maps["maxlogit"] - math.log(classes) - 1e-4).all()
    assert (maps["densehybrid"] <= maps["energy"]).all()


@settings(max_examples=40, deadline=None)
@given(predictions, st.floats(-20, 20), st.randoms(use_true_random=False))
def test_shift_and_order_of_the_classes_do_not_count(prediction: PixelPrediction, shift: float, random: object) -> None:
    size = (prediction.logits.shape[2], prediction.logits.shape[3])
    order = torch.randperm(prediction.num_classes, generator=torch.Generator().manual_seed(0))
    names = ["msp", "entropy", "kl"]
    expected = evaluate(prediction, names, size)
    got = evaluate(PixelPrediction(prediction.logits[:, order] + shift), names, size)
    for name in names:  # logits below 300 are rounded by 2^-16 when they are shifted
        torch.testing.assert_close(got[name], expected[name], rtol=0, atol=1e-4)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0.01, 30), min_size=2, max_size=9, unique=True), st.integers(2, 19))
def test_a_class_that_leads_by_less_is_stranger_by_every_score(leads: list[float], classes: int) -> None:
    logits = torch.zeros(1, classes, 1, len(leads), dtype=torch.float64)
    logits[0, 0, 0] = torch.tensor(sorted(leads), dtype=torch.float64)
    for name in ("msp", "maxlogit", "entropy", "energy", "kl"):
        values = score(PixelPrediction(logits), name, (1, len(leads)))[0, 0]
        assert (values.diff() <= 0).all(), name


@settings(max_examples=40, deadline=None)
@given(predictions)
def test_the_reverse_divergence_ranks_as_the_entropy(prediction: PixelPrediction) -> None:
    # KL(P || uniform) = log K - entropy, hence one score for both.
    size = (prediction.logits.shape[2], prediction.logits.shape[3])
    p = prediction.logits.double().softmax(1)
    reverse = (torch.xlogy(p, p) + p * math.log(prediction.num_classes)).sum(1)
    got = score(prediction, "entropy", size).double()
    torch.testing.assert_close(math.log(prediction.num_classes) - got, reverse, rtol=0, atol=1e-5)


# --- Words and pictures. ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_classes", [2, 19])
def test_display_range_ends_at_a_certainly_known_and_a_certainly_unknown_pixel(num_classes: int) -> None:
    known, unknown = torch.zeros(2, num_classes)
    known[0] = math.log(99 * (num_classes - 1))
    assert known.softmax(0)[0].item() == pytest.approx(0.99)
    outlier = torch.tensor([-math.log(99), 40.0])  # at 0.01 and, but for e^-40, at 1
    prediction = PixelPrediction(torch.stack([known, unknown], 1).view(1, num_classes, 1, 2), outlier.view(1, 1, 2))
    for name in ("maxlogit", "energy", "kl", "densehybrid"):
        values = score(prediction, name, (1, 2))[0, 0].tolist()
        assert values == pytest.approx(display_range(name, num_classes), abs=1e-5), name
    # These have ends of their own.
    assert display_range("msp", num_classes) == (-1, -1 / num_classes)
    assert display_range("entropy", num_classes) == (0, math.log(num_classes))
    assert display_range("void", num_classes) == display_range("ood-head", num_classes) == (0, 1)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("num_classes", [1, 2, 133])
def test_display_ranges_rise(name: str, num_classes: int) -> None:
    low, high = display_range(name, num_classes)
    assert math.isfinite(low)
    assert low < high


@pytest.mark.parametrize("name", NAMES)
def test_descriptions_are_one_line_with_equation_and_source(name: str) -> None:
    description = describe(name)
    assert "\n" not in description
    assert any(symbol in description for symbol in ("P_k", "C_k", "sigmoid(O)"))
    assert any(source in description for source in ("table 5", " 2017)", " 2020)", " 2021)", " 2022)"))


# --- Memory. ----------------------------------------------------------------------------------------------------------


class LargestTensor(TorchDispatchMode):
    """Keeps the number of elements of the largest tensor that any operation gives."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else [result]:
            if isinstance(value, Tensor):
                self.elements = max(self.elements, value.numel())
        return result


def test_logits_are_never_held_at_full_size() -> None:
    prediction = PixelPrediction(torch.randn(1, 100, 64, 128), torch.randn(1, 64, 128))
    with LargestTensor() as largest:
        evaluate(prediction, NAMES, (256, 512))
    # All 100 classes are 13 M elements at this size; a tile is at most 4 MB, or 1 M.
    assert largest.elements <= 2**20
