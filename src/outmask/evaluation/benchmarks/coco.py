"""COCO open-set panoptic segmentation (Hwang et al., CVPR 2021): some thing classes are unknown to the model.

Their segments are void in training (``outmask.data.coco.relabel_for_training``) and one pooled class in the evaluation.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from outmask.data.coco import read_segment_ids, unknown_category_ids
from outmask.errors import OutmaskError
from outmask.evaluation.benchmarks.layouts import WrongLayout, demand
from outmask.evaluation.benchmarks.records import ANOMALY, KNOWN, OUTSIDE, Record

Segments = list[dict[str, Any]]
"""COCO's ``segments_info`` of an image."""

Category = dict[str, Any]
"""An entry of COCO's ``categories``; ``"unknown": True`` in those that are unknown to the model."""


def coco_open_panoptic(
    root: Path, split: str, annotation: str, segmentations: str, images: str
) -> tuple[list[Record], tuple[Category, ...]]:
    """Records and categories of a COCO panoptic JSON, a folder of segmentation PNGs and one of images, below root."""
    listing = root / annotation
    try:
        loaded = json.loads(listing.read_text(encoding="utf-8"))
        names = {image["id"]: image["file_name"] for image in loaded["images"]}
        entries = [
            (
                root / images / names[entry["image_id"]],
                root / segmentations / entry["file_name"],
                entry["segments_info"],
            )
            for entry in loaded["annotations"]
        ]
        unknown = unknown_category_ids(loaded["categories"], int(split))
    except OSError as error:
        raise WrongLayout(f"no readable {listing}") from error
    except (KeyError, TypeError, ValueError) as error:
        reason = error if isinstance(error, OutmaskError) else f"{type(error).__name__}: {error}"
        raise WrongLayout(f"{listing} is no COCO panoptic annotation ({reason})") from error
    demand([path for image, segmentation, _ in entries for path in (image, segmentation)])
    categories = tuple(
        {**category, "unknown": True} if category["id"] in unknown else category for category in loaded["categories"]
    )
    known = frozenset(int(category["id"]) for category in categories) - unknown
    records = [
        Record(
            image.stem,
            image,
            label=partial(_read_label, segmentation, segments, known, unknown),
            panoptic=partial(_read_panoptic, segmentation, segments),
        )
        for image, segmentation, segments in entries
    ]
    return records, categories


def _read_panoptic(path: Path, segments: Segments) -> tuple[NDArray[np.int32], Segments]:
    """The ids of an annotation's picture, and its segments."""
    ids = read_segment_ids(path)
    found, listed = set(np.unique(ids).tolist()) - {0}, {segment["id"] for segment in segments}
    if found != listed:
        raise OutmaskError(
            f"{path}: the segments {sorted(found ^ listed)[:8]} are either in the picture or in the annotation, "
            "but must be in both"
        )
    return ids, segments


def _read_label(path: Path, segments: Segments, known: frozenset[int], unknown: frozenset[int]) -> NDArray[np.uint8]:
    """``(H, W)`` uint8: 0 known, 1 unknown, 255 void and crowds."""
    ids, _ = _read_panoptic(path, segments)
    meanings = {0: OUTSIDE}
    for segment in segments:
        category = segment["category_id"]
        if category not in known | unknown:
            raise OutmaskError(f"{path}: segment {segment['id']} is of category {category}, which the annotation lacks")
        meaning = ANOMALY if category in unknown else KNOWN
        meanings[segment["id"]] = OUTSIDE if segment.get("iscrowd") else meaning
    present, where = np.unique(ids, return_inverse=True)
    return np.array([meanings[id_] for id_ in present.tolist()], np.uint8)[where.reshape(ids.shape)]
