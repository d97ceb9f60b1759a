"""Masks at full size, a few megabytes at a time."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from outmask.scores.upsampling import upsampled_tiles

# Mask logits of a tile; a CPU's cache holds them. Of 0.5 to 8 MB, 2 MB were fastest.
_TILE_BYTES = 2 << 20


def tiles(masks: Tensor, size: tuple[int, ...]) -> Iterator[tuple[slice, Tensor]]:
    """Rows of the output and the mask logits there, resized bilinearly; see :func:`upsampled_tiles`.

    Args:
        masks: ``(N, h, w)`` floating; none gives no tiles.
        size: ``(H, W)``.

    Yields:
        the rows, and ``(N, rows, W)`` in :func:`computing_dtype`, which the consumer may overwrite.
    """
    height, width = size
    if not len(masks):
        return
    dtype = computing_dtype(masks)
    rows = max(1, _TILE_BYTES // (len(masks) * width * dtype.itemsize))
    yield from upsampled_tiles(masks, (height, width), rows, dtype)


def computing_dtype(masks: Tensor) -> torch.dtype:
    """float64 for float64, else float32."""
    return torch.promote_types(masks.dtype, torch.float32)
