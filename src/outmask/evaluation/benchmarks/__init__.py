"""Benchmarks by name: where their images and labels lie, and what their label values mean.

A benchmark is opened, its layout checked at the door, and then gives one ``Record`` per image; labels are read when
they are asked for. ``docs/benchmarks.md`` states every choice that is made here. Adding a benchmark means a reader of
its layout and an entry in ``registry``.
"""

from outmask.data.coco import relabel_for_training
from outmask.data.coco_classes import UNKNOWN_CLASSES
from outmask.evaluation.benchmarks.records import ANOMALY, KNOWN, OUTSIDE, Benchmark, Record
from outmask.evaluation.benchmarks.registry import available, describe, open_benchmark, splits

__all__ = [
    "ANOMALY",
    "KNOWN",
    "OUTSIDE",
    "UNKNOWN_CLASSES",
    "Benchmark",
    "Record",
    "available",
    "describe",
    "open_benchmark",
    "relabel_for_training",
    "splits",
]
