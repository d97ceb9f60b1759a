"""COCO: panoptic annotations as label maps, the open-set splits, and the subsets that outliers are taken from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from outmask.data.coco_classes import COCO_PANOPTIC, UNKNOWN_CLASSES
from outmask.data.images import read_values
from outmask.data.labels import IGNORE, VOID
from outmask.data.records import Record
from outmask.errors import OutmaskError

NO_CATEGORY = 0
"""Where a lookup table says what pixels of segment 0 (void) mean; COCO's categories begin at 1."""


def find(root: Path, split: str) -> list[Record]:
    """The records of COCO panoptic, in the order of its annotation; see :class:`~outmask.data.records.Layout`.

    Raises:
        OutmaskError: where the annotation is no COCO panoptic JSON, holds other categories, or images are missing.
    """
    listing = root / "annotations" / f"panoptic_{split}2017.json"
    if not listing.is_file():
        return []
    # The official archive unpacks the PNGs beside the JSON; Mask2Former's recipes expect them one folder up.
    folders = (listing.with_suffix(""), root / listing.stem)
    masks = next((folder for folder in folders if folder.is_dir()), folders[0])
    try:
        content = json.loads(listing.read_text(encoding="utf-8"))
        names = {image["id"]: image["file_name"] for image in content["images"]}
        files = [(names[entry["image_id"]], entry["file_name"]) for entry in content["annotations"]]
        segments = [_rows(entry["segments_info"]) for entry in content["annotations"]]
        # One array for all: a hundred thousand small ones would take many times the memory.
        table = np.array([row for rows in segments for row in rows], dtype=np.int32).reshape(-1, 3)
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise OutmaskError(f"{listing}: expected a COCO panoptic JSON, got trouble with {error!r}") from None
    if not files:
        return []
    images = [root / f"{split}2017" / image for image, _ in files]
    if missing := [image for image in images if not image.is_file()]:
        raise OutmaskError(
            f"coco_panoptic: {len(missing)} of {len(images)} images of {listing.name} are missing, "
            f"the first {missing[0]}"
        )
    known = (NO_CATEGORY, *COCO_PANOPTIC.evaluation_ids)
    if strangers := np.setdiff1d(table[:, 1], known).tolist():
        raise OutmaskError(f"{listing}: segments are of the categories {strangers}, which COCO panoptic does not have")
    parts = np.split(table, np.cumsum([len(rows) for rows in segments])[:-1])
    return [
        Record(image, masks / mask, f"{split}/{image.stem}", rows)
        for image, (_, mask), rows in zip(images, files, parts, strict=True)
    ]


def _rows(segments_info: Sequence[Mapping[str, Any]]) -> list[tuple[int, int, int]]:
    """Id, category and crowd of each segment, ids rising for the search in :func:`read_labels`; the first is void."""
    listed = ((int(each["id"]), int(each["category_id"]), int(each.get("iscrowd", 0))) for each in segments_info)
    return [(0, NO_CATEGORY, 0), *sorted(listed)]


