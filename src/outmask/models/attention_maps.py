"""Where the queries of a mask decoder don't look: negative attention (Mask2Anomaly figures 5 and 12)."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from outmask.models.mask2former import Mask2Former
from outmask.models.mask_decoder import Attention, DecoderLayer


def attention_weights(attention: Attention, query: Tensor, key: Tensor, visible: Tensor | None) -> Tensor:
    """What :class:`~outmask.models.mask_decoder.Attention` weighs the values with, ``(B, heads, N, S)``; rows sum to 1.

    Args:
        attention: the module.
        query: ``(B, N, dim)``.
        key: ``(B, S, dim)``.
        visible: ``(B, 1, N, S)`` bool, or None where every query sees everything.
    """

    def split(tokens: Tensor) -> Tensor:
        return tokens.view(*tokens.shape[:2], attention.num_heads, -1).transpose(1, 2)

    queries, keys = split(attention.q_proj(query)), split(attention.k_proj(key))
    logits = queries @ keys.transpose(2, 3) / queries.shape[-1] ** 0.5
    weights: Tensor = (logits if visible is None else logits.masked_fill(~visible, -torch.inf)).softmax(-1)
    return weights


@torch.no_grad()
def negative_attention(model: Mask2Former, pixels: Tensor) -> list[Tensor]:
    """How little each pixel is looked at: 1 minus the attention averaged over all queries (Mask2Anomaly 7.5).

    Of each level of the image, the last decoder layer that visits it. The average runs over heads too, and over the two
    terms of global attention. It sums to 1 over a level's pixels, so that 1 minus it would be almost 1 everywhere: it
    is divided by its largest value first.

    Args:
        model: in eval mode.
        pixels: ``(B, 3, H, W)`` normalised.

    Returns:
        for each level that a layer visits, coarsest first, ``(B, h, w)`` in [0, 1]; 0 where most attention goes.
    """
    sizes: list[tuple[int, int]] = []
    seen: dict[int, list[Tensor]] = {}

    def keep_sizes(_: nn.Module, __: object, output: tuple[Tensor, list[Tensor]]) -> None:
        sizes.extend((map_.shape[-2], map_.shape[-1]) for map_ in output[1])

    def keep_weights(layer: int, attention: nn.Module, arguments: Any) -> None:
        assert isinstance(attention, Attention)
        query, key, _, visible = arguments
        seen.setdefault(layer, []).append(attention_weights(attention, query, key, visible).mean((1, 2)))

    decoder = model.mask_decoder
    hooks = [model.pixel_decoder.register_forward_hook(keep_sizes)]
    for index, layer in enumerate(decoder.layers):
        assert isinstance(layer, DecoderLayer)
        terms = [term for term in (layer.cross_attn, layer.background_attn) if term is not None]
        hooks += [term.register_forward_pre_hook(partial(keep_weights, index)) for term in terms]
    try:
        model(pixels)
    finally:
        for hook in hooks:
            hook.remove()
    maps = []
    for level, (height, width) in enumerate(sizes):
        last = max((index for index in seen if index % decoder.num_levels == level), default=None)
        if last is not None:
            average = torch.stack(seen[last]).mean(0)
            maps.append((1 - average / average.amax(1, keepdim=True)).view(-1, height, width))
    return maps
