"""Open-set semantic segmentation (Mask2Anomaly eq. 14)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def open_labels(
    labels: NDArray[np.int32], score: NDArray[np.float32], threshold: float, unknown_id: int
) -> NDArray[np.int32]:
    """Unknown where the anomaly score exceeds the threshold, else the closed-set class (eq. 14).

    Args:
        labels: ``(H, W)`` int32 class ids.
        score: ``(H, W)`` float32, larger = more anomalous.
        threshold: scores above it are unknown.
        unknown_id: the label of unknown pixels.

    Returns:
        ``(H, W)`` int32.
    """
    return np.where(score > threshold, np.int32(unknown_id), labels)
