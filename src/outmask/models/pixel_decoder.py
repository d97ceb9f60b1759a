"""The pixel decoder of Mask2Former: deformable encoder over the coarse levels, feature pyramid down to 1/4."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from outmask.models.deformable import DeformableAttention, LevelSizes, own_places
from outmask.models.linear import Linear, takes_plain_form
from outmask.models.positions import sine_positions

# Tokens that a layer takes at once. 512 to 1024 were a tenth slower than this, all of a 512 x 1024 image's as fast; a
# token takes 11 kB on its way through a layer, so that larger images need no more memory here.
_CPU_TOKENS = 4096


class PixelDecoder(nn.Module):
    """From backbone features to pixel embeddings and the maps that the mask decoder reads.

    Args:
        channels: of the backbone's maps at 1/4, 1/8, 1/16, 1/32.
        dim: channels of everything here; a multiple of 32 (GroupNorm).
        num_heads, num_layers, num_points, ffn_dim: of the deformable encoder.
        encoder_levels: how many of the coarsest maps the encoder takes (3 in Mask2Former; 1 in RbA's variant); the
            finer ones join through the pyramid.
        output_levels: how many of the coarsest maps the mask decoder gets.
    """

    def __init__(
        self,
        channels: Sequence[int],
        dim: int,
        num_heads: int,
        num_layers: int,
        num_points: int,
        ffn_dim: int,
        encoder_levels: int,
        output_levels: int,
    ) -> None:
        super().__init__()
        self.encoder_levels, self.output_levels = encoder_levels, output_levels
        self.num_heads, self.num_points = num_heads, num_points
        coarse_to_fine = list(channels)[::-1]
        self.input_proj = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, dim, 1), nn.GroupNorm(32, dim)) for width in coarse_to_fine[:encoder_levels]
        )
        self.level_embed = nn.Parameter(torch.randn(encoder_levels, dim))
        self.layers = nn.ModuleList(
            EncoderLayer(dim, num_heads, encoder_levels, num_points, ffn_dim) for _ in range(num_layers)
        )
        fine = coarse_to_fine[encoder_levels:]
        self.lateral = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, dim, 1, bias=False), nn.GroupNorm(32, dim)) for width in fine
        )
        self.output = nn.ModuleList(
            nn.Sequential(nn.Conv2d(dim, dim, 3, padding=1, bias=False), nn.GroupNorm(32, dim), nn.ReLU(inplace=True))
            for _ in fine
        )
        self.mask_features = nn.Conv2d(dim, dim, 1)
        for projection in self.input_proj:
            nn.init.xavier_uniform_(projection[0].weight)  # type: ignore[index]
            nn.init.zeros_(projection[0].bias)  # type: ignore[index]

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Decode the backbone's features.

        Args:
            features: ``(B, C_i, h_i, w_i)`` at 1/4, 1/8, 1/16, 1/32.

        Returns:
            the map at 1/4, ``(B, dim, h/4, w/4)``, of which ``mask_features`` makes pixel embeddings, and the
            ``output_levels`` coarsest maps, coarsest first.
        """
        coarse_to_fine = list(features)[::-1]
        maps = self.encode(coarse_to_fine[: self.encoder_levels])
        for feature, lateral, output in zip(
            coarse_to_fine[self.encoder_levels :], self.lateral, self.output, strict=True
        ):
            side = lateral(feature)
            above = F.interpolate(maps[-1], size=side.shape[-2:], mode="bilinear", align_corners=False)
            maps.append(output(above.add_(side)))
        return maps[-1], maps[: self.output_levels]

    def encode(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Self-attention among all pixels of the coarse maps, each at its own scale and at the others'."""
        projected = [project(feature) for project, feature in zip(self.input_proj, features, strict=True)]
        sizes: LevelSizes = [(level.shape[2], level.shape[3]) for level in projected]
        dim = projected[0].shape[1]
        tokens = torch.cat([level.flatten(2).transpose(1, 2) for level in projected], 1)
        position = torch.cat(
            [sine_positions(size, dim, tokens) + embed for size, embed in zip(sizes, self.level_embed, strict=True)]
        )
        places = own_places(sizes, self.num_heads, self.num_points, tokens)
        for layer in self.layers:
            tokens = layer(tokens, position, places, sizes)
        parts = torch.split(tokens, [height * width for height, width in sizes], dim=1)
        # Tokens are channels-last pixels; of a batch's slices, torch must be told so.
        return [
            part.reshape(-1, *size, dim).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
            for part, size in zip(parts, sizes, strict=True)
        ]


class EncoderLayer(nn.Module):
    """Deformable self-attention and a feed-forward network, each with a residual and a norm after it."""

    def __init__(self, dim: int, num_heads: int, num_levels: int, num_points: int, ffn_dim: int) -> None:
        super().__init__()
        self.self_attn = DeformableAttention(dim, num_heads, num_levels, num_points)
        self.norm1 = nn.LayerNorm(dim)
        self.linear1 = Linear(dim, ffn_dim)
        self.linear2 = Linear(ffn_dim, dim)
        self.norm2 = nn.LayerNorm(dim)

    def forward(self, tokens: Tensor, position: Tensor, places: Tensor, sizes: LevelSizes) -> Tensor:
        """One layer.

        Args:
            tokens: ``(B, S, dim)`` of all levels.
            position: ``(S, dim)`` their embedding.
            places, sizes: see :class:`DeformableAttention`.

        Returns:
            ``(B, S, dim)``.
        """
        attend = self.self_attn.over(tokens, sizes)

        def attended(own: Tensor, embedding: Tensor, around: Tensor) -> Tensor:
            own = self.norm1(own + attend(own + embedding, around))
            output: Tensor = self.norm2(own + self.linear2(F.relu(self.linear1(own), inplace=True)))
            return output

        if takes_plain_form(tokens, *self.parameters()) or not tokens.is_cpu:
            return attended(tokens, position, places)
        count = max(1, _CPU_TOKENS // len(tokens))
        pieces = torch.split(tokens, count, 1), torch.split(position, count), torch.split(places, count)
        return torch.cat([attended(*piece) for piece in zip(*pieces, strict=True)], 1)
