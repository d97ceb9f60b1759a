"""DeepLabV3+: the dilated ResNet computes the strided one's values, and more of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from outmask.errors import OutmaskError
from outmask.models.backbones import TransformersBackbone, build_backbone
from outmask.models.deeplab import AtrousPyramid, DeepLabV3Plus, DeepLabV3PlusConfig, dilate

RESNET: dict[str, Any] = {
    "model_type": "resnet",
    "embedding_size": 8,
    "hidden_sizes": [16, 24, 32, 40],
    "depths": [1, 2, 2, 3],
}


@pytest.mark.parametrize("output_stride", [16, 8])
@pytest.mark.parametrize(
    "variant", [{}, {"downsample_in_bottleneck": True}, {"layer_type": "basic"}], ids=["bottleneck", "early", "basic"]
)
def test_dilated_maps_hold_the_strided_ones(output_stride: int, variant: dict[str, Any]) -> None:
    torch.manual_seed(0)
    backbone = build_backbone(RESNET | variant).eval()
    assert isinstance(backbone, TransformersBackbone)
    pixels = torch.randn(2, 3, 101, 135)
    with torch.no_grad():
        strided = backbone(pixels)
        dilate(backbone, output_stride)
        dilated = backbone(pixels)
    for index, (coarse, fine) in enumerate(zip(strided, dilated, strict=True)):
        step = max(1, 4 * 2**index // output_stride)
        assert fine.shape[2:] == tuple(-(-side // min(4 * 2**index, output_stride)) for side in (101, 135))
        # Convolutions of other strides may add up in another order.
        torch.testing.assert_close(fine[..., ::step, ::step], coarse, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("output_stride", "rates"), [(16, [1, 6, 12, 18]), (8, [1, 12, 24, 36])])
def test_the_pyramid_dilates_twice_as_far_at_half_the_stride(output_stride: Any, rates: list[int]) -> None:
    model = DeepLabV3Plus(DeepLabV3PlusConfig(3, RESNET, output_stride, dim=32))
    branches = [branch[0] for branch in model.pyramid.branches]  # type: ignore[index]
    assert [branch.dilation[0] for branch in branches if isinstance(branch, nn.Conv2d)] == rates


def test_the_pyramid_sees_the_whole_image() -> None:
    torch.manual_seed(0)
    pyramid = AtrousPyramid(8, 32, [6, 12, 18], dropout=0.0).eval()
    features = torch.randn(1, 8, 40, 40, requires_grad=True)
    pyramid.project[0].weight.data[:, : 4 * 32] = 0  # only the image's mean is left, of five branches
    pyramid(features)[0, :, 0, 0].sum().backward()
    assert features.grad is not None
    assert (features.grad[0].abs().sum(0) > 0).all()


def test_dropout_is_for_training_only() -> None:
    torch.manual_seed(0)
    model = DeepLabV3Plus(DeepLabV3PlusConfig(3, RESNET, dim=32, dropout=0.5)).eval()
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(model(pixels).logits, model(pixels).logits)
        model.train()
        assert not torch.equal(model(pixels).logits, model(pixels).logits)


def test_the_resnet50_model_has_the_papers_sizes() -> None:
    with torch.device("meta"):
        model = DeepLabV3Plus(DeepLabV3PlusConfig(19))
    assert model.low_level[0].weight.shape == (48, 256, 1, 1)
    assert model.decoder[0][0].weight.shape == (256, 304, 3, 3)
    assert [stage.layers[-1].layer[1].convolution.dilation for stage in model.backbone.body.encoder.stages] == [  # type: ignore[union-attr]
        (1, 1),
        (1, 1),
        (1, 1),
        (2, 2),
    ]


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"num_classes": 0}, "num_classes must be at least 1"),
        ({"output_stride": 32}, "output_stride must be 8 or 16, got 32"),
        ({"dim": 48}, "dim must be a multiple of 32"),
        ({"dropout": 1.0}, "dropout must be in"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(OutmaskError, match=complaint):
        DeepLabV3PlusConfig(**{"num_classes": 3, **settings})


@pytest.mark.parametrize("backbone", ["mobilenet_v2", "swin-tiny"])
def test_only_a_resnet_can_be_dilated(backbone: str) -> None:
    with torch.device("meta"), pytest.raises(OutmaskError, match=f"needs a ResNet to dilate, got '{backbone}'"):
        DeepLabV3Plus(DeepLabV3PlusConfig(3, backbone))
