"""What is known of an image, in the terms of the model that is measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from outmask.data.datasets import NO_SUCH_ID, lookup_table
from outmask.data.taxonomies import mapping_between
from outmask.evaluation.benchmarks import OUTSIDE, Benchmark, Record
from outmask.evaluation.maps import Size
from outmask.evaluation.report import Values
from outmask.types import Taxonomy


@dataclass(frozen=True)
class Classes:
    """The benchmark's classes, in the ids of the model's.

    Attributes:
        taxonomy: the model's.
        table: ``(256,)`` uint8: the benchmark's label id -> the model's class id, its K for unknown, 255 outside.
    """

    taxonomy: Taxonomy
    table: NDArray[np.uint8]

    @classmethod
    def of(cls, benchmark: Benchmark, taxonomy: Taxonomy | None) -> Classes | None:
        """None where the benchmark has no classes, or the model's are others."""
        own = benchmark.taxonomy
        if own is None:
            return None
        target = own if taxonomy is None else taxonomy
        mapping = mapping_between(own, target)
        if mapping is None:
            return None
        plain = Taxonomy(own.names, own.colors)  # a benchmark's labels hold 0 ... K-1, whatever its files do
        table = lookup_table(plain, target, mapping)
        table[table == NO_SUCH_ID] = OUTSIDE
        table[table >= target.num_classes] = OUTSIDE
        table[own.num_classes] = target.num_classes
        return cls(target, table)

    def by_name(self, values: Values) -> dict[str, Any]:
        """Metrics with their tables by class id turned into tables by class name."""
        return {
            key: {self.taxonomy.names[index]: iou for index, iou in value.items()} if isinstance(value, dict) else value
            for key, value in values.items()
        }


@dataclass(frozen=True)
class Truth:
    """What is known of one image; each part None where the benchmark doesn't say.

    Attributes:
        label: ``(H, W)`` uint8 0 known, 1 anomaly, 255 outside.
        target: ``(H, W)`` uint8 ids of the model's classes, its K for unknown, 255 outside.
        objects: ``(H, W)`` int32 unknown objects.
    """

    label: NDArray[np.uint8] | None
    target: NDArray[np.uint8] | None
    objects: NDArray[np.int32] | None

    @classmethod
    def of(cls, record: Record, classes: Classes | None) -> Truth:
        """Read a record's files."""
        return cls(
            None if record.label is None else record.label(),
            None if record.semantic is None or classes is None else classes.table[record.semantic()],
            None if record.instances is None else record.instances(),
        )

    @property
    def size(self) -> Size | None:
        """``(H, W)`` at which the image is measured."""
        for part in (self.label, self.target, self.objects):
            if part is not None:
                return part.shape[0], part.shape[1]
        return None
