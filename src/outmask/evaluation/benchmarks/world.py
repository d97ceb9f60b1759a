"""The synthetic world as a benchmark: towns, light and objects that training never showed, or never named."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from outmask.data.coco import read_segment_ids
from outmask.data.taxonomies import WORLD, WORLD_OPEN
from outmask.data.world.files import LISTING, write_split
from outmask.evaluation.benchmarks.layouts import WrongLayout, demand
from outmask.evaluation.benchmarks.records import ANOMALY, KNOWN, Record
from outmask.types import Taxonomy

SMALLEST_OBJECT = 64
"""Pixels of 512x1024 that an object needs to count: what is left of smaller ones is void in panoptic truth."""

Segments = list[dict[str, Any]]

OPEN_SPLITS: Mapping[str, Taxonomy] = MappingProxyType(
    {f"{part}open{percent}": classes for part in ("", "validation_") for percent, classes in WORLD_OPEN.items()}
)
"""Test scenes, or those of validation, where some classes are unknown like the objects of no known class: the classes
that are left."""

_TEST = ("t5", "t6")


def world(root: Path, split: str) -> tuple[list[Record], tuple[dict[str, Any], ...]]:
    """The scenes of a split, grouped by town; they are drawn below root the first time."""
    classes = OPEN_SPLITS.get(split, WORLD)
    part = split.partition("_open")[0]
    parts = _TEST if part == "test" or part in OPEN_SPLITS else (part,)
    folders = [write_split(root, part) for part in parts]
    records: list[Record] = []
    for folder in folders:
        try:
            listing = json.loads((folder / LISTING).read_text(encoding="utf-8"))
            entries = [(Path(entry["file_name"]).stem, entry["segments_info"]) for entry in listing["annotations"]]
            categories = tuple(
                {**each, "unknown": True} if each["id"] not in classes.evaluation_ids else each
                for each in listing["categories"]
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise WrongLayout(f"{folder / LISTING} can't be read ({type(error).__name__}: {error})") from error
        demand([folder / part for name, _ in entries for part in (f"images/{name}.jpg", f"panoptic/{name}.png")])
        records += [_record(folder, name, segments, classes) for name, segments in entries]
    return records, categories


def _record(folder: Path, name: str, segments: Segments, classes: Taxonomy) -> Record:
    file = folder / "panoptic" / f"{name}.png"
    return Record(
        name,
        folder / "images" / f"{name}.jpg",
        label=partial(_read_label, file, segments, classes),
        semantic=partial(_read_classes, file, segments, classes),
        instances=partial(_read_objects, file, segments, classes),
        panoptic=partial(_read_panoptic, file, segments),
        group=name.partition("_")[0],
    )


def _read_classes(file: Path, segments: Segments, classes: Taxonomy) -> NDArray[np.uint8]:
    """``(H, W)`` uint8: 0 ... K-1, K for unknown."""
    table = np.zeros(len(segments) + 1, np.uint8)
    for segment in segments:
        table[segment["id"]] = _class_of(segment, classes)
    return table[read_segment_ids(file)]


def _read_label(file: Path, segments: Segments, classes: Taxonomy) -> NDArray[np.uint8]:
    unknown = _read_classes(file, segments, classes) == classes.unknown_id
    return np.where(unknown, np.uint8(ANOMALY), np.uint8(KNOWN))


def _read_objects(file: Path, segments: Segments, classes: Taxonomy) -> NDArray[np.int32]:
    table = np.zeros(len(segments) + 1, np.int32)
    unknown = [segment["id"] for segment in segments if _class_of(segment, classes) == classes.unknown_id]
    table[unknown] = np.arange(1, len(unknown) + 1)
    return table[read_segment_ids(file)]


def _class_of(segment: dict[str, Any], classes: Taxonomy) -> int:
    """Of a segment, whose category is the world's class."""
    category = segment["category_id"]
    return classes.evaluation_ids.index(category) if category in classes.evaluation_ids else classes.unknown_id


def _read_panoptic(file: Path, segments: Segments) -> tuple[NDArray[np.int32], Segments]:
    ids = read_segment_ids(file)
    things = (*(WORLD.things or ()), True)
    small = [
        segment["id"] for segment in segments if things[segment["category_id"]] and segment["area"] < SMALLEST_OBJECT
    ]
    table = np.arange(len(segments) + 1, dtype=np.int32)
    table[small] = 0
    return table[ids], [segment for segment in segments if segment["id"] not in small]
