"""Tiny models with everything that belongs to a model, and their exported files, each written once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.models.conftest import TINY
from torch import Tensor, nn

from outmask.checkpoints import ModelBundle
from outmask.export import FORMATS, Format, export
from outmask.models import build_architecture
from outmask.preprocessing import Preprocessing
from outmask.types import Taxonomy

TAXONOMY = Taxonomy(
    ("road", "sky", "café"), ((128, 64, 128), (70, 130, 180), (9, 9, 9)), (False, False, True), ("road",)
)
SCORES = ("eam", "am", "unclaimed")
POINTS = {"eam": {"threshold": -0.25, "origin": 'a "test" <&> – 5 %'}}
SMALL: dict[str, Any] = {
    "num_classes": 3,
    "dim": 32,
    "num_heads": 2,
    "encoder_layers": 1,
    "encoder_ffn_dim": 48,
    "num_points": 2,
}
DECODER: dict[str, Any] = {"num_queries": 6, "decoder_layers": 3, "decoder_ffn_dim": 40}


def make_bundle(backbone: str = "resnet", kind: str = "mask2former", **settings: Any) -> ModelBundle:
    """A model with random weights, always the same."""
    torch.manual_seed(0)
    sizes = {**SMALL, **(DECODER if kind == "mask2former" else {})}
    model = build_architecture({"kind": kind, "backbone": TINY[backbone], **sizes, **settings}).eval()
    if backbone == "mobilenet_v2":
        # It has no norms: PyTorch's default weights would leave nothing of the image after 53 layers.
        for module in model.backbone.modules():  # type: ignore[union-attr]
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
    return ModelBundle(
        model, TAXONOMY, Preprocessing(short_side=None), "none; for tests", {"made": "here"}, "tiny", POINTS
    )


def pixels(batch: int, height: int, width: int) -> Tensor:
    """Smooth like images, so that few mask logits lie at zero, where rounding would decide what a query sees."""
    torch.manual_seed(0)
    return nn.functional.interpolate(torch.randn(batch, 3, 6, 8), (height, width), mode="bicubic")


@pytest.fixture(scope="session")
def bundle() -> Callable[..., ModelBundle]:
    """``bundle(backbone, kind, **settings)``: each made once."""
    made: dict[str, ModelBundle] = {}

    def get(*kind: str, **settings: Any) -> ModelBundle:
        return made.setdefault(f"{kind} {settings}", make_bundle(*kind, **settings))

    return get


@pytest.fixture(scope="session")
def exported(bundle: Callable[..., ModelBundle], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``exported(format, names, *kind, **settings)``: the file of a bundle, each written once."""
    made: dict[str, Path] = {}

    def get(format_: Format, names: tuple[str, ...] = ("eam",), *kind: str, **settings: Any) -> Path:
        key = f"{format_} {names} {kind} {settings}"
        if key not in made:
            path = tmp_path_factory.mktemp("exported") / f"tiny{FORMATS[format_]}"
            export(bundle(*kind, **settings), path, format_, names)
            made[key] = path
        return made[key]

    return get
