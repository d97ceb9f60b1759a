"""Labelled images, as arrays (:class:`Sample`) and as targets of the losses (:class:`Target`)."""

from __future__ import annotations

from collections.abc import Callable
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

_OUTLIER = 256
"""Stands for pasted pixels where labels are more than bytes."""


@dataclass(frozen=True)
class Sample:
    """One labelled image.

    Attributes:
        image: ``(H, W, 3)`` uint8 RGB.
        labels: ``(H, W)`` uint8: class ids 0 ... K-1, :data:`VOID` or :data:`IGNORE`.
        outlier: ``(H, W)`` bool, True on pasted pixels.
        name: says which image it is, unique in its dataset.
        instances: ``(H, W)`` uint16 of panoptic training: which object a pixel of a thing or an outlier shows, from 1;
            0 elsewhere. None where objects of a class are not told apart.

    Raises:
        OutmaskError: where sizes or types differ from what is written here.
    """

    image: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    outlier: NDArray[np.bool_]
    name: str
    instances: NDArray[np.uint16] | None = None

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
        if self.instances is not None and (self.instances.shape != size or self.instances.dtype != np.uint16):
            raise OutmaskError(
                f"{self.name}: instances must be {size} uint16 like the labels, "
                f"got {self.instances.shape} {self.instances.dtype}"
            )

    def panoptic(self, num_classes: int) -> tuple[NDArray[np.int32], list[dict[str, int]]]:
        """The truth in COCO's panoptic form: a segment for each class of stuff and each object.

        Args:
            num_classes: K; pixels of no class below it are void.

        Returns:
            ``(H, W)`` int32 ids, 0 = void, and of the segments 1 ... n their ``id`` and ``category_id``.
        """
        groups, ids, values = _groups(np.where(self.outlier, _OUTLIER, self.labels.astype(np.int32)), self.instances)
        known = ids < num_classes
        table = np.append(np.where(known, known.cumsum(), 0), 0).astype(np.int32)
        segments = [{"id": number, "category_id": int(id_)} for number, id_ in enumerate(ids[known], 1)]
        return table[np.searchsorted(values, groups)], segments

    def map(self, change: Callable[[NDArray[Any]], NDArray[Any]]) -> Sample:
        """The sample whose image and maps are all moved by ``change``, such as mirrored."""
        instances = None if self.instances is None else change(self.instances)
        return Sample(change(self.image), change(self.labels), change(self.outlier), self.name, instances)


@dataclass(frozen=True)
class Target:
    """What the losses compare one image's prediction with.

    Attributes:
        class_ids: ``(n,)`` int64, the class of each mask; n may be 0.
        masks: ``(n, H, W)`` bool; void and pasted pixels are in none of them.
        ignore: ``(H, W)`` bool, pixels that every loss leaves out.
        outliers: ``(m, H, W)`` bool, the pasted objects, or all of them in one mask where objects are not told apart; m
            may be 0.

    Raises:
        OutmaskError: where sizes or types differ from what is written here.
    """

    class_ids: Tensor
    masks: Tensor
    ignore: Tensor
    outliers: Tensor

    def __post_init__(self) -> None:
        if self.class_ids.ndim != 1 or self.class_ids.dtype != torch.int64:
            raise OutmaskError(f"class_ids must be (n,) int64, got {_describe(self.class_ids)}")
        if self.masks.ndim != 3 or self.masks.dtype != torch.bool or len(self.masks) != len(self.class_ids):
            raise OutmaskError(f"masks must be ({len(self.class_ids)}, H, W) bool, got {_describe(self.masks)}")
        size = self.masks.shape[1:]
        if self.ignore.shape != size or self.ignore.dtype != torch.bool:
            raise OutmaskError(f"ignore must be {tuple(size)} bool like the masks, got {_describe(self.ignore)}")
        if self.outliers.ndim != 3 or self.outliers.shape[1:] != size or self.outliers.dtype != torch.bool:
            raise OutmaskError(f"outliers must be (m, {size[0]}, {size[1]}) bool, got {_describe(self.outliers)}")

    @property
    def outlier(self) -> Tensor:
        """``(H, W)`` bool, pasted pixels (for the contrastive loss, Mask2Anomaly eq. 10-12)."""
        return self.outliers.any(0)

    @classmethod
    def from_labels(
        cls,
        labels: NDArray[np.uint8],
        outlier: NDArray[np.bool_],
        num_classes: int,
        instances: NDArray[np.uint16] | None = None,
    ) -> Target:
        """One mask per class that is present (semantic training), or per object of a class (panoptic training).

        Args:
            labels: ``(H, W)`` uint8: class ids, :data:`VOID` or :data:`IGNORE`.
            outlier: ``(H, W)`` bool, pasted pixels; they are in no mask, whatever their label.
            num_classes: K, at most 254.
            instances: ``(H, W)`` uint16: objects of one label differ in it; None makes one of all.

        Returns:
            the target, its masks by rising class and instance.

        Raises:
            OutmaskError: on label values that are neither a class id below K nor void nor ignore.
        """
        if not 1 <= num_classes <= IGNORE:
            raise OutmaskError(f"num_classes must be from 1 to {IGNORE}, got {num_classes}")
        present = np.flatnonzero(np.bincount(labels.ravel(), minlength=256))
        if strangers := [int(value) for value in present if value >= num_classes and value not in (IGNORE, VOID)]:
            raise OutmaskError(
                f"labels hold the values {strangers}, expected class ids 0 to {num_classes - 1}, "
                f"{IGNORE} (ignore) or {VOID} (void): map the dataset to the model's taxonomy"
            )
        groups, ids, values = _groups(np.where(outlier, _OUTLIER, labels.astype(np.int32)), instances)
        group_map = torch.from_numpy(groups)
        known, pasted = (torch.from_numpy(values[kept]) for kept in (ids < num_classes, ids == _OUTLIER))
        return cls(
            torch.from_numpy(ids[ids < num_classes]),
            group_map == known[:, None, None],
            torch.from_numpy((labels == IGNORE) & ~outlier),
            group_map == pasted[:, None, None],
        )

    def to(self, device: torch.device | str, **options: Any) -> Target:
        """The same target on ``device``; ``options`` as of ``torch.Tensor.to``."""
        parts = (self.class_ids, self.masks, self.ignore, self.outliers)
        return Target(*(part.to(device, **options) for part in parts))


def _groups(
    labels: NDArray[np.int32], instances: NDArray[np.uint16] | None
) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int32]]:
    """Pixels of one label and instance as groups.

    Args:
        labels: ``(H, W)``, from 0 to :data:`_OUTLIER`.
        instances: ``(H, W)``, or None.

    Returns:
        ``(H, W)`` group numbers; the ``(n,)`` labels of the n groups that are present, by label and instance, and their
        ``(n,)`` numbers.
    """
    if instances is None:
        # One bincount is several times cheaper than np.unique's sort.
        present = np.flatnonzero(np.bincount(labels.ravel()))
        return labels, present, present.astype(np.int32)
    groups = (labels << 16) + instances
    numbers = np.unique(groups)
    return groups, (numbers >> 16).astype(np.int64), numbers


def _describe(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
