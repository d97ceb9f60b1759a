"""Refinement: anomaly scores without the false positives on stuff (Mask2Anomaly 4.4, eq. 13).

What lies in a confident mask of stuff is known, whatever the score says there; unknown things are objects, or they
lie on the ground, so that masks of road and sidewalk take nothing away.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from outmask.errors import OutmaskError
from outmask.scores.upsampling import upsampled_tiles
from outmask.types import MaskPrediction, Taxonomy

_CONFIDENT = 0.95
"""Class probability above which a mask counts (Mask2Anomaly 4.4)."""

_COVERED = 0.5
"""``s_q m_q`` from which a pixel belongs to a mask (Mask2Anomaly's released inference)."""

# Mask logits of a tile; few masks are confident stuff, so that tiles are many rows high all the same.
_TILE_BYTES = 4 << 20


@torch.no_grad()
def refinement_mask(
    prediction: MaskPrediction,
    taxonomy: Taxonomy,
    size: tuple[int, int],
    remove: Literal["stuff", "things"] = "stuff",
) -> Tensor:
    """The binary mask ``R = 1 - [max_q s_q m_q >= 0.5]`` of eq. 13, as Mask2Anomaly's released code has it.

    The maximum runs over the masks whose most probable class, *no object* included, has a probability ``s_q`` above
    0.95 and is to be removed; of an image with fewer than two such masks nothing is. The paper's text reads otherwise:
    it keeps scores inside of confident masks of things or road only, which would also remove what no mask claims.
    Mask logits are resized bilinearly before the sigmoid, in tiles: memory beyond the output is a few MB.

    Args:
        prediction: ``(B, N, K + 1)`` class and ``(B, N, h, w)`` mask logits.
        taxonomy: of the K classes, with ``things``.
        size: ``(H, W)`` of the output, both at least 1.
        remove: ``"stuff"``, but for the taxonomy's ``ground``; or ``"things"``, the ablation of table V(d), which
            removes the unknown objects that look like known ones.

    Returns:
        ``(B, H, W)`` bool on the prediction's device, False where the score is to be removed.

    Raises:
        OutmaskError: where the taxonomy does not tell things from stuff, or has another number of classes.
    """
    removed = torch.tensor([*_removed(taxonomy, remove), False], device=prediction.class_logits.device)
    if len(removed) != prediction.num_classes + 1:
        raise OutmaskError(
            f"refinement needs the taxonomy of the prediction's {prediction.num_classes} classes, "
            f"got one of {taxonomy.num_classes}"
        )
    masks = prediction.mask_logits
    dtype = torch.promote_types(torch.promote_types(masks.dtype, prediction.class_logits.dtype), torch.float32)
    keep = torch.ones((masks.shape[0], *size), dtype=torch.bool, device=masks.device)
    with torch.autocast(masks.device.type, enabled=False):
        probability, class_id = prediction.known_class_logits().to(dtype).softmax(-1).max(-1)
        chosen = removed[class_id] & (probability > _CONFIDENT)
        # s m >= 1/2 is M >= logit(1 / (2 s)): no sigmoid of the tiles.
        least_logits = torch.logit(_COVERED / probability)
        for image, queries in enumerate(chosen):
            count = int(queries.sum())
            if count < 2:
                continue
            least = least_logits[image, queries, None, None]
            rows_per_tile = max(1, _TILE_BYTES // (count * size[1] * dtype.itemsize))
            for rows, tile in upsampled_tiles(masks[image, queries], size, rows_per_tile, dtype):
                keep[image, rows] = tile.sub_(least).amax(0) < 0
    return keep


def refine(score: Tensor, keep: Tensor, known: float) -> Tensor:
    """The refined score ``S_R`` (Mask2Anomaly eq. 13) of any score.

    Eq. 13 multiplies ``1 - max_k L_k`` by R: removed pixels get 0, its value where a class is certain. Not every score
    has its known end at 0 (most lie in ``[-1, 0]``, and times 0 would make their removed pixels the **most**
    anomalous), so removed pixels are lowered to ``known`` instead. Pixels that are below it already, because several
    masks claim them, stay as they are: refinement never raises a score, and never changes the order of the pixels that
    it keeps. (Eq. 13 taken literally raises a negative ``1 - max_k L_k`` to 0, among removed pixels only; no threshold
    above 0 tells the difference.)

    Args:
        score: ``(B, H, W)`` floating, larger = more anomalous.
        keep: ``(B, H, W)`` bool, as of :func:`refinement_mask`.
        known: the score of what is certainly known, ``outmask.scores.display_range(name, K)[0]``.

    Returns:
        ``(B, H, W)``, the score's type.
    """
    return torch.where(keep, score, score.clamp(max=known))


def _removed(taxonomy: Taxonomy, remove: Literal["stuff", "things"]) -> list[bool]:
    """Of each class, whether its masks take scores away."""
    if remove not in ("stuff", "things"):
        raise OutmaskError(f"refinement removes 'stuff' or 'things', got {remove!r}")
    if taxonomy.things is None:
        raise OutmaskError(
            "refinement needs to know things from stuff, and the model's taxonomy does not say: "
            "name them under 'things' in its config.json, or do without refinement"
        )
    if remove == "things":
        return list(taxonomy.things)
    return [
        not thing and name not in taxonomy.ground for name, thing in zip(taxonomy.names, taxonomy.things, strict=True)
    ]
