"""Anomaly scores as pictures: a heat map, and the photo with its anomalies tinted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from outmask.types import OpenSetResult

# Perceptually uniform and readable with any colour vision: black = certainly known, pale yellow = certainly unknown.
_COLORS = np.asarray(
    cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_INFERNO)[:, 0, ::-1], dtype=np.uint8
)
_OPACITY = 0.7
"""Of the tint over a certainly unknown pixel: the photo stays visible below it."""
_CLASS_OPACITY = 0.6
_CONTOUR, _CONTOUR_EDGE = (255, 255, 255), (0, 0, 0)
_BLOCK_PIXELS = 1 << 20


def heat_map(score: NDArray[np.float32], display_range: tuple[float, float]) -> NDArray[np.uint8]:
    """``(H, W, 3)`` uint8 RGB of an ``(H, W)`` score.

    Args:
        score: larger = more anomalous.
        display_range: the scores drawn as certainly known (black) and certainly unknown (pale yellow); scores beyond
            are drawn as these.
    """
    picture = np.empty((*score.shape, 3), np.uint8)
    for rows in _blocks(score):
        picture[rows] = _COLORS[np.rint(_normalised(score[rows], display_range) * 255).astype(np.uint8)]
    return picture


def overlay(result: OpenSetResult) -> Image.Image:
    """The photo, tinted by the heat map the more the higher the score; what open labels call unknown is outlined."""
    picture = result.image.copy()
    for rows in _blocks(result.score):
        share = _normalised(result.score[rows], result.display_range)
        tint = _COLORS[np.rint(share * 255).astype(np.uint8)]
        opacity = (_OPACITY * share)[..., None]
        picture[rows] = np.rint(picture[rows] * (1 - opacity) + tint * opacity).astype(np.uint8)
    if result.open_labels is not None:
        unknown = (result.open_labels == result.taxonomy.unknown_id).astype(np.uint8)
        contours, _ = cv2.findContours(unknown, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
        width = max(1, round(min(unknown.shape) / 360))
        cv2.drawContours(picture, contours, -1, _CONTOUR_EDGE, 3 * width)
        cv2.drawContours(picture, contours, -1, _CONTOUR, width)
    return Image.fromarray(picture)


def class_map(result: OpenSetResult) -> Image.Image:
    """The photo, tinted by the colours of its closed-set classes."""
    colors = np.zeros((max(int(result.labels.max()) + 1, result.taxonomy.num_classes), 3), np.float32)
    colors[: result.taxonomy.num_classes] = result.taxonomy.colors
    picture = result.image.copy()
    for rows in _blocks(result.labels):
        tint = colors[result.labels[rows]]
        picture[rows] = np.rint(picture[rows] * (1 - _CLASS_OPACITY) + tint * _CLASS_OPACITY).astype(np.uint8)
    return Image.fromarray(picture)


def _normalised(score: NDArray[np.float32], display_range: tuple[float, float]) -> NDArray[np.float32]:
    """The score as a share of its display range, 0 to 1."""
    low, high = display_range
    share: NDArray[np.float32] = np.clip((score - np.float32(low)) / np.float32(high - low), 0, 1)
    return share


def _blocks(array: NDArray[Any]) -> Iterator[slice]:
    """Rows of about a megapixel at a time: pictures of 100 megapixels are drawn without several float copies."""
    height, width = array.shape
    step = max(1, _BLOCK_PIXELS // width)
    for first in range(0, height, step):
        yield slice(first, first + step)
