"""The Triton kernels against PyTorch on a GPU, and whole models against transformers', in frames a second."""

from __future__ import annotations

from dataclasses import asdict

import torch
from torch import Tensor, nn

from outmask.app.bench.comparison import Report
from outmask.app.bench.speed import peer_model
from outmask.app.terminal import tell
from outmask.checkpoints.huggingface import convert
from outmask.kernels.bench import FrameRate, time_deformable, time_frames, time_scores
from outmask.models.inference import prepare_for_inference
from outmask.types import MaskPrediction

_BACKBONES = ("resnet50", "swin-large")


def gpu() -> Report:
    """Deformable attention and fused scores at 1024x2048; Mask2Former in bfloat16 with its scores.

    Raises:
        OutmaskError: without a CUDA device or Triton.
    """
    tell("bench: kernels against PyTorch")
    timings = [*time_deformable(), *time_scores()]
    rates = {}
    for backbone in _BACKBONES:
        tell(f"bench: frames a second of {backbone}")
        rates[backbone] = _frames(backbone)
    rows = [
        (one.name, one.peer, f"{one.ratio:.2f}", f"{one.bandwidth_share:.0%}", f"{one.difference:.2g}")
        for one in timings
    ]
    rows += [
        (
            f"Mask2Former, {backbone}, 1024x2048, bfloat16, EAM, AEM and labels included: "
            f"{rate.frames_per_second:.1f} frames a second",
            "transformers; interpolate, sigmoid, einsum",
            f"{rate.ratio:.2f}",
            "",
            f"{rate.difference:.2g}",
        )
        for backbone, rate in rates.items()
    ]
    notes = [
        f"memory  a frame of {backbone} takes {rate.peak_bytes / 1e9:.2f} GB beyond the weights, "
        f"transformers' {rate.peer_peak_bytes / 1e9:.2f} GB"
        for backbone, rate in rates.items()
    ]
    notes.append(f"card  {torch.cuda.get_device_name()}, which copies {timings[0].copy_rate / 1e12:.2f} TB/s")
    return Report(
        "bandwidth: bytes that have to be moved at least, a second, of the rate at which this GPU copies; difference: "
        "the largest of any output, relative to its largest entry (of models: of the logits in float32)",
        ("", "peer", "times faster", "bandwidth", "difference"),
        rows,
        notes,
        {
            "kernels": [asdict(one) for one in timings],
            "frames": {backbone: asdict(rate) for backbone, rate in rates.items()},
        },
    )


class _Peer(nn.Module):
    """transformers' model, with a prediction of ours."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> MaskPrediction:
        output = self.model(pixel_values=pixels)
        return MaskPrediction(output.class_queries_logits, output.masks_queries_logits)


def _frames(backbone: str) -> FrameRate:
    theirs = peer_model(backbone)
    return time_frames(prepare_for_inference(convert(theirs, "transformers")), _Peer(theirs))
