"""The kernels of deformable attention against ``grid_sample`` and its gradients."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.kernels.conftest import Run
from torch import Tensor

from outmask.models.deformable import DeformableAttention, grid_sample_attention, own_places

pytest.importorskip("triton")
from outmask.kernels.deformable import deformable_attention

Sizes = Sequence[tuple[int, int]]

SIZES = [(3, 4), (5, 7), (1, 2)]


def arguments(
    sizes: Sizes = SIZES,
    batch: int = 2,
    queries: int = 5,
    heads: int = 2,
    channels: int = 4,
    points: int = 3,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> tuple[Tensor, Sizes, Tensor, Tensor]:
    """Values, sampling places (a good part of them outside of their level) and weights."""
    generator = torch.Generator().manual_seed(seed)
    tokens = sum(height * width for height, width in sizes)
    value = torch.randn(batch, tokens, heads, channels, generator=generator, dtype=dtype)
    shape = (batch, queries, heads, len(sizes), points)
    pixels = 1.5 + 4 * torch.randn(*shape, 2, generator=generator, dtype=dtype)
    return value, sizes, pixels, torch.rand(shape, generator=generator, dtype=dtype)


def with_gradients(
    value: Tensor, sizes: Sizes, pixels: Tensor, weights: Tensor, gradient: Tensor, dtype: torch.dtype = torch.float64
) -> list[Tensor]:
    """The oracle's output and gradients, computed in ``dtype``."""
    leaves = [leaf.detach().to(dtype).requires_grad_() for leaf in (value, pixels, weights)]
    output = grid_sample_attention(leaves[0], sizes, leaves[1], leaves[2])
    return [output.detach(), *torch.autograd.grad(output, leaves, gradient.to(dtype))]


def gradient_of(value: Tensor, pixels: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    shape = (*pixels.shape[:2], value.shape[2] * value.shape[3])
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(value.dtype)


def assert_equal_to_grid_sample(run: Run, value: Tensor, sizes: Sizes, pixels: Tensor, weights: Tensor) -> None:
    """In float64, where nothing but the order of sums differs."""
    gradient = gradient_of(value, pixels)
    given = run(deformable_attention, value, sizes, pixels, weights, gradient=gradient)
    for mine, other in zip(given, with_gradients(value, sizes, pixels, weights, gradient), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"channels": 5, "points": 1},
        {"sizes": [(4, 6)], "heads": 3, "channels": 32},
        {"sizes": [(2, 3), (1, 1), (3, 1), (2, 2)], "heads": 1, "channels": 1, "points": 2},
        {"batch": 1, "queries": 40, "heads": 8, "channels": 8, "sizes": [(2, 2)], "points": 1},  # several programs
    ],
    ids=["usual", "odd width", "one level", "four levels", "many rows"],
)
def test_values_and_gradients_are_those_of_grid_sample(run: Run, shape: dict[str, object]) -> None:
    assert_equal_to_grid_sample(run, *arguments(**shape))  # type: ignore[arg-type]


@settings(max_examples=5, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=4),
    batch=st.integers(1, 2),
    queries=st.integers(1, 4),
    heads=st.integers(1, 3),
    channels=st.integers(1, 9),
    points=st.integers(1, 3),
    seed=st.integers(0, 1000),
)
def test_any_shape(run: Run, sizes: Sizes, batch: int, queries: int, heads: int, channels: int, points: int, seed: int):
    assert_equal_to_grid_sample(run, *arguments(sizes, batch, queries, heads, channels, points, seed=seed))


def test_on_pixel_centres_and_borders(run: Run) -> None:
    """Sides that are powers of two, where ``grid_sample``'s normalised places are exact and stay on the centres."""
    steps = torch.arange(-3, 11, dtype=torch.float64) / 2  # from -1.5 to 5: centres, borders, and between
    grid = torch.cartesian_prod(steps, steps)
    generator = torch.Generator().manual_seed(0)
    value = torch.randn(1, 8, 1, 3, generator=generator, dtype=torch.float64)
    pixels = grid.view(1, -1, 1, 1, 1, 2)
    weights = torch.rand(pixels.shape[:-1], generator=generator, dtype=torch.float64)
    assert_equal_to_grid_sample(run, value, [(2, 4)], pixels, weights)


def test_places_far_outside_read_nothing_and_pull_nowhere(run: Run) -> None:
    shifts = [100.0, -100.0, 1e30, -1e30, float("inf"), float("-inf")]
    value, sizes, pixels, weights = arguments(queries=len(shifts), batch=1)
    pixels += torch.tensor(shifts, dtype=torch.float64).view(-1, 1, 1, 1, 1)
    for result in run(deformable_attention, value, sizes, pixels, weights, gradient=gradient_of(value, pixels)):
        assert not result.any()


