"""MobileNetV2 1.0 (Sandler et al. 2018), its BatchNorm folded into the convolutions, as TensorFlow Lite ships it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from outmask.errors import OutmaskError

# Expansion, output channels, repeats and stride of the first repeat (table 2 of the paper).
INVERTED_RESIDUALS = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class SameConv(nn.Conv2d):
    """Convolution with TensorFlow's ``SAME`` padding: with stride 2 the odd pixel goes to the bottom and right."""

    def forward(self, input: Tensor) -> Tensor:
        """``(B, C, H, W)`` -> ``(B, C', ceil(H / stride), ceil(W / stride))``."""
        if self.stride == (1, 1):
            return F.conv2d(input, self.weight, self.bias, padding="same", groups=self.groups)
        pads: list[int] = []
        for axis in (3, 2):  # F.pad begins at the last axis
            kernel, stride = self.kernel_size[axis - 2], self.stride[axis - 2]
            total = kernel - stride + -input.shape[axis] % stride
            pads += [total // 2, total - total // 2]
        return F.conv2d(F.pad(input, pads), self.weight, self.bias, self.stride, groups=self.groups)


class InvertedResidual(nn.Module):
    """1x1 expansion, 3x3 depthwise, 1x1 linear projection; residual where shapes allow."""

    def __init__(self, in_channels: int, out_channels: int, expansion: int, stride: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.residual = stride == 1 and in_channels == out_channels
        layers: list[nn.Module] = []
        if expansion != 1:
            layers += [SameConv(in_channels, hidden, 1), nn.ReLU6(inplace=True)]
        layers += [
            SameConv(hidden, hidden, 3, stride, groups=hidden),
            nn.ReLU6(inplace=True),
            SameConv(hidden, out_channels, 1),
        ]
        self.layers = nn.Sequential(*layers)

    def forward(self, pixels: Tensor) -> Tensor:
        """``(B, C, H, W)`` -> ``(B, C', H / stride, W / stride)``."""
        output: Tensor = self.layers(pixels)
        return pixels + output if self.residual else output


class MobileNetV2(nn.Module):
    """Features at 1/4, 1/8, 1/16 and 1/32: the last block's output of each resolution.

    The ImageNet weights were trained on RGB scaled to [-1, 1], ``rgb / 127.5 - 1``; fine-tuning on ImageNet's mean and
    deviation, as our recipes do, makes up for the difference.
    """

    channels = (24, 32, 96, 320)

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(SameConv(3, 32, 3, 2), nn.ReLU6(inplace=True))
        self.blocks = nn.ModuleList()
        width, self._ends = 32, []
        for expansion, channels, repeats, stride in INVERTED_RESIDUALS:
            if stride == 2 and len(self.blocks) > 1:  # the block before a further halving ends its resolution
                self._ends.append(len(self.blocks) - 1)
            for repeat in range(repeats):
                self.blocks.append(InvertedResidual(width, channels, expansion, stride if repeat == 0 else 1))
                width = channels
        self._ends.append(len(self.blocks) - 1)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """``(B, 3, H, W)`` -> four maps, finest first."""
        features: list[Tensor] = []
        pixels = self.stem(pixels)
        for index, block in enumerate(self.blocks):
            pixels = block(pixels)
            if index in self._ends:
                features.append(pixels)
        return features

    def load_npz(self, path: str | Path) -> None:
        """Load ImageNet weights from arrays ``NN_KIND_sSTRIDE_w`` / ``_b`` in forward order.

        The classifier's last two layers, if present, are left out.

        Raises:
            OutmaskError: where the file is no such archive or an array has another shape than its layer.
        """
        try:
            with np.load(path, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
        except (OSError, ValueError) as error:
            raise OutmaskError(f"{path}: no readable .npz of MobileNetV2 weights ({error})") from None
        convolutions = [module for module in self.modules() if isinstance(module, SameConv)]
        weights = sorted(name for name in arrays if name.endswith("_w"))
        if len(weights) < len(convolutions):
            raise OutmaskError(
                f"{path}: expected at least {len(convolutions)} arrays named NN_KIND_sSTRIDE_w, got {len(weights)}"
            )
        for convolution, name in zip(convolutions, weights, strict=False):
            weight, bias = arrays[name], arrays.get(name[:-1] + "b")
            if weight.shape != tuple(convolution.weight.shape) or bias is None or convolution.bias is None:
                raise OutmaskError(
                    f"{path}: {name} is {weight.shape}, expected {tuple(convolution.weight.shape)} and a bias"
                )
            with torch.no_grad():
                convolution.weight.copy_(torch.from_numpy(weight))
                convolution.bias.copy_(torch.from_numpy(bias))
