"""The three attentions against the equations of Mask2Anomaly, written plainly."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from outmask.models.mask_decoder import Attention, AttentionKind, DecoderLayer, MaskDecoder

DIM, HEADS, QUERIES = 8, 2, 5


def term(attention: Attention, query: Tensor, keys: Tensor, values: Tensor, blocked: Tensor) -> Tensor:
    """``softmax(mask + Q K^T) V`` of one image, head by head; ``blocked`` ``(N, S)`` marks the mask's -inf."""
    blocked = blocked & ~blocked.all(1, keepdim=True)  # a row that blocks everything attends everywhere
    q, k, v = attention.q_proj(query), attention.k_proj(keys), attention.v_proj(values)
    width = DIM // HEADS
    heads = []
    for head in range(HEADS):
        part = slice(head * width, (head + 1) * width)
        logits = q[:, part] @ k[:, part].T / math.sqrt(width)
        heads.append(logits.masked_fill(blocked, -math.inf).softmax(1) @ v[:, part])
    return attention.out_proj(torch.cat(heads, 1))


def literal(
    layer: DecoderLayer, queries: Tensor, position: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None
) -> Tensor:
    """One decoder layer over one image: cross (eq. 6-9), self, feed-forward, norms after the residuals."""
    # Without a mask, as in cross-attention, nothing is blocked.
    probability = torch.full((len(queries), len(keys)), 0.5) if mask is None else mask.sigmoid()
    attended = term(layer.cross_attn, queries + position, keys, values, probability < 0.5)  # F = -inf (eq. 7)
    if layer.background_attn is not None:
        attended = attended + term(layer.background_attn, queries + position, keys, values, probability > 0.5)  # B
    queries = layer.cross_norm(attended + queries)
    none = torch.zeros(len(queries), len(queries), dtype=torch.bool)
    queries = layer.self_norm(queries + term(layer.self_attn, queries + position, queries + position, queries, none))
    return layer.ffn_norm(queries + layer.linear2(F.relu(layer.linear1(queries))))


@pytest.mark.parametrize("attention", get_args(AttentionKind))
def test_a_layer_is_the_equations(attention: AttentionKind) -> None:
    torch.manual_seed(0)
    layer = DecoderLayer(DIM, HEADS, 12, attention)
    queries, position = torch.randn(2, QUERIES, DIM), torch.randn(2, QUERIES, DIM)
    keys, values, mask = torch.randn(2, 7, DIM), torch.randn(2, 7, DIM), torch.randn(2, QUERIES, 7)
    mask[0, 0], mask[0, 1] = -3, 3  # nothing in the foreground; nothing in the background
    mask[1, 2] = torch.tensor([0, 0, 1, -1, 2, -2, 0])  # exactly 0.5 belongs to both
    masks = None if attention == "cross" else mask
    with torch.no_grad():
        output = layer(queries, position, keys, values, masks)
        for image in range(2):
            own = None if masks is None else masks[image]
            expected = literal(layer, queries[image], position[image], keys[image], values[image], own)
            torch.testing.assert_close(output[image], expected, atol=1e-5, rtol=1e-5)


def seen(attention: AttentionKind, mask: list[float] | None, which: str = "foreground") -> list[bool]:
    """Which of the mask's pixels (of 4, without a mask) one term reads: those that its output depends on."""
    torch.manual_seed(0)
    layer = DecoderLayer(DIM, HEADS, 12, attention)
    other = layer.background_attn if which == "foreground" else layer.cross_attn
    if other is not None:
        torch.nn.init.zeros_(other.out_proj.weight)
    masks = None if mask is None else torch.tensor(mask).view(1, 1, -1)
    pixels = 4 if mask is None else len(mask)
    values = torch.randn(1, pixels, DIM, requires_grad=True)
    query = torch.randn(1, 1, DIM)
    layer(query, query, torch.randn(1, pixels, DIM), values, masks)[0, 0, 0].backward()
    assert values.grad is not None
    return (values.grad[0].abs().sum(1) > 0).tolist()


def test_each_term_sees_its_side_of_the_mask() -> None:
    mask = [-2.0, 0.0, 3.0, -0.1]
    assert seen("masked", mask, "foreground") == [False, True, True, False]
    assert seen("global", mask, "foreground") == [False, True, True, False]
    assert seen("global", mask, "background") == [True, True, False, True]
    assert seen("cross", None) == [True, True, True, True]


