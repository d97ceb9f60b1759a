"""How time and memory grow with pixels, masks and images."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch

from outmask.app.bench.comparison import Report, peak_memory, seconds
from outmask.app.terminal import tell
from outmask.models import Mask2Former, Mask2FormerConfig
from outmask.models.inference import prepare_for_inference
from outmask.scores import evaluate

_SIZES = ((352, 704), (512, 1024), (704, 1408), (1024, 2048), (1408, 2816), (2048, 4096))
"""0.25 to 8 Mpx."""
_MASKS = (19, 50, 100, 200)
_BATCHES = (1, 2, 4, 8)
_BATCH_SIZE = _SIZES[0]
_MASKS_SIZE = _SIZES[1]
_CLASSES, _DEFAULT_MASKS = 19, 100
_REPEATS = 3


@dataclass(frozen=True)
class Cost:
    """What one call takes.

    Attributes:
        against: what is varied: ``"Mpx"``, ``"masks"`` or ``"images"``.
        value: of that.
        seconds: median over the repeats.
        peak_mb: the most memory beyond what the process held before, in MB; None where the system does not say.
    """

    against: str
    value: float
    seconds: float
    peak_mb: float | None


@torch.inference_mode()
def growth() -> Report:
    """Forward pass of Mask2Former-R50, EAM and labels at full resolution; a straight line through each series."""
    model = _model(_DEFAULT_MASKS)
    series = {
        "Mpx": [_cost(model, "Mpx", height * width / 1e6, (1, height, width)) for height, width in _SIZES],
        "images": [_cost(model, "images", batch, (batch, *_BATCH_SIZE)) for batch in _BATCHES],
        "masks": [_cost(_model(masks), "masks", masks, (1, *_MASKS_SIZE)) for masks in _MASKS],
    }
    rows, notes, fits = [], [], {}
    for against, costs in series.items():
        first = costs[0]
        rows += [
            (
                f"{cost.value:.3g} {against}",
                f"{cost.value / first.value:.2f}",
                f"{cost.seconds / first.seconds:.2f}",
                "-" if cost.peak_mb is None else f"{cost.peak_mb:.0f}",
            )
            for cost in costs
        ]
        fits[against] = _fits(costs)
        notes.append(f"fit  {against}: {_describe(fits[against], against)}")
    caption = (
        f"Mask2Former-R50 with EAM and labels at full resolution; {_DEFAULT_MASKS} masks and 1 image where nothing "
        f"else is said, images of {_BATCH_SIZE[0]}x{_BATCH_SIZE[1]}, masks at {_MASKS_SIZE[0]}x{_MASKS_SIZE[1]}; "
        "ratios are to the first row of the same kind; memory is beyond what the process held before"
    )
    return Report(
        caption,
        ("", "ratio", "time", "peak MB"),
        rows,
        notes,
        {"costs": [asdict(cost) for costs in series.values() for cost in costs], "fits": fits},
    )


def line(x: Sequence[float], y: Sequence[float]) -> tuple[float, float, float]:
    """Least squares ``y = intercept + slope x``, relative residuals weighed alike: intercept, slope, largest residual.

    Args:
        x, y: at least two points, ``y`` above 0; each residual counts by its share of ``y``, as a small image's
            milliseconds would not count beside a large one's seconds.

    Returns:
        intercept, slope, and the largest ``|fit - y| / y``.
    """
    across, up = np.asarray(x, np.float64), np.asarray(y, np.float64)
    slope, intercept = np.polyfit(across, up, 1, w=1 / up)
    return float(intercept), float(slope), float(np.abs((intercept + slope * across) / up - 1).max())


def _model(masks: int) -> Mask2Former:
    torch.manual_seed(0)
    return prepare_for_inference(Mask2Former(Mask2FormerConfig(_CLASSES, num_queries=masks)))


def _cost(model: Mask2Former, against: str, value: float, shape: tuple[int, int, int]) -> Cost:
    tell(f"bench: {value:.3g} {against}")
    batch, height, width = shape
    pixels = torch.randn(batch, 3, height, width)

    def run() -> object:
        return evaluate(model(pixels), ["eam"], (height, width))

    peak = peak_memory(run)
    return Cost(against, value, statistics.median(seconds(run) for _ in range(_REPEATS)), peak)


def _fits(costs: Sequence[Cost]) -> dict[str, tuple[float, float, float]]:
    values = [cost.value for cost in costs]
    fits = {"seconds": line(values, [cost.seconds for cost in costs])}
    peaks = [cost.peak_mb for cost in costs if cost.peak_mb is not None]
    if len(peaks) == len(values):
        fits["peak_mb"] = line(values, peaks)
    return fits


def _describe(fits: dict[str, tuple[float, float, float]], against: str) -> str:
    intercept, slope, residual = fits["seconds"]
    parts = [f"time is a line to within {residual:.0%}, its fixed part {intercept / slope:.2g} {against}' worth"]
    if "peak_mb" in fits:
        intercept, slope, residual = fits["peak_mb"]
        parts.append(f"memory {intercept:.0f} MB + {slope:.1f} MB for each of {against} to within {residual:.0%}")
    return "; ".join(parts)
