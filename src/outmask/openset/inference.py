"""From an image to its score maps and labels: predicted, scored, refined, averaged with its mirror image."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from outmask import scores
from outmask.errors import OutmaskError
from outmask.openset.flip import flip_averaged
from outmask.openset.refine import refine, refinement_mask
from outmask.types import MaskPrediction, Taxonomy


def score_maps(
    predict: Callable[[NDArray[np.uint8]], scores.Prediction],
    image: NDArray[np.uint8],
    names: Sequence[str],
    size: tuple[int, int],
    refine_by: Taxonomy | None = None,
    flip: bool = False,
) -> dict[str, Tensor]:
    """Scores and closed-set labels of one image.

    Args:
        predict: ``(H, W, 3)`` uint8 RGB -> masks or per-pixel logits, batch 1; called once, or twice with ``flip``.
        image: ``(H, W, 3)`` uint8 RGB.
        names: from ``outmask.scores.available()``.
        size: ``(height, width)`` of the maps.
        refine_by: the classes by which scores are refined (Mask2Anomaly eq. 13); None for none.
        flip: average the scores with those of the mirrored image.

    Returns:
        as ``outmask.scores.evaluate``: a name -> ``(1, height, width)`` float32, and ``"labels"`` int64.

    Raises:
        OutmaskError: where refinement has no masks, or a taxonomy that does not tell things from stuff; on a score that
            the prediction does not have.
    """

    def view(image: NDArray[np.uint8]) -> dict[str, Tensor]:
        prediction = predict(image)
        maps = scores.evaluate(prediction, names, size)
        if refine_by is not None:
            if not isinstance(prediction, MaskPrediction):
                raise OutmaskError("refinement is by confident masks, and this model predicts none: leave it out")
            keep = refinement_mask(prediction, refine_by, size)
            for name in names:
                maps[name] = refine(maps[name], keep, scores.display_range(name, prediction.num_classes)[0])
        return maps

    return flip_averaged(view, image) if flip else view(image)
