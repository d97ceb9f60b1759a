"""Readers of ground-truth files: their values made into a ``Record``'s, all others refused.

Functions of paths and tables, not closures, so that records travel to other processes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from outmask.data.datasets import NO_SUCH_ID, apply_table, read_ids, spans
from outmask.data.images import read_values
from outmask.errors import OutmaskError
from outmask.evaluation.benchmarks.records import ANOMALY, KNOWN, OUTSIDE

BINARY: Mapping[int, int] = {0: KNOWN, 1: ANOMALY, 255: OUTSIDE}
"""The label values of SegmentMeIfYouCan and Fishyscapes, and of the plain form."""

_FIRST_INSTANCE = 1000
"""Cityscapes' instance files: below it a class id, from it on ``1000 * class + number``."""


@dataclass(frozen=True)
class InstanceCoding:
    """What the class ids of an instance file mean that codes ``1000 * class + number``, or a class id alone.

    Attributes:
        objects: classes whose numbered instances are unknown objects.
        known: classes that are none, numbered or not.
        outside: classes outside of the evaluation; one of ``objects`` here means its pixels without a number.
    """

    objects: tuple[int, ...]
    known: tuple[int, ...]
    outside: tuple[int, ...]


def lookup(values: Mapping[int, int]) -> NDArray[np.uint8]:
    """``(256,)`` uint8: what each value of a file means; ``NO_SUCH_ID`` for those it must not hold."""
    table = np.full(256, NO_SUCH_ID, np.uint8)
    for value, meaning in values.items():
        table[value] = meaning
    return table


def read_label(path: Path, table: NDArray[np.uint8], hint: str = "") -> NDArray[np.uint8]:
    """``(H, W)`` uint8: the file's values after the table.

    Args:
        path: an 8-bit PNG with one channel (or a palette).
        table: as of :func:`lookup`.
        hint: what to do about values that the table does not allow.

    Raises:
        OutmaskError: where the file can't be read, has another format, or holds other values.
    """
    return apply_table(table, read_ids(path), path, hint)


def read_unknown(path: Path, table: NDArray[np.uint8], unknown_id: int) -> NDArray[np.uint8]:
    """``(H, W)`` uint8 label (0, 1, 255) of a semantic file: anomalous is what the table calls ``unknown_id``."""
    semantic = read_label(path, table)
    return np.where(semantic == OUTSIDE, np.uint8(OUTSIDE), (semantic == unknown_id).astype(np.uint8))


def read_plain_instances(path: Path) -> NDArray[np.int32]:
    """``(H, W)`` int32 objects of a file in which every value but 0 is an object, and nothing is outside."""
    ids = read_instance_ids(path)
    return number_objects(ids, ids > 0, np.zeros(ids.shape, np.bool_))


def read_class_instances(path: Path, coding: InstanceCoding) -> NDArray[np.int32]:
    """``(H, W)`` int32 objects of a file in Cityscapes' coding.

    Args:
        path: an 8- or 16-bit PNG with one channel.
        coding: what its classes mean.

    Raises:
        OutmaskError: where the file can't be read, or holds other classes, or an object without a number.
    """
    ids = read_instance_ids(path)
    present = np.unique(ids)
    classes = np.where(present < _FIRST_INSTANCE, present, present // _FIRST_INSTANCE)
    is_object = np.isin(classes, coding.objects) & (present >= _FIRST_INSTANCE)
    is_outside = np.isin(classes, coding.outside) & ~is_object
    strange = ~(is_object | is_outside | np.isin(classes, coding.known))
    if strange.any():
        raise OutmaskError(
            f"the instances {path} hold {spans(present[strange])}; expected 1000 * class + number for objects "
            f"and the class ids {spans(sorted({*coding.known, *coding.outside}))}"
        )
    return number_objects(ids, np.isin(ids, present[is_object]), np.isin(ids, present[is_outside]))


def number_objects(ids: NDArray[np.int64], objects: NDArray[np.bool_], outside: NDArray[np.bool_]) -> NDArray[np.int32]:
    """``(H, W)`` int32: the ids of object pixels renumbered 1, 2, ... in rising order, -1 outside, 0 elsewhere."""
    numbered = np.zeros(ids.shape, np.int32)
    numbered[outside] = -1
    numbered[objects] = np.unique(ids[objects], return_inverse=True)[1] + 1
    return numbered


def read_instance_ids(path: Path) -> NDArray[np.int64]:
    """``(H, W)`` int64 values of an 8- or 16-bit PNG with one channel.

    Raises:
        OutmaskError: where the file can't be read or has another format.
    """
    ids = read_values(path, "instances")
    if ids.ndim != 2 or ids.dtype.kind not in "iub":
        raise OutmaskError(f"{path}: instances must be integers in one channel, got {ids.shape} {ids.dtype}")
    return ids.astype(np.int64)
