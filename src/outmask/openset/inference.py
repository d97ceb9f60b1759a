"""From an image to its score maps and labels: predicted, scored, refined, averaged with its mirror image and members.

Images whose model input would be large are seen through overlapping windows. Each is prepared like an image of its own:
the model's input is what preprocessing makes of the window. What is averaged (members, an image and its mirror image)
is averaged within each window, so that the mirrored windows are the mirror images of the same windows.

Whatever can be asked of an image has a name: the scores of ``outmask.scores``, which are functions of a prediction, and
the detectors of ``outmask.detectors``, which ask the model itself.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from difflib import get_close_matches
from functools import partial
from typing import Literal, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from outmask import detectors, scores
from outmask.detectors import DETECTORS, ensemble_maps
from outmask.errors import ImageError, OutmaskError
from outmask.openset.flip import flip_averaged
from outmask.openset.refine import refine, refinement_mask
from outmask.openset.windows import fitting_window, window_size, windowed
from outmask.types import MaskPrediction, Taxonomy

Size = tuple[int, int]
Window = int | Size
"""Its side, or ``(height, width)``, in pixels of the image."""

MOST_PIXELS = 8 << 20
"""Of a model's input, just above UHD (3840x2160); images that would give it more are seen through windows."""

_log = logging.getLogger(__name__)


class Member(detectors.Subject, Protocol):
    """One model that is asked of an image: a segmenter, or one of an ensemble."""

    @property
    def taxonomy(self) -> Taxonomy: ...

    def preprocess(self, image: NDArray[np.uint8]) -> Tensor:
        """``(H, W, 3)`` uint8 RGB -> ``(1, 3, h, w)`` normalised."""

    def prediction(self, image: NDArray[np.uint8]) -> scores.Prediction:
        """``(H, W, 3)`` uint8 RGB -> masks or per-pixel logits, batch 1."""


def available() -> list[str]:
    """Names of all scores and detectors."""
    return [*scores.available(), *detectors.available()]


def check(name: str) -> None:
    """Refuse what is neither a score nor a detector.

    Raises:
        OutmaskError: names those that there are and the one that was probably meant.
    """
    names = available()
    if name not in names:
        close = get_close_matches(name, names, n=1)
        meant = f"did you mean {close[0]!r}? " if close else ""
        raise OutmaskError(f"unknown score {name!r}: {meant}choose from {', '.join(names)}")


def describe(name: str) -> str:
    """The equation of a score or detector and its source, in one line."""
    check(name)
    if name in DETECTORS:
        return f"{DETECTORS[name].equation}  ({DETECTORS[name].source})"
    return scores.describe(name)


def display_range(member: Member, name: str) -> tuple[float, float]:
    """The values that pictures show as certainly known and certainly unknown, of a score or a detector of a model.

    Raises:
        OutmaskError: where there is no such score, or the detector lacks its statistics.
    """
    check(name)
    if name in DETECTORS:
        return DETECTORS[name].display_range(member, member.taxonomy.num_classes)
    return scores.display_range(name, member.taxonomy.num_classes)


def window_for(members: Sequence[Member], size: Size, window: Window | None = None) -> Size | None:
    """The window through which an image is seen.

    Args:
        members: one model or several.
        size: ``(height, width)`` of the image.
        window: as asked for; None for windows where a member's input would have more than :data:`MOST_PIXELS`.

    Returns:
        ``(height, width)``, or None where the image is seen as a whole.

    Raises:
        OutmaskError: on a window that is none.
    """
    if window is None:
        shapes = [member.preprocessing.size for member in members]
        return fitting_window(size, lambda *sides: max(math.prod(shape(*sides)) for shape in shapes), MOST_PIXELS)
    height, width = window_size(window)
    return None if height >= size[0] and width >= size[1] else (height, width)


