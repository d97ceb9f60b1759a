"""Sine position embedding (DETR, A.4), normalised to the map's size."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def sine_positions(size: tuple[int, int], dim: int, like: Tensor) -> Tensor:
    """Position embedding of an ``h x w`` map.

    Args:
        size: ``(h, w)``.
        dim: channels, a multiple of 4: the first half encodes y, the second x, sines and cosines interleaved.
        like: gives device and dtype.

    Returns:
        ``(h * w, dim)``, in ``like``'s dtype.
    """
    height, width = size
    frequency = 10000 ** (torch.arange(0, dim // 2, 2, device=like.device) / (dim // 2))

    def encode(length: int) -> Tensor:
        place = torch.arange(1, length + 1, device=like.device) / (length + 1e-6) * (2 * math.pi)
        angle = place[:, None] / frequency
        return torch.stack((angle.sin(), angle.cos()), -1).flatten(1)

    y, x = encode(height), encode(width)
    grid = torch.cat((y[:, None].expand(-1, width, -1), x[None].expand(height, -1, -1)), -1)
    return grid.reshape(height * width, dim).to(like.dtype)
