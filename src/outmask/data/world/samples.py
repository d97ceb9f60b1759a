"""The world as a dataset: its scenes as training samples, drawn when they are first asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import cv2
import numpy as np
from numpy.typing import NDArray

from outmask.data.labels import Sample
from outmask.data.records import Record
from outmask.data.taxonomies import WORLD
from outmask.data.world.scenes import Unknowns, World, WorldScene
from outmask.data.world.towns import TEST_TOWNS, TRAIN_TOWNS
from outmask.types import Segment

SIZE = (512, 1024)
"""Height and width of the scenes of all splits."""

KEPT_BYTES = 1 << 30
"""Most memory that the scenes drawn so far may take, compressed: some 8,000 of them."""


@dataclass(frozen=True)
class Split:
    """A series of scenes.

    Attributes:
        towns: that take turns.
        unknowns: as of :class:`World`.
        first: index of the first scene of each town.
        count: how many scenes of each town there are.
    """

    towns: tuple[str, ...]
    unknowns: Unknowns
    first: int
    count: int

    def scenes(self) -> list[tuple[str, int]]:
        """Town and index of each scene."""
        return [(town, self.first + number) for number in range(self.count) for town in self.towns]


_HELD_OUT = 1_000_000

SPLITS: Mapping[str, Split] = MappingProxyType(
    {
        **{town: Split((town,), "none", 0, 300) for town in TRAIN_TOWNS},
        "train": Split(TRAIN_TOWNS, "none", 0, 300),
        "train_negatives": Split(TRAIN_TOWNS, "negatives", 0, 300),
        "validation": Split(TRAIN_TOWNS, "validation", _HELD_OUT, 25),
        **{town: Split((town,), "test", 0, 100) for town in TEST_TOWNS},
        "test": Split(TEST_TOWNS, "test", 0, 100),
    }
)
"""Training: one town, or all in turns, without objects of no known class or with those that serve as negatives.
Validation: other streets of the same towns. Testing: other towns. No two of the three share a family of objects."""


@dataclass(frozen=True)
class _WorldRecord(Record):
    """A scene: no file of it exists."""

    town: str = ""
    unknowns: Unknowns = "none"
    index: int = 0


def find(root: Path, split: str) -> list[Record]:
    """The records of a split of ``SPLITS``; see :class:`~outmask.data.records.Layout`. There is nothing below root."""
    records: list[Record] = []
    for town, index in SPLITS[split].scenes():
        name = scene_name(town, index)
        nowhere = root / f"{name} is drawn, not read"
        records.append(_WorldRecord(nowhere, nowhere, f"{split}/{name}", None, town, SPLITS[split].unknowns, index))
    return records


def scene_name(town: str, index: int) -> str:
    """A scene's name, unique in the world: a file's stem."""
    return f"{town}_{index:06d}"


def draw_sample(record: Record, table: NDArray[np.uint8]) -> Sample:
    """The sample of a record of :func:`find`, with instances; objects of no known class are ``VOID`` and outliers.

    Args:
        record: of a scene.
        table: ``(256,)`` uint8: class id -> label.
    """
    assert isinstance(record, _WorldRecord)
    scene = kept_scene(record.town, record.index, record.unknowns)
    unknown = scene.unknown
    labels = np.where(unknown, scene.labels, table[scene.labels])
    return Sample(scene.image, labels, unknown, record.name, scene.instances.astype(np.uint16))


@dataclass(frozen=True)
class _Kept:
    """A scene, compressed without loss."""

    jpeg: bytes
    panoptic: bytes
    segments: tuple[Segment, ...]
    families: Mapping[int, str]


_kept: dict[tuple[str, Unknowns, int], _Kept] = {}
_kept_bytes = 0


def kept_scene(town: str, index: int, unknowns: Unknowns) -> WorldScene:
    """The scene of :class:`World` at :data:`SIZE`; drawn once in a process as long as there is room for it.

    Raises:
        OutmaskError: as :class:`World`.
    """
    global _kept_bytes
    key = (town, unknowns, index)
    if key not in _kept:
        scene = World(town, unknowns).scene(index, SIZE)
        _, png = cv2.imencode(".png", scene.panoptic.astype(np.uint16), [cv2.IMWRITE_PNG_COMPRESSION, 1])
        if _kept_bytes + len(scene.jpeg) + png.nbytes <= KEPT_BYTES:
            _kept[key] = _Kept(scene.jpeg, png.tobytes(), scene.segments, scene.families)
            _kept_bytes += len(scene.jpeg) + png.nbytes
        return scene
    kept = _kept[key]
    panoptic = np.asarray(cv2.imdecode(np.frombuffer(kept.panoptic, np.uint8), cv2.IMREAD_UNCHANGED), np.int32)
    return WorldScene(kept.jpeg, panoptic, kept.segments, kept.families)


CATEGORIES = (
    *(
        {"id": id_, "name": name, "isthing": int(thing)}
        for id_, (name, thing) in enumerate(zip(WORLD.names, WORLD.things or (), strict=True))
    ),
    {"id": WORLD.unknown_id, "name": "unknown object", "isthing": 1, "unknown": True},
)
"""COCO categories of the segments: their ids are those of the taxonomy ``world``, K for objects of no known class."""
