from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoBackbone, AutoConfig, AutoModel, AutoModelForImageClassification, PretrainedConfig

from outmask.errors import OutmaskError
from outmask.models import BACKBONES, build_backbone, load_pretrained

TINY: dict[str, Any] = {
    "model_type": "resnet",
    "embedding_size": 8,
    "hidden_sizes": [16, 24, 32, 40],
    "depths": [1, 1, 1, 1],
}
CONVNEXT: dict[str, Any] = {"model_type": "convnext", "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}


def config(**settings: Any) -> PretrainedConfig:
    return AutoConfig.for_model(**{**TINY, **settings}, out_features=["stage1", "stage4"])


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
    with pytest.raises(OutmaskError, match=r"unknown backbone 'resnet18'.*mobilenet_v2, resnet50"):
        build_backbone("resnet18")
    with pytest.raises(OutmaskError, match="model_type"):
        build_backbone({"depths": [1, 1, 1, 1]})


@pytest.mark.parametrize("kind", [AutoBackbone, AutoModel, AutoModelForImageClassification])
def test_pretrained_weights_are_those_of_the_folder(kind: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    donor = kind.from_config(config()).eval()
    donor.save_pretrained(tmp_path)
    backbone = build_backbone(TINY).eval()
    load_pretrained(backbone, str(tmp_path))
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = donor(pixels, output_hidden_states=True).hidden_states
        for feature, hidden in zip(backbone(pixels), expected[-4:], strict=True):
            assert torch.equal(feature, hidden)


def test_a_swin_classifier_gives_all_but_the_norms_of_the_maps(tmp_path: Path) -> None:
    settings = {"embed_dim": 12, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 2, 4], "window_size": 3}
    donor = AutoModelForImageClassification.from_config(AutoConfig.for_model("swin", **settings))
    donor.save_pretrained(tmp_path)
    backbone = build_backbone({"model_type": "swin", **settings})
    load_pretrained(backbone, str(tmp_path))
    block = backbone.get_submodule("body.swin.encoder.layers.3.blocks.0").state_dict()
    for name, weight in donor.swin.encoder.layers[3].blocks[0].state_dict().items():
        assert torch.equal(block[name], weight)


def test_pretrained_weights_that_are_absent_or_of_another_backbone_are_refused(tmp_path: Path) -> None:
    backbone = build_backbone(TINY)
    complaints = []
    with pytest.raises(OutmaskError, match="no backbone weights at") as caught:
        load_pretrained(backbone, str(tmp_path / "nothing"))
    complaints.append(str(caught.value))
    AutoBackbone.from_config(config(hidden_sizes=[16, 24, 32, 48])).save_pretrained(tmp_path / "wider")
    with pytest.raises(OutmaskError, match="don't fit this backbone") as caught:
        load_pretrained(backbone, str(tmp_path / "wider"))
    complaints.append(str(caught.value))
    AutoBackbone.from_config(AutoConfig.for_model(**CONVNEXT)).save_pretrained(tmp_path / "other")
    with pytest.raises(OutmaskError, match="are no resnet's") as caught:
        load_pretrained(backbone, str(tmp_path / "other"))
    complaints.append(str(caught.value))
    assert not any("\n" in complaint for complaint in complaints)
