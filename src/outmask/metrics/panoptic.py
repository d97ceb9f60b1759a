"""Panoptic quality by panopticapi's rule, with all unknown classes pooled into one (open-set panoptic segmentation).

The published evaluator is ``pq_compute_single_core`` of cocodataset/panopticapi: void is id 0; a prediction matches a
segment of its class at an IoU above 0.5, where the union leaves out what the prediction claims of the ground truth's
void (but not what it leaves void itself); a crowd is never matched and never missed; an unmatched prediction is
forgiven where more than half of it lies on void or on a crowd of its class. torchmetrics computes something else: it
also takes predicted void out of the union, and forgives missed segments that are mostly predicted void.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from outmask.errors import OutmaskError
from outmask.metrics.contingency import contingency
from outmask.metrics.values import as_array
from outmask.types import Segment

VOID = 0
"""Segment id of pixels without a segment."""

_UNKNOWN = "unknown"
_ID_LIMIT = 256**3  # what three bytes of a PNG can hold


class _Segments(NamedTuple):
    """The segments of one image, in the order of their table rows."""

    ids: NDArray[np.int64]
    classes: NDArray[np.intp]
    """Indices into the metric's classes."""
    crowd: NDArray[np.bool_]


class PanopticQuality:
    """Streaming PQ, SQ and RQ; partial results of several processes are joined by :meth:`merge`.

    Args:
        categories: COCO category dicts with ``id``, ``name`` and ``isthing``. Those with a true ``"unknown"`` are
            pooled into one class named *unknown*, of which it does not matter which category a segment has (M2F-EAM,
            Mask2Anomaly); it counts as things if any of them does.

    Raises:
        OutmaskError: on an empty list, a missing key, or ids or names that repeat.
    """

    def __init__(self, categories: Sequence[Mapping[str, Any]]) -> None:
        for category in categories:
            if missing := {"id", "name", "isthing"} - set(category):
                raise OutmaskError(f"a category needs id, name and isthing, {dict(category)} lacks {sorted(missing)}")
        known = [category for category in categories if not category.get("unknown")]
        unknown = [category for category in categories if category.get("unknown")]
        self._names = [str(category["name"]) for category in known] + [_UNKNOWN] * bool(unknown)
        if not self._names:
            raise OutmaskError("PanopticQuality needs at least one category")
        if len(set(self._names)) != len(self._names):
            raise OutmaskError(f"category names must be unique ('unknown' is the pooled class), got {self._names}")
        self._class_of = {int(category["id"]): index for index, category in enumerate(known)}
        self._class_of |= {int(category["id"]): len(known) for category in unknown}
        if len(self._class_of) != len(categories):
            raise OutmaskError(f"category ids must be unique, got {[category['id'] for category in categories]}")
        things = [bool(category["isthing"]) for category in known]
        if unknown:
            things.append(any(category["isthing"] for category in unknown))
        self._things = np.array(things)
        self._known = np.arange(len(self._names)) < len(known)
        self._iou = np.zeros(len(self._names))
        self._tp, self._fp, self._fn = (np.zeros(len(self._names), np.int64) for _ in range(3))

    def update(
        self,
        panoptic: NDArray[Any] | Tensor,
        segments: Sequence[Segment | Mapping[str, Any]],
        gt_panoptic: NDArray[Any] | Tensor,
        gt_segments: Sequence[Segment | Mapping[str, Any]],
    ) -> None:
        """Match the segments of one image.

        The rule is panopticapi's to the letter where an image has at most one crowd of a class, as COCO's have. Of
        several it looks at the last in the list; here all of them count, so that the order does not matter.

        Args:
            panoptic: ``(H, W)`` integer, the predicted segment ids from 1, 0 = void, below 256^3.
            segments: what they are: COCO panoptic dicts with ``id`` and ``category_id``, or :class:`Segment`; one that
                ``is_unknown`` is of the pooled class, whatever its ``class_id``.
            gt_panoptic: ``(H, W)`` integer, the same of the ground truth.
            gt_segments: the same of the ground truth; ``iscrowd`` (default 0) marks crowds.

        Raises:
            OutmaskError: on other shapes or types, ids that are not in both map and list or repeat in the list,
                a category that the metric does not have. Nothing has been counted then.
        """
        prediction, truth = _id_map(panoptic, "the prediction"), _id_map(gt_panoptic, "the ground truth")
        if prediction.shape != truth.shape:
            raise OutmaskError(
                f"the prediction is {prediction.shape}, the ground truth {truth.shape}: resize the prediction first"
            )
        predicted, real = self._read(segments, "the prediction"), self._read(gt_segments, "the ground truth")
        # Row and column 0 count the ids that no list has, row and column 1 void.
        table = contingency(
            _relabel(truth, real.ids), _relabel(prediction, predicted.ids), (len(real.ids) + 2, len(predicted.ids) + 2)
        )
        _check_ids(truth, real.ids, table.sum(axis=1), "the ground truth")
        _check_ids(prediction, predicted.ids, table.sum(axis=0), "the prediction")

        area, gt_area = table[:, 2:].sum(axis=0), table[2:].sum(axis=1)
        on_void, overlap = table[1, 2:], table[2:, 2:]
        same_class = real.classes[:, None] == predicted.classes
        # Never 0: what a prediction has on void and on this segment are parts of its area that do not overlap.
        iou = overlap / (gt_area[:, None] + area - overlap - on_void)
        match = (iou > 0.5) & same_class & ~real.crowd[:, None]
        forgiven = on_void + np.where(same_class & real.crowd[:, None], overlap, 0).sum(axis=0)
        false_positive = ~match.any(axis=0) & (forgiven / area <= 0.5)
        false_negative = ~match.any(axis=1) & ~real.crowd

        matched = real.classes[match.nonzero()[0]]
        count = len(self._names)
        self._iou += np.bincount(matched, weights=iou[match], minlength=count)
        self._tp += np.bincount(matched, minlength=count)
        self._fp += np.bincount(predicted.classes[false_positive], minlength=count)
        self._fn += np.bincount(real.classes[false_negative], minlength=count)

    def merge(self, other: PanopticQuality) -> None:
        """Add everything that ``other`` has counted.

        Raises:
            OutmaskError: where ``other`` was made for other categories.
        """
        if (
            self._names != other._names
            or self._class_of != other._class_of
            or not np.array_equal(self._things, other._things)
        ):
            raise OutmaskError("panoptic qualities can only be merged when they were made for the same categories")
        self._iou += other._iou
        self._tp += other._tp
        self._fp += other._fp
        self._fn += other._fn

    def compute(self) -> dict[str, Any]:
        """The metrics in percent.

        Returns:
            ``PQ``, ``SQ`` (mean IoU of the matches) and ``RQ`` (F1), each the mean over the classes that occur in the
            ground truth or as a false positive, the pooled unknown class being one of them; the same with the suffixes
            ``_things``, ``_stuff``, ``_known``, ``_unknown``, ``_known_things``, ``_known_stuff``; NaN where no such
            class occurs. ``per_class``: for each class name a dict of ``PQ``, ``SQ``, ``RQ`` (NaN where it does not
            occur) and the counts ``TP``, ``FP``, ``FN``.
        """
        weight = self._tp + 0.5 * self._fp + 0.5 * self._fn
        occurs = weight > 0
        with np.errstate(invalid="ignore"):  # 0 / 0 is NaN: the class does not occur
            values = {
                "PQ": 100 * self._iou / weight,
                "SQ": np.where(occurs, 100 * self._iou / np.maximum(self._tp, 1), np.nan),
                "RQ": 100 * self._tp / weight,
            }
        groups = {
            "": occurs,
            "_things": self._things,
            "_stuff": ~self._things,
            "_known": self._known,
            "_unknown": ~self._known,
            "_known_things": self._known & self._things,
            "_known_stuff": self._known & ~self._things,
        }
        result: dict[str, Any] = {
            f"{name}{suffix}": float(value[group & occurs].mean()) if (group & occurs).any() else float("nan")
            for suffix, group in groups.items()
            for name, value in values.items()
        }
        counts = {"TP": self._tp, "FP": self._fp, "FN": self._fn}
        result["per_class"] = {
            name: {key: float(value[index]) for key, value in values.items()}
            | {key: int(count[index]) for key, count in counts.items()}
            for index, name in enumerate(self._names)
        }
        return result

    def _read(self, segments: Sequence[Segment | Mapping[str, Any]], what: str) -> _Segments:
        """Ids, classes and crowd flags of one image's segments."""
        ids, classes, crowd = [], [], []
        for segment in segments:
            if isinstance(segment, Segment):
                id_, category, is_crowd, is_unknown = segment.id, segment.class_id, False, segment.is_unknown
            elif isinstance(segment, Mapping) and all(
                isinstance(segment.get(key), Integral) for key in ("id", "category_id")
            ):
                id_, category = int(segment["id"]), int(segment["category_id"])
                is_crowd, is_unknown = bool(segment.get("iscrowd", 0)), False
            else:
                raise OutmaskError(f"a segment of {what} needs whole numbers id and category_id, got {segment!r}")
            if is_unknown and self._known.all():
                raise OutmaskError(
                    f"segment {id_} of {what} is unknown, but no category is: mark the categories that were not "
                    "taught with 'unknown': True"
                )
            if not is_unknown and category not in self._class_of:
                raise OutmaskError(f"segment {id_} of {what} has category {category}, which is not in the categories")
            if not VOID < id_ < _ID_LIMIT:
                raise OutmaskError(f"segment ids go from 1 to 256^3 - 1 (0 is void), {what} lists {id_}")
            ids.append(id_)
            classes.append(len(self._names) - 1 if is_unknown else self._class_of[category])
            crowd.append(is_crowd)
        if len(set(ids)) != len(ids):
            raise OutmaskError(f"segment ids of {what} must be unique, got {sorted(ids)}")
        return _Segments(np.array(ids, np.int64), np.array(classes, np.intp), np.array(crowd, bool))