def test_in_float32(run: Run) -> None:
    """Sums of at most 36 products of entries around 1, each off by a few units of 2^-24; gradients of values, 20."""
    value, sizes, pixels, weights = arguments(dtype=torch.float32)
    gradient = gradient_of(value, pixels)
    given = run(deformable_attention, value, sizes, pixels, weights, gradient=gradient)
    for mine, other in zip(given, with_gradients(value, sizes, pixels, weights, gradient), strict=True):
        assert mine.dtype == torch.float32
        torch.testing.assert_close(mine.double(), other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("half_weights", [False, True])
def test_half_precision_rounds_results_only(run: Run, dtype: torch.dtype, half_weights: bool) -> None:
    """Values (and weights) come in half precision, everything is summed in float32, and what goes out is rounded once:
    within a unit of its last place, since the interpreter cuts off what bfloat16 can't hold.
    """
    value, sizes, pixels, weights = arguments(dtype=torch.float32)
    value, weights = value.to(dtype), weights.to(dtype) if half_weights else weights
    gradient = gradient_of(value, pixels)
    given = run(deformable_attention, value, sizes, pixels, weights, gradient=gradient)
    expected = with_gradients(value, sizes, pixels, weights, gradient)
    for mine, other, like in zip(given, expected, (value, value, pixels, weights), strict=True):
        assert mine.dtype == like.dtype
        rounding = torch.finfo(dtype).eps if mine.dtype == dtype else 0.0
        torch.testing.assert_close(mine.double(), other, rtol=rounding + 1e-5, atol=1e-5)


def test_values_need_not_be_contiguous(run: Run) -> None:
    value, sizes, pixels, weights = arguments()
    transposed = value.transpose(2, 3).contiguous().transpose(2, 3)
    assert not transposed.is_contiguous()
    assert_equal_to_grid_sample(run, transposed, sizes, pixels, weights)


def attended(query: Tensor, value: Tensor, deterministic: bool = False) -> Tensor:
    """The module, with the same weights wherever it is built."""
    torch.manual_seed(0)
    attention = DeformableAttention(16, 2, len(SIZES), 3)
    torch.nn.init.normal_(attention.sampling_offsets.weight, std=0.5)
    torch.nn.init.normal_(attention.attention_weights.weight)
    attention.to(query.device)
    torch.use_deterministic_algorithms(deterministic)
    output: Tensor = attention(query, value, own_places(SIZES, 2, 3, value), SIZES)
    torch.use_deterministic_algorithms(False)
    return output


def calls_of_the_kernel(query: Tensor, value: Tensor, deterministic: bool) -> int:
    from torch.profiler import profile

    with profile() as profiler:
        attended(query, value, deterministic)
    return sum(event.count for event in profiler.key_averages() if event.key == "outmask::deformable_attention")


def test_the_module_uses_the_kernel_where_it_runs(run: Run) -> None:
    query, value = torch.randn(1, 49, 16), torch.randn(1, 49, 16)
    gradient = torch.randn(1, 49, 16)
    given = run(attended, query, value, gradient=gradient)
    leaves = [query.requires_grad_(), value.requires_grad_()]
    output = attended(*leaves)
    expected = [output.detach(), *torch.autograd.grad(output, leaves, gradient)]
    for mine, other in zip(given, expected, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4)
    query, value = query.detach(), value.detach()
    assert run(calls_of_the_kernel, query, value, False) == 1
    assert run(calls_of_the_kernel, query, value, True) == 0  # atomic additions come in any order
    assert calls_of_the_kernel(query, value, False) == 0 or torch.cuda.is_available()


def compiled(value: Tensor, sizes: Sizes, pixels: Tensor, weights: Tensor) -> Tensor:
    attend = torch.compile(deformable_attention, fullgraph=True, backend="aot_eager", dynamic=True)
    output: Tensor = attend(value, sizes, pixels, weights)
    return output


def test_compiles_as_one_node_of_the_graph(run: Run) -> None:
    value, sizes, pixels, weights = arguments(queries=2, batch=1)
    gradient = gradient_of(value, pixels)
    given = run(compiled, value, sizes, pixels, weights, gradient=gradient)
    for mine, other in zip(given, with_gradients(value, sizes, pixels, weights, gradient), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-9)


def check_operator(value: Tensor, sizes: Sizes, pixels: Tensor, weights: Tensor) -> dict[str, str]:
    sides = [side for size in sizes for side in size]
    leaves = [leaf.requires_grad_() for leaf in (value, pixels, weights)]
    operator = torch.ops.outmask.deformable_attention.default
    return torch.library.opcheck(operator, (leaves[0], sides, leaves[1], leaves[2]))


def test_is_a_custom_operator_as_torch_wants_it(run: Run) -> None:
    checks = run(check_operator, *arguments(queries=1, batch=1, heads=1))
    assert set(checks.values()) == {"SUCCESS"}
