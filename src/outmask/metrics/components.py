"""Whether anomalies are found as objects: the component metrics of SegmentMeIfYouCan (sIoU, PPV, F1).

Chan et al., "SegmentMeIfYouCan: A Benchmark for Anomaly Segmentation", NeurIPS Datasets and Benchmarks 2021, section
4.2, as computed by the benchmark's own kit (``road_anomaly_benchmark/metrics/instance_segmentation.py``). Where the
paper and the kit differ, in what happens *at* a threshold, the kit is followed, because published numbers come from it.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from outmask.errors import OutmaskError
from outmask.metrics.values import ANOMALY, KNOWN, as_array

Track = Literal["anomaly", "obstacle"]

MINIMUM_AREAS: dict[Track, tuple[int, int]] = {"anomaly": (500, 100), "obstacle": (50, 10)}
"""Pixels that a predicted and a ground-truth component need at least (the kit's SegEval-AnomalyTrack and
SegEval-ObstacleTrack; the second is also the one for Lost and Found)."""

# The kit's own floats, so that a component exactly at a threshold falls on the same side: 0.6 is 0.6000000000000001.
_TAUS = np.linspace(0.25, 0.75, 11)
_PERCENT = range(25, 80, 5)


class ComponentMetrics:
    """Streaming sIoU, PPV and F1 over the components of any number of images.

    Per image, by the kit's rules:

    1. predicted pixels outside of the evaluation are removed, then predictions and anomalies are split into 8-connected
       components;
    2. predicted components below 500 pixels are dropped (obstacle track: 50), which leaves known pixels there;
    3. ground-truth components below 100 pixels (obstacle track: 10) are dropped, which puts their pixels outside of
       the evaluation: a prediction there counts neither for nor against;
    4. ``sIoU`` of a ground-truth component: its pixels that are predicted, divided by its pixels and those of every
       predicted component that touches it, without the pixels of other ground-truth components;
    5. ``PPV`` of a predicted component: its share of anomaly pixels;
    6. at a threshold tau, a ground-truth component is a true positive where sIoU >= tau, else a false negative; a
       predicted component is a false positive where PPV < tau.

    All components of all images are pooled. Partial results of several processes are joined by :meth:`merge`.

    Args:
        track: whose size limits hold, ``"anomaly"`` or ``"obstacle"``.

    Raises:
        OutmaskError: on another track.
    """

    def __init__(self, track: Track = "anomaly") -> None:
        if track not in MINIMUM_AREAS:
            raise OutmaskError(f"unknown track {track!r}; expected one of {', '.join(MINIMUM_AREAS)}")
        self._track = track
        self._ground_truths = self._predictions = 0
        self._siou_sum = self._ppv_sum = 0.0
        self._true_positives = np.zeros(len(_TAUS), np.int64)
        self._false_positives = np.zeros(len(_TAUS), np.int64)

    def update(self, mask: NDArray[Any] | Tensor, label: NDArray[Any] | Tensor) -> None:
        """Count the components of one image.

        Args:
            mask: ``(H, W)`` bool, True where an anomaly is predicted (score > threshold).
            label: ``(H, W)`` integer: 0 known, 1 anomaly, anything else outside.

        Raises:
            OutmaskError: on other types, or shapes that differ or are not ``(H, W)``.
        """
        predicted, labels = as_array(mask), as_array(label)
        if predicted.dtype != np.bool_ or labels.dtype.kind not in "iub":
            raise OutmaskError(
                f"expected a bool mask and an integer label map, got {predicted.dtype} and {labels.dtype}; "
                "a score becomes a mask by score > threshold"
            )
        if predicted.shape != labels.shape or labels.ndim != 2:
            raise OutmaskError(f"mask and label must both be (H, W), got {predicted.shape} and {labels.shape}")
        components = _measure(predicted, labels, *MINIMUM_AREAS[self._track])
        self._ground_truths += len(components.siou)
        self._predictions += len(components.ppv)
        self._siou_sum += math.fsum(components.siou)  # exact: whatever order the components are found in
        self._ppv_sum += math.fsum(components.ppv)
        self._true_positives += (components.siou[:, None] >= _TAUS).sum(axis=0)
        self._false_positives += (components.ppv[:, None] < _TAUS).sum(axis=0)

    def merge(self, other: ComponentMetrics) -> None:
        """Add everything that ``other`` has counted; the order of merging does not matter.

        Raises:
            OutmaskError: where ``other`` measures another track.
        """
        if other._track != self._track:
            raise OutmaskError(
                f"cannot merge the {other._track} track into the {self._track} track; their sizes differ"
            )
        self._ground_truths += other._ground_truths
        self._predictions += other._predictions
        self._siou_sum += other._siou_sum
        self._ppv_sum += other._ppv_sum
        self._true_positives += other._true_positives
        self._false_positives += other._false_positives

    def compute(self) -> dict[str, Any]:
        """The metrics in percent.

        Returns:
            ``sIoU``: mean over all ground-truth components; NaN without any.
            ``PPV``: mean over all predicted components; NaN without any.
            ``F1``: mean of ``F1_per_threshold``, the paper's F1*; NaN without any component.
            ``F1_per_threshold``: F1 of all components for tau = 25, 30 ... 75 (percent, int).
            ``gt_components``, ``predicted_components``: how many there were, after dropping the small ones.
        """
        # 2 TP / (2 TP + FN + FP), and TP + FN are all ground-truth components
        found = self._true_positives + self._ground_truths + self._false_positives
        f1 = [100 * _ratio(2 * int(tp), int(total)) for tp, total in zip(self._true_positives, found, strict=True)]
        return {
            "sIoU": 100 * _ratio(self._siou_sum, self._ground_truths),
            "PPV": 100 * _ratio(self._ppv_sum, self._predictions),
            "F1": math.fsum(f1) / len(f1),
            "F1_per_threshold": dict(zip(_PERCENT, f1, strict=True)),
            "gt_components": self._ground_truths,
            "predicted_components": self._predictions,
        }


def connected_components(mask: NDArray[np.bool_], minimum_area: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Split a mask into its 8-connected components.

    Args:
        mask: ``(H, W)`` bool.
        minimum_area: components of fewer pixels are dropped.

    Returns:
        ``(H, W)`` int32, 0 = background, ids 1 ... n of the n components that are left, and their areas in pixels,
        ``(n,)`` int64.
    """
    if not mask.size:  # OpenCV crashes on it
        return np.zeros(mask.shape, np.int32), np.zeros(0, np.int64)
    _, found, statistics, _ = cv2.connectedComponentsWithStats(
        np.ascontiguousarray(mask, np.uint8), connectivity=8, ltype=cv2.CV_32S
    )
    areas = statistics[:, cv2.CC_STAT_AREA].astype(np.int64)
    kept = areas >= minimum_area
    kept[0] = False  # the background
    ids = np.where(kept, np.cumsum(kept), 0).astype(np.int32)
    return np.take(ids, found), areas[kept]


