"""What a model's forward pass costs."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def count_multiply_adds(build: Callable[[], nn.Module], size: tuple[int, int]) -> int:
    """Multiply-adds of one image's forward pass in eval mode, counted without computing it.

    This is what the papers' tables call FLOPs (Mask2Anomaly table X): their counter takes a multiply-add for one.

    Counted are convolutions, matrix products (linear layers, both products of an attention, masks from embeddings) and
    the weighted gather of the deformable attention. Left out is what is small beside them: norms, activations, softmax,
    resizing, biases, and the arithmetic of bilinear weights.

    Args:
        build: makes the model; it is called, and the model runs, on torch's *meta* device, where nothing takes memory.
        size: ``(H, W)`` of the ``(1, 3, H, W)`` input.
    """
    counter = FlopCounterMode(display=False, custom_mapping={torch.ops.aten._embedding_bag_forward_only: _weighted_bag})
    with torch.device("meta"):
        model = build().eval().requires_grad_(False)
        pixels = torch.empty(1, 3, *size)
    with torch.no_grad(), counter:
        model(pixels)
    return int(counter.get_total_flops()) // 2  # torch takes a multiply-add for two


def _weighted_bag(table: torch.Size, index: torch.Size, *_: Any, **__: Any) -> int:
    """Of ``embedding_bag`` with weights, in torch's unit; it would not count it."""
    return 2 * prod(index) * table[-1]
