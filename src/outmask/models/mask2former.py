"""Mask2Former (Cheng et al. 2022), the mask classifier of both papers: backbone, pixel decoder, mask decoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from outmask.errors import OutmaskError
from outmask.models.backbones import build_backbone
from outmask.models.mask_decoder import AttentionKind, MaskDecoder
from outmask.models.pixel_decoder import PixelDecoder
from outmask.types import MaskPrediction


@dataclass(frozen=True)
class Mask2FormerConfig:
    """The architecture; the defaults are Mask2Former's.

    Attributes:
        num_classes: K known classes.
        backbone: a name of ``outmask.models.backbones.BACKBONES``, or a transformers configuration with its
            ``model_type``.
        dim: channels of both decoders, a multiple of 32.
        num_heads: attention heads, of both decoders.
        encoder_layers, encoder_ffn_dim, num_points: deformable layers of the pixel decoder, their feed-forward width,
            points a head and level.
        encoder_levels: coarse maps that the deformable layers see (1-3, or all 4).
        num_queries: N, the masks.
        decoder_layers, decoder_ffn_dim: of the mask decoder.
        decoder_levels: maps that the mask decoder visits round robin.
        attention: ``"masked"``, ``"global"`` (Mask2Anomaly) or ``"cross"``.
        negative_class: one more class, *negative*, for pasted objects (UNO).

    Raises:
        OutmaskError: on counts out of range or a width that the heads don't divide.
    """

    num_classes: int
    backbone: str | Mapping[str, Any] = "resnet50"
    dim: int = 256
    num_heads: int = 8
    encoder_layers: int = 6
    encoder_ffn_dim: int = 1024
    num_points: int = 4
    encoder_levels: int = 3
    num_queries: int = 100
    decoder_layers: int = 9
    decoder_ffn_dim: int = 2048
    decoder_levels: int = 3
    attention: AttentionKind = "masked"
    negative_class: bool = False

    def __post_init__(self) -> None:
        if self.dim % 32 or self.dim % self.num_heads:
            raise OutmaskError(
                f"dim must be a multiple of 32 and of num_heads, got dim {self.dim}, num_heads {self.num_heads}"
            )
        if not (1 <= self.encoder_levels <= 4 and 1 <= self.decoder_levels <= 4):
            raise OutmaskError(
                f"encoder_levels and decoder_levels must be 1 to 4, got {self.encoder_levels} and {self.decoder_levels}"
            )
        for name in ("num_classes", "num_queries", "decoder_layers", "num_points"):
            if getattr(self, name) < 1:
                raise OutmaskError(f"{name} must be at least 1, got {getattr(self, name)}")

    def to_json(self) -> dict[str, Any]:
        """The architecture as the ``architecture`` entry of a model's ``config.json``."""
        return asdict(self)


class Mask2Former(nn.Module):
    """The model: ``(B, 3, H, W)`` normalised pixels -> :class:`MaskPrediction` with masks at 1/4.

    Works on any size, float32 and bfloat16, CPU and CUDA.
    """

    backbone_prefix = "backbone."

    def __init__(self, config: Mask2FormerConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = build_backbone(config.backbone)
        channels = self.backbone.channels
        assert isinstance(channels, tuple)
        self.pixel_decoder = PixelDecoder(
            channels,
            config.dim,
            config.num_heads,
            config.encoder_layers,
            config.num_points,
            config.encoder_ffn_dim,
            config.encoder_levels,
            config.decoder_levels,
        )
        self.mask_decoder = MaskDecoder(
            config.num_classes,
            config.dim,
            config.num_heads,
            config.decoder_ffn_dim,
            config.num_queries,
            config.decoder_layers,
            config.decoder_levels,
            config.attention,
            config.negative_class,
        )

    def forward(self, pixels: Tensor) -> MaskPrediction:
        """``(B, 3, H, W)`` -> class logits ``(B, N, K + 1)``, mask logits ``(B, N, ceil(H / 4), ceil(W / 4))``."""
        # Channels-last: convolutions are faster, those of 1x1 most of all, and their maps are tokens as they are.
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        finest, maps = self.pixel_decoder(self.backbone(pixels))
        prediction: MaskPrediction = self.mask_decoder(finest, maps, self.pixel_decoder.mask_features)
        return prediction
