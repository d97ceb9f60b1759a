"""Surfaces of the world, and which of them each pixel sees.

Everything in a scene is a heap of flat polygons in metres: ``x`` to the right, ``y`` up, ``z`` ahead of the camera.
They are drawn from far to near into one map of numbers, the face that each pixel sees; colour, depth and labels are
then looked up by that number, so that they agree in every pixel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from outmask.data.world.textures import INDEX

Floats = NDArray[np.float32]
Rgb = tuple[float, float, float]

NEAR = 0.5
"""Metres ahead of the camera where surfaces are cut off."""

_SHIFT = 4
"""OpenCV draws at sixteenths of a pixel."""

_LIMIT = 1 << 22
"""Largest coordinate, in sixteenths of a pixel, that is passed to OpenCV."""


@dataclass(frozen=True)
class Camera:
    """A pinhole camera that looks along ``z``.

    Attributes:
        height, width: of its picture, pixels.
        focal: focal length, pixels.
        horizon: row of the horizon, pixels.
        center: column of straight ahead, pixels.
        eye: its height above the ground, metres.
    """

    height: int
    width: int
    focal: float
    horizon: float
    center: float
    eye: float

    def project(self, points: Floats) -> Floats:
        """``(n, 3)`` points as ``(n, 2)`` columns and rows, where 0.5 is the middle of the first pixel."""
        x, y, z = points.T
        pixels = [self.center + self.focal * x / z, self.horizon + self.focal * (self.eye - y) / z]
        return np.stack(pixels, 1).astype(np.float32)


class Sun(NamedTuple):
    """The light of a scene.

    Attributes:
        direction: unit vector towards the sun.
        direct: light of a surface that faces it.
        ambient: light of every surface.
    """

    direction: tuple[float, float, float]
    direct: float
    ambient: float

    def on(self, normals: ArrayLike) -> Floats:
        """Light ``(...)`` on surfaces with unit normals ``(..., 3)``: more of the sky reaches those that look up."""
        normals = np.asarray(normals, np.float32)
        facing = np.clip(normals @ np.asarray(self.direction, np.float32), 0, 1)
        return np.asarray(self.ambient * (0.9 + 0.2 * normals[..., 1]) + self.direct * facing, np.float32)

    def around(self) -> tuple[float, float, float]:
        """Light of what is round: in its middle, and how it grows to the right and upwards."""
        right, up, ahead = self.direction
        middle = self.ambient + self.direct * max(0.1, 0.15 - 0.6 * ahead)
        return middle, 0.55 * self.direct * right, 0.35 * self.direct * up + 0.12 * self.ambient


class Paint(NamedTuple):
    """What a surface is covered with.

    Attributes:
        color: where its texture is 0.
        other: where it is 1.
        texture: one of ``outmask.data.world.textures.TEXTURES``.
        period: metres after which it repeats.
    """

    color: Rgb
    other: Rgb
    texture: str = "plain"
    period: float = 2.0

    def times(self, factor: float) -> Paint:
        """The same, darker or lighter."""
        (r0, g0, b0), (r1, g1, b1) = self.color, self.other
        return self._replace(
            color=(factor * r0, factor * g0, factor * b0), other=(factor * r1, factor * g1, factor * b1)
        )


def paint(color: ArrayLike, contrast: float = 0.1, texture: str = "plain", period: float = 2.0) -> Paint:
    """A colour that a texture makes darker and lighter by the share ``contrast``."""
    red, green, blue = np.asarray(color, np.float64).tolist()
    low, high = 1 - contrast, 1 + contrast
    return Paint((low * red, low * green, low * blue), (high * red, high * green, high * blue), texture, period)


class Faces(NamedTuple):
    """Polygons ready to be drawn, in order from far to near; row 0 of every table is the sky.

    Attributes:
        corners: projected corners of the polygons one after another, ``(V, 2)`` int32, sixteenths of a pixel.
        ends: ``(n,)`` where the polygons end in ``corners``.
        colors, others: ``(1 + n, 3)``.
        texture, period, ground: ``(1 + n,)`` index and period of the texture; 1 on the ground, else 0.
        inverse_depth: ``(1 + n, 3)``: ``1 / z`` is this times ``(1, right, down)`` of the pixel's ray.
        light: ``(1 + n, 3)``: the light is this times ``(1, column, row)``.
        segment: ``(1 + n,)`` int32, the segment that each belongs to.
    """

    corners: NDArray[np.int32]
    ends: NDArray[np.intp]
    colors: Floats
    others: Floats
    texture: Floats
    period: Floats
    ground: Floats
    inverse_depth: Floats
    light: Floats
    segment: NDArray[np.int32]

    def draw(self, height: int, width: int) -> NDArray[np.int32]:
        """``(H, W)`` int32: the row of the tables that each pixel sees."""
        seen = np.zeros((height, width), np.int32)
        start = 0
        for number, end in enumerate(self.ends.tolist(), 1):
            cv2.fillPoly(seen, [self.corners[start:end]], number, cv2.LINE_8, _SHIFT)
            start = end
        return seen


# Columns of the attributes that a face is added with.
_COLOR, _OTHER = slice(0, 3), slice(3, 6)
_TEXTURE, _PERIOD, _LIGHT, _ACROSS, _UP, _GROUND, _CASTS, _SEGMENT, _KEY = range(6, 15)
_ATTRIBUTES = 15


class Geometry:
    """A scene's surfaces, as they are collected.

    Args:
        sun: the light they stand in.
        heading: how far the street leads to the right, metres a metre.
        curve: how much more with every metre.
    """

    def __init__(self, sun: Sun, heading: float = 0.0, curve: float = 0.0) -> None:
        self.sun = sun
        self.heading, self.curve = heading, curve
        self._points: list[Floats] = []
        self._sizes: list[NDArray[np.intp]] = []
        self._attributes: list[Floats] = []
        self._contacts: list[Floats] = []

    def add(
        self,
        points: ArrayLike,
        covering: Paint,
        *,
        segment: int,
        key: ArrayLike,
        light: ArrayLike,
        across: float = 0.0,
        up: float = 0.0,
        tint: ArrayLike | None = None,
        ground: bool = False,
        casts: bool = False,
    ) -> None:
        """Add polygons.

        Args:
            points: ``(n, k, 3)`` corners, or ``(k, 3)`` of one.
            covering: paint of all of them.
            segment: what they belong to.
            key: what is drawn later lies before; polygons are drawn from the largest key to the smallest, and those
                with equal keys in the order in which they are added. Usually ``z``.
            light: on each, ``(n,)`` or one for all.
            across: how the light grows from a polygon's middle to its right end.
            up: the same to its upper end.
            tint: ``(n,)`` factors of the colour.
            ground: whether they lie on the ground, where shadows fall.
            casts: whether they cast shadows.
        """
        corners = np.asarray(points, np.float32)
        corners = corners[None] if corners.ndim == 2 else corners
        count, size = corners.shape[:2]
        if not count:
            return
        rows = np.empty((count, _ATTRIBUTES), np.float32)
        surface = (*covering.color, *covering.other, INDEX[covering.texture], covering.period)
        rows[:] = (*surface, 0, across, up, ground, casts, segment, 0)
        rows[:, _LIGHT], rows[:, _KEY] = light, key
        if tint is not None:
            factors = np.asarray(tint, np.float32)[:, None]
            rows[:, _COLOR] *= factors
            rows[:, _OTHER] *= factors
        self._points.append(corners.reshape(-1, 3))
        self._sizes.append(np.full(count, size))
        self._attributes.append(rows)

    def contact(self, x: float, z: float, across: float, along: float) -> None:
        """Darken the ground close under something: an ellipse around ``(x, z)`` with these half axes."""
        turn = np.linspace(0, 2 * np.pi, 16, endpoint=False)
        points = [x + across * np.cos(turn), np.zeros(16), z + along * np.sin(turn)]
        self._contacts.append(np.stack(points, 1).astype(np.float32))

    def faces(self, camera: Camera) -> Faces:
        """What the camera may see, from far to near."""
        points, sizes = self._bent(np.concatenate(self._points)), np.concatenate(self._sizes)
        attributes = np.concatenate(self._attributes)
        planes = _inverse_depth(points, sizes, camera)
        order = np.argsort(-attributes[:, _KEY], kind="stable")
        points, sizes = _reordered(points, sizes, order)
        points, sizes, kept = _cut(points, sizes)
        order = order[kept]
        pixels = camera.project(points)
        starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        low, high = np.minimum.reduceat(pixels, starts), np.maximum.reduceat(pixels, starts)
        visible = ((high > 0) & (low < (camera.width, camera.height))).all(1)
        pixels = pixels[np.repeat(visible, sizes)]
        sizes, order, low, high = sizes[visible], order[visible], low[visible], high[visible]
        rows = attributes[order]

        half, middle = np.maximum((high - low) / 2, 0.5), (high + low) / 2
        right, down = rows[:, _ACROSS] / half[:, 0], -rows[:, _UP] / half[:, 1]
        light = np.stack([rows[:, _LIGHT] - right * middle[:, 0] - down * middle[:, 1], right, down], 1)
        return Faces(
            _sixteenths(pixels),
            np.cumsum(sizes),
            _with_sky(rows[:, _COLOR]),
            _with_sky(rows[:, _OTHER]),
            _with_sky(rows[:, _TEXTURE]),
            _with_sky(rows[:, _PERIOD], 1),
            _with_sky(rows[:, _GROUND]),
            _with_sky(planes[order]),
            _with_sky(light.astype(np.float32)),
            _with_sky(rows[:, _SEGMENT]).astype(np.int32),
        )

    def shadows(self, camera: Camera) -> NDArray[np.uint8]:
        """``(H, W)`` uint8: how much of the light reaches the ground there, 255 all of it."""
        light = np.full((camera.height, camera.width), 255, np.uint8)
        points, sizes = np.concatenate(self._points), np.concatenate(self._sizes)
        casts = np.concatenate(self._attributes)[:, _CASTS] > 0
        if casts.any() and self.sun.direct > 0:
            points, sizes = points[np.repeat(casts, sizes)], sizes[casts]
            right, up, ahead = self.sun.direction
            cast = np.stack(
                [
                    points[:, 0] - points[:, 1] * right / up,
                    np.zeros(len(points)),
                    points[:, 2] - points[:, 1] * ahead / up,
                ],
                1,
            )
            share = self.sun.ambient / (self.sun.ambient + self.sun.direct * up)
            self._darken(light, cast.astype(np.float32), sizes, camera, round(255 * share))
        if self._contacts:
            rims = np.concatenate(self._contacts)
            self._darken(light, rims, np.full(len(self._contacts), 16), camera, 105 if self.sun.direct > 0 else 130)
        return np.asarray(cv2.GaussianBlur(light, (0, 0), camera.width / 640), np.uint8)

    def _darken(
        self, light: NDArray[np.uint8], points: Floats, sizes: NDArray[np.intp], camera: Camera, value: int
    ) -> None:
        points, sizes, _ = _cut(self._bent(points), sizes)
        if not len(sizes):
            return
        pixels = camera.project(points)
        starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        low, high = np.minimum.reduceat(pixels, starts), np.maximum.reduceat(pixels, starts)
        visible = ((high > 0) & (low < (camera.width, camera.height))).all(1)
        corners = _sixteenths(pixels[np.repeat(visible, sizes)])
        start = 0
        for end in np.cumsum(sizes[visible]).tolist():
            cv2.fillPoly(light, [corners[start:end]], value, cv2.LINE_8, _SHIFT)
            start = end

    def _bent(self, points: Floats) -> Floats:
        """The points of a straight street where they lie in the winding one."""
        bent = points.copy()
        bent[:, 0] += (self.heading + 0.5 * self.curve * bent[:, 2]) * bent[:, 2]
        return bent


def _with_sky(values: Floats, sky: float = 0.0) -> Floats:
    return np.concatenate([np.full((1, *values.shape[1:]), sky, np.float32), values])


def _sixteenths(pixels: Floats) -> NDArray[np.int32]:
    """OpenCV's coordinates, in which whole numbers are the middles of pixels."""
    return np.asarray(np.clip(np.rint((pixels - 0.5) * (1 << _SHIFT)), -_LIMIT, _LIMIT), np.int32)