def _id_map(values: NDArray[Any] | Tensor, what: str) -> NDArray[np.int32]:
    """A map of segment ids, checked."""
    ids = as_array(values)
    if ids.ndim != 2 or ids.dtype.kind not in "iu":
        raise OutmaskError(f"{what} must be an (H, W) integer map of segment ids, got {ids.shape} {ids.dtype}")
    if ids.size and not (ids.min() >= VOID and ids.max() < _ID_LIMIT):
        raise OutmaskError(f"segment ids go from 0 to 256^3 - 1, {what} has {ids.min()} to {ids.max()}")
    return ids.astype(np.int32, copy=False)


def _relabel(ids: NDArray[np.int32], listed: NDArray[np.int64]) -> NDArray[np.unsignedinteger[Any]]:
    """Void as 1, the listed ids as 2, 3 ... in the list's order, every other id as 0."""
    # A table of up to 256^3 entries: of the narrowest type, it is made and searched faster than the ids are sorted.
    largest = max(int(ids.max(initial=VOID)), int(listed.max(initial=VOID)))
    table = np.zeros(largest + 1, np.min_scalar_type(len(listed) + 1))
    table[VOID] = 1
    table[listed] = np.arange(2, len(listed) + 2)
    return table.take(ids)


def _check_ids(ids: NDArray[np.int32], listed: NDArray[np.int64], areas: NDArray[np.int64], what: str) -> None:
    """Refuse a map and a list that do not hold the same ids; ``areas`` as in the contingency table."""
    if areas[0]:
        strangers = np.setdiff1d(ids, [VOID, *listed]).tolist()
        raise OutmaskError(f"segment ids {strangers} of {what} are in its map and not in its list of segments")
    if (areas[2:] == 0).any():
        absent = sorted(listed[areas[2:] == 0].tolist())
        raise OutmaskError(f"segment ids {absent} of {what} are in its list of segments and not in its map")
