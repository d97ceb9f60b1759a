"""A training step against transformers', and what its batches take."""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from pathlib import Path

from outmask.app.bench.comparison import Comparison, Report, comparison_report, peak_memory
from outmask.app.terminal import tell
from outmask.training.bench import compare_training
from outmask.training.loading import compare_loading, synthetic_recipes

_STEPS, _SIZE = 3, 512


def train() -> Report:
    """Forward and backward in float32 and bfloat16; the share of a step's time that making its batch takes."""
    tell("bench: a training step against transformers', in float32 and bfloat16")
    comparisons = []
    for one in compare_training(_STEPS, _SIZE, peak_memory=peak_memory):
        own, peer = (str(dtype).removeprefix("torch.") for dtype in (one.dtype, one.peer_dtype))
        comparisons.append(
            Comparison(
                name=f"forward and backward of Mask2Former-R50, 2 images of {_SIZE}x{_SIZE}, {own}",
                peer=f"transformers Mask2Former with its own loss, {peer}; same weights, targets and points",
                ratio=one.ratio,
                spread=(min(one.ratios), max(one.ratios)),
                peak_mb=one.peaks_mb[0],
                peer_peak_mb=one.peaks_mb[1],
                difference=one.loss_difference,
            )
        )
    shares = []
    with tempfile.TemporaryDirectory() as folder:
        for name, recipe in synthetic_recipes(Path(folder)).items():
            tell(f"bench: making batches and training on them, {name}")
            shares.append({"name": name, **asdict(compare_loading(recipe))})
    notes = [
        f"loading  {share['name']}: one process makes a batch in {share['from_disk']:.1%} of its training step's time, "
        f"{share['from_memory']:.1%} where the images are in memory"
        for share in shares
    ]
    return comparison_report(comparisons, "of any loss term, relative", notes, loading=shares)
