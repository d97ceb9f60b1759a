"""The kernels of the scores against literal upsampling, sigmoid and pooling."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.kernels.conftest import Run
from torch import Tensor

from outmask.scores import evaluate, fused
from outmask.scores.declarations import SCORES
from outmask.types import MaskPrediction

pytest.importorskip("triton")
from outmask.kernels import scores as kernels

Pool = Callable[[Tensor, Tensor], Tensor]

# Upsampled (N, pixels) logits and (N, columns) weights -> (columns, pixels), in float64.
ORACLES: dict[str, Pool] = {
    "weighted_sum": lambda m, w: w.T @ m.sigmoid(),
    "strongest_logit": lambda m, w: m.amax(0, keepdim=True),
    "weight_of_strongest": lambda m, w: torch.where(m == m.amax(0), w, -torch.inf).amax(0, keepdim=True),
    "noisy_or": lambda m, w: torch.logaddexp(F.logsigmoid(-w), F.logsigmoid(w) + F.logsigmoid(-m)).sum(0, keepdim=True),
}


def random(*shape: int, seed: int = 0, spread: float = 3.0) -> Tensor:
    return spread * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def upsampled(masks: Tensor, size: tuple[int, int], rows: slice) -> Tensor:
    resized = F.interpolate(masks[None].float(), size, mode="bilinear", align_corners=False)
    return resized[0, :, rows].flatten(1).double()


def assert_equal_to_oracle(
    run: Run, name: str, masks: Tensor, weights: Tensor, size: tuple[int, int], rows: slice
) -> None:
    arguments = (masks, size, rows) if name == "strongest_logit" else (masks, weights, size, rows)
    given = run(getattr(kernels, name), *arguments)
    expected = ORACLES[name](upsampled(masks, size, rows), weights.double())
    assert given.dtype == torch.float32
    torch.testing.assert_close(given.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("count", "in_size", "size"),
    [(7, (5, 6), (20, 24)), (16, (5, 6), (5, 6)), (33, (5, 6), (13, 7)), (1, (3, 3), (1, 1)), (19, (1, 1), (9, 31))],
    ids=["fourfold", "same size", "uneven", "one pixel", "of one pixel"],
)
@pytest.mark.parametrize("name", ORACLES)
def test_pools_are_those_of_resized_masks(
    run: Run, name: str, count: int, in_size: tuple[int, int], size: tuple[int, int]
) -> None:
    weights = random(count, 1, seed=1)
    assert_equal_to_oracle(run, name, random(count, *in_size), weights, size, slice(0, size[0]))


@pytest.mark.parametrize("columns", [2, 20, 33, 150])
def test_any_number_of_columns(run: Run, columns: int) -> None:
    assert_equal_to_oracle(run, "weighted_sum", random(5, 3, 4), random(5, columns, seed=1), (6, 5), slice(0, 6))


@pytest.mark.parametrize("name", ORACLES)
def test_some_rows_are_those_of_the_whole(run: Run, name: str) -> None:
    assert_equal_to_oracle(run, name, random(4, 5, 6), random(4, 1, seed=1), (20, 24), slice(7, 12))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_masks_are_resized_in_float32(run: Run, dtype: torch.dtype) -> None:
    weights = random(6, 3, seed=1)
    assert_equal_to_oracle(run, "weighted_sum", random(6, 5, 6).to(dtype), weights, (20, 24), slice(0, 20))


@settings(max_examples=5, deadline=None)
@given(
    count=st.integers(1, 40),
    in_size=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    size=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    seed=st.integers(0, 1000),
    name=st.sampled_from(sorted(ORACLES)),
)
def test_any_size(run: Run, count: int, in_size: tuple[int, int], size: tuple[int, int], seed: int, name: str) -> None:
    masks, weights = random(count, *in_size, seed=seed), random(count, 1, seed=seed + 1)
    assert_equal_to_oracle(run, name, masks, weights, size, slice(size[0] // 2, size[0]))


def test_of_masks_that_tie_the_largest_weight_counts_in_whichever_block_it_is(run: Run) -> None:
    masks = torch.full((40, 2, 2), -1.0)
    masks[[3, 20, 38]] = 2.0
    for heaviest in (3, 20, 38):
        weights = torch.full((40, 1), 0.9)
        weights[[3, 20, 38]] = 0.25
        weights[heaviest] = 0.5
        assert (run(kernels.weight_of_strongest, masks, weights, (4, 4), slice(0, 4)) == 0.5).all()


def test_a_wide_map_is_read_where_interpolate_reads_it(run: Run) -> None:
    """At a thousand rows a coordinate's last place is 6e-5 of a row, 0.2 of a logit of these steep masks."""
    masks = 1000 * random(1, 1000, 1)
    size, rows = (2999, 1), slice(2900, 2999)
    given = run(kernels.strongest_logit, masks, size, rows).double()
    torch.testing.assert_close(given, upsampled(masks, size, rows), rtol=1e-6, atol=1e-3)


def test_certain_masks_leave_a_finite_exact_noisy_or(run: Run) -> None:
    # log(1 - m w) ~ log(e^-200 + 3 e^-400), where 1 - m and 1 - w round to 0 in float32.
    masks, log_odds = torch.full((1, 2, 2), 200.0), torch.full((1, 1), 400.0)
    given = run(kernels.noisy_or, masks, log_odds, (2, 2), slice(0, 2))
    torch.testing.assert_close(given, torch.full((1, 4), -200.0))
    assert (run(kernels.noisy_or, -masks, log_odds, (2, 2), slice(0, 2)) <= 0).all()


def evaluated(class_logits: Tensor, mask_logits: Tensor, size: tuple[int, int], tile_rows: int | None) -> object:
    """Every score, and whether the kernels made it."""
    used = []
    plain = fused._pooled_by_kernel
    fused._pooled_by_kernel = lambda *arguments: used.append(arguments) or plain(*arguments)
    prediction = MaskPrediction(class_logits, mask_logits)
    maps = fused.evaluate(prediction, list(SCORES.values()), size, tile_rows=tile_rows)
    fused._pooled_by_kernel = plain
    return [maps, len(used)]


@pytest.mark.parametrize("tile_rows", [None, 3])
def test_the_engine_uses_the_kernels_where_they_run_and_gives_the_same(run: Run, tile_rows: int | None) -> None:
    class_logits, mask_logits = random(2, 20, 6), random(2, 20, 5, 6, seed=1)
    size = (10, 14)
    maps, used = run(evaluated, class_logits, mask_logits, size, tile_rows)
    tiles = 1 if tile_rows is None else 4
    assert used == 2 * tiles * 4  # images, tiles, pools
    expected = evaluate(MaskPrediction(class_logits, mask_logits), list(SCORES), size)
    assert set(maps) == set(expected)
    for name, map_ in maps.items():
        if name == "labels":
            assert torch.equal(map_, expected[name])
        else:
            torch.testing.assert_close(map_, expected[name], rtol=1e-5, atol=1e-5, msg=name)


def test_the_engine_keeps_float64(run: Run) -> None:
    class_logits, mask_logits = random(1, 4, 3).double(), random(1, 4, 2, 2).double()
    maps, used = run(evaluated, class_logits, mask_logits, (4, 4), None)
    assert used == 0
    assert maps["eam"].dtype == torch.float32
