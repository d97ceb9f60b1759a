"""How well a score separates anomaly pixels from known ones: AP, AUROC and FPR at a given TPR, streamed.

All pixels of all images are pooled, so the curves need the order of billions of values. They are counted per distinct
score, which is exact, until there are too many distinct scores to hold; then neighbours are joined *where the pixels
are*, never on a grid of values: mask-level scores saturate, and fixed bins put most known pixels into one of them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from outmask.errors import OutmaskError

KNOWN, ANOMALY = 0, 1
"""Label values that count; every other value is outside of the evaluation."""

_DEFAULT_BUDGET = 1 << 22


class _Counts(NamedTuple):
    """Pixels per distinct score, the most anomalous score first."""

    keys: NDArray[np.uint32]
    """Strictly increasing; see ``_descending_keys``."""
    known: NDArray[np.int64]
    anomaly: NDArray[np.int64]


_EMPTY = _Counts(np.empty(0, np.uint32), np.empty(0, np.int64), np.empty(0, np.int64))


class PixelMetrics:
    """Streaming AP, AUROC, FPR95 and FPR90 over the pixels of any number of images.

    Equal to scikit-learn's ``average_precision_score``, ``roc_auc_score`` and ``roc_curve`` on the float32 scores
    (ties included) while there are at most ``budget / 2`` distinct ones, and within 1e-3 of them beyond, whatever the
    scores' distribution. Partial results of several processes are joined by :meth:`merge`.

    Args:
        budget: the most distinct scores that are held, at 20 bytes each (a multiple of that while they are joined).
    """

    def __init__(self, budget: int = _DEFAULT_BUDGET) -> None:
        self._budget = budget
        self._runs: list[_Counts] = []

    def update(self, score: NDArray[Any] | Tensor, label: NDArray[Any] | Tensor) -> None:
        """Count the pixels of one image (or of any other set).

        Args:
            score: floating, any shape, larger = more anomalous; compared as float32, infinities allowed.
            label: integer, the same shape: 0 known, 1 anomaly, anything else outside (not looked at).

        Raises:
            OutmaskError: on other types or shapes that differ, or a NaN at a known or anomaly pixel.
        """
        scores, labels = _as_array(score), _as_array(label)
        if scores.dtype.kind != "f" or labels.dtype.kind not in "iub":
            raise OutmaskError(
                f"expected a floating-point score and an integer label map, got {scores.dtype} and {labels.dtype}"
            )
        if scores.shape != labels.shape:
            raise OutmaskError(f"score and label must have the same shape, got {scores.shape} and {labels.shape}")
        for value in (KNOWN, ANOMALY):
            chosen = scores[labels == value]
            if np.isnan(chosen).any():
                raise OutmaskError(f"the score has NaN at {int(np.isnan(chosen).sum())} evaluated pixels")
            if chosen.size:
                self._runs.append(_count(chosen, value))
        self._settle()

    def merge(self, other: PixelMetrics) -> None:
        """Add everything that ``other`` has counted; the order of merging does not matter."""
        self._runs.extend(other._runs)
        self._settle()

    def compute(self) -> dict[str, float]:
        """The metrics in percent.

        Returns:
            ``AP``: sum of recall steps times precision, over the distinct scores as thresholds.
            ``AUROC``: area under the ROC curve, ties counted half.
            ``FPR95``, ``FPR90``: false-positive rate at the first (highest) threshold with a true-positive rate of at
            least 95 % (90 %).
            ``anomaly_share``: anomaly pixels among those counted, the AP of chance.
            A value that these pixels do not define is NaN: everything but ``anomaly_share`` without anomaly pixels,
            ``AUROC`` and the FPRs without known pixels.
        """
        counts = _join(self._runs)
        self._runs = [counts]
        false_positives, true_positives = np.cumsum(counts.known), np.cumsum(counts.anomaly)
        known, anomaly = int(counts.known.sum()), int(counts.anomaly.sum())
        values = dict.fromkeys(("AP", "AUROC", "FPR95", "FPR90"), float("nan"))
        values["anomaly_share"] = 100 * anomaly / (known + anomaly) if known + anomaly else float("nan")
        if anomaly:
            precision = true_positives / (true_positives + false_positives)
            values["AP"] = 100 * float(precision @ counts.anomaly) / anomaly
        if anomaly and known:
            above = true_positives - counts.anomaly / 2
            values["AUROC"] = 100 * float(above @ counts.known) / anomaly / known
            for rate in (95, 90):
                threshold = int(np.argmax(100 * true_positives >= rate * anomaly))
                values[f"FPR{rate}"] = 100 * int(false_positives[threshold]) / known
        return values

    def _settle(self) -> None:
        """Keep the number of distinct scores that are held within the budget."""
        if sum(len(run.keys) for run in self._runs) > self._budget:
            counts = _join(self._runs)
            # Half of the budget stays free, or every further image would sort everything again.
            self._runs = [_coarsen(counts, self._budget // 2)]


def _as_array(values: NDArray[Any] | Tensor) -> NDArray[Any]:
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        return np.asarray((values.float() if values.dtype == torch.bfloat16 else values).numpy())
    return np.asarray(values)


def _descending_keys(scores: NDArray[Any]) -> NDArray[np.uint32]:
    """Integers that order as the float32 scores do, the largest score first; equal exactly for equal scores."""
    with np.errstate(over="ignore"):  # a float64 beyond float32's range is infinite
        bits = (scores.astype(np.float32) + np.float32(0)).view(np.uint32)  # -0.0 + 0.0 is 0.0: one key for both
    # IEEE 754: the bits of positive floats grow with the value, those of negative ones with its magnitude.
    return np.where(bits >> 31 != 0, bits, bits ^ np.uint32(0x7FFFFFFF))


def _count(scores: NDArray[Any], label: int) -> _Counts:
    """Counts of a non-empty set of pixels of one label."""
    keys = np.sort(_descending_keys(scores))
    starts = np.flatnonzero(np.concatenate(([True], keys[1:] != keys[:-1])))
    counts = np.diff(starts, append=len(keys)).astype(np.int64)
    none = np.zeros_like(counts)
    return _Counts(keys[starts], *((counts, none) if label == KNOWN else (none, counts)))


def _join(runs: list[_Counts]) -> _Counts:
    """One set of counts out of several."""
    runs = [run for run in runs if len(run.keys)]
    if len(runs) <= 1:
        return runs[0] if runs else _EMPTY
    keys = np.concatenate([run.keys for run in runs])
    order = np.argsort(keys, kind="stable")  # merges sorted runs in linear time
    keys = keys[order]
    return _sum_groups(
        keys,
        np.concatenate([run.known for run in runs])[order],
        np.concatenate([run.anomaly for run in runs])[order],
        keys[1:] != keys[:-1],
    )


def _coarsen(counts: _Counts, target: int) -> _Counts:
    """Join neighbouring scores until at most about ``target`` are left, with the least harm to the curves.

    A new bin starts wherever one of three quantities reaches its next step: the anomaly pixels so far and the known
    pixels so far, in equal steps (recall and FPR are kept to a step), and the logarithm of all pixels so far (precision
    is kept to a *relative* step, also at the top, where few pixels decide it). A score that alone exceeds a step stays
    alone with at most lighter ones after it.
    """
    if len(counts.keys) <= target:
        return counts
    steps = max(1, target // 3)
    true_positives, false_positives = np.cumsum(counts.anomaly), np.cumsum(counts.known)
    total = true_positives + false_positives
    boundary = np.zeros(len(total) - 1, dtype=bool)
    for reached in (
        true_positives * (steps / max(1, true_positives[-1])),
        false_positives * (steps / max(1, false_positives[-1])),
        np.log(total) * (steps / np.log(total[-1])),
    ):
        boundary |= np.diff(np.floor(reached)) != 0
    return _sum_groups(*counts, boundary)


def _sum_groups(
    keys: NDArray[np.uint32], known: NDArray[np.int64], anomaly: NDArray[np.int64], boundary: NDArray[np.bool_]
) -> _Counts:
    """Add up neighbours that no ``boundary`` (one flag between any two) divides, under the first one's key."""
    starts = np.flatnonzero(np.concatenate(([True], boundary)))
    return _Counts(keys[starts], np.add.reduceat(known, starts), np.add.reduceat(anomaly, starts))