def test_a_term_without_pixels_sees_everything_the_other_only_its_own() -> None:
    for mask, foreground, background in (
        ([-1.0, -2.0, -3.0], [True] * 3, [True] * 3),  # empty mask: the foreground is reset, the background is full
        ([1.0, 2.0, 3.0], [True] * 3, [True] * 3),
        ([1.0, -2.0, -3.0], [True, False, False], [False, True, True]),
    ):
        assert seen("global", mask, "foreground") == foreground
        assert seen("global", mask, "background") == background


def decoder(
    attention: AttentionKind = "masked", num_levels: int = 3
) -> tuple[MaskDecoder, Tensor, list[Tensor], nn.Conv2d]:
    torch.manual_seed(0)
    model = MaskDecoder(3, DIM, HEADS, 12, QUERIES, 5, num_levels, attention).eval()
    maps = [torch.randn(2, DIM, 2 * 2**level - 1, 3 * 2**level) for level in range(num_levels)]
    return model, torch.randn(2, DIM, 17, 23), maps, nn.Conv2d(DIM, DIM, 1)


@pytest.mark.parametrize("attention", ["masked", "global"])
def test_masks_of_the_resized_embedding_are_the_resized_masks(attention: AttentionKind) -> None:
    """The decoder resizes the finest map once per level; the paper resizes every layer's masks."""
    model, finest, maps, mask_features = decoder(attention)
    masks: list[Tensor] = []
    for layer in model.layers:
        layer.register_forward_pre_hook(lambda _, inputs: masks.append(inputs[4]))
    with torch.no_grad():
        model.train()
        prediction = model(finest, maps, mask_features)
    assert len(masks) == len(prediction.auxiliary) == 5
    for index, (mask, previous) in enumerate(zip(masks, prediction.auxiliary, strict=True)):
        size = maps[index % 3].shape[-2:]  # round robin, coarsest first
        resized = F.interpolate(previous.mask_logits, size, mode="bilinear", align_corners=False)
        torch.testing.assert_close(mask, resized.flatten(2), atol=1e-5, rtol=1e-5)


def test_cross_attention_asks_for_no_masks_before_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    model, finest, maps, mask_features = decoder("cross")
    asked: list[torch.Size] = []
    ask = model._mask_logits
    monkeypatch.setattr(
        model, "_mask_logits", lambda queries, *rest: asked.append(queries.shape) or ask(queries, *rest)
    )
    model(finest, maps, mask_features)
    assert asked == [(2, QUERIES, DIM)]


def test_no_gradient_flows_through_the_attention_mask() -> None:
    model, finest, maps, mask_features = decoder()
    masks: list[Tensor] = []
    model.layers[0].register_forward_pre_hook(lambda _, inputs: masks.append(inputs[4]))
    model(finest.requires_grad_(), maps, mask_features)
    assert not masks[0].requires_grad


def test_logits_come_from_normed_queries() -> None:
    """M2F-EAM eq. 1: the mask is the product of the query's mask embedding and the pixel embedding."""
    model, finest, _, mask_features = decoder()
    queries = torch.randn(2, QUERIES, DIM)
    with torch.no_grad():
        prediction = model.predict(queries, finest, mask_features)
        normed = model.decoder_norm(queries)
        product = (model.mask_embed(normed)[:, :, :, None, None] * mask_features(finest)[:, None]).sum(2)
    torch.testing.assert_close(prediction.mask_logits, product, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(prediction.class_logits, model.class_embed(normed))


@pytest.mark.parametrize("learning", [[1, 0, 0, 1, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0]])
def test_gradients_of_mask_logits_are_those_of_the_plain_product(learning: list[int]) -> None:
    """In training the backward leaves out masks without a gradient: only matched ones have any."""
    model, finest, _, mask_features = decoder()
    queries = torch.randn(2, QUERIES, DIM)
    weight = torch.randn(2, QUERIES, *finest.shape[-2:])
    weight[0] *= torch.tensor(learning)[:, None, None]
    leaves = (finest.requires_grad_(), *model.mask_embed.parameters(), *mask_features.parameters())
    masks = model.train().predict(queries, finest, mask_features).mask_logits
    plain = torch.einsum("bnc,bchw->bnhw", model.mask_embed(model.decoder_norm(queries)), mask_features(finest))
    for given, expected in zip(
        torch.autograd.grad(masks, leaves, weight), torch.autograd.grad(plain, leaves, weight), strict=True
    ):
        torch.testing.assert_close(given, expected, atol=1e-5, rtol=1e-5)
