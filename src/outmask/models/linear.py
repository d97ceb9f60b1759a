"""Linear layers through oneDNN on the CPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_WORTH_IT = 1 << 17
"""Values of an input, as 512 rows of 256 have: below, MKL's product is as fast or faster."""


class Linear(nn.Linear):
    """As ``nn.Linear``; float32 inference on a CPU's threads goes through a 1x1 convolution.

    torch multiplies float32 matrices by MKL and convolves by oneDNN. A 1x1 convolution of channels-last pixels is the
    same product, and oneDNN's was 1.2 to 1.7 times as fast with two threads of an AMD processor with AVX-512; for
    gradients of wide layers it was slower, so training keeps MKL.
    """

    def forward(self, input: Tensor) -> Tensor:
        """``(..., in_features)`` -> ``(..., out_features)``."""
        if (
            takes_plain_form(input, self.weight)
            or input.device.type != "cpu"
            or input.dtype != torch.float32
            or self.weight.dtype != torch.float32
            or not torch.backends.mkldnn.enabled
            or input.numel() < _WORTH_IT
            or torch.get_num_threads() == 1  # torch then takes another way for 1x1 convolutions of one image
        ):
            return super().forward(input)
        pixels = input.reshape(1, 1, -1, self.in_features).permute(0, 3, 1, 2)
        output = F.conv2d(pixels, self.weight[:, :, None, None], self.bias)
        return output.permute(0, 2, 3, 1).reshape(*input.shape[:-1], self.out_features)


def is_learning(*tensors: Tensor) -> bool:
    """Whether what is computed from these tensors will be asked for gradients."""
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def takes_plain_form(*tensors: Tensor) -> bool:
    """Whether to compute in the usual form: for gradients, or for a compiler or exporter, which recognises that one."""
    return (
        is_learning(*tensors) or torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[no-untyped-call, attr-defined]
    )
