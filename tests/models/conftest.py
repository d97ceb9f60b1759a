"""Tiny models of every backbone and attention."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import nn

from outmask.models import Mask2Former, Mask2FormerConfig

TINY: dict[str, str | Mapping[str, Any]] = {
    "resnet": {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [16, 24, 32, 40], "depths": [1, 2, 1, 1]},
    "swin": {
        "model_type": "swin",
        "embed_dim": 12,
        "depths": [1, 2, 1, 1],
        "num_heads": [1, 2, 2, 4],
        "window_size": 3,
    },
    "convnext": {"model_type": "convnext", "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]},
    "mobilenet_v2": "mobilenet_v2",
}


@pytest.fixture
def tiny() -> Callable[..., Mask2Former]:
    """``tiny(backbone, **settings)``: a small model in eval mode, always with the same weights."""

    def build(backbone: str = "resnet", **settings: Any) -> Mask2Former:
        torch.manual_seed(0)
        defaults: dict[str, Any] = {
            "num_classes": 3,
            "dim": 32,
            "num_heads": 2,
            "encoder_layers": 2,
            "encoder_ffn_dim": 48,
            "num_points": 2,
            "num_queries": 6,
            "decoder_layers": 4,
            "decoder_ffn_dim": 40,
        }
        model = Mask2Former(Mask2FormerConfig(backbone=TINY[backbone], **{**defaults, **settings})).eval()
        if backbone == "mobilenet_v2":
            # It has no norms: PyTorch's default weights would leave nothing of the image after 53 layers.
            for module in model.backbone.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.kaiming_normal_(module.weight)
        return model

    return build
