"""AP of unknown objects as instance masks, by COCO's rule (pycocotools' ``COCOeval`` on a single class).

OoDIS (arXiv 2406.11835) ranks its entries by Cityscapes' rule, which differs: the IoU must lie *above* a threshold, the
union keeps pixels outside, an unmatched prediction is forgiven where a larger share of it than the IoU threshold lies
outside or on ignored objects, the number of predictions is not limited, and the precision is not interpolated.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from outmask.errors import OutmaskError
from outmask.metrics.contingency import contingency
from outmask.metrics.values import OUTSIDE_OBJECT, as_array

_IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
_RECALLS = np.linspace(0, 1, 101)
_MAX_DETECTIONS = 100
_ID_LIMIT = 256**3
_FALSE_POSITIVE, _TRUE_POSITIVE, _IGNORED = 0, 1, 2


class InstanceAP:
    """Streaming class-agnostic AP and AP50; partial results of several processes are joined by :meth:`merge`.

    Of an image is kept what became of each of its detections at each IoU threshold, and the score: 18 bytes for each of
    at most 100 detections. Equal scores rank in the order in which they came, as in ``COCOeval``; where detections of
    different images tie, the order of the images matters, there as here.

    Args:
        minimum_gt_area: objects of fewer pixels are ignored, as by the lower limit of COCO's ``areaRng``: they need not
            be found, and a detection that matches one, or matches nothing and is itself smaller, does not count.
    """

    def __init__(self, minimum_gt_area: int = 0) -> None:
        self._minimum_gt_area = minimum_gt_area
        self._objects = 0
        self._scores: list[NDArray[np.float64]] = []
        self._outcomes: list[NDArray[np.int8]] = []

    def update(
        self,
        predicted: NDArray[Any] | Tensor,
        scores: NDArray[Any] | Tensor | Sequence[float],
        gt_instances: NDArray[Any] | Tensor,
    ) -> None:
        """Match the predicted masks of one image.

        Pixels outside are taken out of the predictions before matching. A prediction that has no pixel left, because it
        lies wholly outside or is empty, is dropped: it is no false positive, and none of the image's 100 detections of
        the highest scores, the only ones that count.

        Args:
            predicted: ``(H, W)`` integer, ids from 1 to n, 0 = no prediction; or ``(n, H, W)`` bool, masks that may
                overlap.
            scores: ``(n,)``, the score of id 1, 2 ... or of each mask; larger = more certain.
            gt_instances: ``(H, W)`` integer: 0 no unknown object, 1, 2 ... the objects (gaps allowed), -1 outside.

        Raises:
            OutmaskError: on other shapes or types, a NaN score, ids out of range. Nothing has been counted then.
        """
        masks, truth = as_array(predicted), as_array(gt_instances)
        confidence = np.asarray(as_array(scores) if isinstance(scores, Tensor) else scores, np.float64)
        _check(masks, confidence, truth)
        overlap, area, gt_area = _overlaps(masks, truth, len(confidence))
        kept = np.flatnonzero(area)
        kept = kept[np.argsort(-confidence[kept], kind="stable")][:_MAX_DETECTIONS]
        overlap, area = overlap[kept], area[kept]

        iou = overlap / (area[:, None] + gt_area - overlap)
        ignored = gt_area < self._minimum_gt_area
        outcome = _match(iou, ignored)
        outcome[(outcome == _FALSE_POSITIVE) & (area < self._minimum_gt_area)] = _IGNORED
        self._objects += int((~ignored).sum())
        self._scores.append(confidence[kept])
        self._outcomes.append(outcome)

    def merge(self, other: InstanceAP) -> None:
        """Add everything that ``other`` has counted.

        Raises:
            OutmaskError: where ``other`` ignores objects below another size.
        """
        if self._minimum_gt_area != other._minimum_gt_area:
            raise OutmaskError(
                "instance APs can only be merged with equal minimum_gt_area, "
                f"got {self._minimum_gt_area} and {other._minimum_gt_area}"
            )
        self._objects += other._objects
        self._scores.extend(other._scores)
        self._outcomes.extend(other._outcomes)

    def compute(self) -> dict[str, Any]:
        """The metrics.

        Returns:
            ``AP``: percent, mean over the IoU thresholds 0.50, 0.55 ... 0.95 of the mean over the recalls 0, 0.01 ... 1
            of the best precision at that recall or more. ``AP50``: percent, at IoU 0.5 alone. Both NaN without objects.
            ``gt_instances``: objects that are not ignored. ``predicted_instances``: detections, at most 100 an image.
        """
        scores = np.concatenate([np.empty(0), *self._scores])
        values = {
            "AP": float("nan"),
            "AP50": float("nan"),
            "gt_instances": self._objects,
            "predicted_instances": len(scores),
        }
        if self._objects:
            outcome = np.concatenate([np.empty((len(_IOU_THRESHOLDS), 0), np.int8), *self._outcomes], axis=1)
            outcome = outcome[:, np.argsort(-scores, kind="stable")]
            average = [_average_precision(row, self._objects) for row in outcome]
            values |= {"AP": 100 * float(np.mean(average)), "AP50": 100 * average[0]}
        return values


def _average_precision(outcome: NDArray[np.int8], objects: int) -> float:
    """Interpolated AP in [0, 1] of ``(D,)`` outcomes, the highest score first."""
    true_positives, false_positives = np.cumsum(outcome == _TRUE_POSITIVE), np.cumsum(outcome == _FALSE_POSITIVE)
    precision = true_positives / np.maximum(true_positives + false_positives, 1)  # ignored ones alone leave 0 / 0
    best_from_here = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0)  # 0 beyond the last recall
    return float(best_from_here[np.searchsorted(true_positives / objects, _RECALLS)].mean())


def _match(iou: NDArray[np.float64], ignored: NDArray[np.bool_]) -> NDArray[np.int8]:
    """COCO's greedy matching: each detection takes the object with the highest IoU that is still free.

    COCO prefers objects that count to ignored ones, which needs no line here: objects do not overlap, so a detection
    has an IoU of at least 0.5 with a second one only where both are exactly a half of it, thus of one size and kind.

    Args:
        iou: ``(D, G)``, detections with the highest score first.
        ignored: ``(G,)``, objects that do not count.

    Returns:
        ``(T, D)``, what became of each detection at each IoU threshold.
    """
    outcome = np.full((len(_IOU_THRESHOLDS), len(iou)), _FALSE_POSITIVE, np.int8)
    free = np.ones((len(_IOU_THRESHOLDS), len(ignored)), bool)
    for detection in np.flatnonzero((iou >= _IOU_THRESHOLDS[0]).any(axis=1)):
        matches = free & (iou[detection] >= _IOU_THRESHOLDS[:, None])
        # Of two halves COCO takes the last.
        best = len(ignored) - 1 - np.argmax(np.where(matches, iou[detection], -1)[:, ::-1], axis=1)
        matched = np.flatnonzero(matches.any(axis=1))
        free[matched, best[matched]] = False
        outcome[matched, detection] = np.where(ignored[best[matched]], _IGNORED, _TRUE_POSITIVE)
    return outcome


def _overlaps(
    masks: NDArray[Any], truth: NDArray[Any], count: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Pixels that are not outside: of each prediction on each object, of each prediction, of each object."""
    from_outside = truth.astype(np.intp) - OUTSIDE_OBJECT
    areas = np.bincount(from_outside.ravel(), minlength=2)
    present = areas > 0
    present[:2] = True  # column 0 is outside, column 1 no object, whether the image has such pixels or not
    columns = (np.cumsum(present) - 1)[from_outside]
    width = int(present.sum())
    if masks.ndim == 2:
        table = contingency(masks, columns, (count + 1, width))[1:]
    else:
        rows = [np.bincount(columns[mask], minlength=width) for mask in masks]
        table = np.array(rows, np.int64).reshape(count, width)
    return table[:, 2:], table[:, 1:].sum(axis=1), areas[present][2:]


