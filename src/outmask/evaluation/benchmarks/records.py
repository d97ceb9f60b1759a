"""What every benchmark comes to, whatever its files look like: a named series of images with their ground truth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from outmask.errors import OutmaskError
from outmask.metrics.components import Track
from outmask.metrics.values import ANOMALY, KNOWN, OUTSIDE
from outmask.types import Taxonomy

__all__ = ["ANOMALY", "KNOWN", "OUTSIDE", "Benchmark", "Record", "Track"]


@dataclass(frozen=True)
class Record:
    """One image of a benchmark, and what is known of it; each ground truth is read anew when it is called.

    The readers raise ``OutmaskError`` on a file that cannot be read or holds values outside of the protocol.

    Attributes:
        name: unique in the benchmark; ``/``-separated (``t5/000123``), a safe relative path for output files.
        image: the image file, whose suffix may lie about its format, or an ``(H, W, 3)`` uint8 RGB array.
        label: ``(H, W)`` uint8: 0 known, 1 anomaly, 255 outside of the evaluation; None where it is hidden (test sets)
            or the benchmark is closed-set.
        semantic: ``(H, W)`` uint8 ids of the benchmark's taxonomy: 0 ... K-1 known, K unknown, 255 outside.
        instances: ``(H, W)`` int32: 0 no unknown object, 1, 2, ... unknown objects, -1 outside.
        panoptic: ``(H, W)`` int32 segment ids, 0 = void, and their COCO ``segments_info``.
        group: the part of the benchmark that it belongs to: StreetHazards' town.
    """

    name: str
    image: Path | NDArray[np.uint8]
    label: Callable[[], NDArray[np.uint8]] | None = None
    semantic: Callable[[], NDArray[np.uint8]] | None = None
    instances: Callable[[], NDArray[np.int32]] | None = None
    panoptic: Callable[[], tuple[NDArray[np.int32], list[dict[str, Any]]]] | None = None
    group: str = ""


@dataclass(frozen=True)
class Benchmark:
    """A sized, repeatable series of records.

    Attributes:
        name: as in ``available()``.
        split: which part of it: ``"val"``, ``"test"``, ``"20"`` (COCO's 20 %) ...
        records: its images.
        track: the track of SegmentMeIfYouCan whose size limits the component metrics take; None where component
            metrics are not part of the benchmark.
        taxonomy: what the ids of ``Record.semantic`` mean.
        categories: COCO category dicts of ``Record.panoptic``; unknown ones hold ``"unknown": True``.
        smallest_object: pixels that an unknown object needs to count in the metrics of objects.

    Raises:
        OutmaskError: on names that repeat or are no safe relative paths.
    """

    name: str
    split: str
    records: tuple[Record, ...]
    track: Track | None = None
    taxonomy: Taxonomy | None = None
    categories: tuple[dict[str, Any], ...] = ()
    smallest_object: int = 0

    def __post_init__(self) -> None:
        for name, count in Counter(record.name for record in self.records).items():
            if count > 1:
                raise OutmaskError(f"{self.name}: {count} images are called {name}; rename or remove all but one")
            path = PurePosixPath(name)
            if not path.parts or path.is_absolute() or ".." in path.parts or "\\" in name:
                raise OutmaskError(f"{self.name}: {name!r} can't name output files; expected a path such as t5/000123")

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)
