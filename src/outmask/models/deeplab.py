"""DeepLabV3+ (Chen et al. 2018) with a ResNet, the convolutional baseline of M2F-EAM's table 6."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from outmask.errors import OutmaskError
from outmask.models.backbones import TransformersBackbone, build_backbone
from outmask.models.per_pixel import PixelClassifier
from outmask.types import PixelPrediction

ATROUS_RATES = (6, 12, 18)  # of the pyramid at output stride 16, twice as large at 8 (DeepLabV3, section 3.3)
LOW_LEVEL_DIM = 48  # channels to which the decoder reduces the map at 1/4 (DeepLabV3+, table 1)


@dataclass(frozen=True)
class DeepLabV3PlusConfig:
    """The architecture; the defaults are the paper's.

    Attributes:
        num_classes: K known classes.
        backbone: ``"resnet50"``, ``"resnet101"``, or a transformers configuration of model type ``resnet``.
        output_stride: of the backbone's last map, 16 or 8: later stages dilate instead of striding.
        dim: channels of pyramid and decoder, a multiple of 32.
        dropout: after the pyramid, while training; in [0, 1).
        outlier_head: also give outlier logits, for the outlier-aware losses.

    Raises:
        OutmaskError: on values outside of these ranges.
    """

    num_classes: int
    backbone: str | Mapping[str, Any] = "resnet50"
    output_stride: Literal[8, 16] = 16
    dim: int = 256
    dropout: float = 0.1
    outlier_head: bool = False

    def __post_init__(self) -> None:
        if self.num_classes < 1:
            raise OutmaskError(f"num_classes must be at least 1, got {self.num_classes}")
        if self.output_stride not in (8, 16):
            raise OutmaskError(f"output_stride must be 8 or 16, got {self.output_stride}")
        if self.dim < 1 or self.dim % 32:
            raise OutmaskError(f"dim must be a multiple of 32, got {self.dim}")
        if not 0 <= self.dropout < 1:
            raise OutmaskError(f"dropout must be in [0, 1), got {self.dropout}")

    def to_json(self) -> dict[str, Any]:
        """The architecture as the ``architecture`` entry of a model's ``config.json``."""
        return asdict(self)


class DeepLabV3Plus(nn.Module):
    """The model: ``(B, 3, H, W)`` normalised pixels -> :class:`PixelPrediction` at 1/4.

    The backbone's BatchNorm is frozen. Pyramid and decoder have GroupNorm in the place of the paper's BatchNorm: frozen
    it would be no norm in layers that start from nothing, and live it would let the other images of a batch, and the
    number of processes, change a prediction. Works on any size, float32 and bfloat16, CPU and CUDA.
    """

    backbone_prefix = "backbone."

    def __init__(self, config: DeepLabV3PlusConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = build_backbone(config.backbone)
        if not isinstance(self.backbone, TransformersBackbone) or self.backbone.body.config.model_type != "resnet":
            raise OutmaskError(f"DeepLabV3+ needs a ResNet to dilate, got {config.backbone!r}: choose resnet50")
        dilate(self.backbone, config.output_stride)
        low, high = self.backbone.channels[0], self.backbone.channels[-1]
        factor = 16 // config.output_stride
        self.pyramid = AtrousPyramid(high, config.dim, [factor * rate for rate in ATROUS_RATES], config.dropout)
        self.low_level = _convolution(low, LOW_LEVEL_DIM, 1, groups=16)
        self.decoder = nn.Sequential(
            _convolution(config.dim + LOW_LEVEL_DIM, config.dim, 3), _convolution(config.dim, config.dim, 3)
        )
        self.head = PixelClassifier(config.dim, config.num_classes, config.outlier_head)

    def features(self, pixels: Tensor) -> Tensor:
        """``(B, 3, H, W)`` -> the decoder's map that ``head`` classifies, ``(B, dim, ceil(H / 4), ceil(W / 4))``."""
        maps = self.backbone(pixels)
        low = self.low_level(maps[0])
        high = F.interpolate(self.pyramid(maps[-1]), size=low.shape[-2:], mode="bilinear", align_corners=False)
        features: Tensor = self.decoder(torch.cat([high, low], 1))
        return features

    def forward(self, pixels: Tensor) -> PixelPrediction:
        """``(B, 3, H, W)`` -> logits ``(B, K, ceil(H / 4), ceil(W / 4))``."""
        prediction: PixelPrediction = self.head(self.features(pixels))
        return prediction


class AtrousPyramid(nn.Module):
    """Atrous spatial pyramid pooling: 1x1, three dilated 3x3 and the image's mean, concatenated and projected."""

    def __init__(self, channels: int, dim: int, rates: list[int], dropout: float) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            [_convolution(channels, dim, 1), *(_convolution(channels, dim, 3, dilation=rate) for rate in rates)]
        )
        self.image = nn.Sequential(nn.Conv2d(channels, dim, 1), nn.ReLU())  # no norm: one pixel has no statistics
        self.project = _convolution((len(rates) + 2) * dim, dim, 1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: Tensor) -> Tensor:
        """``(B, C, h, w)`` -> ``(B, dim, h, w)``."""
        image = self.image(features.mean((2, 3), keepdim=True)).expand(-1, -1, *features.shape[2:])
        views = torch.cat([*(branch(features) for branch in self.branches), image], 1)
        output: Tensor = self.dropout(self.project(views))
        return output


def dilate(backbone: TransformersBackbone, output_stride: int) -> None:
    """Give a ResNet's last stages dilation in the place of their strides, in place.

    Every value that the strided network computes is computed by the dilated one, from the same pixels: its maps hold
    the strided maps at every second (fourth) row and column, and what lies between.

    Args:
        backbone: a transformers ResNet.
        output_stride: of the last map: 16 dilates the last stage, 8 the last two.
    """
    stages = backbone.body.encoder.stages
    rate = 1
    for stage in stages[len(stages) - {16: 1, 8: 2}[output_stride] :]:
        for block in stage.layers:
            for convolution in _convolutions(block.layer):
                kernel = convolution.kernel_size[0]
                convolution.dilation, convolution.padding = (rate, rate), (rate * (kernel // 2), rate * (kernel // 2))
                # The convolution that would have strided still reads the finer map: only those after it skip pixels.
                if convolution.stride != (1, 1):
                    convolution.stride = (1, 1)
                    rate *= 2
            for convolution in _convolutions(block.shortcut):
                convolution.stride = (1, 1)


def _convolutions(module: nn.Module) -> list[nn.Conv2d]:
    return [part for part in module.modules() if isinstance(part, nn.Conv2d)]


def _convolution(channels: int, dim: int, kernel: int, dilation: int = 1, groups: int = 32) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, dim, kernel, padding=dilation * (kernel // 2), dilation=dilation, bias=False),
        nn.GroupNorm(groups, dim),
        nn.ReLU(),
    )
