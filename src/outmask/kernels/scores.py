"""Mask logits to pooled scores as Triton kernels: upsample, sigmoid and pool without writing anything of ``N x H x W``.

A program owns a run of output pixels. It walks over the masks in blocks, reads the four logits around each of its
pixels (the first-level cache has most of them), and keeps what it pools in registers.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK_PIXELS, _BLOCK_MASKS, _WARPS = 128, 16, 4
_MAX_BLOCK_COLUMNS = 64
"""Columns that a program keeps in registers; more are split among programs, which upsample each for itself."""


def weighted_sum(masks: Tensor, weights: Tensor, size: tuple[int, int], rows: slice) -> Tensor:
    """``sum_q m_q W_q`` at some rows of the output.

    Args:
        masks: ``(N, h, w)`` mask logits, floating, at most float32.
        weights: ``(N, columns)`` float32.
        size: ``(H, W)`` of the whole output; logits are resized as ``F.interpolate(..., mode="bilinear",
            align_corners=False)`` resizes them, in float32.
        rows: of the output, with a start and a stop.

    Returns:
        ``(columns, rows * W)`` float32.
    """
    columns = weights.shape[1]
    block = _block_columns(columns)
    pooled = _pooled(masks, columns, size, rows)
    grid = (triton.cdiv(pooled.shape[1], _BLOCK_PIXELS), triton.cdiv(columns, block))
    _launch(_sum_kernel, grid, masks, weights.T.contiguous(), pooled, size, rows, COLUMNS=columns, BLOCK_COLUMNS=block)
    return pooled


def strongest_logit(masks: Tensor, size: tuple[int, int], rows: slice) -> Tensor:
    """``max_q M_q``, ``(1, rows * W)``; arguments as those of :func:`weighted_sum`."""
    pooled = _pooled(masks, 1, size, rows)
    _launch(_peak_kernel, _grid(pooled), masks, masks, pooled, size, rows, WEIGHTED=False)
    return pooled


def weight_of_strongest(masks: Tensor, weights: Tensor, size: tuple[int, int], rows: slice) -> Tensor:
    """``W_q`` of ``q = argmax_q M_q``, the largest of masks that tie, ``(1, rows * W)``; weights are ``(N, 1)``."""
    pooled = _pooled(masks, 1, size, rows)
    _launch(_peak_kernel, _grid(pooled), masks, weights.contiguous(), pooled, size, rows, WEIGHTED=True)
    return pooled


def noisy_or(masks: Tensor, log_odds: Tensor, size: tuple[int, int], rows: slice) -> Tensor:
    """``sum_q log(1 - m_q sigmoid(W_q))``, ``(1, rows * W)``; the log-odds ``W`` are ``(N, 1)``."""
    pooled = _pooled(masks, 1, size, rows)
    _launch(_noisy_or_kernel, _grid(pooled), masks, log_odds.contiguous(), pooled, size, rows)
    return pooled


def _block_columns(columns: int) -> int:
    """A power of two; 16 are the fewest that ``tl.dot`` takes in all of Triton's versions."""
    return int(min(max(16, triton.next_power_of_2(columns)), _MAX_BLOCK_COLUMNS))


def _pooled(masks: Tensor, columns: int, size: tuple[int, int], rows: slice) -> Tensor:
    return torch.empty(columns, (rows.stop - rows.start) * size[1], dtype=torch.float32, device=masks.device)


def _grid(pooled: Tensor) -> tuple[int]:
    return (triton.cdiv(pooled.shape[1], _BLOCK_PIXELS),)


