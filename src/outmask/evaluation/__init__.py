"""Benchmarks, and the evaluation of a segmenter, or of anybody's score maps, on them."""

from outmask.evaluation.benchmarks import Benchmark, Record, available, describe, open_benchmark, splits
from outmask.evaluation.evaluate import Settings, evaluate
from outmask.evaluation.maps import CachedMaps, MapSource, ModelMaps, PredictionFiles
from outmask.evaluation.report import Report, Threshold

__all__ = [
    "Benchmark",
    "CachedMaps",
    "MapSource",
    "ModelMaps",
    "PredictionFiles",
    "Record",
    "Report",
    "Settings",
    "Threshold",
    "available",
    "describe",
    "evaluate",
    "open_benchmark",
    "splits",
]
