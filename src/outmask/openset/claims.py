"""Which pixels each mask claims, where all masks that are sure of a class compete: Mask2Former's rule."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from outmask.openset.tiles import computing_dtype, tiles
from outmask.types import MaskPrediction

_CONFIDENT = 0.8
"""Class probability above which a mask counts (``OBJECT_MASK_THRESHOLD`` of Mask2Former's panoptic configurations)."""

_UNCOVERED = 0.8
"""Share of its own area that a mask must not lose to others (Mask2Former, ``OVERLAP_THRESHOLD``)."""


class Claims(NamedTuple):
    """The masks that are left of one image's.

    Attributes:
        owners: ``(H, W)`` int32: 0 = no mask's, 1 ... n the masks'; each has a pixel.
        classes: of the masks 1 ... n, the class id and its probability, the surest first. Class K is *negative*, of a
            model that has it.
    """

    owners: NDArray[np.int32]
    classes: list[tuple[int, float]]


@torch.no_grad()
def claimed_pixels(prediction: MaskPrediction, size: tuple[int, int]) -> Claims:
    """What each mask claims by Mask2Former's rule (Cheng et al. 2022, ``panoptic_inference``).

    1. Masks whose most probable class is *no object*, or has a probability ``s_q`` of at most 0.8, are dropped.
    2. Every pixel prefers ``argmax_q s_q m_q`` of the others, and is painted where that mask holds it: ``m_q >= 0.5``.
    3. A mask vanishes whole where fewer pixels prefer it than 0.8 times those that it holds.

    *Negative*, where the model has learned it, is a class like the known ones.

    Mask logits are resized bilinearly before the sigmoid, in tiles: memory beyond the output is a few MB. Masks are
    taken in the order of their class probabilities (of their log-odds, which don't round to 1), so that neither a tie
    nor a number depends on the order of the queries.

    Args:
        prediction: of one image: ``(1, N, C)`` class and ``(1, N, h, w)`` mask logits; *no object* is the last class.
        size: ``(H, W)`` of the output.
    """
    masks = prediction.mask_logits[0]
    with torch.autocast(masks.device.type, enabled=False):
        kept, probability, class_id = _confident(prediction.class_logits[0].to(computing_dtype(masks)))
        count = len(kept)
        # Of each pixel, twice the rank of the mask that it prefers (the first: n - 1), and 1 more if that one holds it.
        codes = torch.zeros(size, dtype=torch.int32, device=masks.device)
        ranks = torch.arange(count - 1, -1, -1, dtype=torch.int32, device=masks.device)[:, None, None]
        held = torch.zeros(count, dtype=torch.int64, device=masks.device)
        scratch = torch.empty(0, dtype=_BITS[computing_dtype(masks)], device=masks.device)
        for rows, tile in tiles(masks[kept], size):
            # 1 where m >= 0.5; adding 0 makes a zero of -0.
            holds = _sign(tile.add_(0), out=scratch.resize_(tile.shape)).add_(1)
            held += holds.flatten(1).sum(1, dtype=torch.int32)
            values = tile.sigmoid_().mul_(probability[:, None, None])
            weaker = _sign(values.sub_(values.amax(0)))  # all ones where another mask is preferred
            # Of equals the first has the largest code; where a logit is NaN, all may be weaker, which is no code.
            codes[rows] = holds.add_(2 * ranks).bitwise_or_(weaker).amax(0).clamp_(min=0)
        pixels = torch.bincount(codes.flatten(), minlength=2 * max(count, 1)).view(-1, 2)[:count].flip(0)
        painted = (pixels[:, 1] > 0) & (pixels.sum(1).double() / held >= _UNCOVERED)
    numbers = np.zeros((max(count, 1), 2), np.int32)
    numbers[:count, 1] = (painted.cumsum(0) * painted).flip(0).cpu().numpy()
    classes = list(zip(class_id[painted].tolist(), probability[painted].tolist(), strict=True))
    return Claims(numbers.ravel()[codes.cpu().numpy()], classes)


_BITS = {torch.float32: torch.int32, torch.float64: torch.int64}


def _sign(values: Tensor, out: Tensor | None = None) -> Tensor:
    """-1 where the sign bit is set, else 0, in integers of the same width; in place of the values, or in ``out``.

    Comparisons give bools, which takes them several times as long.
    """
    bits = values.view(_BITS[values.dtype])
    return torch.bitwise_right_shift(bits, 8 * bits.itemsize - 1, out=bits if out is None else out)


def _confident(class_logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The masks that count, the most probable first: their indices, probabilities and class ids."""
    probability, class_id = class_logits.softmax(-1).max(-1)
    others = class_logits.scatter(1, class_id[:, None], -torch.inf).logsumexp(1)
    log_odds = class_logits.amax(1) - others
    kept = ((class_id < class_logits.shape[1] - 1) & (probability > _CONFIDENT)).nonzero()[:, 0]
    kept = kept[log_odds[kept].argsort(descending=True, stable=True)]
    return kept, probability[kept], class_id[kept]