def _launch(
    kernel: Any,
    grid: tuple[int, ...],
    masks: Tensor,
    weights: Tensor,
    pooled: Tensor,
    size: tuple[int, int],
    rows: slice,
    **constants: Any,
) -> None:
    count, in_height, in_width = masks.shape
    with torch.cuda.device_of(masks):  # type: ignore[no-untyped-call]
        kernel[grid](
            masks.contiguous(),
            weights,
            pooled,
            count,
            in_height,
            in_width,
            # As F.interpolate has them, rounded once to float32.
            in_height / size[0],
            in_width / size[1],
            size[1],
            rows.start,
            pooled.shape[1],
            **constants,
            BLOCK_MASKS=_BLOCK_MASKS,
            BLOCK_PIXELS=_BLOCK_PIXELS,
            num_warps=_WARPS,
            # Loads in flight through shared memory, four bytes each, would take all registers and 78 KB.
            num_stages=1,
            enable_fp_fusion=True,
        )


@triton.jit
def _sum_kernel(
    masks: tl.tensor,
    weights: tl.tensor,
    pooled: tl.tensor,
    count: tl.tensor,
    in_height: tl.tensor,
    in_width: tl.tensor,
    y_scale: tl.tensor,
    x_scale: tl.tensor,
    width: tl.tensor,
    first_row: tl.tensor,
    pixels: tl.tensor,
    COLUMNS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    BLOCK_MASKS: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr,
) -> None:
    pixel = tl.program_id(0) * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS)
    column = tl.program_id(1) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    place, right, down, x, y = _places(pixel, pixels, first_row, width, in_height, in_width, y_scale, x_scale)
    total = tl.zeros([BLOCK_COLUMNS, BLOCK_PIXELS], tl.float32)
    for first in range(0, count, BLOCK_MASKS):
        mask = first + tl.arange(0, BLOCK_MASKS)
        known = (column < COLUMNS)[:, None] & (mask < count)[None, :]
        weight = tl.load(weights + column[:, None] * count + mask[None, :], mask=known, other=0.0)
        logits = _logits(masks, mask, count, in_height * in_width, place, right, down, x, y)
        # Scores saturate close to -1: TF32 would round what tells them apart.
        total = tl.dot(weight, tl.sigmoid(logits), total, input_precision="ieee")
    target = pooled + column.to(tl.int64)[:, None] * pixels + pixel[None, :]
    tl.store(target, total, mask=(column < COLUMNS)[:, None] & (pixel < pixels)[None, :])


@triton.jit
def _peak_kernel(
    masks: tl.tensor,
    weights: tl.tensor,
    pooled: tl.tensor,
    count: tl.tensor,
    in_height: tl.tensor,
    in_width: tl.tensor,
    y_scale: tl.tensor,
    x_scale: tl.tensor,
    width: tl.tensor,
    first_row: tl.tensor,
    pixels: tl.tensor,
    WEIGHTED: tl.constexpr,
    BLOCK_MASKS: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr,
) -> None:
    pixel = tl.program_id(0) * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS)
    place, right, down, x, y = _places(pixel, pixels, first_row, width, in_height, in_width, y_scale, x_scale)
    peak = tl.full([BLOCK_PIXELS], float("-inf"), tl.float32)
    strongest = tl.full([BLOCK_PIXELS], float("-inf"), tl.float32)
    for first in range(0, count, BLOCK_MASKS):
        mask = first + tl.arange(0, BLOCK_MASKS)
        logits = _logits(masks, mask, count, in_height * in_width, place, right, down, x, y)
        largest = tl.max(logits, 0)
        if WEIGHTED:
            weight = tl.load(weights + mask, mask=mask < count, other=float("-inf"))
            of_largest = tl.max(tl.where(logits == largest[None, :], weight[:, None], float("-inf")), 0)
            kept = tl.where(largest < peak, float("-inf"), of_largest)
            strongest = tl.maximum(tl.where(largest > peak, float("-inf"), strongest), kept)
        peak = tl.maximum(peak, largest)
    tl.store(pooled + pixel, strongest if WEIGHTED else peak, mask=pixel < pixels)