def _check(masks: NDArray[Any], scores: NDArray[np.float64], truth: NDArray[Any]) -> None:
    """Refuse what :meth:`InstanceAP.update` does not take."""
    id_map = masks.ndim == 2 and masks.dtype.kind in "iu"
    if not id_map and not (masks.ndim == 3 and masks.dtype == np.bool_):
        raise OutmaskError(
            f"predicted must be an (H, W) integer id map or (n, H, W) bool masks, got {masks.shape} {masks.dtype}"
        )
    if truth.ndim != 2 or truth.dtype.kind not in "iu":
        raise OutmaskError(f"gt_instances must be an (H, W) integer map, got {truth.shape} {truth.dtype}")
    if masks.shape[-2:] != truth.shape:
        raise OutmaskError(
            f"predictions of {masks.shape[-2:]} and gt_instances of {truth.shape}: resize the predictions first"
        )
    if scores.ndim != 1 or np.isnan(scores).any():
        raise OutmaskError(
            f"scores must be (n,) numbers without NaN, got {scores.shape} with {int(np.isnan(scores).sum())} NaN"
        )
    if not id_map and len(masks) != len(scores):
        raise OutmaskError(f"each mask needs a score, got {len(masks)} masks and {len(scores)} scores")
    if id_map and masks.size and not 0 <= masks.min() <= masks.max() <= len(scores):
        raise OutmaskError(
            f"the predicted ids of {len(scores)} scores go from 0 to {len(scores)}, got {masks.min()} to {masks.max()}"
        )
    if truth.size and not OUTSIDE_OBJECT <= truth.min() <= truth.max() < _ID_LIMIT:
        raise OutmaskError(f"gt_instances holds -1, 0 and object ids below 256^3, got {truth.min()} to {truth.max()}")
