"""The engine against literal implementations of every equation."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from outmask.scores import evaluate, fused, score
from outmask.scores.declarations import SCORES
from outmask.types import MaskPrediction

# --- The equations, literally, in float64: class logits (B, N, K + 1) and resized mask logits (B, N, H, W). -----------


def class_scores(c: Tensor, m: Tensor) -> Tensor:
    """``L_k``, (B, K, H, W)."""
    return (c.softmax(2)[:, :, :-1, None, None] * m.sigmoid()[:, :, None]).sum(1)


def over_masks(weights: Tensor, m: Tensor) -> Tensor:
    return (weights[:, :, None, None] * m.sigmoid()).sum(1)


def ahm(c: Tensor, m: Tensor) -> Tensor:
    top = c.softmax(2)[:, :, :-1].amax(2)
    return -top[:, :, None, None].expand_as(m).gather(1, m.argmax(1, keepdim=True))[:, 0]


def uno(c: Tensor, m: Tensor) -> Tensor:
    p = c.softmax(2)
    return over_masks(p[:, :, -2] - p[:, :, :-2].amax(2), m)


def unclaimed(c: Tensor, m: Tensor) -> Tensor:
    p = c.softmax(2)
    w, top = p[:, :, :-1].max(2)
    one_minus_w = p.scatter(2, top[:, :, None], 0).sum(2)  # float64 rounds 1 - w to 0 where a logit leads by 40
    return (one_minus_w[:, :, None, None] + w[:, :, None, None] * (-m).sigmoid()).log().sum(1)


ORACLES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "am": lambda c, m: -m.sigmoid().amax(1),
    "ahm": ahm,
    "aem": lambda c, m: -class_scores(c, m).amax(1),
    "aem-energy": lambda c, m: -class_scores(c, m).logsumexp(1),
    "eam": lambda c, m: -over_masks(c.softmax(2)[:, :, :-1].amax(2), m),
    "eam-energy": lambda c, m: -over_masks(c.softmax(2)[:, :, :-1].logsumexp(2), m),
    "eam-energy-logits": lambda c, m: -over_masks(c[:, :, :-1].logsumexp(2), m),
    "m2a": lambda c, m: 1 - class_scores(c, m).amax(1),
    "rba": lambda c, m: -class_scores(c, m).tanh().sum(1),
    "uno": uno,
    "unclaimed": unclaimed,
}


def random_prediction(
    seed: int = 0,
    batch: int = 1,
    masks: int = 7,
    classes: int = 4,
    in_size: tuple[int, int] = (5, 6),
    spread: float = 3.0,
) -> MaskPrediction:
    generator = torch.Generator().manual_seed(seed)
    return MaskPrediction(
        torch.randn(batch, masks, classes + 1, generator=generator) * spread,
        torch.randn(batch, masks, *in_size, generator=generator) * spread,
    )


def assert_equal_to_the_equations(prediction: MaskPrediction, size: tuple[int, int]) -> None:
    names = [name for name in SCORES if name != "uno" or prediction.num_classes > 1]
    maps = evaluate(prediction, names, size)
    class_logits = prediction.class_logits.double()
    logits = F.interpolate(prediction.mask_logits, size, mode="bilinear", align_corners=False).double()
    for name in names:
        expected, got = ORACLES[name](class_logits, logits), maps[name].double()
        if name == "ahm" and logits.shape[1] > 1:  # rounding decides which of two equal masks is the strongest
            two = logits.topk(2, dim=1).values
            clear = two[:, 0] - two[:, 1] > 1e-5
            expected, got = expected[clear], got[clear]
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")

    closed = class_scores(class_logits, logits)
    chosen = closed.gather(1, maps["labels"][:, None])[:, 0]
    torch.testing.assert_close(chosen, closed.amax(1), rtol=1e-5, atol=1e-5)


def test_every_score_has_an_oracle() -> None:
    assert set(ORACLES) == set(SCORES)


@pytest.mark.parametrize("size", [(20, 24), (5, 6), (13, 7), (1, 1), (2, 31)])
def test_scores_and_labels_are_the_equations(size: tuple[int, int]) -> None:
    assert_equal_to_the_equations(random_prediction(), size)


@pytest.mark.parametrize(("batch", "masks", "classes"), [(2, 7, 4), (1, 1, 4), (1, 7, 1), (3, 1, 1), (1, 100, 19)])
def test_scores_are_the_equations_for_any_number_of_images_masks_and_classes(
    batch: int, masks: int, classes: int
) -> None:
    assert_equal_to_the_equations(random_prediction(1, batch, masks, classes), (9, 11))


@pytest.mark.parametrize("class_extreme", [200.0, 20.0, 0.5])
@pytest.mark.parametrize("mask_extreme", [200.0, 20.0, 0.5])
def test_scores_are_the_equations_at_extreme_logits(class_extreme: float, mask_extreme: float) -> None:
    signs = random_prediction(2, masks=9, in_size=(8, 9))
    prediction = MaskPrediction(signs.class_logits.sign() * class_extreme, signs.mask_logits.sign() * mask_extreme)
    # One mask that is certain of its class, as the signs alone seldom are.
    prediction.class_logits[0, 0] = -class_extreme
    prediction.class_logits[0, 0, 1] = class_extreme
    assert_equal_to_the_equations(prediction, (8, 9))
    assert all(map_.isfinite().all() for map_ in evaluate(prediction, list(SCORES), (21, 30)).values())


def test_labels_are_the_argmax_and_the_first_of_equals() -> None:
    prediction = random_prediction(3, batch=2, classes=19)
    logits = F.interpolate(prediction.mask_logits, (17, 15), mode="bilinear").double()
    closed = class_scores(prediction.class_logits.double(), logits)
    two = closed.topk(2, dim=1).values
    clear = two[:, 0] - two[:, 1] > 1e-5
    labels = evaluate(prediction, [], (17, 15))["labels"]
    assert torch.equal(labels[clear], closed.argmax(1)[clear])
    ties = MaskPrediction(torch.tensor([[[0.0, 1.0, 1.0, 0.0]]]), torch.zeros(1, 1, 2, 2))
    assert (evaluate(ties, [], (2, 2))["labels"] == 1).all()


def test_unclaimed_of_certain_masks_is_finite_and_exact() -> None:
    # log(1 - m w) ~ log(e^-200 + 3 e^-400), where 1 - m and 1 - w round to 0 in float32.
    prediction = MaskPrediction(torch.tensor([[[200.0, -200.0, -200.0, -200.0]]]), torch.full((1, 1, 2, 2), 200.0))
    torch.testing.assert_close(score(prediction, "unclaimed", (2, 2)), torch.full((1, 2, 2), -200.0))


def test_ahm_takes_the_strongest_logit_where_sigmoids_tie() -> None:
    class_logits = torch.tensor([[[0.0, 0.0], [5.0, 0.0]]])
    logits = torch.tensor([40.0, 30.0]).view(1, 2, 1, 1)
    assert logits.sigmoid().unique().numel() == 1
    assert score(MaskPrediction(class_logits, logits), "ahm", (1, 1)).item() == -0.5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_predictions_are_scored_in_float32(dtype: torch.dtype) -> None:
    half = random_prediction(4)
    half = MaskPrediction(half.class_logits.to(dtype), half.mask_logits.to(dtype))
    exact = evaluate(MaskPrediction(half.class_logits.float(), half.mask_logits.float()), list(SCORES), (12, 9))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        maps = evaluate(half, list(SCORES), (12, 9))
    assert all(torch.equal(maps[name], exact[name]) for name in exact)


def test_float64_predictions_are_scored_in_float64() -> None:
    prediction = random_prediction(5, spread=60.0)
    prediction = MaskPrediction(prediction.class_logits.double(), prediction.mask_logits.double())
    logits = F.interpolate(prediction.mask_logits, (12, 9), mode="bilinear")
    maps = evaluate(prediction, list(SCORES), (12, 9))
    for name, oracle in ORACLES.items():
        assert maps[name].dtype == torch.float32
        # Half a unit in the last place of the float32 that is given back.
        torch.testing.assert_close(maps[name].double(), oracle(prediction.class_logits, logits), rtol=6e-8, atol=1e-12)


def test_tiles_do_not_show() -> None:
    prediction, scores = random_prediction(6, batch=2), list(SCORES.values())
    whole = fused.evaluate(prediction, scores, (29, 33), tile_rows=29)
    for tile_rows in (1, 4, 28):
        tiled = fused.evaluate(prediction, scores, (29, 33), tile_rows=tile_rows)
        for name, map_ in whole.items():  # products of other shapes may add up in another order
            torch.testing.assert_close(tiled[name], map_, rtol=1e-6, atol=1e-6)


def test_predictions_stay_as_they_are_and_may_carry_gradients_or_none() -> None:
    prediction = random_prediction(7)
    class_logits, mask_logits = prediction.class_logits.clone(), prediction.mask_logits.clone()
    expected = evaluate(prediction, list(SCORES), (5, 6))
    assert torch.equal(prediction.class_logits, class_logits)
    assert torch.equal(prediction.mask_logits, mask_logits)

    learning = evaluate(
        MaskPrediction(class_logits.requires_grad_(), mask_logits.requires_grad_()), list(SCORES), (5, 6)
    )
    with torch.inference_mode():
        frozen = random_prediction(7)
        inside = evaluate(frozen, list(SCORES), (5, 6))
    outside = evaluate(frozen, list(SCORES), (5, 6))
    for maps in (learning, inside, outside):
        assert all(torch.equal(maps[name], expected[name]) and not maps[name].requires_grad for name in expected)


# --- What holds for every prediction. ---------------------------------------------------------------------------------

predictions = st.builds(
    random_prediction,
    seed=st.integers(0, 2**31),
    batch=st.integers(1, 2),
    masks=st.integers(1, 8),
    classes=st.integers(2, 6),
    in_size=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    spread=st.sampled_from([0.1, 1.0, 5.0, 50.0]),
)
sizes = st.tuples(st.integers(1, 12), st.integers(1, 12))


@settings(max_examples=40, deadline=None)
@given(predictions, sizes)
def test_bounds_and_identities(prediction: MaskPrediction, size: tuple[int, int]) -> None:
    maps = evaluate(prediction, list(SCORES), size)
    masks = prediction.class_logits.shape[1]
    # Each of two sums of at most N ones, N terms long, is off by at most N * N units of float32's rounding, 2^-24.
    slack = 2 * masks * masks * 2.0**-24
    assert (maps["eam"] <= maps["aem"] + slack).all()  # sum of maxima >= maximum of sums
    assert torch.equal(maps["m2a"], 1 + maps["aem"])
    assert (maps["unclaimed"] <= 0).all()
    assert all(map_.isfinite().all() for map_ in maps.values())


@settings(max_examples=25, deadline=None)
@given(predictions, sizes, st.randoms())
def test_order_of_masks_does_not_count(prediction: MaskPrediction, size: tuple[int, int], random: Random) -> None:
    order = list(range(prediction.class_logits.shape[1]))
    random.shuffle(order)
    shuffled = MaskPrediction(prediction.class_logits[:, order], prediction.mask_logits[:, order])
    expected, got = evaluate(prediction, list(SCORES), size), evaluate(shuffled, list(SCORES), size)
    for name in SCORES:
        torch.testing.assert_close(got[name], expected[name], rtol=1e-5, atol=1e-5)


def test_order_of_equal_masks_does_not_count_for_ahm() -> None:
    class_logits, logits = torch.tensor([[[0.0, 0.0], [5.0, 0.0]]]), torch.ones(1, 2, 3, 3)
    forward = score(MaskPrediction(class_logits, logits), "ahm", (3, 3))
    assert torch.equal(score(MaskPrediction(class_logits.flip(1), logits), "ahm", (3, 3)), forward)


# --- Memory. ----------------------------------------------------------------------------------------------------------

MEASURE_PEAK = """
import torch
from pathlib import Path
from outmask.scores import evaluate
from outmask.scores.declarations import SCORES
from outmask.types import MaskPrediction

