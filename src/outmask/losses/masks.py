"""Binary cross-entropy and dice of masks on points, where void counts as 0 and ignore does not count."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, distributed
from torch.nn import functional as F

from outmask.errors import OutmaskError

if TYPE_CHECKING:
    from outmask.data.labels import Target


def check_targets(targets: Sequence[Target], images: int, num_classes: int) -> None:
    """Refuse targets that no loss of ``images`` predictions of ``num_classes`` classes can be compared with.

    Raises:
        OutmaskError: where there is not one for each image, their sizes differ, or a class id is not below K.
    """
    if len(targets) != images:
        raise OutmaskError(f"expected one target per image, got {len(targets)} targets for {images} images")
    if len(sizes := {tuple(target.ignore.shape) for target in targets}) > 1:
        raise OutmaskError(f"targets of a batch must have one size, got {sorted(sizes)}: crop or pad them to it")
    class_ids = torch.cat([target.class_ids for target in targets])
    if ((class_ids < 0) | (class_ids >= num_classes)).any():
        raise OutmaskError(f"class ids must be from 0 to {num_classes - 1}, got {sorted(set(class_ids.tolist()))}")


def target_maps(targets: Sequence[Target]) -> Tensor:
    """The target masks of a batch as maps that can be sampled.

    Returns:
        ``(T, H, W)`` float32, the images' masks one after another: 1 inside, 0 outside (void too), NaN where ignored. A
        bilinear sample is then NaN exactly where it touches an ignored pixel: one sampling gives label and validity.
    """
    return torch.cat([target.masks.float().masked_fill_(target.ignore, torch.nan) for target in targets])


def split_ignored(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Sampled target maps as labels without NaN and the weight of each point, 1.0 or (ignored) 0.0; shapes as given."""
    return labels.nan_to_num(0.0), (~labels.isnan()).to(labels.dtype)


def mask_bce(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Mean binary cross-entropy over the points that count.

    Args:
        logits: ``(..., P)`` before the sigmoid.
        labels: ``(..., P)`` in [0, 1].
        weights: ``(..., P)`` 1 where the point counts, 0 where it is ignored.

    Returns:
        ``(...)``; 0 for a mask without any point that counts.
    """
    loss = F.binary_cross_entropy_with_logits(logits, labels, weights, reduction="none")
    return loss.sum(-1) / weights.sum(-1).clamp(min=1)


def mask_dice(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Dice loss ``1 - (2 sum w p y + 1) / (sum w p + sum w y + 1)``, ``p = sigmoid(logits)`` (MaskFormer 3.3).

    Args, Returns: as :func:`mask_bce`; 0 for a mask without any point that counts.
    """
    probability = logits.sigmoid() * weights
    labels = labels * weights
    return 1 - (2 * (probability * labels).sum(-1) + 1) / (probability.sum(-1) + labels.sum(-1) + 1)


def average_num_masks(targets: Sequence[Target], device: torch.device) -> Tensor:
    """Target masks per process; mask losses are divided by it, so that all masks of a step weigh the same.

    Returns:
        float32 scalar on ``device``, the same in all processes of ``torch.distributed``; a step without any mask counts
        as one with a single mask.
    """
    count = float(sum(len(target.class_ids) for target in targets))
    return average_over_processes(torch.tensor(count, device=device), at_least=1)


def average_over_processes(total: Tensor, at_least: float = 0) -> Tensor:
    """What a loss that is a sum over this process's images is divided by, so that the joint batch has this gradient.

    DDP averages the gradients of W processes: ``1/W sum_r d(s_r) / (S / W) = d(sum_r s_r) / S`` with ``S = sum_r S_r``.

    Args:
        total: ``S_r``, this process's own; is changed.
        at_least: smallest ``S``.

    Returns:
        ``S / W``, in all processes of ``torch.distributed``; without any, ``S_r``.
    """
    processes = 1
    if distributed.is_available() and distributed.is_initialized():
        distributed.all_reduce(total)
        processes = distributed.get_world_size()
    return total.clamp_(min=at_least) / processes