def _reordered(points: Floats, sizes: NDArray[np.intp], order: NDArray[np.intp]) -> tuple[Floats, NDArray[np.intp]]:
    """The polygons in another order."""
    starts, wanted = np.cumsum(sizes) - sizes, sizes[order]
    first = np.repeat(starts[order] - (np.cumsum(wanted) - wanted), wanted)
    return points[first + np.arange(len(points))], wanted


def _inverse_depth(points: Floats, sizes: NDArray[np.intp], camera: Camera) -> Floats:
    """``(n, 3)``: of each polygon's plane the factors of ``(1, right, down)`` whose sum is ``1 / z``.

    With the normal ``n`` of a plane ``n . p = d`` through the camera's coordinates, ``1 / z = n . ray / d``.
    """
    ends = np.cumsum(sizes)
    starts = ends - sizes
    following = np.arange(1, len(points) + 1)
    following[ends - 1] = starts
    seen = (points - (0, camera.eye, 0)).astype(np.float64)
    # Newell's normal holds for any polygon, whatever its first corners.
    x0, y0, z0 = seen.T
    x1, y1, z1 = seen[following].T
    edges = np.stack([(y0 - y1) * (z0 + z1), (z0 - z1) * (x0 + x1), (x0 - x1) * (y0 + y1)], 1)
    normals = np.add.reduceat(edges, starts)
    middles = np.add.reduceat(seen, starts) / sizes[:, None]
    distance = (normals * middles).sum(1)
    # A plane through the eye is seen as a line: any depth of it will do.
    length = np.linalg.norm(normals, axis=1)
    flat = np.abs(distance) < 1e-4 * length * np.linalg.norm(middles, axis=1) + 1e-12
    distance = np.where(flat, 1, distance)
    planes = np.stack([normals[:, 2], normals[:, 0], -normals[:, 1]], 1) / distance[:, None]
    planes[flat] = np.stack([1 / np.maximum(middles[flat, 2], NEAR), *np.zeros((2, int(flat.sum())))], 1)
    return planes.astype(np.float32)


