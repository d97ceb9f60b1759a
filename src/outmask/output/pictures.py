"""Results as pictures: a heat map, and the photo tinted by its anomalies, classes or segments."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from outmask.errors import OutmaskError
from outmask.types import Color, OpenSetResult, Taxonomy

# Perceptually uniform and readable with any colour vision: black = certainly known, pale yellow = certainly unknown.
_COLORS = np.asarray(
    cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_INFERNO)[:, 0, ::-1], dtype=np.uint8
)
UNKNOWN_COLOR: Color = (int(_COLORS[-1][0]), int(_COLORS[-1][1]), int(_COLORS[-1][2]))
"""Of certainly unknown pixels, in heat maps and among the colours of classes."""
_OPACITY = 0.7
"""Of the tint over a certainly unknown pixel: the photo stays visible below it."""
_CLASS_OPACITY = 0.6
_OBJECT_COLORS: tuple[Color, ...] = ((255, 255, 60), (60, 255, 255), (255, 140, 30), (120, 255, 80))
"""Of unknown objects in turn: brighter than the colours of street scenes' classes."""
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
        outline(picture, result.open_labels == result.taxonomy.unknown_id)
    return Image.fromarray(picture)


def class_map(result: OpenSetResult) -> Image.Image:
    """The photo, tinted by the colours of its closed-set classes."""
    return Image.fromarray(_class_tinted(result.image, result.labels, result.taxonomy))


def open_map(result: OpenSetResult) -> Image.Image:
    """The photo, tinted by the colours of its open labels: unknown as in a heat map, and outlined.

    Raises:
        OutmaskError: where the result has no open labels.
    """
    if result.open_labels is None:
        raise OutmaskError("this result has no open labels: predict with a threshold")
    picture = _class_tinted(result.image, result.open_labels, result.taxonomy)
    outline(picture, result.open_labels == result.taxonomy.unknown_id)
    return Image.fromarray(picture)


def segment_map(result: OpenSetResult) -> Image.Image:
    """The photo, tinted by its segments, with dark lines between them; void is left as it is.

    Known segments have the colour of their class; unknown objects have colours in turn, bright ones, and are outlined.

    Raises:
        OutmaskError: where the result has no segments.
    """
    if result.panoptic is None or result.segments is None:
        raise OutmaskError("this result has no segments: predict with task='panoptic'")
    ids = result.panoptic
    colors = np.zeros((len(result.segments) + 1, 3), np.float32)
    bright = cycle(_OBJECT_COLORS)
    for segment in result.segments:
        colors[segment.id] = next(bright) if segment.is_unknown else result.taxonomy.colors[segment.class_id]
    picture = result.image.copy()
    for rows in _blocks(ids):
        opacity = _CLASS_OPACITY * (ids[rows, :, None] > 0)
        picture[rows] = np.rint(picture[rows] * (1 - opacity) + colors[ids[rows]] * opacity).astype(np.uint8)
    picture[1:][ids[1:] != ids[:-1]] = 0
    picture[:, 1:][ids[:, 1:] != ids[:, :-1]] = 0
    for segment in result.segments:
        if segment.is_unknown:
            outline(picture, ids == segment.id)
    return Image.fromarray(picture)


def outline(picture: NDArray[np.uint8], mask: NDArray[np.bool_]) -> None:
    """Draw the outlines of an ``(H, W)`` mask and of its holes into an ``(H, W, 3)`` RGB picture."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    width = max(1, round(min(mask.shape) / 360))
    cv2.drawContours(picture, contours, -1, _CONTOUR_EDGE, 3 * width)
    cv2.drawContours(picture, contours, -1, _CONTOUR, width)


def _class_tinted(image: NDArray[np.uint8], ids: NDArray[np.int32], taxonomy: Taxonomy) -> NDArray[np.uint8]:
    """The photo, tinted by the colours of its class ids; black where an id is of no class."""
    colors = np.zeros((max(int(ids.max()), taxonomy.unknown_id) + 1, 3), np.float32)
    colors[: taxonomy.num_classes] = taxonomy.colors
    colors[taxonomy.unknown_id] = UNKNOWN_COLOR
    picture = image.copy()
    for rows in _blocks(ids):
        tint = colors[ids[rows]]
        picture[rows] = np.rint(picture[rows] * (1 - _CLASS_OPACITY) + tint * _CLASS_OPACITY).astype(np.uint8)
    return picture


def _normalised(score: NDArray[np.float32], display_range: tuple[float, float]) -> NDArray[np.float32]:
    """The score as a share of its display range, 0 to 1."""
    low, high = display_range
    share: NDArray[np.float32] = np.clip((score - np.float32(low)) / np.float32(high - low), 0, 1)
    share[np.isnan(share)] = 0  # what is undefined is drawn as known: black
    return share


def _blocks(array: NDArray[Any]) -> Iterator[slice]:
    """Rows of about a megapixel at a time: pictures of 100 megapixels are drawn without several float copies."""
    height, width = array.shape
    step = max(1, _BLOCK_PIXELS // width)
    for first in range(0, height, step):
        yield slice(first, first + step)
