"""Open-set semantic fusion."""

from __future__ import annotations

import numpy as np

from outmask.openset.semantic import open_labels


def test_only_scores_above_the_threshold_are_unknown() -> None:
    labels = np.array([[0, 1, 2]], np.int32)
    score = np.array([[0.4, 0.5, 0.6]], np.float32)
    fused = open_labels(labels, score, 0.5, unknown_id=19)
    assert fused.dtype == np.int32
    assert fused.tolist() == [[0, 1, 19]]  # a score equal to the threshold is known
