"""Vehicles: cars, trucks and buses, as solids that are seen from any side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from outmask.data.world.geometry import Floats, Paint, Rgb, paint
from outmask.data.world.shapes import Brush
from outmask.data.world.street import Stage

Profile = Sequence[tuple[float, float, float]]
"""Corners of a vehicle seen from its side: metres from its rear end, height, half width there."""

_GLASS, _TYRE, _RIM, _DARK = (46, 54, 64), (26, 26, 28), (120, 122, 126), (34, 34, 36)
_TURN = np.linspace(0, 2 * np.pi, 14, endpoint=False)


@dataclass(frozen=True)
class Pose:
    """Where a vehicle stands.

    Attributes:
        x, z: the middle of its rear end.
        yaw: 0 = it drives ahead, pi = towards the camera.
        eye: ``(3,)`` where the camera is, seen from the straight street.
    """

    x: float
    z: float
    yaw: float
    eye: NDArray[np.float64]

    def place(self, points: ArrayLike) -> Floats:
        """``(..., 3)`` along, up, to the right of the vehicle -> points of the world."""
        cos, sin = math.cos(self.yaw), math.sin(self.yaw)
        axes = np.array(((sin, 0, cos), (0, 1, 0), (cos, 0, -sin)), np.float32)
        return np.asarray(points, np.float32) @ axes + np.array((self.x, 0, self.z), np.float32)


def _normal(polygon: Floats) -> NDArray[np.float64]:
    """Unit normal of an ``(n, 3)`` polygon (Newell)."""
    corners = polygon.tolist()
    a = b = c = 0.0
    for (x0, y0, z0), (x1, y1, z1) in zip(corners, corners[1:] + corners[:1], strict=True):
        a += (y0 - y1) * (z0 + z1)
        b += (z0 - z1) * (x0 + x1)
        c += (x0 - x1) * (y0 + y1)
    return np.array((a, b, c)) / max(math.hypot(a, b, c), 1e-9)


class _Solid:
    """A part of a vehicle: its outline from the side, pulled to its width. Only what faces the camera is drawn."""

    def __init__(self, brush: Brush, pose: Pose, profile: Profile) -> None:
        self.brush, self.pose, self.profile = brush, pose, np.asarray(profile, np.float32)
        along, up, half = self.profile.T
        self.right = pose.place(np.stack([along, up, half], 1))
        self.left = pose.place(np.stack([along, up, -half], 1))
        self.middle = (self.left.mean(0) + self.right.mean(0)) / 2
        self.side = next(
            (side for side, polygon in ((1, self.right), (-1, self.left)) if self._seen(polygon) is not None), 0
        )
        """1 where the camera sees the right side, -1 where the left one, 0 neither."""

    def _seen(self, polygon: Floats) -> NDArray[np.float64] | None:
        """The outward normal of one of its faces, None where the camera doesn't see it."""
        normal, middle = _normal(polygon), polygon.sum(0) / len(polygon)
        if normal @ (middle - self.middle) < 0:
            normal = -normal
        return normal if normal @ (self.pose.eye - middle) > 0 else None

    def draw(self, body: Paint, glass: Sequence[int] = (), pane: Paint | None = None) -> None:
        """Its strips, of which some are ``glass``, then its sides."""
        count = len(self.profile)
        for edge in range(count):
            after = (edge + 1) % count
            strip = np.stack([self.left[edge], self.left[after], self.right[after], self.right[edge]])
            covering = pane if pane is not None and edge in glass else body
            self._face(strip, covering)
        for polygon in (self.left, self.right):
            self._face(polygon, body)

    def _face(self, polygon: Floats, covering: Paint) -> None:
        normal = self._seen(polygon)
        if normal is not None:
            self.brush.flat(polygon, covering, self.brush.geometry.sun.on(normal), 0.08 * float(1 - abs(normal[1])))

    def on_side(self, outlines: Sequence[Sequence[tuple[float, float]]], covering: Paint) -> None:
        """Polygons of ``(along, up)``, with as many corners each, on the side that is seen, where the solid is wide."""
        normal = self._seen(self.right if self.side > 0 else self.left) if self.side else None
        if normal is None:
            return
        order = np.argsort(self.profile[:, 1], kind="stable")
        along, up = np.moveaxis(np.asarray(outlines, np.float32), -1, 0)
        half = np.interp(up, self.profile[order, 1], self.profile[order, 2]) + 0.01
        points = self.pose.place(np.stack([along, up, self.side * half], -1))
        self.brush.flat(points, covering, self.brush.geometry.sun.on(normal), 0.06)

    def on_end(
        self,
        front: bool,
        along: float,
        outlines: Sequence[Sequence[tuple[float, float]]],
        covering: Paint,
        light: float | None = None,
    ) -> None:
        """Polygons of ``(right, up)``, with as many corners each, on the front or rear end, where that is seen."""
        ahead = np.array((np.sin(self.pose.yaw), 0, np.cos(self.pose.yaw))) * (1 if front else -1)
        if ahead @ (self.pose.eye - self.pose.place((along, 1, 0))) > 0:
            right, up = np.moveaxis(np.asarray(outlines, np.float32), -1, 0)
            points = self.pose.place(np.stack([np.full_like(up, along), up, right], -1))
            self.brush.flat(points, covering, self.brush.geometry.sun.on(ahead) if light is None else light)


