"""The transformer decoder of Mask2Former, with the three attentions that the papers compare (Mask2Anomaly eq. 6-9)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from outmask.errors import OutmaskError
from outmask.models.linear import Linear
from outmask.models.positions import sine_positions
from outmask.types import MaskPrediction

AttentionKind = Literal["masked", "global", "cross"]


class MaskDecoder(nn.Module):
    """N queries, refined layer by layer, each predicting one mask and its class.

    Args:
        num_classes: K known classes; the classifier has K + 1 outputs, *no object* last.
        negative_class: one more output before it, for pasted objects (UNO).
        dim, num_heads, ffn_dim: of the layers.
        num_queries: N, the masks.
        num_layers: decoder layers; the raw queries predict too, so there are ``num_layers + 1`` predictions.
        num_levels: maps from the pixel decoder, visited round robin, coarsest first.
        attention: ``"masked"`` (MA, eq. 6: a query sees the foreground of its previous mask), ``"global"`` (GMA, eq. 8:
            a second attention sees the background) or ``"cross"`` (CA: everything).
    """

    def __init__(
        self,
        num_classes: int,
        dim: int,
        num_heads: int,
        ffn_dim: int,
        num_queries: int,
        num_layers: int,
        num_levels: int,
        attention: AttentionKind,
        negative_class: bool = False,
    ) -> None:
        super().__init__()
        if attention not in get_args(AttentionKind):
            raise OutmaskError(f"attention must be one of {', '.join(get_args(AttentionKind))}, got {attention!r}")
        self.num_levels = num_levels
        self.looks_at_masks = attention != "cross"
        self.negative_class = negative_class
        self.query_feat = nn.Parameter(torch.randn(num_queries, dim))
        self.query_embed = nn.Parameter(torch.randn(num_queries, dim))
        self.level_embed = nn.Parameter(torch.randn(num_levels, dim))
        self.layers = nn.ModuleList(DecoderLayer(dim, num_heads, ffn_dim, attention) for _ in range(num_layers))
        self.decoder_norm = nn.LayerNorm(dim)
        self.class_embed = Linear(dim, num_classes + negative_class + 1)
        self.mask_embed = nn.Sequential(
            Linear(dim, dim), nn.ReLU(inplace=True), Linear(dim, dim), nn.ReLU(inplace=True), Linear(dim, dim)
        )

    def forward(self, finest: Tensor, maps: Sequence[Tensor], mask_features: nn.Conv2d) -> MaskPrediction:
        """Decode masks.

        Args:
            finest: ``(B, dim, h, w)``.
            maps: ``num_levels`` maps ``(B, dim, h_l, w_l)``, coarsest first.
            mask_features: the 1x1 convolution from ``finest`` to pixel embeddings.

        Returns:
            the last layer's prediction; in train mode with the inner layers' in ``auxiliary``.
        """
        batch = finest.shape[0]
        keys, values, shrunk = [], [], []
        for feature, embed in zip(maps, self.level_embed, strict=True):
            height, width = feature.shape[-2:]
            value = feature.flatten(2).transpose(1, 2) + embed
            values.append(value)
            keys.append(value + sine_positions((height, width), value.shape[2], value))
            if self.looks_at_masks:
                # Resizing is linear: masks of the resized map are the resized masks, at a fraction of the cost.
                shrunk.append(F.interpolate(finest, (height, width), mode="bilinear", align_corners=False))

        position = self.query_embed.expand(batch, -1, -1)
        queries = self.query_feat.expand(batch, -1, -1)
        states = [queries]
        for index, layer in enumerate(self.layers):
            level = index % self.num_levels
            with torch.no_grad():  # a mask decides where to look; it does not learn from that
                mask = self._mask_logits(queries, shrunk[level], mask_features) if self.looks_at_masks else None
            queries = layer(queries, position, keys[level], values[level], mask)
            states.append(queries)
        if not self.training:
            return self.predict(queries, finest, mask_features)
        # All layers at once: one product with the pixels, and one gradient of them.
        together = self.predict(torch.cat(states, 1), finest, mask_features)
        by_layer = (batch, len(states), -1)
        *inner, last = (
            replace(together, class_logits=class_logits, mask_logits=mask_logits)
            for class_logits, mask_logits in zip(
                together.class_logits.reshape(*by_layer, together.class_logits.shape[-1]).unbind(1),
                together.mask_logits.reshape(*by_layer, *finest.shape[-2:]).unbind(1),
                strict=True,
            )
        )
        return replace(last, auxiliary=tuple(inner))

    def predict(self, queries: Tensor, finest: Tensor, mask_features: nn.Conv2d) -> MaskPrediction:
        """Class and mask logits of ``(B, N, dim)`` queries (M2F-EAM eq. 1); other arguments as of :meth:`forward`."""
        masks = self._mask_logits(queries, finest, mask_features)
        mask_logits = masks.reshape(*masks.shape[:2], *finest.shape[-2:])
        class_logits = self.class_embed(self.decoder_norm(queries))
        return MaskPrediction(class_logits, mask_logits, negative_class=self.negative_class)

    def _mask_logits(self, queries: Tensor, pixels: Tensor, mask_features: nn.Conv2d) -> Tensor:
        """``E (W x + b) = (E W) x + E b``, ``(B, N, S)``: a product for 100 queries instead of one for every pixel."""
        assert mask_features.bias is not None
        embedding: Tensor = self.mask_embed(self.decoder_norm(queries))
        product = _MaskLogits.apply if self.training and pixels.is_cpu else torch.bmm
        masks: Tensor = product(embedding @ mask_features.weight.flatten(1), pixels.flatten(2))
        return masks.add_((embedding @ mask_features.bias)[..., None])


class _MaskLogits(torch.autograd.Function):
    """``bmm`` of ``(B, N, dim)`` and ``(B, dim, S)``, whose backward leaves out the masks that have no gradient.

    Most have none: only the few that were matched to a target are compared with anything. For the CPU: a GPU would wait
    to learn which.
    """

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, embedding: Tensor, pixels: Tensor) -> Tensor:
        ctx.save_for_backward(embedding, pixels)
        return torch.bmm(embedding, pixels)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> tuple[Tensor, Tensor]:
        embedding, pixels = ctx.saved_tensors  # type: ignore[attr-defined]
        (grad,) = grads
        grad_embedding, grad_pixels = torch.zeros_like(embedding), torch.empty_like(pixels)
        for image, rows in enumerate(grad.any(-1)):
            learning = grad[image, rows].to(pixels.dtype)
            grad_embedding[image, rows] = (learning @ pixels[image].T).to(embedding.dtype)
            torch.mm(embedding[image, rows].to(pixels.dtype).T, learning, out=grad_pixels[image])
        return grad_embedding, grad_pixels


class DecoderLayer(nn.Module):
    """Attention to the image, among the queries, and a feed-forward network; norms after the residuals."""

    def __init__(self, dim: int, num_heads: int, ffn_dim: int, attention: AttentionKind) -> None:
        super().__init__()
        self.cross_attn = Attention(dim, num_heads)  # in global attention: the foreground term
        self.background_attn = Attention(dim, num_heads) if attention == "global" else None
        self.cross_norm = nn.LayerNorm(dim)
        self.self_attn = Attention(dim, num_heads)
        self.self_norm = nn.LayerNorm(dim)
        self.linear1 = Linear(dim, ffn_dim)
        self.linear2 = Linear(ffn_dim, dim)
        self.ffn_norm = nn.LayerNorm(dim)

    def forward(
        self, queries: Tensor, position: Tensor, keys: Tensor, values: Tensor, mask_logits: Tensor | None
    ) -> Tensor:
        """One layer.

        Args:
            queries, position: ``(B, N, dim)``.
            keys, values: ``(B, S, dim)`` one level's pixels, keys with their position added.
            mask_logits: ``(B, N, S)`` the previous prediction at this level, detached; None where everything is seen.

        Returns:
            ``(B, N, dim)``.
        """
        query = queries + position
        seen = None if mask_logits is None else _visible(mask_logits >= 0)  # eq. 7: probability >= 0.5
        attended = self.cross_attn(query, keys, values, seen)
        if self.background_attn is not None:  # eq. 8-9; a probability of exactly 0.5 is seen by both terms
            assert mask_logits is not None
            attended = attended + self.background_attn(query, keys, values, _visible(mask_logits <= 0))
        queries = self.cross_norm(queries + attended)
        query = queries + position
        queries = self.self_norm(queries + self.self_attn(query, query, queries))
        queries = self.ffn_norm(queries + self.linear2(F.relu(self.linear1(queries), inplace=True)))
        return queries


def _visible(mask: Tensor) -> Tensor:
    """``(B, 1, N, S)`` pixels each query may see; a query whose mask is empty sees everything."""
    return (mask | ~mask.any(-1, keepdim=True)).unsqueeze(1)


class Attention(nn.Module):
    """Multi-head scaled dot-product attention."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q_proj = Linear(dim, dim)
        self.k_proj = Linear(dim, dim)
        self.v_proj = Linear(dim, dim)
        self.out_proj = Linear(dim, dim)
        for linear in (self.q_proj, self.k_proj, self.v_proj, self.out_proj):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, visible: Tensor | None = None) -> Tensor:
        """``(B, N, dim)`` queries, ``(B, S, dim)`` keys and values, ``(B, 1, N, S)`` bool -> ``(B, N, dim)``."""

        def split(tokens: Tensor) -> Tensor:
            return tokens.view(*tokens.shape[:2], self.num_heads, -1).transpose(1, 2)

        attended = F.scaled_dot_product_attention(
            split(self.q_proj(query)), split(self.k_proj(key)), split(self.v_proj(value)), attn_mask=visible
        )
        output: Tensor = self.out_proj(attended.transpose(1, 2).flatten(2))
        return output
