"""The images of an ablation: a benchmark, and the split on which thresholds are chosen."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from outmask.ablation.entries import BenchmarkEntry
from outmask.errors import OutmaskError
from outmask.evaluation import Benchmark, Record, open_benchmark


@dataclass(frozen=True)
class Images:
    """A benchmark, opened.

    Attributes:
        entry: of the grid.
        benchmark: its images; with their classes and segments where the grid measures these.
        fingerprint: of the images' names and sizes in bytes.
        calibration: the images on which thresholds are chosen, if the grid names them.
        calibration_fingerprint: theirs; empty where there are none.
    """

    entry: BenchmarkEntry
    benchmark: Benchmark
    fingerprint: str
    calibration: Benchmark | None = None
    calibration_fingerprint: str = ""

    @property
    def of_pixels(self) -> Benchmark:
        """The benchmark for its pixel metrics; nothing else is measured, so that one walk over it is enough."""
        records = tuple(replace(record, semantic=None) for record in self.benchmark)
        return replace(self.benchmark, records=records, taxonomy=None)


def open_images(entry: BenchmarkEntry, data_root: Path, segments: bool = False) -> Images:
    """Open a benchmark of a grid.

    Args:
        entry: of the grid.
        data_root: the folder that its root is relative to.
        segments: whether segments are to be measured, where it has panoptic labels.

    Raises:
        OutmaskError: where it is not there, or lacks the labels that are measured.
    """
    whole = open_benchmark(entry.name, data_root / entry.root, entry.split, entry.anomaly_id)
    records = _labelled(entry, whole)
    if entry.open_iou and (whole.taxonomy is None or any(record.semantic is None for record in records)):
        raise OutmaskError(f"benchmark {entry.label!r} has no classes beside its anomalies: leave open_iou out")
    if segments and whole.categories and entry.calibration is None:
        raise OutmaskError(
            f"benchmark {entry.label!r}: name the split for 'calibration', on which the thresholds are chosen above "
            "which unknown objects are found"
        )
    benchmark = replace(
        whole,
        # What nobody asks for costs no second walk.
        records=tuple(replace(each, instances=None) if entry.open_iou else _plain(each) for each in records),
        track=None,
        taxonomy=whole.taxonomy if entry.open_iou else None,
    )
    images = Images(entry, benchmark, _fingerprint(records))
    if entry.calibration is None:
        return images
    other = open_benchmark(entry.name, data_root / entry.root, entry.calibration, entry.anomaly_id)
    if {record.name for record in whole} & {record.name for record in other}:
        raise OutmaskError(
            f"benchmark {entry.label!r}: thresholds must be chosen on other images than those that they are for, but "
            f"split {other.split} shares images with {whole.split}"
        )
    chosen = _labelled(entry, other)
    calibration = replace(other, records=tuple(map(_plain, chosen)), track=None, taxonomy=None)
    return replace(images, calibration=calibration, calibration_fingerprint=_fingerprint(chosen))


def spread(records: Sequence[Record], count: int) -> list[Record]:
    """So many records of each group, spread evenly over it; all of a smaller one."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(record.group, []).append(record)
    return [
        members[index * len(members) // min(count, len(members))]
        for members in groups.values()
        for index in range(min(count, len(members)))
    ]


def hash_of(value: Any) -> str:
    """Of plain values."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _labelled(entry: BenchmarkEntry, benchmark: Benchmark) -> list[Record]:
    records = [record for record in benchmark if record.label is not None]
    if not records:
        raise OutmaskError(f"benchmark {entry.label!r} has no labels of anomalies, which an ablation measures")
    return records if entry.images is None else spread(records, entry.images)


def _plain(record: Record) -> Record:
    return replace(record, semantic=None, instances=None)


def _fingerprint(records: Sequence[Record]) -> str:
    files = [
        (record.name, record.image.stat().st_size if isinstance(record.image, Path) else 0)
        for record in sorted(records, key=lambda record: record.name)
    ]
    return hash_of(files)