def _box(start: float, end: float, low: float, high: float, half: float, taper: float = 1.0) -> Profile:
    return [(start, low, half), (start, high, taper * half), (end, high, taper * half), (end, low, half)]


def _block(x: tuple[float, float], y: tuple[float, float]) -> list[tuple[float, float]]:
    return [(x[0], y[0]), (x[1], y[0]), (x[1], y[1]), (x[0], y[1])]


def _both(x: tuple[float, float], y: tuple[float, float]) -> list[list[tuple[float, float]]]:
    """A block on the right and its mirror image on the left."""
    return [_block(x, y), _block((-x[1], -x[0]), y)]


def _wheels(solid: _Solid, places: Sequence[float], radius: float) -> None:
    for color, size in ((_DARK, 1.15), (_TYRE, 1.0), (_RIM, 0.6)):
        circles = [
            list(
                zip(
                    at + size * radius * np.cos(_TURN),
                    radius + size * radius * np.sin(_TURN) * (1 if size < 1.1 else 0.98),
                    strict=True,
                )
            )
            for at in places
        ]
        solid.on_side(circles, paint(color, 0.15))


def _tyres(solid: _Solid, length: float, half: float, radius: float) -> None:
    for front in (False, True):
        solid.on_end(
            front,
            length - 0.35 if front else 0.35,
            _both((half - 0.24, half - 0.03), (0, 2 * radius)),
            paint(_TYRE, 0.1),
        )


def draw_car(stage: Stage, brush: Brush, rng: np.random.Generator, pose: Pose) -> float:
    """A car; returns its length."""
    color = np.clip(
        np.asarray(stage.town.vehicles[int(rng.integers(len(stage.town.vehicles)))]) * rng.uniform(0.85, 1.12), 12, 245
    )
    body, pane = paint(color, 0.07), paint(_GLASS, 0.4, "reflection", 2.5)
    kind = int(rng.integers(4))
    length, half, belt, top = [
        (4.5, 0.88, 0.92, 1.45),
        (3.9, 0.84, 0.94, 1.50),
        (4.6, 0.94, 1.08, 1.75),
        (4.7, 0.90, 0.96, 1.50),
    ][kind]
    nose = length - [1.25, 0.95, 1.15, 1.2][kind]
    base = [
        (0.04, 0.24, 0.9 * half),
        (0.0, 0.5, half),
        (0.05, belt, 0.97 * half),
        (nose, belt, 0.97 * half),
        (length - 0.12, belt - 0.17, 0.93 * half),
        (length, 0.5, 0.97 * half),
        (length - 0.06, 0.24, 0.88 * half),
    ]
    rear = [0.35, 0.06, 0.10, 0.08][kind]
    slope = [0.62, 0.42, 0.35, 0.30][kind]
    cabin = [
        (rear, belt - 0.01, 0.95 * half),
        (rear + slope, top - 0.04, 0.76 * half),
        (rear + slope + 0.5, top, 0.75 * half),
        (nose - 0.95, top - 0.02, 0.75 * half),
        (nose + 0.1, belt - 0.01, 0.94 * half),
    ]
    lower, upper = _Solid(brush, pose, base), _Solid(brush, pose, cabin)
    mirrors = _both((half, half + 0.16), (belt - 0.02, belt + 0.11))
    lower.on_end(False, nose - 0.35, mirrors, paint(0.6 * color, 0.1))  # from behind, the body hides a part of them
    _tyres(lower, length, half, 0.31)
    lower.draw(body)
    lower.on_side([[(0.02, 0.24), (length - 0.05, 0.24), (length - 0.03, 0.36), (0.0, 0.36)]], paint(0.45 * color, 0.1))
    lower.on_side(
        [_block((at, at + 0.02), (0.4, belt)) for at in (0.42 * length, 0.64 * length)], paint(0.6 * color, 0.1)
    )
    _wheels(lower, (0.19 * length, 0.8 * length), 0.31)
    upper.draw(body, (0, 3), pane)
    y0, y1 = belt + 0.05, top - 0.13
    share = (y1 - belt) / (top - belt)
    back, fore = rear + 0.12 + slope * share * 0.9, nose - 0.08 - 1.05 * share
    middle = (back + fore) / 2
    upper.on_side(
        [
            [(rear + 0.28, y0), (middle - 0.05, y0), (middle - 0.05, y1), (back, y1)],
            [(middle + 0.05, y0), (nose - 0.12, y0), (fore, y1), (middle + 0.05, y1)],
        ],
        pane,
    )
    dark, plate = paint(_DARK, 0.1), paint((214, 212, 200), 0.06)
    for front in (False, True):
        at = length + 0.012 if front else -0.012
        lower.on_end(front, at, [_block((-0.95 * half, 0.95 * half), (0.26, 0.46))], paint(0.55 * color, 0.1))
        lower.on_end(front, at, [_block((-0.26, 0.26), (0.5, 0.61) if not front else (0.36, 0.46))], plate)
    lower.on_end(
        False, -0.012, _both((0.58 * half, 0.97 * half), (belt - 0.28, belt - 0.08)), paint((150, 22, 20), 0.12), 0.9
    )
    lower.on_end(
        True, length + 0.012, _both((0.58 * half, 0.94 * half), (0.55, 0.7)), paint((236, 236, 228), 0.06), 1.0
    )
    lower.on_end(True, length + 0.012, [_block((-0.5 * half, 0.5 * half), (0.52, 0.68))], dark)
    lower.on_end(True, nose - 0.35, mirrors, paint(0.8 * color, 0.1))
    return length


