"""Open-set segmentation with mask transformers.

>>> import outmask
>>> segmenter = outmask.load("street")
>>> result = segmenter.predict("road.jpg", score="eam")  # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Imported on first use, so that `outmask --help` doesn't wait for torch.
_HOMES = {
    "Ensemble": "outmask.segmenter",
    "MaskPrediction": "outmask.types",
    "OpenSetResult": "outmask.types",
    "OutmaskError": "outmask.errors",
    "PixelPrediction": "outmask.types",
    "Segment": "outmask.types",
    "Segmenter": "outmask.segmenter",
    "Taxonomy": "outmask.types",
    "load": "outmask.segmenter",
    "score": "outmask.scores",
}

__all__ = [
    "Ensemble",
    "MaskPrediction",
    "OpenSetResult",
    "OutmaskError",
    "PixelPrediction",
    "Segment",
    "Segmenter",
    "Taxonomy",
    "load",
    "metrics",
    "score",
    "scores",
]

if TYPE_CHECKING:
    from outmask import metrics, scores
    from outmask.errors import OutmaskError
    from outmask.scores import score
    from outmask.segmenter import Ensemble, Segmenter, load
    from outmask.types import MaskPrediction, OpenSetResult, PixelPrediction, Segment, Taxonomy


def __getattr__(name: str) -> Any:
    if name in ("metrics", "scores"):
        return import_module(f"outmask.{name}")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'outmask' has no attribute {name!r}")
