"""Deformable attention (Deformable DETR, eq. 3) as Triton kernels, forward and backward.

A *row* is one query of one head in one image. Rows lie in memory in that order, so a program reads the places and
weights of its rows, and writes their outputs, as one run; heads of a query look at neighbouring pixels, and the values
of a whole image fit into a GPU's second-level cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

# Rows x channels of a program, and its warps. Forward: 8 channels a thread, one load of 16 bytes in half precision.
# Backward: 4, the widest atomic addition, so that values and gradients are laid out alike; and one warp, so that sums
# over channels need no barrier. Compiled for Hopper, neither has barriers or spills.
_FORWARD_BLOCK = (1024, 4)
_BACKWARD_BLOCK = (128, 1)


def deformable_attention(value: Tensor, sizes: Sequence[tuple[int, int]], pixels: Tensor, weights: Tensor) -> Tensor:
    """Weighted sum of bilinear samples; zero outside of a level. Differentiable once.

    Accumulates in the type of ``pixels``. As one custom operator it is opaque to ``torch.compile``.

    Args:
        value: ``(B, S, heads, d)`` floating.
        sizes: ``(height, width)`` per level; ``S`` is the sum of their products.
        pixels: ``(B, Q, heads, levels, points, 2)`` sampling places, x and y in pixels of their level, 0 = centre of
            the first; float32 or float64.
        weights: ``(B, Q, heads, levels, points)`` floating.

    Returns:
        ``(B, Q, heads * d)`` of the type of ``value``. Gradients of ``value`` are summed by atomic additions, whose
        order, and with it the last bits, changes from run to run.
    """
    output: Tensor = _attend(value, [side for size in sizes for side in size], pixels, weights)
    return output


@torch.library.custom_op("outmask::deformable_attention", mutates_args=())
def _attend(value: Tensor, sides: Sequence[int], pixels: Tensor, weights: Tensor) -> Tensor:
    output: Tensor = _output(value, sides, pixels, weights)
    _launch(_forward_kernel, _FORWARD_BLOCK, value, sides, pixels, weights, output)
    return output


@_attend.register_fake
def _output(value: Tensor, sides: Sequence[int], pixels: Tensor, weights: Tensor) -> Tensor:
    batch, queries = pixels.shape[:2]
    return value.new_empty(batch, queries, value.shape[2] * value.shape[3])


@torch.library.custom_op("outmask::deformable_attention_backward", mutates_args=())
def _attend_backward(
    grad: Tensor, value: Tensor, sides: Sequence[int], pixels: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    # Half precision would lose what many queries add to one pixel.
    grad_value = torch.zeros_like(value, dtype=pixels.dtype, memory_format=torch.contiguous_format)
    grad_pixels, grad_weights = pixels.new_empty(pixels.shape), weights.new_empty(weights.shape)
    rest = (grad.contiguous(), grad_value, grad_pixels, grad_weights)
    _launch(_backward_kernel, _BACKWARD_BLOCK, value, sides, pixels, weights, *rest)
    return grad_value.to(value.dtype), grad_pixels, grad_weights


@_attend_backward.register_fake
def _gradients(
    grad: Tensor, value: Tensor, sides: Sequence[int], pixels: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return value.new_empty(value.shape), pixels.new_empty(pixels.shape), weights.new_empty(weights.shape)


def _setup_context(ctx: Any, inputs: tuple[Tensor, Sequence[int], Tensor, Tensor], output: Tensor) -> None:
    value, ctx.sides, pixels, weights = inputs
    ctx.save_for_backward(value, pixels, weights)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, Tensor, Tensor]:
    value, pixels, weights = ctx.saved_tensors
    grad_value, grad_pixels, grad_weights = _attend_backward(grad, value, ctx.sides, pixels, weights)
    return grad_value, None, grad_pixels, grad_weights


_attend.register_autograd(_backward, setup_context=_setup_context)


@lru_cache(maxsize=64)
def _levels(sides: tuple[int, ...], device: torch.device) -> Tensor:
    """``(levels, 3)`` int32: height, width and first token. Kept, because copying it would wait for the device."""
    levels, start = [], 0
    for height, width in zip(sides[::2], sides[1::2], strict=True):
        levels.append((height, width, start))
        start += height * width
    return torch.tensor(levels, dtype=torch.int32, device=device)


def _launch(
    kernel: Any,
    block: tuple[int, int],
    value: Tensor,
    sides: Sequence[int],
    pixels: Tensor,
    weights: Tensor,
    *rest: Tensor,
) -> None:
    """Run a kernel on all rows; ``rest`` is what it takes beside the operator's arguments, contiguous."""
    elements, warps = block
    batch, queries, heads, levels, points, _ = pixels.shape
    tokens, channels = value.shape[1], value.shape[3]
    rows, block_channels = batch * queries * heads, triton.next_power_of_2(channels)
    block_rows = max(1, elements // block_channels)
    with torch.cuda.device_of(value):  # type: ignore[no-untyped-call]
        kernel[(triton.cdiv(rows, block_rows),)](
            value.contiguous(),
            _levels(tuple(sides), value.device),
            pixels.contiguous(),
            weights.contiguous(),
            *rest,
            rows,
            queries,
            tokens,
            HEADS=heads,
            CHANNELS=channels,
            LEVELS=levels,
            POINTS=points,
            BLOCK_ROWS=block_rows,
            BLOCK_CHANNELS=block_channels,
            DTYPE=tl.float64 if pixels.dtype == torch.float64 else tl.float32,
            num_warps=warps,
            enable_fp_fusion=True,
        )


@triton.jit
def _forward_kernel(
    value: tl.tensor,
    levels: tl.tensor,
    pixels: tl.tensor,
    weights: tl.tensor,
    output: tl.tensor,
    rows: tl.tensor,
    queries: tl.tensor,
    tokens: tl.tensor,
    HEADS: tl.constexpr,
    CHANNELS: tl.constexpr,
    LEVELS: tl.constexpr,
    POINTS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    DTYPE: tl.constexpr,
) -> None:
    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    present = row < rows
    channel = tl.arange(0, BLOCK_CHANNELS)
    first = _first_value(row, queries, tokens, HEADS, CHANNELS)
    total = tl.zeros([BLOCK_ROWS, BLOCK_CHANNELS], DTYPE)
    for level in range(LEVELS):
        height = tl.load(levels + 3 * level)
        width = tl.load(levels + 3 * level + 1)
        start = tl.load(levels + 3 * level + 2)
        for point in tl.static_range(POINTS):
            sample = (row.to(tl.int64) * LEVELS + level) * POINTS + point
            x0, x, in_x0, in_x1 = _corners(tl.load(pixels + 2 * sample, mask=present, other=-2.0), width)
            y0, y, in_y0, in_y1 = _corners(tl.load(pixels + 2 * sample + 1, mask=present, other=-2.0), height)
            weight = tl.load(weights + sample, mask=present, other=0.0).to(DTYPE)
            above = weight * (1 - y)
            below = weight * y
            place = (start + y0 * width + x0) * (HEADS * CHANNELS)
            right = HEADS * CHANNELS
            down = width * (HEADS * CHANNELS)
            table = value + first
            total += (above * (1 - x))[:, None] * _read(table, place, in_y0 & in_x0, channel, CHANNELS, DTYPE)
            total += (above * x)[:, None] * _read(table, place + right, in_y0 & in_x1, channel, CHANNELS, DTYPE)
            total += (below * (1 - x))[:, None] * _read(table, place + down, in_y1 & in_x0, channel, CHANNELS, DTYPE)
            total += (below * x)[:, None] * _read(table, place + down + right, in_y1 & in_x1, channel, CHANNELS, DTYPE)
    target = output + row.to(tl.int64)[:, None] * CHANNELS + channel[None, :]
    tl.store(target, total, mask=present[:, None] & (channel < CHANNELS)[None, :])


@triton.jit
def _backward_kernel(
    value: tl.tensor,
    levels: tl.tensor,
    pixels: tl.tensor,
    weights: tl.tensor,
    grad_output: tl.tensor,
    grad_value: tl.tensor,
    grad_pixels: tl.tensor,
    grad_weights: tl.tensor,
    rows: tl.tensor,
    queries: tl.tensor,
    tokens: tl.tensor,
    HEADS: tl.constexpr,
    CHANNELS: tl.constexpr,
    LEVELS: tl.constexpr,
    POINTS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    DTYPE: tl.constexpr,
) -> None:
    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    present = row < rows
    channel = tl.arange(0, BLOCK_CHANNELS)
    first = _first_value(row, queries, tokens, HEADS, CHANNELS)
    grad = _read(grad_output + row.to(tl.int64) * CHANNELS, tl.zeros_like(row), present, channel, CHANNELS, DTYPE)
    for level in range(LEVELS):
        height = tl.load(levels + 3 * level)
        width = tl.load(levels + 3 * level + 1)
        start = tl.load(levels + 3 * level + 2)
        for point in tl.static_range(POINTS):
            sample = (row.to(tl.int64) * LEVELS + level) * POINTS + point
            x0, x, in_x0, in_x1 = _corners(tl.load(pixels + 2 * sample, mask=present, other=-2.0), width)
            y0, y, in_y0, in_y1 = _corners(tl.load(pixels + 2 * sample + 1, mask=present, other=-2.0), height)
            weight = tl.load(weights + sample, mask=present, other=0.0).to(DTYPE)
            above = 1 - y
            left = 1 - x
            place = (start + y0 * width + x0) * (HEADS * CHANNELS)
            right = HEADS * CHANNELS
            down = width * (HEADS * CHANNELS)
            table = value + first
            target = grad_value + first
            # What the gradient of the output says of each corner's value.
            g00 = _corner_backward(
                table, target, place, in_y0 & in_x0, channel, grad, weight * above * left, CHANNELS, DTYPE
            )
            g01 = _corner_backward(
                table, target, place + right, in_y0 & in_x1, channel, grad, weight * above * x, CHANNELS, DTYPE
            )
            g10 = _corner_backward(
                table, target, place + down, in_y1 & in_x0, channel, grad, weight * y * left, CHANNELS, DTYPE
            )
            g11 = _corner_backward(
                table, target, place + down + right, in_y1 & in_x1, channel, grad, weight * y * x, CHANNELS, DTYPE
            )
            tl.store(grad_weights + sample, above * (left * g00 + x * g01) + y * (left * g10 + x * g11), mask=present)
            tl.store(grad_pixels + 2 * sample, weight * (above * (g01 - g00) + y * (g11 - g10)), mask=present)
            tl.store(grad_pixels + 2 * sample + 1, weight * (left * (g10 - g00) + x * (g11 - g01)), mask=present)


@triton.jit
def _first_value(
    row: tl.tensor, queries: tl.tensor, tokens: tl.tensor, HEADS: tl.constexpr, CHANNELS: tl.constexpr
) -> tl.tensor:
    """Where a row's image and head begin among the values; 64 bits, since a batch of large images needs them."""
    image = row // (queries * HEADS)
    return (image.to(tl.int64) * tokens * HEADS + row % HEADS) * CHANNELS


@triton.jit
def _corners(position: tl.tensor, size: tl.tensor) -> tl.tensor:
    """Along one axis: the pixel before a place, how far the place is beyond it, and which of the two are on the map."""
    # Two pixels beyond the border nothing is read any more; the clamp keeps far places within int32.
    position = tl.minimum(tl.maximum(position, -2.0), size + 1.0)
    before = tl.floor(position)
    index = before.to(tl.int32)
    return index, position - before, (index >= 0) & (index < size), (index >= -1) & (index < size - 1)


@triton.jit
def _read(
    table: tl.tensor,
    place: tl.tensor,
    within: tl.tensor,
    channel: tl.tensor,
    CHANNELS: tl.constexpr,
    DTYPE: tl.constexpr,
) -> tl.tensor:
    """``(rows, channels)`` at each row's place of its table; zero where it is not ``within``."""
    mask = within[:, None] & (channel < CHANNELS)[None, :]
    return tl.load(table[:, None] + place[:, None] + channel[None, :], mask=mask, other=0.0).to(DTYPE)


@triton.jit
def _corner_backward(
    table: tl.tensor,
    grad_table: tl.tensor,
    place: tl.tensor,
    within: tl.tensor,
    channel: tl.tensor,
    grad: tl.tensor,
    coefficient: tl.tensor,
    CHANNELS: tl.constexpr,
    DTYPE: tl.constexpr,
) -> tl.tensor:
    """Adds a corner's share to the gradient of the values; gives the product of gradient and value, ``(rows,)``."""
    mask = within[:, None] & (channel < CHANNELS)[None, :]
    target = grad_table[:, None] + place[:, None] + channel[None, :]
    # Nobody reads the sums before the kernel ends: no order to keep.
    tl.atomic_add(target, coefficient[:, None] * grad, mask=mask, sem="relaxed")
    return tl.sum(grad * _read(table, place, within, channel, CHANNELS, DTYPE), 1)
