"""Objects of no known class on their own, to be cut out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from outmask.data.world.geometry import Camera, Geometry, Sun
from outmask.data.world.shading import Weather, shade
from outmask.data.world.shapes import Brush
from outmask.data.world.unknowns import Use, families

_DISTANCE = 9.0
"""Metres from the camera."""

_ROUGH = 160
"""Pixels of the picture that looks for the object, which shows as many metres as it is away."""

_GREY = (128.0, 128.0, 128.0)
_CLEAR = Weather(_GREY, _GREY, _GREY, clouds=0.0, visibility=1e4, drift=(0.0, 0.0))


def draw_object(rng: np.random.Generator, use: Use, longest_side: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """An object of a family for ``use``, in a light of its own.

    Args:
        rng: every random choice comes from it.
        use: ``"negatives"`` for training.
        longest_side: pixels of its bounding box, about.

    Returns:
        ``(h, w, 3)`` uint8 RGB and its ``(h, w)`` bool mask, in its bounding box.

    Raises:
        OutmaskError: on an unknown use.
    """
    kinds = families(use)
    family = kinds[str(rng.choice(list(kinds)))]
    up, turn, direct = rng.uniform(0.4, 0.85), rng.uniform(-2.4, 2.4), rng.uniform(0.0, 0.8)
    across, ahead = np.sin(turn) * np.sqrt(1 - up * up), -np.cos(turn) * np.sqrt(1 - up * up)
    geometry = Geometry(Sun((float(across), float(up), float(ahead)), direct, 0.85 - 0.5 * direct))
    family.draw(Brush(geometry, 1, _DISTANCE), rng, rng.uniform(-1.0, 1.0), _DISTANCE)
    # First small and all that stands around, to see how large it is and where.
    around = Camera(_ROUGH, _ROUGH, float(_ROUGH), 0.6 * _ROUGH, 0.5 * _ROUGH, 1.4)
    rows, columns = _extent(geometry.faces(around).draw(_ROUGH, _ROUGH) > 0)
    scale = longest_side / max(rows.stop - rows.start, columns.stop - columns.start)
    margin = 2 * scale
    camera = Camera(
        round((rows.stop - rows.start) * scale + 2 * margin),
        round((columns.stop - columns.start) * scale + 2 * margin),
        around.focal * scale,
        (around.horizon - rows.start) * scale + margin,
        (around.center - columns.start) * scale + margin,
        around.eye,
    )
    faces = geometry.faces(camera)
    seen = faces.draw(camera.height, camera.width)
    light = shade(seen, faces, np.full(seen.shape, 255, np.uint8), camera, _CLEAR)
    box = _extent(seen > 0)
    return np.clip(np.rint(light[box]), 0, 255).astype(np.uint8), seen[box] > 0


def _extent(mask: NDArray[np.bool_]) -> tuple[slice, slice]:
    """The bounding box of what is True."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
