from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoBackbone, AutoConfig

from outmask.errors import OutmaskError
from outmask.models import BACKBONES, build_backbone, load_pretrained

TINY: dict[str, Any] = {
    "model_type": "resnet",
    "embedding_size": 8,
    "hidden_sizes": [16, 24, 32, 40],
    "depths": [1, 1, 1, 1],
}
CONVNEXT: dict[str, Any] = {"model_type": "convnext", "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}


@pytest.mark.parametrize(
    ("name", "channels", "millions"),
    [  # parameters without a classifier, as the papers of each backbone count them
        ("mobilenet_v2", (24, 32, 96, 320), 1.8),
        ("resnet50", (256, 512, 1024, 2048), 23.5),
        ("resnet101", (256, 512, 1024, 2048), 42.5),
        ("swin-tiny", (96, 192, 384, 768), 27.5),
        ("swin-small", (96, 192, 384, 768), 48.8),
        ("swin-base", (128, 256, 512, 1024), 86.7),
        ("swin-large", (192, 384, 768, 1536), 195.0),
        ("convnext-large", (192, 384, 768, 1536), 196.2),
    ],
)
def test_every_named_backbone_has_its_published_size(name: str, channels: tuple[int, ...], millions: float) -> None:
    with torch.device("meta"):
        backbone = build_backbone(name)
    assert name in BACKBONES
    assert backbone.channels == channels
    count = sum(weight.numel() for weight in backbone.parameters()) / 1e6
    assert count == pytest.approx(millions, rel=0.01)


def test_convnext_sees_the_rows_and_columns_that_fill_no_patch() -> None:
    torch.manual_seed(0)
    backbone = build_backbone(CONVNEXT).eval()
    pixels = torch.randn(1, 3, 75, 101)
    with torch.no_grad():
        maps = backbone(pixels)
        assert [tuple(level.shape[-2:]) for level in maps] == [(19, 26), (10, 13), (5, 7), (3, 4)]
        padded = backbone(F.pad(pixels, (0, 27, 0, 21)))
        for level, whole in zip(maps, padded, strict=True):
            assert torch.equal(level, whole[..., : level.shape[2], : level.shape[3]])
        pixels[..., 74, :] += 10  # the last row, 3 beyond the last whole patch
        assert not torch.equal(backbone(pixels)[0], maps[0])


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(OutmaskError, match="unknown backbone 'resnet18'.*mobilenet_v2, resnet50"):
        build_backbone("resnet18")
    with pytest.raises(OutmaskError, match="model_type"):
        build_backbone({"depths": [1, 1, 1, 1]})


def test_pretrained_weights_are_those_of_the_folder(tmp_path: Path) -> None:
    torch.manual_seed(0)
    settings = {name: value for name, value in TINY.items() if name != "model_type"}
    donor = AutoBackbone.from_config(AutoConfig.for_model("resnet", **settings, out_features=["stage4"])).eval()
    donor.save_pretrained(tmp_path)
    backbone = build_backbone(TINY).eval()
    load_pretrained(backbone, str(tmp_path))
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(backbone(pixels)[-1], donor(pixels).feature_maps[0])


def test_pretrained_weights_that_are_absent_or_of_another_backbone_are_refused(tmp_path: Path) -> None:
    backbone = build_backbone(TINY)
    with pytest.raises(OutmaskError, match="no backbone weights at"):
        load_pretrained(backbone, str(tmp_path / "nothing"))
    settings = {name: value for name, value in TINY.items() if name != "model_type"}
    wider = AutoConfig.for_model("resnet", **{**settings, "hidden_sizes": [16, 24, 32, 48]})
    AutoBackbone.from_config(wider).save_pretrained(tmp_path)
    with pytest.raises(OutmaskError, match="don't fit this backbone") as caught:
        load_pretrained(backbone, str(tmp_path))
    assert "\n" not in str(caught.value)
