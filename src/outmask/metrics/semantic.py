"""Semantic segmentation measured by class: mIoU and accuracy of a closed set, open-IoU of an open one.

Everything comes from confusion matrices, ``C[i, j]`` = pixels of class ``i`` that were labelled ``j``, pooled over all
images. An IoU with nothing to divide by (the class neither occurs nor is predicted) is NaN and left out of the mean, as
in Cityscapes' ``evalPixelLevelSemanticLabeling.py``, mmsegmentation's ``IoUMetric`` and DenseHybrid's open-IoU. A class
that occurs but is never found counts as 0, and so does one that is predicted but never occurs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from outmask.errors import OutmaskError
from outmask.metrics.contingency import contingency
from outmask.metrics.values import OUTSIDE, as_array


class ClosedSetMetrics:
    """Streaming mIoU, per-class IoU and pixel accuracy over the pixels of any number of images.

    Equal to Cityscapes' script and to mmsegmentation's ``mIoU`` and ``aAcc``. Partial results of several processes are
    joined by :meth:`merge`.

    Args:
        num_classes: K, the known classes, ids 0 to K-1.

    Raises:
        OutmaskError: where K is not from 1 to 255.
    """

    def __init__(self, num_classes: int) -> None:
        if not 1 <= num_classes <= OUTSIDE:
            raise OutmaskError(
                f"num_classes must be from 1 to {OUTSIDE}, the value that is no class; got {num_classes}"
            )
        self._confusion = np.zeros((num_classes, num_classes), np.int64)

    def update(self, labels: NDArray[Any] | Tensor, target: NDArray[Any] | Tensor) -> None:
        """Count the pixels of one image (or of any other set).

        Args:
            labels: ``(H, W)`` integer, predicted class ids, 0 to K-1 wherever the target is a class.
            target: ``(H, W)`` integer, true class ids; 255 and any other value that is no class is outside (the
                prediction is not looked at there).

        Raises:
            OutmaskError: on other types, shapes that differ, or predicted ids that are no class.
        """
        self._confusion += _confusion(labels, target, len(self._confusion))

    def merge(self, other: ClosedSetMetrics) -> None:
        """Add everything that ``other`` has counted; the order of merging does not matter.

        Raises:
            OutmaskError: where the numbers of classes differ.
        """
        if other._confusion.shape != self._confusion.shape:
            raise OutmaskError(
                f"cannot merge metrics of {len(other._confusion)} classes into metrics of {len(self._confusion)}"
            )
        self._confusion += other._confusion

    def compute(self) -> dict[str, Any]:
        """The metrics in percent.

        Returns:
            ``mIoU``: mean over the classes whose IoU is defined; NaN without any.
            ``pixel_accuracy``: pixels that were labelled rightly; NaN without any pixel.
            ``IoU``: for each class id its IoU, NaN where the class neither occurs nor is predicted.
        """
        iou = _iou(self._confusion)
        pixels = int(self._confusion.sum())
        return {
            "mIoU": _mean_of_defined(iou),
            "pixel_accuracy": 100 * int(np.trace(self._confusion)) / pixels if pixels else float("nan"),
            "IoU": dict(enumerate(iou.tolist())),
        }


class OpenIoU:
    """Streaming open-IoU (Mask2Anomaly eq. 23-24, after DenseHybrid) beside the closed-set mIoU of the same images.

    For a known class k, ``TP_k / (TP_k + FP_k + FN_k)``, where ``FP_k`` counts anomaly pixels that were labelled k, and
    ``FN_k`` pixels of class k that were rejected as unknown. The mean is over the known classes: rejecting anomalies
    earns nothing of its own, and a perfect detector brings open-IoU up to the closed-set IoU.

    Args:
        num_classes: K, the known classes, ids 0 to K-1; K is the id of *unknown*, in predictions and targets.

    Raises:
        OutmaskError: where K is not from 1 to 254.
    """

    def __init__(self, num_classes: int) -> None:
        if not 1 <= num_classes < OUTSIDE:
            raise OutmaskError(
                f"num_classes must be from 1 to {OUTSIDE - 1}, so that the unknown's id is not {OUTSIDE}; "
                f"got {num_classes}"
            )
        self._confusion = np.zeros((num_classes + 1, num_classes + 1), np.int64)
        self._closed = ClosedSetMetrics(num_classes)

    def update(
        self,
        open_labels: NDArray[Any] | Tensor,
        target: NDArray[Any] | Tensor,
        labels: NDArray[Any] | Tensor | None = None,
    ) -> None:
        """Count the pixels of one image (or of any other set).

        Args:
            open_labels: ``(H, W)`` integer, predicted ids, 0 to K wherever the target is one of them.
            target: ``(H, W)`` integer, true ids: 0 to K-1 known, K anomaly; 255 and any other value is outside (the
                prediction is not looked at there).
            labels: ``(H, W)`` integer, predicted ids before any rejection, 0 to K-1 wherever the target is known;
                they give the closed-set mIoU, which leaves anomaly pixels out.

        Raises:
            OutmaskError: on other types, shapes that differ, or predicted ids out of range; nothing is counted then.
        """
        confusion = _confusion(open_labels, target, len(self._confusion))
        if labels is not None:
            self._closed.update(labels, target)
        self._confusion += confusion

    def merge(self, other: OpenIoU) -> None:
        """Add everything that ``other`` has counted; the order of merging does not matter.

        Raises:
            OutmaskError: where the numbers of classes differ.
        """
        self._closed.merge(other._closed)
        self._confusion += other._confusion

    def compute(self) -> dict[str, Any]:
        """The metrics in percent.

        Returns:
            ``open_mIoU``: mean over the known classes whose open-IoU is defined; NaN without any.
            ``mIoU``: the closed-set mean, over the images that came with ``labels``; NaN without any.
            ``open_IoU``, ``IoU``: for each known class id its value, NaN where it is not defined.
        """
        open_iou = _iou(self._confusion)[:-1]
        closed = self._closed.compute()
        return {
            "open_mIoU": _mean_of_defined(open_iou),
            "mIoU": closed["mIoU"],
            "open_IoU": dict(enumerate(open_iou.tolist())),
            "IoU": closed["IoU"],
        }


def _confusion(labels: NDArray[Any] | Tensor, target: NDArray[Any] | Tensor, num_classes: int) -> NDArray[np.int64]:
    """``(num_classes, num_classes)`` counts, true id by predicted id, of the pixels whose target is a class."""
    predicted, true = as_array(labels), as_array(target)
    if predicted.dtype.kind not in "iu" or true.dtype.kind not in "iu":
        raise OutmaskError(f"expected integer labels and an integer target, got {predicted.dtype} and {true.dtype}")
    if predicted.shape != true.shape:
        raise OutmaskError(f"labels and target must have the same shape, got {predicted.shape} and {true.shape}")
    counted = (true >= 0) & (true < num_classes)
    predicted = predicted[counted]
    inside = (predicted >= 0) & (predicted < num_classes)
    if not inside.all():
        strangers = np.unique(predicted[~inside]).tolist()
        shown = ", ".join(map(str, strangers[:8])) + (", ..." if len(strangers) > 8 else "")
        raise OutmaskError(f"predicted labels must be from 0 to {num_classes - 1}, got {shown}")
    return contingency(true[counted], predicted.astype(np.intp), (num_classes, num_classes))


def _iou(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """IoU of each class in percent; NaN for a class that neither occurs nor is predicted."""
    intersection = np.diag(confusion)
    union = confusion.sum(axis=0) + confusion.sum(axis=1) - intersection
    iou = np.full(len(confusion), np.nan)
    np.divide(100 * intersection, union, out=iou, where=union > 0)
    return iou


def _mean_of_defined(values: NDArray[np.float64]) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else float("nan")
