"""PerPixel, the baseline of M2F-EAM (tables 3, 5 and 6): Mask2Former whose mask decoder is a 1x1 classifier."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor, nn

from outmask.errors import OutmaskError
from outmask.models.backbones import build_backbone
from outmask.models.pixel_decoder import PixelDecoder
from outmask.types import PixelPrediction


@dataclass(frozen=True)
class PerPixelConfig:
    """The architecture; what it shares with ``Mask2FormerConfig`` means the same.

    Attributes:
        num_classes: K known classes.
        backbone: a name of ``outmask.models.backbones.BACKBONES``, or a transformers configuration with its
            ``model_type``.
        dim: channels of the pixel decoder, a multiple of 32.
        num_heads: attention heads.
        encoder_layers, encoder_ffn_dim, num_points: deformable layers, their feed-forward width, points a head and
            level.
        encoder_levels: coarse maps that the deformable layers see (1-3, or all 4).
        outlier_head: also give outlier logits, for the outlier-aware losses.

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
    outlier_head: bool = False

    def __post_init__(self) -> None:
        if self.dim % 32 or self.dim % self.num_heads:
            raise OutmaskError(
                f"dim must be a multiple of 32 and of num_heads, got dim {self.dim}, num_heads {self.num_heads}"
            )
        if not 1 <= self.encoder_levels <= 4:
            raise OutmaskError(f"encoder_levels must be 1 to 4, got {self.encoder_levels}")
        for name in ("num_classes", "num_points"):
            if getattr(self, name) < 1:
                raise OutmaskError(f"{name} must be at least 1, got {getattr(self, name)}")

    def to_json(self) -> dict[str, Any]:
        """The architecture as the ``architecture`` entry of a model's ``config.json``."""
        return asdict(self)


class PixelClassifier(nn.Module):
    """A 1x1 convolution from features to class logits, and one more to outlier logits where asked for."""

    def __init__(self, dim: int, num_classes: int, outlier_head: bool) -> None:
        super().__init__()
        self.classes = nn.Conv2d(dim, num_classes, 1)
        self.outlier = nn.Conv2d(dim, 1, 1) if outlier_head else None

    def forward(self, features: Tensor) -> PixelPrediction:
        """``(B, dim, h, w)`` -> the prediction at the same resolution."""
        outlier_logits = None if self.outlier is None else self.outlier(features).squeeze(1)
        return PixelPrediction(self.classes(features), outlier_logits)


class PerPixel(nn.Module):
    """The model: ``(B, 3, H, W)`` normalised pixels -> :class:`PixelPrediction` at 1/4.

    Backbone and pixel decoder are Mask2Former's, weights included: ``state_dict`` has the same names for them. Works on
    any size, float32 and bfloat16, CPU and CUDA.
    """

    backbone_prefix = "backbone."

    def __init__(self, config: PerPixelConfig) -> None:
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
            output_levels=0,
        )
        self.head = PixelClassifier(config.dim, config.num_classes, config.outlier_head)

    def features(self, pixels: Tensor) -> Tensor:
        """``(B, 3, H, W)`` -> the pixel embeddings that ``head`` classifies, ``(B, dim, ceil(H / 4), ceil(W / 4))``."""
        finest, _ = self.pixel_decoder(self.backbone(pixels))
        pixel_embedding: Tensor = self.pixel_decoder.mask_features(finest)
        return pixel_embedding

    def forward(self, pixels: Tensor) -> PixelPrediction:
        """``(B, 3, H, W)`` -> logits ``(B, K, ceil(H / 4), ceil(W / 4))``."""
        prediction: PixelPrediction = self.head(self.features(pixels))
        return prediction