def status(key):
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024

torch.set_num_threads(1)
evaluate(MaskPrediction(torch.zeros(1, 100, 20), torch.zeros(1, 100, 8, 16)), list(SCORES), (32, 64))
prediction = MaskPrediction(torch.empty(1, 100, 20).normal_(), torch.empty(1, 100, 256, 512).normal_())
before = status("VmRSS")
maps = evaluate(prediction, list(SCORES), (1024, 2048))
print(status("VmHWM") - before - sum(map_.nbytes for map_ in maps.values()))
"""


def test_masks_are_never_held_at_full_size() -> None:
    status = Path("/proc/self/status")
    if not status.exists() or "VmHWM" not in status.read_text():
        pytest.skip("peak memory of a process is read from Linux's /proc/self/status")
    run = subprocess.run([sys.executable, "-c", MEASURE_PEAK], capture_output=True, text=True, check=True)
    # All 100 masks would take 840 MB; a tile, its second buffer and a few widened rows take about 12.
    assert int(run.stdout) < 150e6


def test_a_negative_class_is_no_object_to_all_but_uno() -> None:
    torch.manual_seed(3)
    class_logits, mask_logits = 3 * torch.randn(2, 6, 6), 3 * torch.randn(2, 6, 5, 7)
    negative = MaskPrediction(class_logits, mask_logits, negative_class=True)
    assert negative.num_classes == 4
    maps = evaluate(negative, list(SCORES), (10, 14))
    # Known probabilities as the softmax over all six gives them.
    probabilities = class_logits.double().softmax(-1)
    masks = F.interpolate(mask_logits.double(), (10, 14), mode="bilinear", align_corners=False).sigmoid()
    class_scores = torch.einsum("bqk,bqhw->bkhw", probabilities[..., :4], masks)
    torch.testing.assert_close(maps["aem"].double(), -class_scores.amax(1), atol=1e-5, rtol=0)
    torch.testing.assert_close(maps["labels"], class_scores.argmax(1))
    top = probabilities[..., :4].amax(-1)
    torch.testing.assert_close(maps["eam"].double(), -torch.einsum("bq,bqhw->bhw", top, masks), atol=1e-5, rtol=0)
    margin = probabilities[..., 4] - top
    torch.testing.assert_close(maps["uno"].double(), torch.einsum("bq,bqhw->bhw", margin, masks), atol=1e-5, rtol=0)
    # A prediction that does not say so has it as its last class: UNO's score is the same.
    plain = evaluate(MaskPrediction(class_logits, mask_logits), ["uno"], (10, 14))
    torch.testing.assert_close(plain["uno"], maps["uno"])
