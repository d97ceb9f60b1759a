"""Triton kernels for what a GPU does besides convolutions and matrix products.

They are optional: without Triton or a CUDA device PyTorch computes the same, and nothing imports Triton before a kernel
is called for. Their results are tested against PyTorch's, in Triton's interpreter where there is no GPU, and
``outmask.kernels.bench`` measures their speed: docs/performance.md has what it found.
"""

from __future__ import annotations

from importlib.util import find_spec

from torch import Tensor

_TRITON = find_spec("triton") is not None


def available(tensor: Tensor) -> bool:
    """Whether kernels run where a tensor is: on a CUDA device, with Triton, which torch's CUDA builds bring along."""
    return _TRITON and tensor.is_cuda