def draw_bus(stage: Stage, brush: Brush, rng: np.random.Generator, pose: Pose) -> float:
    """A bus; returns its length."""
    liveries: tuple[Rgb, ...] = ((190, 40, 36), (206, 168, 40), (48, 104, 70), (60, 100, 160), (214, 210, 200))
    color = np.asarray(liveries[int(rng.integers(len(liveries)))]) * rng.uniform(0.85, 1.05)
    length, half, top = rng.uniform(9.5, 12), 1.26, rng.uniform(2.9, 3.3)
    solid = _Solid(brush, pose, _box(0, length, 0.32, top, half, 0.96))
    pane = paint(_GLASS, 0.4, "reflection", 3.5)
    _tyres(solid, length, half, 0.46)
    solid.draw(paint(color, 0.06))
    stripe = paint(np.minimum(color * 0.5 + 110, 235), 0.06)
    solid.on_side([_block((0.1, length - 0.1), (0.85, 1.0))], stripe)
    count = 7
    bay = (length - 1.0) / count
    solid.on_side([_block((0.4 + index * bay, 0.3 + (index + 1) * bay), (1.35, 2.45)) for index in range(count)], pane)
    solid.on_side(
        [_block((at, at + 1.0), (0.42, 2.5)) for at in (0.3 * length, 0.85 * length)],
        paint((60, 66, 74), 0.3, "reflection", 2),
    )
    _wheels(solid, (0.24 * length, 0.74 * length), 0.46)
    solid.on_end(False, -0.02, [_block((-0.85 * half, 0.85 * half), (1.55, 2.5))], pane)
    solid.on_end(False, -0.02, [_block((-0.9 * half, 0.9 * half), (0.36, 0.8))], paint(0.5 * color, 0.1))
    solid.on_end(False, -0.03, _both((0.8 * half, 0.95 * half), (0.85, 1.3)), paint((150, 24, 20), 0.1), 0.9)
    solid.on_end(True, length + 0.02, [_block((-0.94 * half, 0.94 * half), (1.05, 2.5))], pane)
    solid.on_end(True, length + 0.03, [_block((-0.7 * half, 0.7 * half), (2.6, top - 0.12))], paint((30, 30, 32), 0.1))
    solid.on_end(
        True, length + 0.04, [_block((-0.4 * half, 0.4 * half), (2.68, top - 0.2))], paint((240, 180, 60), 0.2), 1.0
    )
    solid.on_end(True, length + 0.03, _both((0.6 * half, 0.92 * half), (0.55, 0.78)), paint((236, 236, 226), 0.06), 1.0)
    return length


