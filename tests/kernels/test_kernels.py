"""Kernels are optional, and nobody pays for them who does not run them."""

from __future__ import annotations

import subprocess
import sys

import torch

from outmask import kernels

WITHOUT_TRITON = """
import sys
sys.modules["triton"] = None  # whoever imports it fails, as where it is not installed
import torch
import outmask.kernels
from outmask.models.pixel_decoder import PixelDecoder
from outmask.scores import score
from outmask.types import MaskPrediction

decoder = PixelDecoder((8, 8, 8, 8), 32, 2, 1, 4, 32, encoder_levels=1, output_levels=1)
decoder.encode([torch.randn(1, 8, 2, 3)])
score(MaskPrediction(torch.rand(1, 2, 3), torch.rand(1, 2, 4, 4)), "eam", (8, 8))
assert not any(name.startswith("outmask.kernels.") for name in sys.modules)
"""


def test_all_works_without_triton_which_nothing_imports_before_a_kernel_is_called_for() -> None:
    subprocess.run([sys.executable, "-c", WITHOUT_TRITON], check=True)


def test_on_a_cpu_pytorch_computes() -> None:
    assert not kernels.available(torch.empty(1))
