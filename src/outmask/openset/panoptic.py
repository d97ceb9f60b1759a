"""Panoptic segmentation: known segments as Mask2Former finds them, and unknown objects in what these leave void."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from outmask.errors import OutmaskError
from outmask.openset.tiles import computing_dtype, strongest, tiles
from outmask.openset.unknown_objects import Finder, finder
from outmask.types import MaskPrediction, Segment, Taxonomy, Unknown

_CONFIDENT = 0.8
"""Class probability above which a mask counts (``OBJECT_MASK_THRESHOLD`` of Mask2Former's panoptic configurations)."""

_UNCOVERED = 0.8
"""Share of its own area that a mask must not lose to others (Mask2Former, ``OVERLAP_THRESHOLD``)."""


class KnownSegments(NamedTuple):
    """The segments of known classes of one image.

    Attributes:
        ids: ``(H, W)`` int32, 0 = void, 1 ... n the segments.
        classes: of the segments 1 ... n, the class id and its probability; of stuff that several masks make up, the
            highest.
    """

    ids: NDArray[np.int32]
    classes: list[tuple[int, float]]


class Panoptic(NamedTuple):
    """Every pixel of one image in exactly one segment, or void.

    Attributes:
        ids: ``(H, W)`` int32, 0 = void.
        segments: the segments of ``ids``, known ones first, ids rising from 1 without gaps.
    """

    ids: NDArray[np.int32]
    segments: list[Segment]


@torch.no_grad()
def known_segments(prediction: MaskPrediction, taxonomy: Taxonomy, size: tuple[int, int]) -> KnownSegments:
    """Closed-set panoptic segmentation by Mask2Former's rule (Cheng et al. 2022, ``panoptic_inference``).

    1. Masks whose most probable class is *no object*, or has a probability ``s_q`` of at most 0.8, are dropped.
    2. Every pixel prefers ``argmax_q s_q m_q`` of the others, and is painted where that mask holds it: ``m_q >= 0.5``.
    3. A mask vanishes whole where fewer pixels prefer it than 0.8 times those that it holds.
    4. Masks of one class of stuff are one segment.

    Mask logits are resized bilinearly before the sigmoid, in tiles: memory beyond the output is a few MB. Masks are
    taken in the order of their class probabilities (of their log-odds, which don't round to 1), so that neither a tie
    nor an id depends on the order of the queries.

    transformers' ``post_process_panoptic_segmentation`` differs: it resizes the logits to 384 x 384, whatever the
    image's shape, and from there probabilities to the output; keeps masks above 0.5 by default; measures the area that
    a mask holds where ``s_q m_q >= 0.5``, and lets it vanish at a share of exactly 0.8, too; paints every pixel that
    prefers a mask, those that it does not hold included; merges stuff only where told which classes are, lists it
    once for each mask, and may then give a later segment an id that is taken; and calls void 0, but -1 where no mask
    is left.

    Args:
        prediction: of one image: ``(1, N, K + 1)`` class and ``(1, N, h, w)`` mask logits.
        taxonomy: of the K classes, with ``things``.
        size: ``(H, W)`` of the output.

    Raises:
        OutmaskError: on a batch of several images, or a taxonomy that does not tell things from stuff, or has another
            number of classes.
    """
    things = _check(prediction, taxonomy)
    masks, class_logits = prediction.mask_logits[0], prediction.known_class_logits()[0]
    with torch.autocast(masks.device.type, enabled=False):
        kept, probability, class_id = _confident(class_logits.to(computing_dtype(masks)))
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

    table = np.zeros(count + 1, np.int32)
    classes: list[tuple[int, float]] = []
    stuff: dict[int, int] = {}
    for index in painted.nonzero()[:, 0].tolist():
        class_ = int(class_id[index])
        if class_ not in stuff:
            classes.append((class_, float(probability[index])))
            if not things[class_]:
                stuff[class_] = len(classes)
        table[index] = stuff.get(class_, len(classes))
    return KnownSegments(table[preferred.cpu().numpy()], classes)


def open_set_panoptic(
    prediction: MaskPrediction,
    taxonomy: Taxonomy,
    score: NDArray[np.float32],
    threshold: float | None = None,
    unknown: Unknown | Finder = "preferred_mask",
    known: KnownSegments | None = None,
) -> Panoptic:
    """Open-set panoptic segmentation: :func:`known_segments`, and unknown objects in what they leave void.

    Args:
        prediction: of one image: ``(1, N, K + 1)`` class and ``(1, N, h, w)`` mask logits.
        taxonomy: of the K classes, with ``things``.
        score: ``(H, W)`` anomaly score, larger = more anomalous; its size is that of the output.
        threshold: scores above it are unknown; not needed for mining.
        unknown: how unknown objects are found: ``"preferred_mask"`` (M2F-EAM), ``"mining"`` (Mask2Anomaly) or
            ``"components"`` (RbA); or one of ``outmask.openset.unknown_objects`` with settings of its own.
        known: the :func:`known_segments`, where they are at hand.

    Raises:
        OutmaskError: as :func:`known_segments`; on an unknown way to find objects, or a missing threshold.
    """
    find = finder(unknown)
    if threshold is None and find.needs_threshold:
        raise OutmaskError("unknown objects are found above a threshold of the score: give one, or find them by mining")
    if known is None:
        known = known_segments(prediction, taxonomy, (score.shape[0], score.shape[1]))
    anomalous = np.zeros(score.shape, np.bool_) if threshold is None else score > threshold
    objects = find(prediction, taxonomy, known.ids == 0, anomalous)
    ids = np.where(objects > 0, objects + np.int32(len(known.classes)), known.ids)
    return Panoptic(ids, _segments(ids, known.classes, taxonomy, score))


def _segments(
    ids: NDArray[np.int32], known: Sequence[tuple[int, float]], taxonomy: Taxonomy, score: NDArray[np.float32]
) -> list[Segment]:
    """What the ids 1 ... n of a map are: the known ones first, unknown objects after them."""
    areas = np.bincount(ids.ravel())
    finite = np.clip(score, np.finfo(np.float32).min, np.finfo(np.float32).max)
    anomaly = np.bincount(ids.ravel(), weights=finite.ravel()) / np.maximum(areas, 1)
    segments = []
    for id_, (rows, columns) in enumerate(ndimage.find_objects(ids), 1):
        is_unknown = id_ > len(known)
        class_id, value = (taxonomy.unknown_id, float(anomaly[id_])) if is_unknown else known[id_ - 1]
        segments.append(
            Segment(
                id=id_,
                class_id=class_id,
                name="unknown" if is_unknown else taxonomy.names[class_id],
                is_unknown=is_unknown,
                area=int(areas[id_]),
                score=value,
                bbox=(columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start),
            )
        )
    return segments


def _confident(class_logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The masks that count, the most probable first: their indices, probabilities and class ids."""
    probability, class_id = class_logits.softmax(-1).max(-1)
    others = class_logits.scatter(1, class_id[:, None], -torch.inf).logsumexp(1)
    log_odds = class_logits.amax(1) - others
    kept = ((class_id < class_logits.shape[1] - 1) & (probability > _CONFIDENT)).nonzero()[:, 0]
    kept = kept[log_odds[kept].argsort(descending=True, stable=True)]
    return kept, probability[kept], class_id[kept]


def _check(prediction: MaskPrediction, taxonomy: Taxonomy) -> tuple[bool, ...]:
    """Which classes are things, where everything fits."""
    if len(prediction.class_logits) != 1:
        raise OutmaskError(
            f"panoptic segmentation is of one image, got a batch of {len(prediction.class_logits)}: split it"
        )
    if taxonomy.num_classes != prediction.num_classes:
        raise OutmaskError(
            f"panoptic segmentation needs the taxonomy of the prediction's {prediction.num_classes} classes, "
            f"got one of {taxonomy.num_classes}"
        )
    if taxonomy.things is None:
        raise OutmaskError(
            "panoptic segmentation needs to know things from stuff, and the model's taxonomy does not say: "
            "name them under 'things' in its config.json"
        )
    return taxonomy.things
