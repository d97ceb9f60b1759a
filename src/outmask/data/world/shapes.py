"""Shapes that things are made of, and the brush that adds them to a scene's geometry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from outmask.data.world.geometry import Floats, Geometry, Paint

Point = tuple[float, float, float]

_BLOB_CORNERS = 9
_CAPSULE = np.linspace(-np.pi / 2, np.pi / 2, 6)


@dataclass(frozen=True)
class Brush:
    """Adds the faces of one thing.

    Attributes:
        geometry: of the scene.
        segment: what is drawn.
        key: how far it is, as of :meth:`Geometry.add`.
        casts: whether it casts shadows.
    """

    geometry: Geometry
    segment: int
    key: float
    casts: bool = True

    def flat(
        self, points: ArrayLike, covering: Paint, light: ArrayLike, up: float = 0.0, tint: ArrayLike | None = None
    ) -> None:
        """Polygons ``(n, k, 3)`` or ``(k, 3)``."""
        self.geometry.add(
            points, covering, segment=self.segment, key=self.key, light=light, up=up, tint=tint, casts=self.casts
        )

    def round(self, points: ArrayLike, covering: Paint, tint: ArrayLike | None = None, bend: float = 1.0) -> None:
        """Polygons that bulge towards the camera, fully or, below 1, less so."""
        middle, across, up = self.geometry.sun.around()
        self.geometry.add(
            points,
            covering,
            segment=self.segment,
            key=self.key,
            light=middle,
            across=bend * across,
            up=bend * up,
            tint=tint,
            casts=self.casts,
        )

    def box(self, low: Point, high: Point, covering: Paint, eye: float = 1.4) -> None:
        """A box along the axes: the faces that a camera above ``x = 0`` sees of it."""
        (x0, y0, z0), (x1, y1, z1) = low, high
        sun = self.geometry.sun
        if y1 < eye:
            self.flat([(x0, y1, z0), (x1, y1, z0), (x1, y1, z1), (x0, y1, z1)], covering, sun.on((0, 1, 0)))
        if x0 > 0 or x1 < 0:
            x, side = (x0, -1) if x0 > 0 else (x1, 1)
            self.flat([(x, y0, z0), (x, y1, z0), (x, y1, z1), (x, y0, z1)], covering, sun.on((side, 0, 0)), 0.06)
        self.flat([(x0, y0, z0), (x1, y0, z0), (x1, y1, z0), (x0, y1, z0)], covering, sun.on((0, 0, -1)), 0.08)


def rectangle(x: tuple[float, float], y: tuple[float, float], z: float) -> list[Point]:
    """An upright rectangle across the street."""
    return [(x[0], y[0], z), (x[1], y[0], z), (x[1], y[1], z), (x[0], y[1], z)]


def capsules(ends: ArrayLike) -> Floats:
    """``(n, 12, 3)``: limbs from one round end to the other, as outlines that face the camera.

    Args:
        ends: ``(n, 2, 4)``: of both ends x, y, z and radius.
    """
    ends = np.asarray(ends, np.float32)
    first, second = ends[:, 0], ends[:, 1]
    along = np.arctan2(second[:, 1] - first[:, 1], second[:, 0] - first[:, 0])[:, None]
    outlines = []
    for end, turn in ((second, _CAPSULE), (first, _CAPSULE + np.pi)):
        x = end[:, :1] + end[:, 3:] * np.cos(along + turn)
        y = end[:, 1:2] + end[:, 3:] * np.sin(along + turn)
        outlines.append(np.stack([x, y, np.broadcast_to(end[:, 2:3], x.shape)], -1))
    return np.concatenate(outlines, 1).astype(np.float32)


def chain(knots: Sequence[tuple[float, float, float, float]]) -> Floats:
    """``(n - 1, 2, 4)``: the limbs between knots of x, y, z and radius; for :func:`capsules`."""
    points = np.asarray(knots, np.float32)
    return np.stack([points[:-1], points[1:]], 1)


def blobs(rng: np.random.Generator, centers: ArrayLike, radii: ArrayLike, ragged: float) -> Floats:
    """``(n, 9, 3)``: round patches that face the camera.

    Args:
        rng: of their outlines.
        centers: ``(n, 3)``.
        radii: ``(n, 2)``, across and up.
        ragged: 0 = ellipses; how much their outlines vary.
    """
    middles, sizes = np.asarray(centers, np.float32), np.asarray(radii, np.float32)
    count = len(middles)
    turn = np.linspace(0, 2 * np.pi, _BLOB_CORNERS, endpoint=False) + rng.uniform(0, 2 * np.pi, (count, 1))
    reach = 1 + ragged * rng.uniform(-1, 1, (count, _BLOB_CORNERS))
    x = middles[:, :1] + sizes[:, :1] * reach * np.cos(turn)
    y = middles[:, 1:2] + sizes[:, 1:] * reach * np.sin(turn)
    z = np.broadcast_to(middles[:, 2:], x.shape)
    return np.stack([x, np.maximum(y, 0.0), z], -1).astype(np.float32)


def disc(x: float, y: float, z: float, radius: float, corners: int = 16, stretch: float = 1.0) -> Floats:
    """``(corners, 3)``: an ellipse that faces the camera, ``stretch`` times as high as wide."""
    turn = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    points = [x + radius * np.cos(turn), y + stretch * radius * np.sin(turn), np.full(corners, z)]
    return np.stack(points, 1).astype(np.float32)


def ring(x: float, y: float, z: float, outer: float, inner: float, corners: int = 20, narrow: float = 1.0) -> Floats:
    """``(2 * corners + 2, 3)``: a ring that faces the camera, or a narrow ellipse of one that is turned away."""
    turn = np.linspace(0, 2 * np.pi, corners + 1)
    turns, radii = np.concatenate([turn, turn[::-1]]), np.repeat([outer, inner], corners + 1)
    points = [x + narrow * radii * np.cos(turns), y + radii * np.sin(turns), np.full(len(turns), z)]
    return np.stack(points, 1).astype(np.float32)


def lathed(x: float, z: float, profile: Sequence[tuple[float, float]]) -> Floats:
    """``(n - 1, 4, 3)``: a turned body around an upright axis, one band between each two ``(y, radius)``."""
    bands = [
        [(x - r0, y0, z), (x + r0, y0, z), (x + r1, y1, z), (x - r1, y1, z)] for (y0, r0), (y1, r1) in pairwise(profile)
    ]
    return np.asarray(bands, np.float32)


def choose(rng: np.random.Generator, options: Sequence[Point]) -> Point:
    """One of several colours."""
    return options[int(rng.integers(len(options)))]


def scatter(rng: np.random.Generator, count: int, inner: float = 0.0) -> NDArray[np.float64]:
    """``(count, 3)`` points in the unit ball, none nearer to its middle than ``inner``."""
    directions = rng.standard_normal((count, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    reach: NDArray[np.float64] = directions * rng.uniform(inner**3, 1, (count, 1)) ** (1 / 3)
    return reach
