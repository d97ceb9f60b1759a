"""Which pixels each mask claims, where all masks that are sure of a class compete: Mask2Former's rule."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from outmask.openset.tiles import computing_dtype, strongest, tiles
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
        preferred = torch.full(size, count, dtype=torch.int32, device=masks.device)
        area, held = (torch.zeros(count, dtype=torch.int64, device=masks.device) for _ in range(2))
        for rows, tile in tiles(masks[kept], size):
            holds = tile >= 0  # m >= 0.5
            best = strongest(tile.sigmoid_().mul_(probability[:, None, None]))
            area += torch.bincount(best.flatten(), minlength=count)
            held += holds.count_nonzero((1, 2))
            preferred[rows] = torch.where(holds.gather(0, best[None])[0], best, count).int()
        painted = torch.bincount(preferred.flatten(), minlength=count + 1)[:count] > 0
        painted &= area.double() / held >= _UNCOVERED
    numbers = np.append((painted.cumsum(0) * painted).cpu().numpy(), 0).astype(np.int32)
    classes = list(zip(class_id[painted].tolist(), probability[painted].tolist(), strict=True))
    return Claims(numbers[preferred.cpu().numpy()], classes)


def _confident(class_logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The masks that count, the most probable first: their indices, probabilities and class ids."""
    probability, class_id = class_logits.softmax(-1).max(-1)
    others = class_logits.scatter(1, class_id[:, None], -torch.inf).logsumexp(1)
    log_odds = class_logits.amax(1) - others
    kept = ((class_id < class_logits.shape[1] - 1) & (probability > _CONFIDENT)).nonzero()[:, 0]
    kept = kept[log_odds[kept].argsort(descending=True, stable=True)]
    return kept, probability[kept], class_id[kept]
