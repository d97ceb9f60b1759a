"""Attention weights against what the module does with them, and the maps against the weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from outmask.models import Mask2Former, Mask2FormerConfig
from outmask.models.attention_maps import attention_weights, negative_attention
from outmask.models.mask_decoder import Attention

RESNET: dict[str, Any] = {
    "model_type": "resnet",
    "embedding_size": 8,
    "hidden_sizes": [8, 8, 8, 8],
    "depths": [1, 1, 1, 1],
}


@pytest.mark.parametrize("masked", [False, True])
def test_the_weights_are_those_the_values_are_averaged_with(masked: bool) -> None:
    torch.manual_seed(0)
    attention = Attention(dim=8, num_heads=2)
    query, key, value = torch.randn(3, 4, 8), torch.randn(3, 6, 8), torch.randn(3, 6, 8)
    visible = (torch.rand(3, 1, 4, 6) > 0.5) | (torch.arange(6) == 2) if masked else None
    weights = attention_weights(attention, query, key, visible)
    values = attention.v_proj(value).view(3, 6, 2, 4).transpose(1, 2)
    torch.testing.assert_close(
        attention.out_proj((weights @ values).transpose(1, 2).flatten(2)), attention(query, key, value, visible)
    )
    torch.testing.assert_close(weights.sum(-1), torch.ones(3, 2, 4))


@pytest.mark.parametrize("kind", ["cross", "masked", "global"])
def test_each_level_has_a_map_that_the_last_layer_there_makes(kind: Any) -> None:
    torch.manual_seed(0)
    config = Mask2FormerConfig(
        3, RESNET, dim=32, num_heads=2, encoder_layers=1, decoder_layers=4, num_queries=5, attention=kind
    )
    model = Mask2Former(config).eval()
    pixels = torch.randn(2, 3, 64, 96)
    maps = negative_attention(model, pixels)
    assert [tuple(map_.shape) for map_ in maps] == [(2, 2, 3), (2, 4, 6), (2, 8, 12)]
    for map_ in maps:
        assert (map_.flatten(1).amin(1) == 0).all()
        assert map_.max() <= 1
    # The fourth of four layers is the second one at the coarsest level: it alone decides that level's map.
    last = model.mask_decoder.layers[3]
    with torch.no_grad():
        for attention in filter(None, (last.cross_attn, last.background_attn)):
            attention.q_proj.weight.zero_()
            attention.q_proj.bias.zero_()
    changed = negative_attention(model, pixels)
    assert not torch.equal(changed[0], maps[0])
    for level in (1, 2):
        torch.testing.assert_close(changed[level], maps[level])
    if kind == "cross":  # a query of nothing looks everywhere alike
        torch.testing.assert_close(changed[0], torch.zeros(2, 2, 3))
    assert not model.pixel_decoder._forward_hooks
