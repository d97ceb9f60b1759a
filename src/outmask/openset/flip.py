"""Flip averaging: a model asked twice, once before a mirror (Mask2Anomaly's released inference)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


def flip_averaged(
    maps: Callable[[NDArray[np.uint8]], Mapping[str, Tensor]], image: NDArray[np.uint8]
) -> dict[str, Tensor]:
    """Maps of an image, scores averaged with those of its mirror image.

    Refinement belongs inside of ``maps``: each view is refined by its own masks before the average.

    Args:
        maps: ``(H, W, 3)`` image -> maps ``(..., h, w)`` by name; called twice, one after the other.
        image: ``(H, W, 3)`` uint8 RGB.

    Returns:
        the same names: of floating maps (scores) the mean of both views, mirrored back; of all others (labels) those
        of the image as it is.
    """
    straight, mirrored = maps(image), maps(np.ascontiguousarray(image[:, ::-1]))
    return {
        name: (map_ + mirrored[name].flip(-1)) / 2 if map_.is_floating_point() else map_
        for name, map_ in straight.items()
    }
