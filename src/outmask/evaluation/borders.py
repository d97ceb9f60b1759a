"""False positives near semantic borders: the claim of M2F-EAM figure 4, as a number."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from outmask.evaluation.report import FOUND, BorderReport
from outmask.metrics.pixel import Curve
from outmask.metrics.values import KNOWN


def border_band(ids: NDArray[Any], label: NDArray[np.uint8], width: int) -> NDArray[np.bool_]:
    """Pixels within ``width`` of a border between two classes.

    A border lies between two adjacent pixels, above or beside each other, of different classes that are both known: at
    the edges of anomalies and of what is outside, other things than classes meet.

    Args:
        ids: ``(H, W)`` class ids.
        label: ``(H, W)`` 0 known, 1 anomaly, 255 outside.
        width: at least 1: the two pixels at a border are in every band, others at an Euclidean distance of at most
            ``width - 1`` from one of them.

    Returns:
        ``(H, W)`` bool.
    """
    known = label == KNOWN
    edge = np.zeros(ids.shape, np.uint8)
    for first, second in (((slice(None), slice(None, -1)), (slice(None), slice(1, None))),
                          ((slice(None, -1), slice(None)), (slice(1, None), slice(None)))):  # fmt: skip
        differs = (ids[first] != ids[second]) & known[first] & known[second]
        edge[first] |= differs
        edge[second] |= differs
    if not edge.any():
        return edge.astype(np.bool_)
    distance = cv2.distanceTransform(1 - edge, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(distance <= width - 1)


def border_report(everywhere: Curve, near: Curve, width: int, of_labels: bool) -> BorderReport:
    """Compare the known pixels of the band with the others, at the threshold that finds 95 % of all anomaly pixels.

    Args:
        everywhere: of all pixels.
        near: of those in the band.
        width: of the band, as of :func:`border_band`.
        of_labels: whether the borders are those of the ground truth's classes.
    """
    found = everywhere.at_tpr(FOUND)
    nan = float("nan")
    inside = far = nan
    if found is not None:
        inside = near.above(found.threshold).FPR
        false_positives = found.FPR * everywhere.known - (inside * near.known if near.known else 0)
        far = false_positives / ((everywhere.known - near.known) or nan)
    return BorderReport(
        width=width,
        borders_of="labels" if of_labels else "prediction",
        FPR95=inside,
        FPR95_elsewhere=far,
        known_share=100 * near.known / (everywhere.known or nan),
    )
