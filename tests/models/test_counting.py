"""Multiply-adds against closed forms, and the sizes of Mask2Anomaly's table X."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from outmask.models import build_architecture
from outmask.models.counting import count_multiply_adds
from outmask.models.deformable import DeformableAttention, own_places
from outmask.models.mask_decoder import Attention

# What Mask2Former's and Mask2Anomaly's models share: queries, channels, decoder layers.
N, D, LAYERS = 100, 256, 9


class Small(nn.Module):
    """A convolution with groups and stride, one that is transposed, a linear layer; norms and the like cost nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.grouped = nn.Conv2d(3, 6, 3, stride=2, padding=1, groups=3)
        self.norm = nn.GroupNorm(2, 6)
        self.transposed = nn.ConvTranspose2d(6, 4, 2, stride=2)
        self.linear = nn.Linear(4, 7)

    def forward(self, pixels: Tensor) -> Tensor:
        features = self.transposed(self.norm(self.grouped(pixels)).relu())
        return self.linear(features.flatten(2).transpose(1, 2)).softmax(-1)


@pytest.mark.parametrize(("height", "width"), [(10, 14), (64, 32)])
def test_convolutions_and_linear_layers(height: int, width: int) -> None:
    half = (height // 2) * (width // 2)
    grouped = half * 6 * 9  # each output channel reads one input channel
    transposed = half * 6 * 4 * 4  # each input pixel reaches 2 x 2 output pixels
    linear = 4 * half * 4 * 7
    assert count_multiply_adds(Small, (height, width)) == grouped + transposed + linear


class Tokens(nn.Module):
    """Pixels as tokens of an attention module."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, dim, 1)

    def tokens(self, pixels: Tensor) -> Tensor:
        tokens: Tensor = self.embed(pixels).flatten(2).transpose(1, 2)
        return tokens


class Attending(Tokens):
    def __init__(self) -> None:
        super().__init__(32)
        self.attention = Attention(32, 4)

    def forward(self, pixels: Tensor) -> Tensor:
        tokens = self.tokens(pixels)
        queries, visible = tokens[:, :5], torch.ones(1, 1, 5, tokens.shape[1], dtype=torch.bool, device=pixels.device)
        output: Tensor = self.attention(queries, tokens, tokens, visible)
        return output


def test_attention_is_four_projections_and_two_products() -> None:
    pixels, dim, queries = 6 * 8, 32, 5
    projections = 2 * queries * dim**2 + 2 * pixels * dim**2
    products = 2 * queries * pixels * dim
    assert count_multiply_adds(Attending, (6, 8)) == pixels * 3 * dim + projections + products


class Deforming(Tokens):
    def __init__(self) -> None:
        super().__init__(32)
        self.attention = DeformableAttention(32, num_heads=4, num_levels=1, num_points=3)

    def forward(self, pixels: Tensor) -> Tensor:
        tokens = self.tokens(pixels)
        places = own_places([(6, 8)], 4, 3, tokens)
        output: Tensor = self.attention(tokens, tokens, places, [(6, 8)])
        return output


def test_deformable_attention_gathers_four_corners_of_each_point() -> None:
    pixels, dim, heads, points = 6 * 8, 32, 4, 3
    projections = pixels * dim * (2 * dim + 3 * heads * points)  # values, outputs; x, y and weight of each point
    gather = pixels * heads * points * 4 * (dim // heads)
    assert count_multiply_adds(Deforming, (6, 8)) == pixels * 3 * dim + projections + gather


def resnet50(attention: str, num_classes: int = 19) -> nn.Module:
    return build_architecture({"kind": "mask2former", "num_classes": num_classes, "attention": attention})


def sizes(attention: str) -> tuple[int, int]:
    """Parameters of the whole model, and of its head."""
    with torch.device("meta"):
        model = resnet50(attention)
    of_backbone = sum(parameter.numel() for parameter in model.get_submodule("backbone").parameters())
    everything = sum(parameter.numel() for parameter in model.parameters())
    return everything, everything - of_backbone


def test_global_attention_adds_a_second_attention_to_each_layer() -> None:
    cross, masked, global_ = (sizes(attention) for attention in ("cross", "masked", "global"))
    one = 4 * (D * D + D)
    assert one == 263_168
    assert cross == masked
    assert global_[0] - masked[0] == global_[1] - masked[1] == LAYERS * one


def test_sizes_are_those_of_table_x() -> None:
    everything, head = sizes("masked")
    assert round(everything / 1e6) == 44
    assert round(head / 1e6, 1) == 20.5
    # Mask2Anomaly trains the head alone: its backbone is frozen.
    assert round(sizes("global")[1] / 1e6) == 23


def test_attention_costs_its_masks_projections_and_products() -> None:
    height, width = 128, 256
    cross, masked, double = (
        count_multiply_adds(partial(resnet50, attention), (height, width))
        for attention in ("cross", "masked", "global")
    )
    masks, background = 0, 0
    for stride in (32, 16, 8):
        pixels = (height // stride) * (width // stride)
        # Three layers of the mask embedding, the last 1x1 convolution multiplied into it, and its product with the map.
        masks += (LAYERS // 3) * (3 * N * D**2 + N * D**2 + N * pixels * D)
        background += (LAYERS // 3) * (2 * N * D**2 + 2 * pixels * D**2 + 2 * N * pixels * D)
    assert masked - cross == masks
    assert double - masked == background


@pytest.mark.parametrize(
    "description",
    [
        {"kind": "per_pixel", "backbone": "swin-tiny"},
        {"kind": "deeplab_v3_plus"},
        {"kind": "semantic_segmentation", "network": {"model_type": "segformer"}},
        {"kind": "mask2former", "backbone": "convnext-large"},
        {"kind": "mask2former", "backbone": "mobilenet_v2"},
    ],
)
def test_every_architecture_is_counted(description: dict[str, object]) -> None:
    """Twice the pixels: about twice the cost, up to four times where all pixels attend to all (SegFormer)."""
    build = partial(build_architecture, {"num_classes": 19, **description})
    small, large = count_multiply_adds(build, (224, 224)), count_multiply_adds(build, (224, 448))
    assert 1.8 < large / small < 4
