from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import MobileNetV2Config, MobileNetV2Model

from outmask.errors import OutmaskError
from outmask.models.mobilenet_v2 import MobileNetV2, SameConv


def model(seed: int = 0) -> MobileNetV2:
    torch.manual_seed(seed)
    backbone = MobileNetV2().eval()
    for convolution in backbone.modules():
        if isinstance(convolution, nn.Conv2d):
            nn.init.kaiming_normal_(convolution.weight)
            assert convolution.bias is not None
            nn.init.normal_(convolution.bias, std=0.1)
    return backbone


@pytest.mark.parametrize(
    ("height", "width", "stride", "kernel"), [(5, 6, 2, 3), (6, 5, 2, 3), (1, 1, 2, 3), (4, 7, 1, 3)]
)
def test_same_padding_is_tensorflows(height: int, width: int, stride: int, kernel: int) -> None:
    """https://www.tensorflow.org/api_docs/python/tf/nn#notes_on_padding_2, written out."""
    convolution, image = SameConv(1, 1, kernel, stride), torch.randn(1, 1, height, width)
    weight = convolution.weight[0, 0]
    output = convolution(image)[0, 0]
    assert output.shape == (-(-height // stride), -(-width // stride))

    def before(size: int) -> int:
        short = size % stride
        return max(kernel - (short or stride), 0) // 2

    for row in range(output.shape[0]):
        for column in range(output.shape[1]):
            total = convolution.bias.clone() if convolution.bias is not None else torch.zeros(1)
            for dy in range(kernel):
                for dx in range(kernel):
                    y, x = row * stride + dy - before(height), column * stride + dx - before(width)
                    if 0 <= y < height and 0 <= x < width:
                        total += weight[dy, dx] * image[0, 0, y, x]
            torch.testing.assert_close(output[row, column], total[0])


@pytest.mark.parametrize(("height", "width"), [(64, 96), (75, 101)])
def test_equal_to_transformers_with_tensorflow_padding(height: int, width: int) -> None:
    ours = model()
    theirs = MobileNetV2Model(MobileNetV2Config(tf_padding=True), add_pooling_layer=False).eval()
    convolutions = [module for module in ours.modules() if isinstance(module, SameConv)]
    layers = [module for module in theirs.modules() if type(module).__name__ == "MobileNetV2ConvLayer"]
    with torch.no_grad():
        for convolution, layer in zip(
            convolutions, layers, strict=False
        ):  # theirs ends with the classifier's convolution
            layer.convolution.weight.copy_(convolution.weight)
            norm = layer.normalization  # all it does is add the bias
            norm.bias.copy_(convolution.bias)
            norm.weight.fill_(1)
            norm.running_mean.zero_()
            norm.running_var.fill_(1 - norm.eps)
        assert len(layers) == len(convolutions) + 1
        pixels = torch.randn(2, 3, height, width)
        features = ours(pixels)
        hidden = theirs(pixels, output_hidden_states=True).hidden_states
    for feature, block in zip(features, (1, 4, 11, 15), strict=True):  # the last block of each resolution
        scale = float(feature.std())
        torch.testing.assert_close(feature / scale, hidden[block] / scale, atol=1e-4, rtol=1e-4)


def archive(backbone: MobileNetV2) -> dict[str, np.ndarray]:
    arrays = {}
    for index, convolution in enumerate(m for m in backbone.modules() if isinstance(m, SameConv)):
        kind = "dw" if convolution.groups > 1 else "conv"
        name = f"{index:02d}_{kind}_s{convolution.stride[0]}"
        assert convolution.bias is not None
        arrays[f"{name}_w"], arrays[f"{name}_b"] = (
            convolution.weight.detach().numpy(),
            convolution.bias.detach().numpy(),
        )
    arrays["51_head_s1_w"], arrays["51_head_s1_b"] = np.zeros((1280, 320, 1, 1)), np.zeros(1280)
    return arrays


def test_weights_of_an_npz_are_loaded_in_order(tmp_path: Path) -> None:
    source, target = model(0), model(1)
    np.savez(tmp_path / "weights.npz", **archive(source))
    target.load_npz(tmp_path / "weights.npz")
    pixels = torch.randn(1, 3, 40, 40)
    with torch.no_grad():
        assert all(torch.equal(one, other) for one, other in zip(source(pixels), target(pixels), strict=True))


def test_an_npz_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    arrays = archive(model())
    path = tmp_path / "weights.npz"

    np.savez(path, **{**arrays, "03_conv_s1_w": np.zeros((1, 2, 1, 1))})
    with pytest.raises(OutmaskError, match="03_conv_s1_w is \\(1, 2, 1, 1\\), expected"):
        model().load_npz(path)

    np.savez(path, **{name: array for name, array in arrays.items() if name != "03_conv_s1_b"})
    with pytest.raises(OutmaskError, match="and a bias"):
        model().load_npz(path)

    np.savez(path, **dict(list(arrays.items())[:10]))
    with pytest.raises(OutmaskError, match=r"expected at least 51 arrays .* got 5"):
        model().load_npz(path)

    path.write_text("no archive")
    with pytest.raises(OutmaskError, match=r"no readable \.npz"):
        model().load_npz(path)


@pytest.mark.skipif("OUTMASK_DATA" not in os.environ, reason="needs real data: set OUTMASK_DATA")
def test_the_real_weights_know_a_black_swan() -> None:
    root = Path(os.environ["OUTMASK_DATA"])
    weights = root / "backbones" / "mobilenet_v2_imagenet.npz"
    backbone = MobileNetV2().eval()
    backbone.load_npz(weights)
    with np.load(weights) as arrays:
        head, classifier = (
            [torch.from_numpy(arrays[name]).float() for name in pair] for pair in _last_two(arrays.files)
        )
    with Image.open(next((root / "davis_objects" / "images").glob("blackswan_*.jpg"))) as image:
        picture = np.asarray(image.convert("RGB").resize((320, 224)))
    pixels = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.no_grad():
        features: Tensor = F.relu6(F.conv2d(backbone(pixels)[-1], *head)).mean((2, 3))
        logits = features @ classifier[0].flatten(1).T + classifier[1]
    background = logits.shape[1] - 1000  # TensorFlow's classifiers have a class 0 for it
    assert int(logits.argmax()) - background == 100  # ImageNet's "black swan"


def _last_two(names: list[str]) -> list[tuple[str, str]]:
    weights = sorted(name for name in names if name.endswith("_w"))[-2:]
    return [(name, f"{name[:-1]}b") for name in weights]
