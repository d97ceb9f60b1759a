"""Overlapping windows: an image that is too large for a model, seen part by part (sliding-window inference).

A window is prepared like an image of its own, and what the model takes is what preprocessing makes of it: of a model
that keeps an image's size less than of the image, of one that resizes the shorter side to a fixed length as much again
or, of a narrow window, even more. :func:`fitting_window` asks for the prepared size.

Along each side, windows of equal length overlap by at least a quarter, and the last is shifted inwards to the border. A
window's weight at a pixel is a tent, highest in the middle of the window; weights are divided by their sum over all
windows that cover the pixel. Where two windows overlap, that is a linear fade from one to the other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from outmask.errors import OutmaskError

Size = tuple[int, int]

_OVERLAP = 4
"""Neighbours share at least one pixel of so many, where a window has so many."""


@dataclass(frozen=True)
class Span:
    """One window along one side of an image.

    Attributes:
        start, stop: its pixels.
        weights: ``(stop - start,)`` float32 in (0, 1]; with those of all other windows, they sum to one at every pixel.
        earlier: ``(stop - start,)`` float32: the sum of the weights of the windows before this one.
        own_start, own_stop: where no window has a larger weight, and none before it an equal one.
    """

    start: int
    stop: int
    weights: NDArray[np.float32]
    earlier: NDArray[np.float32]
    own_start: int
    own_stop: int


def window_size(window: int | Sequence[int]) -> Size:
    """``(height, width)`` of a window that is given so, or as the side of a square.

    Raises:
        OutmaskError: on anything but one or two whole numbers of at least 1.
    """
    sides = tuple(window) if isinstance(window, tuple | list) else (window, window)
    if len(sides) != 2 or not all(isinstance(side, int) and side >= 1 for side in sides):
        raise OutmaskError(f"a window is a side or (height, width) in pixels, each at least 1, got {window!r}")
    return sides[0], sides[1]


def fitting_window(size: Size, pixels: Callable[[int, int], int], most: int) -> Size | None:
    """The window for an image of which a model would get more pixels than it should.

    The longer side of the window is divided again and again, each side into as many windows as overlap by a quarter.

    Args:
        size: ``(height, width)`` of the image.
        pixels: what an image of ``height, width`` is to the model, once it is resized.
        most: the pixels that it should get.

    Returns:
        ``(height, width)`` of a window of at most so many; None where the image itself has no more, or where smaller
        windows would not be smaller to the model.
    """
    window, counts = list(size), [1, 1]
    while pixels(*window) > most:
        smaller, longer = window.copy(), int(window[1] >= window[0])
        counts[longer] += 1
        smaller[longer] = math.ceil(size[longer] / (counts[longer] - (counts[longer] - 1) / _OVERLAP))
        if window == [1, 1] or pixels(*smaller) > pixels(*window):
            return None
        window = smaller
    return None if counts == [1, 1] else (window[0], window[1])


def spans(length: int, window: int) -> list[Span]:
    """Windows of ``window`` pixels (or all, if there are fewer) along ``length``, first to last."""
    window = min(window, length)
    step = window - window // _OVERLAP
    starts = [*range(0, length - window, step), length - window]
    places = np.arange(window)
    tent = (np.minimum(places, window - 1 - places) + 0.5).astype(np.float32)

    total, highest = np.zeros(length, np.float32), np.zeros(length, np.float32)
    owner = np.zeros(length, np.int64)
    for index, start in enumerate(starts):
        here = slice(start, start + window)
        total[here] += tent
        owner[here][tent > highest[here]] = index
        np.maximum(highest[here], tent, out=highest[here])

    found = []
    earlier = np.zeros(length, np.float32)
    for index, start in enumerate(starts):
        here = slice(start, start + window)
        weights = tent / total[here]
        own = np.flatnonzero(owner == index)
        found.append(Span(start, start + window, weights, earlier[here].copy(), int(own[0]), int(own[-1]) + 1))
        earlier[here] += weights
    return found


def windowed(
    maps: Callable[[NDArray[np.uint8]], Mapping[str, Tensor]], image: NDArray[np.uint8], window: Size
) -> dict[str, Tensor]:
    """Maps of an image, blended from those of its windows.

    The score of every pixel lies within the range of the windows that cover it, exactly: what all of them agree on
    stays as it is. Beside the result, no more than one window's are held. What belongs to a view (refinement, the
    average with its mirror image, an ensemble's members) belongs inside of ``maps``.

    Args:
        maps: ``(h, w, 3)`` image -> maps ``(..., h, w)`` by name; called once for each window, row by row.
        image: ``(H, W, 3)`` uint8 RGB.
        window: ``(height, width)`` in pixels of the image; of a longer side than the image's, that is left.

    Returns:
        the same names, ``(..., H, W)``: of floating maps (scores) the weighted mean, of all others (labels) those of
        the window with the largest weight at the pixel, the first of equals.

    Raises:
        OutmaskError: where maps are not of their window's size.
    """
    height, width = image.shape[:2]
    rows, columns = spans(height, window[0]), spans(width, window[1])
    if len(rows) == len(columns) == 1:
        return dict(maps(image))
    blended: dict[str, Tensor] = {}
    for row in rows:
        for column in columns:
            part = np.ascontiguousarray(image[row.start : row.stop, column.start : column.stop])
            _add(blended, maps(part), (height, width), row, column)
    return blended


def _add(blended: dict[str, Tensor], part: Mapping[str, Tensor], size: Size, row: Span, column: Span) -> None:
    """Lay the maps of a window into those of the image."""
    own_size = (row.stop - row.start, column.stop - column.start)
    for name, map_ in part.items():
        if map_.shape[-2:] != own_size:
            raise OutmaskError(f"maps of a window of {own_size} pixels must have its size, got {name} {map_.shape}")
        if name not in blended:
            blended[name] = map_.new_zeros((*map_.shape[:-2], *size))
        add = _blend if map_.is_floating_point() else _take
        add(blended[name], map_, row, column)


def _blend(whole: Tensor, part: Tensor, row: Span, column: Span) -> None:
    """Move the mean of the earlier windows towards this one, by its share of their weights and its own."""
    vertical, horizontal = torch.from_numpy(row.weights)[:, None], torch.from_numpy(column.weights)
    weight = vertical * horizontal
    # Rows of windows above this one are complete; of its own row, the windows to the left are there.
    earlier = torch.from_numpy(row.earlier)[:, None] + vertical * torch.from_numpy(column.earlier)
    share = (weight / (earlier + weight)).to(part)
    here = whole[..., row.start : row.stop, column.start : column.stop]
    # Rounding must not lead out of the range of the two.
    here.copy_(torch.lerp(here, part, share).clamp(torch.minimum(here, part), torch.maximum(here, part)))


def _take(whole: Tensor, part: Tensor, row: Span, column: Span) -> None:
    """The pixels at which this window has the largest weight: a rectangle, as weights are products."""
    own = slice(row.own_start, row.own_stop), slice(column.own_start, column.own_stop)
    inside = (
        slice(row.own_start - row.start, row.own_stop - row.start),
        slice(column.own_start - column.start, column.own_stop - column.start),
    )
    whole[(..., *own)] = part[(..., *inside)]
