"""Tiny per-pixel models, and subjects that detectors can ask."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from outmask.models import (
    DeepLabV3Plus,
    DeepLabV3PlusConfig,
    Mask2Former,
    Mask2FormerConfig,
    PerPixel,
    PerPixelConfig,
    SemanticSegmentationConfig,
    SemanticSegmentationModel,
)
from outmask.models.per_pixel import PixelClassifier
from outmask.preprocessing import Preprocessing
from outmask.segmenter import Segmenter
from outmask.types import PixelPrediction, Taxonomy

RESNET = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [16, 24, 32, 40], "depths": [1, 1, 1, 1]}
SMALL: dict[str, Any] = {"dim": 32, "num_heads": 2, "encoder_layers": 1, "encoder_ffn_dim": 32}
SEGFORMER = {
    "model_type": "segformer",
    "depths": [1, 1, 1, 1],
    "hidden_sizes": [8, 16, 24, 32],
    "num_attention_heads": [1, 2, 2, 4],
    "decoder_hidden_size": 16,
}
TAXONOMY = Taxonomy(("road", "sky", "car"), ((0, 0, 0), (1, 1, 1), (2, 2, 2)), (False, False, True), ("road",))
MODELS: dict[str, Callable[[], nn.Module]] = {
    "per_pixel": lambda: PerPixel(PerPixelConfig(3, RESNET, **SMALL)),
    "deeplab": lambda: DeepLabV3Plus(DeepLabV3PlusConfig(3, RESNET, dim=32)),
    "segformer": lambda: SemanticSegmentationModel(SemanticSegmentationConfig(3, SEGFORMER)),
    "masks": lambda: Mask2Former(Mask2FormerConfig(3, RESNET, **SMALL, num_queries=5, decoder_layers=1)),
}


@pytest.fixture
def tiny() -> Callable[..., Segmenter]:
    """``tiny(name, seed=0)``: a small model as ``outmask.load`` gives it."""

    def build(name: str, seed: int = 0) -> Segmenter:
        torch.manual_seed(seed)
        model = MODELS[name]().eval().requires_grad_(False)
        return Segmenter(model, TAXONOMY, Preprocessing(short_side=32), f"{name} {seed}")

    return build


@pytest.fixture
def image() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)


class Linear(nn.Module):
    """Features are the pixels and the head is linear, three classes: everything has a closed form."""

    def __init__(self) -> None:
        super().__init__()
        self.head = PixelClassifier(3, 3, outlier_head=False)

    def features(self, pixels: Tensor) -> Tensor:
        return pixels

    def forward(self, pixels: Tensor) -> PixelPrediction:
        prediction: PixelPrediction = self.head(self.features(pixels))
        return prediction


@dataclass
class Subject:
    """What detectors need of a segmenter, and no more."""

    model: nn.Module
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    statistics: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    name: str = "a model"

    def preprocess(self, image: NDArray[np.uint8]) -> Tensor:
        return self.preprocessing.normalise(torch.from_numpy(image).permute(2, 0, 1)[None].float())


@pytest.fixture
def linear() -> Subject:
    torch.manual_seed(0)
    return Subject(Linear().eval())


@pytest.fixture
def pixels() -> Tensor:
    return torch.randn(2, 3, 6, 8, generator=torch.Generator().manual_seed(1))
