"""Labelled images, as arrays (:class:`Sample`) and as targets of the losses (:class:`Target`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from outmask.errors import OutmaskError

VOID = 255
"""Label of a pixel that belongs to no mask: it counts as 0 in every mask loss, so masks are penalised for claiming it
(M2F-EAM 3.4). Every pasted negative is void."""

IGNORE = 254
"""Label of a pixel that is left out of every loss: padding, and what nobody labelled."""


@dataclass(frozen=True)
class Sample:
    """One labelled image.

    Attributes:
        image: ``(H, W, 3)`` uint8 RGB.
        labels: ``(H, W)`` uint8: class ids 0 ... K-1, :data:`VOID` or :data:`IGNORE`.
        outlier: ``(H, W)`` bool, True on pasted pixels.
        name: says which image it is, unique in its dataset.

    Raises:
        OutmaskError: where sizes or types differ from what is written here.
    """

    image: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    outlier: NDArray[np.bool_]
    name: str

    def __post_init__(self) -> None:
        size = self.labels.shape
        if self.labels.ndim != 2 or self.labels.dtype != np.uint8:
            raise OutmaskError(f"{self.name}: labels must be (H, W) uint8, got {size} {self.labels.dtype}")
        if self.image.shape != (*size, 3) or self.image.dtype != np.uint8:
            raise OutmaskError(
                f"{self.name}: image must be {(*size, 3)} uint8 like its labels, "
                f"got {self.image.shape} {self.image.dtype}"
            )
        if self.outlier.shape != size or self.outlier.dtype != np.bool_:
            raise OutmaskError(
                f"{self.name}: outlier must be {size} bool like the labels, "
                f"got {self.outlier.shape} {self.outlier.dtype}"
            )


@dataclass(frozen=True)
class Target:
    """What the losses compare one image's prediction with.

    Attributes:
        class_ids: ``(n,)`` int64, the class of each mask; n may be 0.
        masks: ``(n, H, W)`` bool; void and pasted pixels are in none of them.
        ignore: ``(H, W)`` bool, pixels that every loss leaves out.
        outlier: ``(H, W)`` bool, pasted pixels (for the contrastive loss, Mask2Anomaly eq. 10-12).

    Raises:
        OutmaskError: where sizes or types differ from what is written here.
    """

    class_ids: Tensor
    masks: Tensor
    ignore: Tensor
    outlier: Tensor

    def __post_init__(self) -> None:
        if self.class_ids.ndim != 1 or self.class_ids.dtype != torch.int64:
            raise OutmaskError(f"class_ids must be (n,) int64, got {_describe(self.class_ids)}")
        if self.masks.ndim != 3 or self.masks.dtype != torch.bool or len(self.masks) != len(self.class_ids):
            raise OutmaskError(f"masks must be ({len(self.class_ids)}, H, W) bool, got {_describe(self.masks)}")
        size = self.masks.shape[1:]
        for what, mask in (("ignore", self.ignore), ("outlier", self.outlier)):
            if mask.shape != size or mask.dtype != torch.bool:
                raise OutmaskError(f"{what} must be {tuple(size)} bool like the masks, got {_describe(mask)}")

    @classmethod
    def from_labels(cls, labels: NDArray[np.uint8], outlier: NDArray[np.bool_], num_classes: int) -> Target:
        """Target of semantic training: one mask per class that is present, ids rising.

        Args:
            labels: ``(H, W)`` uint8: class ids, :data:`VOID` or :data:`IGNORE`.
            outlier: ``(H, W)`` bool, pasted pixels; they are in no mask, whatever their label.
            num_classes: K, at most 254.

        Raises:
            OutmaskError: on label values that are neither a class id below K nor void nor ignore.
        """
        if not 1 <= num_classes <= IGNORE:
            raise OutmaskError(f"num_classes must be from 1 to {IGNORE}, got {num_classes}")
        # One bincount of bytes is several times cheaper than np.unique's sort.
        present = np.flatnonzero(np.bincount(labels.ravel(), minlength=256))
        if strangers := [int(value) for value in present if value >= num_classes and value not in (IGNORE, VOID)]:
            raise OutmaskError(
                f"labels hold the values {strangers}, expected class ids 0 to {num_classes - 1}, "
                f"{IGNORE} (ignore) or {VOID} (void): map the dataset to the model's taxonomy"
            )
        label_map, pasted = torch.from_numpy(labels.copy()), torch.from_numpy(outlier.copy())
        class_ids = torch.from_numpy(present[present < num_classes].astype(np.int64))
        masks = label_map == class_ids.to(torch.uint8)[:, None, None]
        if pasted.any():
            masks &= ~pasted
            remaining = masks.flatten(1).any(1)
            class_ids, masks = class_ids[remaining], masks[remaining]
        return cls(class_ids, masks, (label_map == IGNORE) & ~pasted, pasted)

    def to(self, device: torch.device | str, **options: Any) -> Target:
        """The same target on ``device``; ``options`` as of ``torch.Tensor.to``."""
        return Target(*(part.to(device, **options) for part in (self.class_ids, self.masks, self.ignore, self.outlier)))


def _describe(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
