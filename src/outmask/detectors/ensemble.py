"""Deep ensembles (Lakshminarayanan et al. 2017): what several models say of one image, as one prediction."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from outmask import scores
from outmask.errors import OutmaskError
from outmask.types import MaskPrediction, PixelPrediction

OF_DISTRIBUTION = ("msp", "entropy", "kl")
"""Scores that are functions of a pixel's distribution over the classes, and of nothing else."""


def ensemble_maps(
    predictions: Sequence[scores.Prediction], maps: Sequence[Mapping[str, Tensor]], size: tuple[int, int]
) -> dict[str, Tensor]:
    """Scores and labels of an ensemble from those of its members.

    - ``msp``, ``entropy`` and ``kl`` are those of the members' **average distribution** (Lakshminarayanan et al. 2017,
      section 2.4), and the labels of per-pixel models are its classes.
    - **every other score** (logits, masks' scores such as ``eam``, detectors) is the **average of the members'
      scores**: their logits and masks have no common scale or order that would let them be averaged before.
    - the labels of mask models are ``argmax_k`` of the average ``L_k = sum_q m_q P_q(k)``.

    Members that are equal give what one of them gives.

    Args:
        predictions: of each member.
        maps: of each member: the scores by name, ``(B, H, W)`` each.
        size: ``(H, W)``.

    Returns:
        the same names, and ``"labels"``, ``(B, H, W)`` int64.

    Raises:
        OutmaskError: where the members differ in kind or in their number of classes.
    """
    names = [name for name in maps[0] if name != "labels"]
    joint = scores.evaluate(joint_prediction(predictions), [name for name in names if name in OF_DISTRIBUTION], size)
    averages = {name: torch.stack([one[name] for one in maps]).mean(0) for name in names if name not in joint}
    return {**{name: joint[name] if name in joint else averages[name] for name in names}, "labels": joint["labels"]}


def joint_prediction(predictions: Sequence[scores.Prediction]) -> scores.Prediction:
    """What the members predict together; its labels are the ensemble's.

    Per-pixel models: logits ``log mean_t softmax(C_t)``, without outlier logits. Mask models: all masks of all members
    side by side, so that ``L_k`` is the sum of theirs. Predictions of smaller images are resized to the largest.

    Raises:
        OutmaskError: where they differ in kind or in their number of classes.
    """
    if len({one.num_classes for one in predictions}) > 1:
        raise OutmaskError(
            f"the members of an ensemble must know the same classes, got {[one.num_classes for one in predictions]}"
        )
    pixels = [one for one in predictions if isinstance(one, PixelPrediction)]
    masks = [one for one in predictions if isinstance(one, MaskPrediction)]
    if pixels and masks:
        raise OutmaskError("the members of an ensemble must all predict masks, or all pixels: they share no score")
    if masks:
        mask_logits = _of_one_size([one.mask_logits for one in masks])
        return MaskPrediction(torch.cat([one.known_class_logits() for one in masks], 1), torch.cat(mask_logits, 1))
    logits = _of_one_size([one.logits for one in pixels])
    together = torch.stack([one.float().log_softmax(1) for one in logits])
    return PixelPrediction(together.logsumexp(0) - math.log(len(logits)))


def _of_one_size(maps: list[Tensor]) -> list[Tensor]:
    """``(B, N, h, w)`` logits, resized bilinearly to the largest of them."""
    size = tuple(max(map_.shape[side] for map_ in maps) for side in (-2, -1))
    return [
        map_
        if map_.shape[-2:] == size
        else F.interpolate(map_.float(), size=size, mode="bilinear", align_corners=False)
        for map_ in maps
    ]
