"""Small transformers models with weights that hide nothing: no zeros, no ones, no identity norms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, ResNetConfig, SwinConfig

STAGES = ["stage1", "stage2", "stage3", "stage4"]
BACKBONES: dict[str, Callable[[], Any]] = {
    "resnet": lambda: ResNetConfig(
        embedding_size=8, hidden_sizes=[16, 24, 32, 40], depths=[2, 1, 2, 1], out_features=STAGES
    ),
    "swin": lambda: SwinConfig(
        embed_dim=12,
        depths=[1, 2, 1, 1],
        num_heads=[1, 2, 2, 4],
        window_size=3,
        drop_path_rate=0.2,
        out_features=STAGES,
    ),
}


def scramble(model: nn.Module, seed: int = 0) -> None:
    """Random values everywhere, small enough that activations neither vanish nor explode."""
    generator = torch.Generator().manual_seed(seed)
    norms = (nn.LayerNorm, nn.GroupNorm, nn.BatchNorm2d)
    with torch.no_grad():
        for module in model.modules():
            for name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
                if not tensor.is_floating_point():
                    continue
                noise = torch.randn(tensor.shape, generator=generator)
                if name == "running_var" or (isinstance(module, norms) and name == "weight"):
                    tensor.copy_(1 + 0.3 * noise.tanh())
                elif isinstance(module, nn.Embedding):
                    tensor.copy_(noise)  # queries that differ
                elif tensor.ndim > 1:
                    tensor.copy_(noise * (2 / (tensor[0].numel() + len(tensor))) ** 0.5)
                else:
                    tensor.copy_(0.3 * noise)


def build_peer(backbone: str, pixels: torch.Tensor, **settings: Any) -> Mask2FormerForUniversalSegmentation:
    """A scrambled model of transformers in eval mode, of whose masks about half of these pixels are inside."""
    width = settings.pop("width", 64)
    defaults: dict[str, Any] = {
        "feature_size": width,
        "mask_feature_size": width,
        "hidden_dim": width,
        "num_attention_heads": width // 32,
        "encoder_feedforward_dim": 48,
        "dim_feedforward": 40,
        "encoder_layers": 2,
        "decoder_layers": 5,
        "num_queries": 7,
        "num_labels": len(settings.get("id2label", range(4))),
    }
    config = Mask2FormerConfig(backbone_config=BACKBONES[backbone](), **{**defaults, **settings})
    model = Mask2FormerForUniversalSegmentation(config).eval()
    scramble(model)
    # Centred, so that masked attention has something to mask.
    with torch.no_grad():
        level = model.model.pixel_level_module
        level.decoder.mask_projection.bias -= level(pixels).decoder_last_hidden_state.mean((0, 2, 3))
    return model


@pytest.fixture
def build(pixels: torch.Tensor) -> Callable[..., Mask2FormerForUniversalSegmentation]:
    """``build("resnet" | "swin", **settings)``: see :func:`build_peer`."""
    return lambda backbone, **settings: build_peer(backbone, pixels, **settings)


@pytest.fixture(scope="session")
def pixels() -> torch.Tensor:
    """Two images whose sides are no multiple of 32."""
    return torch.randn(2, 3, 75, 101, generator=torch.Generator().manual_seed(1))