def _cut(points: Floats, sizes: NDArray[np.intp]) -> tuple[Floats, NDArray[np.intp], NDArray[np.intp]]:
    """The polygons' parts ahead of the camera, and which polygons they are of (Sutherland and Hodgman 1974)."""
    ends = np.cumsum(sizes)
    starts = ends - sizes
    ahead = np.add.reduceat(points[:, 2] > NEAR, starts)
    crossing = np.flatnonzero((ahead > 0) & (ahead < sizes))
    kept = np.flatnonzero(ahead > 0)
    if not len(crossing):
        return points[np.repeat(ahead > 0, sizes)], sizes[kept], kept
    cut = {int(index): _cut_one(points[starts[index] : ends[index]]) for index in crossing}
    parts = [cut[index] if index in cut else points[starts[index] : ends[index]] for index in kept.tolist()]
    return np.concatenate(parts), np.array([len(part) for part in parts]), kept


def _cut_one(polygon: Floats) -> Floats:
    corners = []
    for here, there in zip(polygon, np.roll(polygon, -1, 0), strict=True):
        if here[2] > NEAR:
            corners.append(here)
        if (here[2] > NEAR) != (there[2] > NEAR):
            share = (NEAR - here[2]) / (there[2] - here[2])
            corners.append(here + share * (there - here))
    return np.stack(corners).astype(np.float32)
