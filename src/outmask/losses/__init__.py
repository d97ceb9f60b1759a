"""Mask2Former's losses, those on pasted outliers, and those of per-pixel networks (:mod:`outmask.losses.per_pixel`)."""

from outmask.losses.criterion import SetCriterion
from outmask.losses.outliers import (
    MaskContrastiveLoss,
    OutlierCrossEntropyLoss,
    OutlierLoss,
    RbALoss,
    SuppressionLoss,
)

__all__ = [
    "MaskContrastiveLoss",
    "OutlierCrossEntropyLoss",
    "OutlierLoss",
    "RbALoss",
    "SetCriterion",
    "SuppressionLoss",
]
