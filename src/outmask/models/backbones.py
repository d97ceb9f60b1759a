"""Backbones: transformers' ResNet, Swin and ConvNeXt by name, and our MobileNetV2, all giving maps at 1/4 ... 1/32."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoBackbone, AutoConfig, PretrainedConfig

from outmask.errors import OutmaskError
from outmask.models.linear import Linear
from outmask.models.mobilenet_v2 import MobileNetV2

STAGES = ["stage1", "stage2", "stage3", "stage4"]

# Settings of the published Mask2Former models; Swin-B and Swin-L were pre-trained at 384 with windows of 12.
PRESETS: dict[str, dict[str, Any]] = {
    "resnet50": {"model_type": "resnet", "depths": [3, 4, 6, 3]},
    "resnet101": {"model_type": "resnet", "depths": [3, 4, 23, 3]},
    "swin-tiny": {"model_type": "swin", "embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24]},
    "swin-small": {"model_type": "swin", "embed_dim": 96, "depths": [2, 2, 18, 2], "num_heads": [3, 6, 12, 24]},
    "swin-base": {"model_type": "swin", "embed_dim": 128, "depths": [2, 2, 18, 2], "num_heads": [4, 8, 16, 32]},
    "swin-large": {"model_type": "swin", "embed_dim": 192, "depths": [2, 2, 18, 2], "num_heads": [6, 12, 24, 48]},
    "convnext-large": {"model_type": "convnext", "depths": [3, 3, 27, 3], "hidden_sizes": [192, 384, 768, 1536]},
}
for _name, _preset in PRESETS.items():
    if _preset["model_type"] == "swin":
        _preset |= {"window_size": 12 if _name in ("swin-base", "swin-large") else 7, "drop_path_rate": 0.3}
BACKBONES = ("mobilenet_v2", *PRESETS)


class Backbone(Protocol):
    """What the pixel decoder needs of a backbone."""

    channels: tuple[int, ...]

    def __call__(self, pixels: Tensor) -> list[Tensor]:
        """``(B, 3, H, W)`` -> maps at 1/4, 1/8, 1/16, 1/32."""
        ...


class TransformersBackbone(nn.Module):
    """A backbone of transformers; BatchNorm stays frozen, statistics and affine, as all Mask2Former recipes have it."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__()
        self.body = AutoBackbone.from_config(config)
        for module in self.body.modules():
            if type(module) is nn.Linear:
                module.__class__ = Linear
        self.channels = tuple(int(width) for width in self.body.channels)
        # ConvNeXt drops the rows and columns that don't fill a patch; ResNet and Swin pad by themselves.
        self.fill_patches = config.model_type == "convnext"
        for module in self._batch_norms():
            module.requires_grad_(False).eval()
        if config.model_type == "swin":
            # The norm of a classifier, which no map passes: DDP would wait for its gradient.
            self.body.swin.layernorm.requires_grad_(False)

    def _batch_norms(self) -> list[nn.Module]:
        return [module for module in self.body.modules() if isinstance(module, nn.BatchNorm2d)]

    def train(self, mode: bool = True) -> Self:
        """As ``nn.Module.train``, leaving BatchNorm in eval mode."""
        super().train(mode)
        for module in self._batch_norms():
            module.eval()
        return self

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """``(B, 3, H, W)`` -> maps at 1/4, 1/8, 1/16, 1/32, sizes rounded up."""
        if not self.fill_patches:
            return list(self.body(pixels).feature_maps)
        height, width = pixels.shape[-2:]
        maps = self.body(F.pad(pixels, (0, -width % 32, 0, -height % 32))).feature_maps
        return [
            feature[..., : (height + stride - 1) // stride, : (width + stride - 1) // stride]
            for feature, stride in zip(maps, (4, 8, 16, 32), strict=True)
        ]


def build_backbone(backbone: str | Mapping[str, Any]) -> nn.Module:
    """A backbone with random weights.

    Args:
        backbone: one of ``BACKBONES``, or a transformers configuration as a dict with its ``model_type``.

    Raises:
        OutmaskError: on an unknown name.
    """
    if backbone == "mobilenet_v2":
        return MobileNetV2()
    if isinstance(backbone, str):
        if backbone not in PRESETS:
            raise OutmaskError(f"unknown backbone {backbone!r}: choose from {', '.join(BACKBONES)}")
        backbone = PRESETS[backbone]
    settings = dict(backbone)
    model_type = settings.pop("model_type", None)
    if model_type is None:
        raise OutmaskError("a backbone given as a dict needs transformers' 'model_type', such as resnet or swin")
    return TransformersBackbone(
        AutoConfig.for_model(model_type, **{**settings, "out_features": STAGES, "out_indices": None})
    )


def load_pretrained(backbone: nn.Module, source: str) -> None:
    """Load pre-trained weights into a fresh backbone.

    Args:
        backbone: from :func:`build_backbone`.
        source: for MobileNetV2 an ``.npz`` (see :meth:`MobileNetV2.load_npz`); else a transformers folder or hub id, or
            for a ResNet a ``.pth`` file in torchvision's layout, such as Barlow Twins' ``resnet50.pth``.

    Raises:
        OutmaskError: where the source can't be read or its weights don't fit.
    """
    if isinstance(backbone, MobileNetV2):
        backbone.load_npz(Path(source))
        return
    assert isinstance(backbone, TransformersBackbone)
    if source.endswith((".pth", ".pt")):
        load_torchvision(backbone, Path(source))
        return
    try:
        # The class itself: AutoBackbone.from_pretrained takes hub ids only.
        donor, report = type(backbone.body).from_pretrained(source, out_features=STAGES, output_loading_info=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise OutmaskError(f"no backbone weights at {source!r}: {str(error).splitlines()[0]}") from None
    # The norms of the maps are a backbone's own: a classifier, which is what weights are published of, has none.
    if missing := sorted(name for name in report["missing_keys"] if "hidden_states_norms." not in name):
        kind = backbone.body.config.model_type
        raise OutmaskError(
            f"the weights of {source!r} are no {kind}'s: {len(missing)} are missing, such as {missing[0]}"
        )
    try:
        backbone.body.load_state_dict(donor.state_dict())
    except RuntimeError as error:
        raise OutmaskError(
            f"the weights of {source!r} don't fit this backbone: {' '.join(str(error).split())}"
        ) from None


def load_torchvision(backbone: TransformersBackbone, path: Path) -> None:
    """Load a ResNet's weights in torchvision's layout; a classifier ``fc.*`` is left out.

    Both halve the resolution in a block's 3x3 convolution (ResNet "v1.5"), unless transformers' configuration says
    ``downsample_in_bottleneck``.

    Raises:
        OutmaskError: where the backbone is no such ResNet, or the file can't be read or doesn't fit.
    """
    config = backbone.body.config
    if config.model_type != "resnet" or config.downsample_in_bottleneck:
        raise OutmaskError(
            f"{path}: weights in torchvision's layout need a resnet without downsample_in_bottleneck as backbone, "
            f"got {config.model_type}"
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise OutmaskError(f"no backbone weights at '{path}'") from None
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise OutmaskError(f"{path}: no readable weights ({str(error).splitlines()[0]})") from None
    if not isinstance(state, dict) or "conv1.weight" not in state:
        raise OutmaskError(f"{path}: expected a ResNet's state dict in torchvision's layout, with 'conv1.weight'")
    weights = {_from_torchvision(name): tensor for name, tensor in state.items() if not name.startswith("fc.")}
    try:
        backbone.body.load_state_dict(weights)
    except RuntimeError as error:
        raise OutmaskError(f"{path}: weights don't fit this backbone: {' '.join(str(error).split())}") from None


def _from_torchvision(name: str) -> str:
    """transformers' name of a weight; there stages and the layers of a block count from 0."""
    kinds = {
        "conv": "convolution",
        "bn": "normalization",
        "downsample.0": "convolution",
        "downsample.1": "normalization",
    }
    if part := re.fullmatch(r"(conv|bn)1\.(\w+)", name):
        return f"embedder.embedder.{kinds[part[1]]}.{part[2]}"
    if part := re.fullmatch(r"layer(\d)\.(\d+)\.(?:(conv|bn)(\d)|(downsample\.[01]))\.(\w+)", name):
        block = f"encoder.stages.{int(part[1]) - 1}.layers.{part[2]}"
        if part[5]:
            return f"{block}.shortcut.{kinds[part[5]]}.{part[6]}"
        return f"{block}.layer.{int(part[4]) - 1}.{kinds[part[3]]}.{part[6]}"
    return name
