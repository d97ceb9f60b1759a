"""Linear layers through oneDNN on the CPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Linear(nn.Linear):
    """As ``nn.Linear``; float32 inference on the CPU goes through a 1x1 convolution.

    torch multiplies float32 matrices by MKL and convolves by oneDNN. A 1x1 convolution of channels-last pixels is the
    same product, and oneDNN's was 1.2 to 1.7 times as fast on an AMD processor with AVX-512; for gradients of wide
    layers it was slower, so training keeps MKL.
    """

    def forward(self, input: Tensor) -> Tensor:
        """``(..., in_features)`` -> ``(..., out_features)``."""
        if (
            is_learning(input, self.weight)
            or torch.compiler.is_compiling()
            or torch.jit.is_tracing()  # type: ignore[no-untyped-call, attr-defined]
            or input.device.type != "cpu"
            or input.dtype != torch.float32
            or self.weight.dtype != torch.float32
            or not torch.backends.mkldnn.enabled
            or input.numel() == 0  # a convolution needs pixels
        ):
            return super().forward(input)
        pixels = input.reshape(1, 1, -1, self.in_features).permute(0, 3, 1, 2)
        output = F.conv2d(pixels, self.weight[:, :, None, None], self.bias)
        return output.permute(0, 2, 3, 1).reshape(*input.shape[:-1], self.out_features)


def is_learning(*tensors: Tensor) -> bool:
    """Whether what is computed from these tensors will be asked for gradients."""
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
