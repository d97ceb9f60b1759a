"""Four ways to find unknown objects among the pixels that no known segment holds.

Each is a value that holds its settings, and is called with one image's prediction and scores; what it finds never
depends on the order of the masks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from outmask.errors import OutmaskError
from outmask.openset.claims import claimed_pixels
from outmask.openset.tiles import computing_dtype, tiles
from outmask.scores.declarations import Stack
from outmask.types import MaskPrediction, Taxonomy, Unknown

_SQUARE = np.ones((3, 3), np.uint8)


class Finder(ABC):
    """A way to find unknown objects.

    Attributes:
        needs_threshold: whether it looks at the anomalous pixels at all.
    """

    needs_threshold: ClassVar[bool] = True

    @abstractmethod
    def __call__(
        self,
        prediction: MaskPrediction,
        taxonomy: Taxonomy,
        free: NDArray[np.bool_],
        anomalous: NDArray[np.bool_],
    ) -> NDArray[np.int32]:
        """Find the unknown objects of one image.

        Args:
            prediction: ``(1, N, K + 1)`` class and ``(1, N, h, w)`` mask logits, or ``(1, N, K + 2)`` with *negative*.
            taxonomy: of the K classes.
            free: ``(H, W)``, the pixels that no known segment holds: objects lie there only.
            anomalous: ``(H, W)``, the pixels whose anomaly score lies above the threshold.

        Returns:
            ``(H, W)`` int32: 0 no unknown object, 1 ... n the objects.

        Raises:
            OutmaskError: where the way asks for something that the prediction or the taxonomy does not have.
        """


@dataclass(frozen=True)
class PreferredMask(Finder):
    """M2F-EAM 4.2: every pixel above the threshold goes to its preferred mask ``argmax_q m_q``, whatever its class.

    A higher threshold never adds an unknown pixel.

    Attributes:
        minimum_area: pixels that make a mask an object; the paper keeps masks with more than 200.
    """

    minimum_area: int = 201

    def __post_init__(self) -> None:
        _check_area(self.minimum_area)

    @torch.no_grad()
    def __call__(
        self,
        prediction: MaskPrediction,
        taxonomy: Taxonomy,
        free: NDArray[np.bool_],
        anomalous: NDArray[np.bool_],
    ) -> NDArray[np.int32]:
        """See :class:`Finder`."""
        masks, unknown = prediction.mask_logits[0], free & anomalous
        preferred = np.zeros(unknown.shape, np.int32)
        for rows, tile in tiles(masks, unknown.shape):
            if unknown[rows].any():
                here = torch.from_numpy(unknown[rows]).to(masks.device)
                preferred[rows][unknown[rows]] = Stack(tile[:, here]).argmax_().cpu().numpy()
        return _numbered(preferred, unknown, self.minimum_area)


@dataclass(frozen=True)
class Components(Finder):
    """RbA's way (Nayal et al. 2023, released code): cleaned connected components of the pixels above the threshold.

    These pixels are opened and then closed by a 3 x 3 square; each 4-connected component is an object, without the
    pixels that known segments hold. A higher threshold never adds an unknown pixel.

    Attributes:
        minimum_area: pixels that an object needs.
    """

    minimum_area: int = 200

    def __post_init__(self) -> None:
        _check_area(self.minimum_area)

    def __call__(
        self,
        prediction: MaskPrediction,
        taxonomy: Taxonomy,
        free: NDArray[np.bool_],
        anomalous: NDArray[np.bool_],
    ) -> NDArray[np.int32]:
        """See :class:`Finder`."""
        opened = cv2.morphologyEx(anomalous.astype(np.uint8), cv2.MORPH_OPEN, _SQUARE)
        closed = cv2.morphologyEx(opened, cv2.MORPH_CLOSE, _SQUARE)
        _, found = cv2.connectedComponents(closed, connectivity=4, ltype=cv2.CV_32S)
        return _numbered(np.asarray(found, np.int32), free & (closed > 0), self.minimum_area)


@dataclass(frozen=True)
class Mining(Finder):
    """Mask2Anomaly 6.3: objects are mined from the background by the masks that no class wanted.

    1. The background is where ``B = 1 - sum_q P_q m_q`` (eq. 15) lies above ``background`` and no known segment does;
       the sum runs over the masks whose most probable class is not *no object*, and ``P_q`` is its probability.
    2. Its 8-connected components are labelled exactly (the paper's "500 iterations" are how far an approximate
       labelling propagates), and the largest ``components`` are candidates.
    3. A candidate needs a mask ``m_q >= 0.5``, of all N, that overlaps it by an IoU of at least ``overlap``; of several
       the best counts, and of equally good ones each.
    4. It is an unknown object where that mask's class scores speak for things rather than stuff: where the mean of
       ``-P log P`` over the classes of things lies above that over the classes of stuff. (It rises with P up to 1/e,
       which no score of a mask that no class wanted exceeds.)

    The steps can be left out one by one, as in table VIII: 2 with as many ``components`` as there can be, 3 with an
    ``overlap`` of 0, 4 with ``compare_entropy=False``. A candidate that no mask touches has no class scores, and is no
    object where these are compared.

    The paper's text gives neither the two thresholds nor the direction of the comparison of step 4, and no code was
    released: these are this project's, chosen by PQ of unknown objects on validation images. A panoptic model of the
    synthetic world (40 scenes) finds 12.9 this way round and nothing the other way, ``street`` (60 images of CamVid and
    IDD-Lite with pasted objects) 22.0 and 19.5. Masks that keep off what is unknown overlap it little: the world's
    model finds 12.9 at an overlap of 0.1, 4.4 at 0.3. Where the background begins hardly matters (0.3 to 0.5).

    The anomaly score plays no part, nor does its threshold.

    Attributes:
        background: B above it is background; below 1.
        components: candidates of an image: 2, 2, 3 in the paper for 5, 10, 20 % unknown classes.
        overlap: least IoU of a candidate with its mask, in [0, 1]; 0 asks for none.
        compare_entropy: whether step 4 is taken; without it every candidate that step 3 leaves is an object.
    """

    needs_threshold: ClassVar[bool] = False

    background: float = 0.5
    components: int = 3
    overlap: float = 0.1
    compare_entropy: bool = True

    def __post_init__(self) -> None:
        if self.components < 1 or not 0 <= self.overlap <= 1 or not self.background < 1:
            raise OutmaskError(
                "mining needs a background threshold below 1, at least 1 component and an overlap from 0 to 1, "
                f"got {self}"
            )

    @torch.no_grad()
    def __call__(
        self,
        prediction: MaskPrediction,
        taxonomy: Taxonomy,
        free: NDArray[np.bool_],
        anomalous: NDArray[np.bool_],
    ) -> NDArray[np.int32]:
        """See :class:`Finder`.

        Raises:
            OutmaskError: where the taxonomy does not have both things and stuff to compare.
        """
        if self.compare_entropy and (taxonomy.things is None or len(set(taxonomy.things)) < 2):
            raise OutmaskError(
                "mining compares things with stuff, and the model's classes are not known to be some of each: "
                "find unknown objects by preferred_mask or components"
            )
        masks = prediction.mask_logits[0]
        probabilities = prediction.known_class_logits()[0].to(computing_dtype(masks)).softmax(-1)
        candidates = self._candidates(masks, probabilities, free)
        overlaps = _overlaps(masks, candidates)
        best = overlaps.amax(0)
        chosen = best >= self.overlap
        if self.compare_entropy:
            uncertainty = torch.special.entr(probabilities[:, :-1])
            things = torch.tensor(taxonomy.things, device=masks.device)
            of_things = uncertainty[:, things].mean(1) > uncertainty[:, ~things].mean(1)
            chosen &= ((overlaps == best) & (overlaps > 0) & of_things[:, None]).any(0)
        numbers = np.append(0, (chosen.cumsum(0) * chosen).cpu().numpy())
        return np.take(numbers.astype(np.int32), candidates)

    def _candidates(self, masks: Tensor, probabilities: Tensor, free: NDArray[np.bool_]) -> NDArray[np.int32]:
        """``(H, W)`` int32: 0, or 1 ... n of the largest components of the background, the largest first."""
        probability, class_id = probabilities.max(-1)
        known = class_id < probabilities.shape[1] - 1
        region = free.copy()
        if known.any():
            for rows, tile in tiles(masks[known], free.shape):
                background = 1 - torch.tensordot(probability[known], tile.sigmoid_(), 1)
                region[rows] &= (background > self.background).cpu().numpy()
        _, found, statistics, _ = cv2.connectedComponentsWithStats(
            region.astype(np.uint8), connectivity=8, ltype=cv2.CV_32S
        )
        areas = statistics[1:, cv2.CC_STAT_AREA]
        largest = np.argsort(-areas, kind="stable")[: self.components]
        numbers = np.zeros(len(areas) + 1, np.int32)
        numbers[largest + 1] = np.arange(1, len(largest) + 1)
        candidates: NDArray[np.int32] = numbers[found]
        return candidates


@dataclass(frozen=True)
class NegativeClass(Finder):
    """The masks of a class that the model has learned for what is unknown (UNO; the baseline *void-train*).

    *Negative*, class K of K + 2, takes part in Mask2Former's rule like a class of things: its masks need a probability
    above 0.8, compete for pixels with those of the known classes, and vanish where they lose more than a fifth of what
    they hold (:func:`outmask.openset.claims.claimed_pixels`). Each that is left is an unknown object.

    Known segments come of the same competition, so that no pixel is claimed by both. The anomaly score plays no part,
    nor does its threshold.
    """

    needs_threshold: ClassVar[bool] = False

    def __call__(
        self,
        prediction: MaskPrediction,
        taxonomy: Taxonomy,
        free: NDArray[np.bool_],
        anomalous: NDArray[np.bool_],
    ) -> NDArray[np.int32]:
        """See :class:`Finder`.

        Raises:
            OutmaskError: on a model without that class.
        """
        if not prediction.negative_class:
            raise OutmaskError(
                "negative_class finds masks of the class that a model has learned for unknown objects, and this model "
                "has none: find them by preferred_mask, mining or components"
            )
        owners, classes = claimed_pixels(prediction, (free.shape[0], free.shape[1]))
        negative = np.array([False, *(class_id == prediction.num_classes for class_id, _ in classes)])
        return _numbered(owners, free & negative[owners], minimum_area=1)


def _overlaps(masks: Tensor, candidates: NDArray[np.int32]) -> Tensor:
    """``(N, n)``: the IoU of each mask ``m_q >= 0.5`` with each candidate 1 ... n."""
    count = int(candidates.max(initial=0))
    where = torch.from_numpy(candidates).to(masks.device)
    areas = torch.bincount(where.flatten(), minlength=count + 1)[1:]
    shared = torch.zeros((len(masks), count + 1), dtype=torch.int64, device=masks.device)
    for rows, tile in tiles(masks, candidates.shape):
        columns = F.one_hot(where[rows].flatten().long(), count + 1).to(tile.dtype)
        # Counts of pixels: a tile's are far below what float32 holds exactly.
        shared += ((tile >= 0).flatten(1).to(tile.dtype) @ columns).long()
    return shared[:, 1:] / (shared.sum(1, keepdim=True) + areas - shared[:, 1:])


def _numbered(groups: NDArray[np.int32], pixels: NDArray[np.bool_], minimum_area: int) -> NDArray[np.int32]:
    """Groups of the chosen pixels that are large enough, numbered 1 ... n as they come row by row; 0 elsewhere."""
    ids = np.zeros(groups.shape, np.int32)
    _, first, where, areas = np.unique(groups[pixels], return_index=True, return_inverse=True, return_counts=True)
    kept = np.flatnonzero(areas >= minimum_area)
    numbers = np.zeros(len(areas), np.int32)
    numbers[kept[np.argsort(first[kept])]] = np.arange(1, len(kept) + 1)
    ids[pixels] = numbers[where]
    return ids


def _check_area(minimum_area: int) -> None:
    if minimum_area < 1:
        raise OutmaskError(f"an object needs at least 1 pixel, got minimum_area {minimum_area}")


_FINDERS: Mapping[Unknown, Finder] = MappingProxyType(
    {
        "preferred_mask": PreferredMask(),
        "mining": Mining(),
        "components": Components(),
        "negative_class": NegativeClass(),
    }
)


def finder(unknown: Unknown | Finder) -> Finder:
    """The way of that name, with the papers' settings; a way is given back as it is.

    Raises:
        OutmaskError: on another name.
    """
    if isinstance(unknown, Finder):
        return unknown
    if unknown not in _FINDERS:
        raise OutmaskError(f"unknown objects cannot be found by {unknown!r}: choose from {', '.join(_FINDERS)}")
    return _FINDERS[unknown]