def draw_truck(stage: Stage, brush: Brush, rng: np.random.Generator, pose: Pose) -> float:
    """A truck with a box or a tarpaulin; returns its length."""
    load, half = rng.uniform(4.5, 7.0), 1.2
    boxes: tuple[Rgb, ...] = ((216, 214, 208), (150, 156, 160), (60, 84, 120), (150, 60, 40), (86, 104, 80))
    cabs: tuple[Rgb, ...] = ((200, 200, 198), (160, 36, 32), (40, 70, 120), (210, 160, 50), (60, 62, 66))
    box_color = np.asarray(boxes[int(rng.integers(len(boxes)))]) * rng.uniform(0.85, 1.05)
    cab_color = np.asarray(cabs[int(rng.integers(len(cabs)))]) * rng.uniform(0.85, 1.05)
    high, length = rng.uniform(2.7, 3.5), load + 2.1
    cargo = _Solid(brush, pose, _box(0, load, 0.95, high, half))
    frame = _Solid(brush, pose, _box(0.1, length - 0.3, 0.5, 0.95, 0.9 * half))
    cab = _Solid(
        brush,
        pose,
        [
            (load + 0.3, 0.45, 0.95 * half),
            (load + 0.3, 2.55, 0.9 * half),
            (length - 0.35, 2.55, 0.9 * half),
            (length, 1.45, 0.95 * half),
            (length, 0.45, 0.95 * half),
        ],
    )
    pane = paint(_GLASS, 0.4, "reflection", 2.5)

    def draw_cab() -> None:
        _tyres(frame, length, half, 0.48)
        cab.draw(paint(cab_color, 0.07), (2,), pane)
        cab.on_side([[(load + 0.55, 1.5), (length - 0.2, 1.5), (length - 0.42, 2.3), (load + 0.55, 2.3)]], pane)
        cab.on_end(True, length + 0.02, [_block((-0.7 * half, 0.7 * half), (0.75, 1.3))], paint(_DARK, 0.2))
        cab.on_end(
            True, length + 0.03, _both((0.6 * half, 0.9 * half), (0.55, 0.72)), paint((236, 236, 226), 0.06), 1.0
        )

    def draw_load() -> None:
        frame.draw(paint(_DARK, 0.15))
        cargo.draw(paint(box_color, 0.07))
        cargo.on_side(
            [_block((at, at + 0.06), (1.0, high - 0.05)) for at in np.arange(0.6, load - 0.3, 0.9)],
            paint(0.85 * box_color, 0.06),
        )
        cargo.on_end(False, -0.02, [_block((-0.03, 0.03), (0.98, high - 0.05))], paint(0.5 * box_color, 0.1))
        cargo.on_end(
            False,
            -0.02,
            [_block((x - 0.03, x + 0.03), (1.0, high - 0.1)) for x in (-0.45, 0.45)],
            paint(0.7 * box_color, 0.1),
        )
        cargo.on_end(False, -0.03, [_block((-half, half), (0.7, 0.93))], paint((60, 60, 62), 0.2))
        cargo.on_end(False, -0.04, _both((0.7 * half, 0.95 * half), (0.74, 0.9)), paint((160, 24, 20), 0.1), 0.9)
        cargo.on_end(False, -0.04, [_block((-0.26, 0.26), (0.76, 0.88))], paint((214, 212, 200), 0.06))
        _wheels(frame, (0.8, 1.9, length - 0.9), 0.48)

    towards = float(np.cos(pose.yaw)) < -0.3
    for part in (draw_load, draw_cab) if towards else (draw_cab, draw_load):
        part()
    return length


VEHICLES = {"car": draw_car, "truck": draw_truck, "bus": draw_bus}
"""How each class of vehicles is drawn."""

LENGTHS = {"car": 4.7, "truck": 9.1, "bus": 12.0}
"""Metres that the longest of each class needs."""


def draw_vehicle(stage: Stage, rng: np.random.Generator, name: str, x: float, near: float, yaw: float) -> None:
    """A vehicle that begins at ``near``; ``x`` is its middle, or its rear end where it crosses the street."""
    brush = stage.thing(name, near)
    cos = float(np.cos(yaw))
    start = near if cos > 0.5 else near + LENGTHS[name] if cos < -0.5 else near + 1.25
    # A curved street turns its vehicles: seen from them, the camera stands aside.
    pose = Pose(x, start, yaw, np.array((0.5 * stage.geometry.curve * near * near, 1.4, 0.0)))
    length = VEHICLES[name](stage, brush, rng, pose)
    middle = start + 0.5 * length * np.cos(yaw)
    stage.geometry.contact(
        x + 0.5 * length * np.sin(yaw),
        middle,
        0.5 * length * abs(np.sin(yaw)) + abs(np.cos(yaw)),
        0.52 * length * abs(np.cos(yaw)) + abs(np.sin(yaw)),
    )
