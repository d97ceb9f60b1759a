from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
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


class Bottleneck(nn.Module):
    """A block of torchvision's ResNet, with its names; it halves the resolution in the 3x3 convolution."""

    def __init__(self, width: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, 4 * planes, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * planes)
        self.downsample = None
        if stride > 1 or width != 4 * planes:
            projection = nn.Conv2d(width, 4 * planes, 1, stride, bias=False)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(4 * planes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + (x if self.downsample is None else self.downsample(x)))


class ResNet50(nn.Module):
    """torchvision's ResNet-50 up to its classifier, with its names."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        width = 64
        for stage, (planes, depth) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3)), 1):
            blocks = []
            for index in range(depth):
                blocks.append(Bottleneck(width, planes, 2 if index == 0 and stage > 1 else 1))
                width = 4 * planes
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
        self.fc = nn.Linear(2048, 1000)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        maps = []
        for stage in range(1, 5):
            x = self.get_submodule(f"layer{stage}")(x)
            maps.append(x)
        return maps


@pytest.fixture(scope="module")
def torchvision_resnet() -> ResNet50:
    """With statistics and affine parameters that are not the identity, so that a swapped norm shows."""
    torch.manual_seed(0)
    model = ResNet50().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.running_var):
                nn.init.uniform_(tensor, 0.5, 1.0)
            for tensor in (module.bias.data, module.running_mean):
                nn.init.normal_(tensor, std=0.1)
    return model


@pytest.mark.parametrize("classifier", [True, False], ids=["torchvision", "Barlow Twins"])
def test_weights_in_torchvisions_layout_give_torchvisions_features(
    torchvision_resnet: ResNet50, classifier: bool, tmp_path: Path
) -> None:
    state = {
        name: tensor
        for name, tensor in torchvision_resnet.state_dict().items()
        if classifier or not name.startswith("fc.")
    }
    torch.save(state, tmp_path / "resnet50.pth")
    backbone = build_backbone("resnet50")  # not put into eval mode: its norms are frozen from the start
    load_pretrained(backbone, str(tmp_path / "resnet50.pth"))
    pixels = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        for feature, expected in zip(backbone(pixels), torchvision_resnet(pixels), strict=True):
            torch.testing.assert_close(feature, expected, rtol=1e-5, atol=1e-5)


def test_torchvision_weights_that_do_not_fit_are_refused_in_one_line(
    torchvision_resnet: ResNet50, tmp_path: Path
) -> None:
    resnet = {
        name: tensor for name, tensor in torchvision_resnet.state_dict().items() if name != "layer3.2.conv1.weight"
    }
    torch.save(resnet, tmp_path / "incomplete.pth")
    torch.save({"weights": torch.zeros(3)}, tmp_path / "other.pth")
    (tmp_path / "damaged.pth").write_bytes(b"no pickle")
    torch.save(Path("code"), tmp_path / "code.pth")
    for name, backbone, message in (
        ("incomplete.pth", "resnet50", "don't fit this backbone.*stages.2.layers.2.layer.0.convolution.weight"),
        (
            "incomplete.pth",
            {"model_type": "resnet", "downsample_in_bottleneck": True},
            "without downsample_in_bottleneck",
        ),
        ("incomplete.pth", CONVNEXT, "got convnext"),
        ("other.pth", TINY, "conv1.weight"),
        ("damaged.pth", TINY, "no readable weights"),
        ("code.pth", TINY, "no readable weights"),
        ("missing.pth", TINY, "no backbone weights at"),
    ):
        with pytest.raises(OutmaskError, match=message) as caught:
            load_pretrained(build_backbone(backbone), str(tmp_path / name))
        assert "\n" not in str(caught.value)


SWIN: dict[str, Any] = {
    "model_type": "swin",
    "embed_dim": 12,
    "depths": [1, 1, 1, 1],
    "num_heads": [1, 2, 2, 4],
    "window_size": 3,
}


@pytest.mark.parametrize("kind", [TINY, CONVNEXT, SWIN, "mobilenet_v2"])
def test_every_weight_that_is_trained_has_a_gradient(kind: Any) -> None:
    # DDP waits for the gradient of each of them.
    backbone = build_backbone(kind).train()
    sum(feature.square().sum() for feature in backbone(torch.randn(1, 3, 64, 64))).backward()
    assert [name for name, weight in backbone.named_parameters() if weight.requires_grad and weight.grad is None] == []


def test_batch_norm_is_frozen_from_the_start() -> None:
    backbone = build_backbone(TINY)
    before = {name: buffer.clone() for name, buffer in backbone.named_buffers()}
    backbone(torch.randn(2, 3, 64, 64))
    assert before
    assert all(torch.equal(buffer, before[name]) for name, buffer in backbone.named_buffers())