def score_maps(
    members: Sequence[Member],
    image: NDArray[np.uint8],
    names: Sequence[str],
    size: Size,
    refine_by: Taxonomy | None = None,
    flip: bool = False,
    remove: Literal["stuff", "things"] = "stuff",
    predictions: Sequence[scores.Prediction] | None = None,
    window: Window | None = None,
) -> dict[str, Tensor]:
    """Scores and closed-set labels of one image.

    A detector's map, which has the size of the pixels that the model sees, is resized bilinearly to ``size``; of a
    score, the logits are. Each detector runs the model anew. Windows have the scores of an image of their own, at the
    image's resolution; where ``size`` is another, what was blended from them is resized.

    Args:
        members: one model; or several, an ensemble, combined as by ``outmask.detectors.ensemble_maps``.
        image: ``(H, W, 3)`` uint8 RGB.
        names: from :func:`available`.
        size: ``(height, width)`` of the maps.
        refine_by: the classes by which scores are refined (Mask2Anomaly eq. 13), each member's by its own masks; None
            for none.
        flip: average the scores with those of the mirrored image; each model is asked twice.
        remove: what refinement removes; see :func:`outmask.openset.refine.refinement_mask`.
        predictions: of the members, of this image, where they are at hand: the models are not asked for them again.
        window: see the image through overlapping windows; see :func:`outmask.openset.windows.windowed`. By default as
            :func:`window_for` says, with a warning in the log.

    Returns:
        a name -> ``(1, height, width)`` float32, larger = more anomalous, and ``"labels"`` int64.

    Raises:
        OutmaskError: where refinement has no masks, or a taxonomy that does not tell things from stuff; on a score that
            the model does not have; on a detector whose statistics are missing.
    """

    def view(size: Size, seen: NDArray[np.uint8]) -> dict[str, Tensor]:
        own = predictions if predictions is not None and seen is image else [each.prediction(seen) for each in members]
        parts = [
            _member_maps(member, prediction, seen, names, size, refine_by, remove)
            for member, prediction in zip(members, own, strict=True)
        ]
        return parts[0] if len(parts) == 1 else ensemble_maps(own, parts, size)

    def averaged(size: Size, seen: NDArray[np.uint8]) -> dict[str, Tensor]:
        return flip_averaged(partial(view, size), seen) if flip else view(size, seen)

    own_size = (image.shape[0], image.shape[1])
    chosen = window_for(members, own_size, window)
    if chosen is None:
        return averaged(size, image)
    if window is None:
        _log.warning(
            "images of %dx%d pixels are too large for the model and seen through windows of %dx%d", *own_size, *chosen
        )
    maps = windowed(lambda part: averaged((part.shape[0], part.shape[1]), part), image, chosen)
    return maps if size == own_size else {name: _resized(map_, size) for name, map_ in maps.items()}


def masks_and_maps(
    members: Sequence[Member],
    image: NDArray[np.uint8],
    names: Sequence[str],
    size: Size,
    refine_by: Taxonomy | None = None,
    flip: bool = False,
    window: Window | None = None,
) -> tuple[MaskPrediction, dict[str, Tensor]]:
    """The masks of an image, of which segments are made, and its :func:`score_maps`, from one pass.

    Args:
        members: one mask classifier.
        image, names, size, refine_by, flip: as of :func:`score_maps`. The masks are those of the image as it is.
        window: as of :func:`window_for`, and at least as large as the image.

    Raises:
        OutmaskError: as :func:`score_maps`; on an ensemble, or a per-pixel classifier.
        ImageError: on an image that would be seen through windows.
    """
    if len(members) > 1:
        raise OutmaskError("an ensemble has no masks of its own, and segments are made of masks: choose one model")
    own_size = (image.shape[0], image.shape[1])
    if window_for(members, own_size, window) is not None:
        raise ImageError(
            f"an image of {own_size[0]}x{own_size[1]} pixels would be seen through windows, and those cut objects: for "
            "segments, scale it down, or choose a window that covers it"
        )
    prediction = members[0].prediction(image)
    if not isinstance(prediction, MaskPrediction):
        raise OutmaskError("segments are made of masks, and this model predicts none: choose a mask classifier")
    return prediction, score_maps(
        members, image, names, size, refine_by, flip, predictions=[prediction], window=own_size
    )


def _resized(map_: Tensor, size: Size) -> Tensor:
    """``(1, h, w)`` -> ``(1, *size)``: scores bilinearly, labels to the nearest."""
    if map_.is_floating_point():
        return F.interpolate(map_[None], size, mode="bilinear", align_corners=False)[0]
    rows, columns = (
        ((torch.arange(side, device=map_.device) + 0.5) * (own / side)).long()
        for side, own in zip(size, map_.shape[-2:], strict=True)
    )
    return map_[..., rows[:, None], columns]


def _member_maps(
    member: Member,
    prediction: scores.Prediction,
    image: NDArray[np.uint8],
    names: Sequence[str],
    size: Size,
    refine_by: Taxonomy | None,
    remove: Literal["stuff", "things"],
) -> dict[str, Tensor]:
    maps = scores.evaluate(prediction, [name for name in names if name not in DETECTORS], size)
    resized = partial(F.interpolate, size=size, mode="bilinear", align_corners=False)
    for name in names:
        if name in DETECTORS:
            maps[name] = resized(DETECTORS[name](member, member.preprocess(image))[:, None])[:, 0]
    if refine_by is not None:
        if not isinstance(prediction, MaskPrediction):
            raise OutmaskError("refinement is by confident masks, and this model predicts none: leave it out")
        keep = refinement_mask(prediction, refine_by, size, remove)
        for name in names:
            maps[name] = refine(maps[name], keep, display_range(member, name)[0])
    return maps
