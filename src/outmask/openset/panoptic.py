"""Panoptic segmentation: known segments as Mask2Former finds them, and unknown objects in what these leave void."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from outmask.errors import OutmaskError
from outmask.openset.claims import claimed_pixels
from outmask.openset.unknown_objects import Finder, finder
from outmask.types import MaskPrediction, Segment, Taxonomy, Unknown


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


def known_segments(prediction: MaskPrediction, taxonomy: Taxonomy, size: tuple[int, int]) -> KnownSegments:
    """Closed-set panoptic segmentation by Mask2Former's rule (Cheng et al. 2022, ``panoptic_inference``).

    What each mask claims (:func:`outmask.openset.claims.claimed_pixels`) is a segment, and masks of one class of stuff
    are one. Masks of the class *negative*, where the model has learned it, compete for pixels with those of the known
    classes; what they win is void here.

    transformers' ``post_process_panoptic_segmentation`` differs: it resizes the logits to 384 x 384, whatever the
    image's shape, and from there probabilities to the output; keeps masks above 0.5 by default; measures the area that
    a mask holds where ``s_q m_q >= 0.5``, and lets it vanish at a share of exactly 0.8, too; paints every pixel that
    prefers a mask, those that it does not hold included; merges stuff only where told which classes are, lists it
    once for each mask, and may then give a later segment an id that is taken; and calls void 0, but -1 where no mask
    is left.

    Args:
        prediction: of one image: ``(1, N, K + 1)`` class and ``(1, N, h, w)`` mask logits, or ``(1, N, K + 2)`` with
            *negative*.
        taxonomy: of the K classes, with ``things``.
        size: ``(H, W)`` of the output.

    Raises:
        OutmaskError: on a batch of several images, or a taxonomy that does not tell things from stuff, or has another
            number of classes.
    """
    things = _check(prediction, taxonomy)
    claims = claimed_pixels(prediction, size)
    table = np.zeros(len(claims.classes) + 1, np.int32)
    classes: list[tuple[int, float]] = []
    stuff: dict[int, int] = {}
    for number, (class_, probability) in enumerate(claims.classes, 1):
        if class_ == taxonomy.num_classes:  # negative
            continue
        if class_ not in stuff:
            classes.append((class_, probability))
            if not things[class_]:
                stuff[class_] = len(classes)
        table[number] = stuff.get(class_, len(classes))
    return KnownSegments(table[claims.owners], classes)


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
        prediction: of one image: ``(1, N, K + 1)`` class and ``(1, N, h, w)`` mask logits, or ``(1, N, K + 2)`` with
            *negative*.
        taxonomy: of the K classes, with ``things``.
        score: ``(H, W)`` anomaly score, larger = more anomalous; its size is that of the output.
        threshold: scores above it are unknown; not needed for mining and the negative class.
        unknown: how unknown objects are found: ``"preferred_mask"`` (M2F-EAM), ``"mining"`` (Mask2Anomaly),
            ``"components"`` (RbA) or ``"negative_class"`` (of a model that has learned it); or one of
            ``outmask.openset.unknown_objects`` with settings of its own.
        known: the :func:`known_segments`, where they are at hand.

    Raises:
        OutmaskError: as :func:`known_segments`; on an unknown way to find objects, a missing threshold, or a model or
            taxonomy that the way does not fit.
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