def read_labels(record: Record, table: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """``(H, W)`` uint8 labels of a PNG of segments.

    Pixels that no segment claims are what the table says of :data:`NO_CATEGORY`. Crowds are ``IGNORE``: they hold
    objects of their class and gaps between them. Segments that the annotation does not list are ``VOID``, as in
    annotations that :func:`relabel_for_training` has made.

    Args:
        record: with its segments, ids rising.
        table: ``(256,)`` uint8: category id -> label.

    Raises:
        OutmaskError: where the record has no segments, the file can't be read, or is no 8-bit RGB picture.
    """
    ids, categories, crowds = _listed(record).T
    values = table[categories]
    # A crowd of an unknown class is void like the rest of its class.
    values[(crowds != 0) & (values != VOID)] = IGNORE
    pixels = read_segment_ids(record.labels)
    where = np.searchsorted(ids, pixels).clip(max=len(ids) - 1)
    return np.where(ids[where] == pixels, values[where], np.uint8(VOID))


def read_objects(record: Record) -> NDArray[np.uint16]:
    """``(H, W)`` uint16: the number of each pixel's segment in the record's list, 0 = void or not listed.

    Raises:
        OutmaskError: as :func:`read_labels`.
    """
    ids, _, _ = _listed(record).T
    pixels = read_segment_ids(record.labels)
    where = np.searchsorted(ids, pixels).clip(max=len(ids) - 1)
    return np.where(ids[where] == pixels, where, 0).astype(np.uint16)


def _listed(record: Record) -> NDArray[np.int32]:
    if record.segments is None:
        raise OutmaskError(f"{record.labels}: a PNG of segments can't be read without the list of its segments")
    return record.segments


def read_segment_ids(path: Path) -> NDArray[np.int32]:
    """``(H, W)`` int32 segment ids, 0 = void, of a PNG whose colours are ``R + 256 G + 65536 B``.

    Raises:
        OutmaskError: where the file cannot be read, or is no 8-bit RGB picture.
    """
    colors = read_values(path, "segments")
    try:
        return rgb_to_ids(colors)
    except OutmaskError as error:
        raise OutmaskError(f"{path}: {error}") from None


def relabel_for_training(annotation: dict[str, Any], percent: int) -> dict[str, Any]:
    """The training set of a model that shall not know the unknown classes: their segments become void.

    Segments of unknown classes leave ``segments_info`` and their categories leave ``categories``; all else stays,
    category ids and images without any segment left included. The PNGs stay as they are: pixels whose id no segment
    names are void to every reader that walks ``segments_info``, as Mask2Former's does.

    outmask's own training needs no such file: ``open_dataset("coco_panoptic", ..., target="coco_panoptic_open20")``
    gives the same labels.

    Args:
        annotation: COCO's ``panoptic_train2017.json``, loaded; it is not changed.
        percent: 20, 10 or 5.

    Returns:
        A dict to be written as ``panoptic_train2017_open20.json``, beside a link of the PNGs' folder.

    Raises:
        OutmaskError: on another ``percent``, or categories that lack an unknown class.
    """
    unknown = unknown_category_ids(annotation["categories"], percent)
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


def unknown_category_ids(categories: Sequence[Mapping[str, Any]], percent: int) -> frozenset[int]:
    """Category ids of the classes that are unknown at K = ``percent`` %.

    Args:
        categories: COCO's ``categories``.
        percent: 20, 10 or 5.

    Raises:
        OutmaskError: on another ``percent``, or categories that lack an unknown class.
    """
    if percent not in UNKNOWN_CLASSES:
        raise OutmaskError(f"no unknown classes are defined at {percent} %: choose 20, 10 or 5")
    ids = {category["name"]: int(category["id"]) for category in categories}
    if missing := [name for name in UNKNOWN_CLASSES[percent] if name not in ids]:
        raise OutmaskError(
            f"the categories lack the unknown classes {', '.join(missing)}: they are not COCO panoptic's"
        )
    return frozenset(ids[name] for name in UNKNOWN_CLASSES[percent])


def rgb_to_ids(rgb: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Segment ids of a COCO panoptic PNG: ``R + 256 G + 256^2 B``.

    Args:
        rgb: ``(H, W, 3)`` uint8.

    Returns:
        ``(H, W)`` int32.

    Raises:
        OutmaskError: on another shape or type.
    """
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
        raise OutmaskError(f"a COCO panoptic image is (H, W, 3) uint8, got {rgb.shape} {rgb.dtype}")
    channels = rgb.astype(np.int32)
    ids: NDArray[np.int32] = channels[..., 0] + 256 * channels[..., 1] + 256**2 * channels[..., 2]
    return ids


def ids_to_rgb(ids: NDArray[Any]) -> NDArray[np.uint8]:
    """Inverse of :func:`rgb_to_ids`.

    Args:
        ids: ``(H, W)`` integer, 0 to 256^3 - 1.

    Returns:
        ``(H, W, 3)`` uint8.

    Raises:
        OutmaskError: on another shape, type or range.
    """
    if ids.ndim != 2 or ids.dtype.kind not in "iu" or (ids.size and not 0 <= ids.min() <= ids.max() < 256**3):
        raise OutmaskError(f"segment ids must be (H, W) integers from 0 to 256^3 - 1, got {ids.shape} {ids.dtype}")
    values = ids.astype(np.int64)
    return np.stack([values % 256, values // 256 % 256, values // 256**2], axis=-1).astype(np.uint8)
