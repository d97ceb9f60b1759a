"""The Triton kernels against PyTorch on a GPU, and whole models in frames a second."""

from __future__ import annotations

from dataclasses import asdict

from outmask.app.bench.comparison import Report
from outmask.app.terminal import tell
from outmask.kernels.bench import frames_per_second, time_deformable, time_scores
from outmask.models import Mask2FormerConfig

_CLASSES = 19
_BACKBONES = ("resnet50", "swin-large")


def gpu() -> Report:
    """Deformable attention and fused scores at 1024x2048; Mask2Former in bfloat16 with its EAM map.

    Raises:
        OutmaskError: without a CUDA device or Triton.
    """
    tell("bench: kernels against PyTorch")
    timings = [*time_deformable(), *time_scores()]
    rates = {}
    for backbone in _BACKBONES:
        tell(f"bench: frames a second of {backbone}")
        rates[backbone] = frames_per_second(Mask2FormerConfig(_CLASSES, backbone=backbone))
    rows = [
        (
            one.name,
            one.peer,
            f"{one.ratio:.2f}",
            f"{one.bandwidth_share:.0%}",
            f"{one.difference:.2g}",
        )
        for one in timings
    ]
    notes = [
        f"frames  {backbone}, 1024x2048, bfloat16, EAM and labels included: {rate.frames_per_second:.1f} a second, "
        f"{rate.peak_bytes / 1e9:.1f} GB"
        for backbone, rate in rates.items()
    ]
    return Report(
        "bandwidth: bytes that have to be moved at least, a second, of the rate at which this GPU copies; difference: "
        "the largest of any output, relative to its largest entry",
        ("", "peer", "times faster", "bandwidth", "difference"),
        rows,
        notes,
        {
            "kernels": [asdict(one) for one in timings],
            "frames": {backbone: asdict(rate) for backbone, rate in rates.items()},
        },
    )