class _Components(NamedTuple):
    """What one image adds."""

    siou: NDArray[np.float64]
    """Of each ground-truth component, in [0, 1]."""
    ppv: NDArray[np.float64]
    """Of each predicted component, in [0, 1]."""


def _measure(
    mask: NDArray[np.bool_], label: NDArray[Any], minimum_prediction: int, minimum_ground_truth: int
) -> _Components:
    """sIoU and PPV of one image's components, from the pixels that each pair of them shares."""
    anomaly = label == ANOMALY
    ground_truth, areas = connected_components(anomaly, minimum_ground_truth)
    prediction, prediction_areas = connected_components(mask & (anomaly | (label == KNOWN)), minimum_prediction)
    counted = (prediction > 0) & ((ground_truth > 0) | ~anomaly)
    if anomaly.size - np.count_nonzero(anomaly) < minimum_ground_truth:
        # The kit's loop over components starts at the background, so the limit holds for all that is no anomaly too.
        counted &= ground_truth > 0

    # The contingency table of the two id maps, as its non-empty cells: a noisy image has thousands of either.
    columns = len(prediction_areas) + 1
    cells, pixels = np.unique(
        ground_truth[counted].astype(np.int64) * columns + prediction[counted], return_counts=True
    )
    row, column = np.divmod(cells, columns)

    known = np.bincount(column[row == 0], pixels[row == 0], columns)
    total = np.bincount(column, pixels, columns)
    hit = np.bincount(row, pixels, len(areas) + 1)[1:]
    # A prediction that touches a component adds to its union what it holds of no other: its known pixels.
    missed_by = np.bincount(row, known[column], len(areas) + 1)[1:]
    known, total = known[total > 0], total[total > 0]
    return _Components(hit / (areas + missed_by), (total - known) / total)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")