@triton.jit
def _noisy_or_kernel(
    masks: tl.tensor,
    log_odds: tl.tensor,
    pooled: tl.tensor,
    count: tl.tensor,
    in_height: tl.tensor,
    in_width: tl.tensor,
    y_scale: tl.tensor,
    x_scale: tl.tensor,
    width: tl.tensor,
    first_row: tl.tensor,
    pixels: tl.tensor,
    BLOCK_MASKS: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr,
) -> None:
    pixel = tl.program_id(0) * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS)
    place, right, down, x, y = _places(pixel, pixels, first_row, width, in_height, in_width, y_scale, x_scale)
    total = tl.zeros([BLOCK_PIXELS], tl.float32)
    for first in range(0, count, BLOCK_MASKS):
        mask = first + tl.arange(0, BLOCK_MASKS)
        logits = _logits(masks, mask, count, in_height * in_width, place, right, down, x, y)
        # 1 - m w = (1 - w) + w (1 - m), a sum of positive terms; in logarithms throughout, so that masks as certain of
        # their class as float32 can be need no way of their own.
        odds = tl.load(log_odds + mask, mask=mask < count, other=float("-inf"))
        unclaimed = -_softplus(odds)[:, None]
        claimed = -_softplus(-odds)[:, None] - _softplus(logits)
        larger = tl.maximum(unclaimed, claimed)
        smaller = tl.minimum(unclaimed, claimed)
        # At most 0, which rounding may exceed.
        total += tl.sum(tl.minimum(larger + tl.log(1 + tl.exp(smaller - larger)), 0.0), 0)
    tl.store(pooled + pixel, total, mask=pixel < pixels)


@triton.jit
def _softplus(value: tl.tensor) -> tl.tensor:
    """``log(1 + e^value)``."""
    return tl.maximum(value, 0.0) + tl.log(1 + tl.exp(-tl.abs(value)))


@triton.jit
def _places(
    pixel: tl.tensor,
    pixels: tl.tensor,
    first_row: tl.tensor,
    width: tl.tensor,
    in_height: tl.tensor,
    in_width: tl.tensor,
    y_scale: tl.tensor,
    x_scale: tl.tensor,
) -> tl.tensor:
    """Where a run of output pixels reads in a mask: the logit above and left, the steps to the others, fractions."""
    pixel = tl.minimum(pixel, pixels - 1)  # programs beyond the end read what exists
    y0, y1, y = _between(first_row + pixel // width, y_scale, in_height)
    x0, x1, x = _between(pixel % width, x_scale, in_width)
    return y0 * in_width + x0, x1 - x0, (y1 - y0) * in_width, x, y


@triton.jit
def _between(index: tl.tensor, scale: tl.tensor, size: tl.tensor) -> tl.tensor:
    """Of output rows or columns: the two of the input around each, and how far it is beyond the first.

    Rounded as ``F.interpolate`` rounds, in one multiply-add.
    """
    position = tl.maximum(tl.fma(index.to(tl.float32) + 0.5, scale, -0.5), 0.0)
    first = tl.minimum(position.to(tl.int32), size - 1)
    return first, tl.minimum(first + 1, size - 1), position - first


@triton.jit
def _logits(
    masks: tl.tensor,
    mask: tl.tensor,
    count: tl.tensor,
    mask_pixels: tl.tensor,
    place: tl.tensor,
    right: tl.tensor,
    down: tl.tensor,
    x: tl.tensor,
    y: tl.tensor,
) -> tl.tensor:
    """``(masks, pixels)`` float32 upsampled logits; beyond the last mask, its own again, which changes no maximum."""
    mask = tl.minimum(mask, count - 1)
    corner = masks + mask.to(tl.int64)[:, None] * mask_pixels + place[None, :]
    above_left = tl.load(corner).to(tl.float32)
    above_right = tl.load(corner + right[None, :]).to(tl.float32)
    below_left = tl.load(corner + down[None, :]).to(tl.float32)
    below_right = tl.load(corner + (down + right)[None, :]).to(tl.float32)
    x, y = x[None, :], y[None, :]
    above = (1 - x) * above_left + x * above_right
    below = (1 - x) * below_left + x * below_right
    return (1 - y) * above + y * below
