"""The patterns that surfaces of the world carry, side by side in one picture from which every pixel is looked up.

A texture is ``(256, 256)``, tiles in both directions, and says how far a surface's colour lies between two: 0 to 1, to
which it is clipped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from types import MappingProxyType
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Values = NDArray[Any]

SIDE = 256
"""Height and width of a texture; one period."""

MARGIN = 2
"""Pixels of the neighbouring periods beside each texture, so that interpolation does not see the next one."""

_SEED = 20221
"""Of all noise in the textures, which are the same in every scene."""


def _noise(power: float, stretch: tuple[float, float] = (1, 1), cut: float = 0) -> Values:
    """Noise of mean 0.5 and deviation 0.2 whose spectrum falls as ``1 / f^power`` from frequency ``cut`` on."""
    rng = np.random.default_rng([_SEED, round(100 * power), *(round(10 * part) for part in stretch)])
    rows, columns = np.fft.fftfreq(SIDE)[:, None] * SIDE * stretch[0], np.fft.rfftfreq(SIDE)[None] * SIDE * stretch[1]
    frequency = np.hypot(rows, columns)
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.standard_normal((SIDE, SIDE))) / np.maximum(frequency, cut) ** power
    noise = np.fft.irfft2(spectrum)
    return np.asarray(0.5 + 0.2 * noise / noise.std())


def _grid() -> tuple[Values, Values]:
    """Rows and columns, 0 to 1."""
    rows, columns = np.mgrid[:SIDE, :SIDE] / SIDE
    return rows, columns


def _cells(count: int, jitter: float) -> tuple[Values, Values]:
    """Distance of each pixel to the nearest and the second nearest of ``count * count`` points, in cells."""
    rng = np.random.default_rng([_SEED, count])
    rows, columns = (part * count for part in _grid())
    places = np.arange(count) + 0.5
    distances = []
    points = np.stack(np.meshgrid(places, places, indexing="ij"), -1) + jitter * rng.uniform(
        -0.5, 0.5, (count, count, 2)
    )
    for y, x in points.reshape(-1, 2):
        down, across = np.abs(rows - y), np.abs(columns - x)
        distances.append(np.hypot(np.minimum(down, count - down), np.minimum(across, count - across)))
    nearest = np.partition(np.stack(distances), 1, axis=0)
    return nearest[0], nearest[1]


def _plain() -> Values:
    return _noise(1.1, cut=3)


def _grain() -> Values:
    return 0.6 * _noise(0.35) + 0.4 * _noise(1.6, cut=2)


def _leaves() -> Values:
    return 0.5 + 2.0 * (_noise(0.8, cut=14) - 0.5)


def _grass() -> Values:
    return 0.5 + 1.3 * (_noise(0.7, (0.4, 1)) - 0.5)


def _blocks(rows: int, columns: int, joint: float, shift: float) -> Values:
    """Rows of blocks, each row shifted against the one below it; 0 in the joints."""
    down, across = _grid()
    row = np.floor(down * rows)
    along = across * columns + shift * np.mod(row, 2)
    rng = np.random.default_rng([_SEED, rows, columns])
    tone = rng.uniform(0.55, 1, (rows, columns))[row.astype(int), np.mod(np.floor(along), columns).astype(int)]
    inside = (np.mod(down * rows, 1) > joint) & (np.mod(along, 1) > joint * columns / rows)
    return np.where(inside, tone * (0.8 + 0.4 * _noise(0.6)), 0.1)


def _brick() -> Values:
    return _blocks(16, 8, 0.16, 0.5)


def _slabs() -> Values:
    return _blocks(4, 4, 0.05, 0)


def _tiles() -> Values:
    down, across = _grid()
    curve = 0.5 + 0.5 * np.sin(2 * np.pi * 16 * across)
    return np.asarray(np.mod(down * 12, 1) * 0.7 + 0.3 * curve - 0.1 + 0.3 * (_noise(0.5) - 0.5))


def _boards() -> Values:
    down, _ = _grid()
    edge = np.mod(down * 12, 1)
    return np.where(edge < 0.14, 0.1, 0.75 + 0.4 * (_noise(0.9, (1, 0.15)) - 0.5))


def _panels() -> Values:
    down, across = _grid()
    joints = (np.mod(down * 4, 1) < 0.03) | (np.mod(across * 4, 1) < 0.03)
    return np.where(joints, 0.1, 0.5 + 0.5 * (_noise(1.5) - 0.5))


def _bark() -> Values:
    return _noise(0.9, (0.2, 1))


def _reflection() -> Values:
    return 0.5 + 1.5 * (_noise(1.8, (1.6, 1)) - 0.5)


def _fur() -> Values:
    patches = np.clip(8 * (_noise(2.2, cut=3) - 0.52) + 0.5, 0, 1)
    return patches + 0.5 * (_noise(0.6, (0.3, 1)) - 0.5)


def _stripes() -> Values:
    _, across = _grid()
    wave = np.sin(2 * np.pi * (6 * across + 1.1 * (_noise(2.0, cut=2) - 0.5)))
    return 0.5 + 2.5 * wave


def _plaid() -> Values:
    down, across = (np.mod(4 * part, 1) for part in _grid())
    bands = [(part < 0.4) * 0.45 + ((part > 0.65) & (part < 0.75)) * 0.35 for part in (down, across)]
    return np.asarray(bands[0] + bands[1] + 0.15 * _noise(0.2))


def _cracks() -> Values:
    nearest, second = _cells(5, 0.95)
    ridges = np.clip(6 * (second - nearest), 0, 1)
    return np.asarray(ridges * (0.5 + 0.9 * (_noise(1.0) - 0.1)))


def _rings() -> Values:
    down, _ = _grid()
    wave = np.sin(2 * np.pi * (10 * down + 2.0 * (_noise(1.8, (1, 0.3)) - 0.5)))
    return 0.5 + 0.4 * wave + 0.6 * (_noise(0.5, (1, 0.1)) - 0.5)


def _rust() -> Values:
    return 0.5 + 2.6 * (_noise(1.3, (0.5, 1), cut=2) - 0.48)


def _checks() -> Values:
    down, across = _grid()
    return np.asarray(np.mod(np.floor(down * 6) + np.floor(across * 6), 2))


def _dots() -> Values:
    down, across = _grid()
    nearer = np.minimum(
        np.hypot(np.mod(4 * down, 1) - 0.5, np.mod(4 * across, 1) - 0.5),
        np.hypot(np.mod(4 * down + 0.5, 1) - 0.5, np.mod(4 * across + 0.5, 1) - 0.5),
    )
    return np.asarray(nearer < 0.24)


def _zigzag() -> Values:
    down, across = _grid()
    return np.asarray(np.mod(8 * down + 2 * np.abs(np.mod(4 * across, 1) - 0.5), 1) < 0.5)


def _mosaic() -> Values:
    nearest, _ = _cells(8, 0.9)
    return 1.6 * nearest


def _waves() -> Values:
    down, across = _grid()
    wave = np.sin(2 * np.pi * (5 * down + 0.35 * np.sin(4 * np.pi * across)))
    return 0.5 + 1.6 * wave


def _net() -> Values:
    down, across = _grid()
    near = [np.abs(np.mod(8 * (down + sign * across), 1) - 0.5) < 0.1 for sign in (1, -1)]
    return np.asarray(near[0] | near[1])


def _speckles() -> Values:
    return _noise(0.5, cut=20) > 0.68


def _bricks_on_end() -> Values:
    return _blocks(4, 12, 0.2, 0.3).T.copy()


TEXTURES: Mapping[str, Callable[[], Values]] = MappingProxyType(
    {
        "plain": _plain,
        "grain": _grain,
        "leaves": _leaves,
        "grass": _grass,
        "brick": _brick,
        "slabs": _slabs,
        "tiles": _tiles,
        "boards": _boards,
        "panels": _panels,
        "bark": _bark,
        "reflection": _reflection,
        "fur": _fur,
        "stripes": _stripes,
        "plaid": _plaid,
        "cracks": _cracks,
        "rings": _rings,
        "rust": _rust,
        "checks": _checks,
        "dots": _dots,
        "zigzag": _zigzag,
        "mosaic": _mosaic,
        "waves": _waves,
        "net": _net,
        "speckles": _speckles,
        "parquet": _bricks_on_end,
    }
)
"""All textures by name. Which objects of no known class carry which is in ``outmask.data.world.unknowns``."""

INDEX: Mapping[str, int] = MappingProxyType({name: index for index, name in enumerate(TEXTURES)})
"""Position of each texture in the atlas."""


@cache
def atlas() -> NDArray[np.uint8]:
    """``(256 + 4, n * (256 + 4))`` uint8: all textures in their order, each within its margin."""
    textures = []
    for draw in TEXTURES.values():
        texture = np.rint(255 * np.clip(draw(), 0, 1)).astype(np.uint8)
        textures.append(cv2.copyMakeBorder(texture, MARGIN, MARGIN, MARGIN, MARGIN, cv2.BORDER_WRAP))
    return np.concatenate(textures, axis=1)
