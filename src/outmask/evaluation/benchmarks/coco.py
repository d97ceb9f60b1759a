"""COCO open-set panoptic segmentation (Hwang et al., CVPR 2021): some thing classes are unknown to the model.

Their segments are void in training (:func:`relabel_for_training`) and one pooled class in the evaluation.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from outmask.errors import OutmaskError
from outmask.evaluation.benchmarks.layouts import WrongLayout, demand
from outmask.evaluation.benchmarks.records import ANOMALY, KNOWN, OUTSIDE, Record
from outmask.metrics.panoptic import rgb_to_ids

_FIVE = ("car", "cow", "pizza", "toilet")
_TEN = (*_FIVE, "boat", "tie", "zebra", "stop sign")
_TWENTY = (*_TEN, "dining table", "banana", "bicycle", "cake", "sink", "cat", "keyboard", "bear")

UNKNOWN_CLASSES: Mapping[int, tuple[str, ...]] = {20: _TWENTY, 10: _TEN, 5: _FIVE}
"""Names of the unknown thing classes at K = 20, 10, 5 % (EOPSN, ``datasets/unknown``): each holds the smaller ones."""

Segments = list[dict[str, Any]]


def relabel_for_training(annotation: dict[str, Any], percent: int) -> dict[str, Any]:
    """The training set of a model that shall not know the unknown classes: their segments become void.

    Segments of unknown classes leave ``segments_info`` and their categories leave ``categories``; all else stays,
    category ids and images without any segment left included. The PNGs stay as they are: pixels whose id no segment
    names are void to every reader that walks ``segments_info``, as Mask2Former's does.

    Args:
        annotation: COCO's ``panoptic_train2017.json``, loaded; it is not changed.
        percent: 20, 10 or 5.

    Returns:
        A dict to be written as ``panoptic_train2017_open20.json``, beside a link of the PNGs' folder.

    Raises:
        OutmaskError: on another ``percent``, or categories that lack an unknown class.
    """
    unknown = _unknown_ids(annotation["categories"], percent)
    return {
        **annotation,
        "categories": [category for category in annotation["categories"] if category["id"] not in unknown],
        "annotations": [
            {
                **image,
                "segments_info": [
                    segment for segment in image["segments_info"] if segment["category_id"] not in unknown
                ],
            }
            for image in annotation["annotations"]
        ],
    }


def _unknown_ids(categories: Segments, percent: int) -> frozenset[int]:
    if percent not in UNKNOWN_CLASSES:
        raise OutmaskError(f"no unknown classes are defined at {percent} %: choose 20, 10 or 5")
    ids = {category["name"]: int(category["id"]) for category in categories}
    if missing := [name for name in UNKNOWN_CLASSES[percent] if name not in ids]:
        raise OutmaskError(
            f"the categories lack the unknown classes {', '.join(missing)}: they are not COCO panoptic's"
        )
    return frozenset(ids[name] for name in UNKNOWN_CLASSES[percent])


def coco_open_panoptic(
    root: Path, split: str, annotation: str, segmentations: str, images: str
) -> tuple[list[Record], tuple[dict[str, Any], ...]]:
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
        unknown = _unknown_ids(loaded["categories"], int(split))
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


def read_segment_ids(path: Path) -> NDArray[np.int32]:
    """``(H, W)`` int32 segment ids, 0 = void, of a PNG whose colours are ``R + 256 G + 65536 B``.

    Raises:
        OutmaskError: where the file cannot be read, or is no 8-bit RGB picture.
    """
    try:
        with Image.open(path) as picture:
            colors = np.array(picture)
    except (OSError, SyntaxError, ValueError) as error:
        raise OutmaskError(f"{path}: can't read segments ({' '.join(str(error).split())})") from None
    try:
        return rgb_to_ids(colors)
    except OutmaskError as error:
        raise OutmaskError(f"{path}: {error}") from None


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
