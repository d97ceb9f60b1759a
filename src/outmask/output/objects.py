"""Segments and unknown objects in COCO's formats: panoptic JSON, run lengths, polygons."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from outmask.errors import OutmaskError
from outmask.types import OpenSetResult, Taxonomy

Json = dict[str, Any]


def unknown_category(taxonomy: Taxonomy) -> int:
    """The category id of unknown objects in COCO files: the first after those of the classes."""
    return max(taxonomy.evaluation_ids) + 1


def describe_segments(result: OpenSetResult) -> Json:
    """What the file of one image's segments holds, beside the PNG of their ids.

    Returns:
        ``width``, ``height``, and ``segments``: COCO's ``id``, ``category_id``, ``area``, ``bbox`` and ``iscrowd``
        with ``name``, ``is_unknown`` and ``score``; of an unknown object also ``segmentation``, its run lengths, and
        ``polygons``.

    Raises:
        OutmaskError: where the result has no segments.
    """
    if result.panoptic is None or result.segments is None:
        raise OutmaskError("this result has no segments: predict with task='panoptic'")
    height, width = result.panoptic.shape
    segments = []
    for segment in result.segments:
        entry: Json = {
            "id": segment.id,
            "category_id": unknown_category(result.taxonomy)
            if segment.is_unknown
            else result.taxonomy.evaluation_ids[segment.class_id],
            "name": segment.name,
            "is_unknown": segment.is_unknown,
            "area": segment.area,
            "bbox": list(segment.bbox),
            "iscrowd": 0,
            "score": segment.score,
        }
        if segment.is_unknown:
            x, y, box_width, box_height = segment.bbox
            mask = result.panoptic == segment.id
            entry["segmentation"] = {"size": [height, width], "counts": compress_run_lengths(run_lengths(mask))}
            entry["polygons"] = polygons(mask[y : y + box_height, x : x + box_width], (x, y))
        segments.append(entry)
    return {"width": width, "height": height, "segments": segments}


@dataclass(frozen=True)
class Segmented:
    """One image of a run whose segments are on disk.

    Attributes:
        stem: of its files, relative to the run's folder.
        image: the image's own name, relative to what was searched through.
        segmentation: the PNG of ids, relative to the run's folder.
        description: the file that holds :func:`describe_segments`.
    """

    stem: str
    image: str
    segmentation: str
    description: Path


def coco_listings(images: Sequence[Segmented], taxonomy: Taxonomy) -> tuple[Json, Json]:
    """A run's segments as COCO's panoptic JSON, and its unknown objects as COCO's instances JSON.

    An image's id is the number that its file is called, as in COCO, where all of them are called by different numbers;
    else the stem of its files. ``categories`` hold *unknown*, marked by ``"unknown": true``, beside the classes.
    Unknown objects have ``segmentation`` (compressed run lengths, exact) and ``polygons`` (outlines; holes are filled).

    Raises:
        OutmaskError: where a description can't be read.
    """
    ids: list[Any] = [image.stem for image in images]
    if all(stem.isdecimal() for stem in ids) and len({int(stem) for stem in ids}) == len(ids):
        ids = [int(stem) for stem in ids]
    unknown = {"id": unknown_category(taxonomy), "name": "unknown", "isthing": 1, "unknown": True}
    things = taxonomy.things or (False,) * taxonomy.num_classes
    classes = zip(taxonomy.evaluation_ids, taxonomy.names, taxonomy.colors, things, strict=True)
    categories = [
        {"id": id_, "name": name, "isthing": int(thing), "color": list(color)} for id_, name, color, thing in classes
    ]
    entries: list[Json] = []
    annotations: list[Json] = []
    objects: list[Json] = []
    for image, id_ in zip(images, ids, strict=True):
        description = _read(image.description)
        size = {"width": description["width"], "height": description["height"]}
        entries.append({"id": id_, "file_name": image.image, **size})
        shapes = ("segmentation", "polygons")
        infos = [{key: value for key, value in each.items() if key not in shapes} for each in description["segments"]]
        annotations.append({"image_id": id_, "file_name": image.segmentation, "segments_info": infos})
        for segment in description["segments"]:
            if segment["is_unknown"]:
                kept = ("category_id", "area", "bbox", "iscrowd", "score", *shapes)
                number = {"id": len(objects) + 1, "image_id": id_, "segment_id": segment["id"]}
                objects.append({**number, **{key: segment[key] for key in kept}})
    panoptic = {"images": entries, "annotations": annotations, "categories": [*categories, unknown]}
    return panoptic, {"images": entries, "annotations": objects, "categories": [unknown]}


def run_lengths(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """COCO's run lengths of an ``(H, W)`` mask: column by column, of 0, 1, 0 ... pixels in turn; the first may be 0."""
    flat = np.concatenate([[False], mask.T.ravel()])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    return np.diff(np.concatenate([[0], changes, [mask.size]]))


def compress_run_lengths(counts: NDArray[np.int64]) -> str:
    """COCO's text of run lengths (``rleToString`` of its API).

    Each count but the first three is written as its difference to the one before the last, five bits to a character
    from the lowest on, two's complement; the sixth bit says that more follow, and 48 is added.
    """
    values = counts.copy()
    values[3:] -= counts[1:-2]
    characters = []
    for value in values.tolist():
        more = True
        while more:
            bits, value = value & 31, value >> 5
            more = value != (-1 if bits & 16 else 0)
            characters.append(chr(bits + 32 * more + 48))
    return "".join(characters)


def polygons(mask: NDArray[np.bool_], origin: tuple[int, int] = (0, 0)) -> list[list[int]]:
    """Outlines of the 8-connected parts of a mask, holes filled, along the edges of its pixels.

    Args:
        mask: ``(H, W)``.
        origin: ``(x, y)`` of its first pixel's corner.

    Returns:
        a part -> ``[x, y, x, y ...]`` of its corners.
    """
    # At twice the size, pixel x is at 2 x and 2 x + 1: its outline passes either its left edge or its right one.
    doubled = np.kron(mask, np.ones((2, 2), np.bool_)).astype(np.uint8)
    contours, _ = cv2.findContours(doubled, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return [(np.array(origin) + (contour[:, 0] + 1) // 2).ravel().tolist() for contour in contours]


def _read(path: Path) -> Json:
    try:
        description: Json = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OutmaskError(f"{path} cannot be read as JSON: remove the image's results and run again") from error
    return description
