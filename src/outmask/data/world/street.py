"""The street itself: ground, lane marks, houses and gardens."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from outmask.data.taxonomies import WORLD
from outmask.data.world.geometry import Floats, Geometry, Paint, Sun, paint
from outmask.data.world.shapes import Brush, Point, choose, rectangle
from outmask.data.world.towns import Town

END = 130.0
"""Metres that a street is long."""

_GROUND_KEY = 1e6  # of the ground, which lies behind all that stands on it
_BACKGROUND_KEY = 1e4  # of what closes the street


@dataclass(frozen=True)
class Plan:
    """Where things are on a street, seen from above: ``x`` of its lines from left to right, metres.

    Attributes:
        front_left, walk_left, road_left, middle, road_right, walk_right, front_right: house fronts, outer edges of the
            sidewalks, kerbs, and the line between the directions; the camera is at 0.
        verge: metres of green along each kerb.
        lane: width of a lane.
        parking: whether cars park on the left, on the right.
        crossing: ``z`` at which another street begins and ends, if there is one.
    """

    front_left: float
    walk_left: float
    road_left: float
    middle: float
    road_right: float
    walk_right: float
    front_right: float
    verge: float
    lane: float
    parking: tuple[bool, bool]
    crossing: tuple[float, float] | None

    @classmethod
    def draw(cls, town: Town, rng: np.random.Generator) -> Plan:
        """A plan in the style of a town."""
        lane = town.lane * rng.uniform(0.95, 1.08)
        parking = (bool(rng.random() < town.parking), bool(rng.random() < town.parking))
        middle = -lane / 2 - rng.uniform(-0.3, 0.3) - (lane if town.lanes == 2 and rng.random() < 0.4 else 0.0)
        road_right = middle + lane * town.lanes + (2.2 if parking[1] else 0.35)
        road_left = middle - lane * town.lanes - (2.2 if parking[0] else 0.35)
        verge = rng.uniform(1.0, 2.0) if rng.random() < town.verge else 0.0
        walk_left = road_left - verge - rng.uniform(*town.sidewalk)
        walk_right = road_right + verge + rng.uniform(*town.sidewalk)
        crossing = None
        if rng.random() < 0.5:
            start = rng.uniform(16, 45)
            crossing = (start, start + 2 * lane * min(town.lanes, 1) + 1.5)
        return cls(
            walk_left - rng.uniform(*town.setback),
            walk_left,
            road_left,
            middle,
            road_right,
            walk_right,
            walk_right + rng.uniform(*town.setback),
            verge,
            lane,
            parking,
            crossing,
        )

    def spans(self, start: float = -6.0, margin: float = 0.0) -> list[tuple[float, float]]:
        """The parts of the street along ``z`` that no crossing interrupts."""
        if self.crossing is None:
            return [(start, END)]
        return [(start, self.crossing[0] - margin), (self.crossing[1] + margin, END)]

    def free(self, z: float, margin: float) -> bool:
        """Whether ``z`` is no nearer than ``margin`` to the crossing."""
        return self.crossing is None or not self.crossing[0] - margin < z < self.crossing[1] + margin


@dataclass
class Stage:
    """A scene in the making.

    Attributes:
        town: its style.
        plan: of its street.
        geometry: its surfaces.
        segments: class name of each segment; ``None`` of objects of no known class. The first are the classes, in the
            order of the taxonomy but for the sky, which comes first.
    """

    town: Town
    plan: Plan
    geometry: Geometry
    segments: list[str | None] = field(
        default_factory=lambda: ["sky", *(name for name in WORLD.names if name != "sky")]
    )

    @property
    def sun(self) -> Sun:
        """The light."""
        return self.geometry.sun

    def stuff(self, name: str, key: float, casts: bool = True) -> Brush:
        """A brush for a class, all of which is one segment."""
        return Brush(self.geometry, self.segments.index(name), key, casts)

    def thing(self, name: str | None, key: float) -> Brush:
        """A brush for a new object of a class, or of none."""
        self.segments.append(name)
        return Brush(self.geometry, len(self.segments) - 1, key)


def draw_ground(stage: Stage, rng: np.random.Generator) -> None:
    """Road, sidewalks and green, with marks on the road."""
    plan, town = stage.plan, stage.town
    _Ground(stage, "terrain").band(-400, 400, (-6, 400), paint(town.soil, 0.3, "grass", 2.5))
    asphalt = paint(town.asphalt, rng.uniform(0.10, 0.2), "grain", 3.5)
    paving = paint(town.paving, rng.uniform(0.10, 0.2), "slabs" if rng.random() < 0.7 else "grain", 2.4)
    stone = paint(np.multiply(town.paving, 1.12), 0.06)
    dirt = paint(np.multiply(town.asphalt, 0.72), 0.15)
    walk = _Ground(stage, "sidewalk", 1)
    for start, end in plan.spans():
        walk.band(plan.walk_left, plan.road_left, (start, end), paving)
        walk.band(plan.road_right, plan.walk_right, (start, end), paving)
        if plan.verge:
            green = _Ground(stage, "terrain", 2)
            soil = paint(town.soil, 0.3, "grass", 1.6)
            green.band(plan.road_left - plan.verge, plan.road_left - 0.15, (start, end), soil)
            green.band(plan.road_right + 0.15, plan.road_right + plan.verge, (start, end), soil)
    road = _Ground(stage, "road", 3)
    road.band(plan.road_left, plan.road_right, (-6, 400), asphalt)
    if plan.crossing is not None:
        road.band(-150, 150, plan.crossing, asphalt)
        for near, far in ((plan.crossing[0] - 0.2, plan.crossing[0]), (plan.crossing[1], plan.crossing[1] + 0.2)):
            walk.band(-150, plan.road_left, (near, far), stone)
            walk.band(plan.road_right, 150, (near, far), stone)
    kerb, gutter = _Ground(stage, "sidewalk", 4), _Ground(stage, "road", 4)
    for start, end in plan.spans():
        for edge, side in ((plan.road_left, -1), (plan.road_right, 1)):
            kerb.band(edge, edge + 0.16 * side, (start, end), stone)
            gutter.band(edge, edge - 0.22 * side, (start, end), dirt)
    _draw_stains(stage, rng)
    _draw_marks(stage, rng)


class _Ground:
    """Draws bands on the ground, above those of lower levels."""

    def __init__(self, stage: Stage, name: str, level: int = 0) -> None:
        self.stage, self.key = stage, _GROUND_KEY - level
        self.segment = stage.segments.index(name)
        self.light = stage.sun.on((0, 1, 0))

    def add(self, points: NDArray[np.float64] | list[Point], covering: Paint) -> None:
        self.stage.geometry.add(points, covering, segment=self.segment, key=self.key, light=self.light, ground=True)

    def band(self, left: float, right: float, span: tuple[float, float], covering: Paint) -> None:
        """From ``left`` to ``right`` and along ``span``, following the curve."""
        z = np.linspace(*span, max(2, round((span[1] - span[0]) / 4) + 1))
        x = np.concatenate([np.full(len(z), left), np.full(len(z), right)])
        self.add(np.stack([x, np.zeros(len(x)), np.concatenate([z, z[::-1]])], 1), covering)


def _draw_stains(stage: Stage, rng: np.random.Generator) -> None:
    """Patches of newer asphalt, manholes, wheel tracks."""
    plan, town = stage.plan, stage.town
    road = _Ground(stage, "road", 4)
    for _ in range(int(rng.integers(1, 6))):
        x, z = rng.uniform(plan.road_left + 1, plan.road_right - 1), rng.uniform(4, 50)
        tone = paint(np.multiply(town.asphalt, rng.uniform(0.72, 1.15)), 0.14, "grain", 2.5)
        road.band(x, min(x + rng.uniform(0.5, 2.5), plan.road_right - 0.3), (z, z + rng.uniform(1, 8)), tone)
    for _ in range(int(rng.integers(0, 3))):
        x, z, turn = rng.uniform(plan.road_left + 1, plan.road_right - 1), rng.uniform(5, 25), np.linspace(0, 6, 14)
        cover = [(x + 0.32 * np.cos(angle), 0.0, z + 0.32 * np.sin(angle)) for angle in turn]
        road.add(cover, paint((66, 64, 62), 0.2))


def _draw_marks(stage: Stage, rng: np.random.Generator) -> None:
    plan, town = stage.plan, stage.town
    marks = _Ground(stage, "lane mark", 5)
    white = paint(np.multiply(choose(rng, town.marks), rng.uniform(0.8, 1.0)), 0.1, "grain", 1.5)
    width, dash, gap = rng.uniform(0.11, 0.16), rng.uniform(2, 4), rng.uniform(3, 6)

    def dashes(x: float) -> None:
        for start, end in plan.spans(margin=3.5):
            z = start + rng.uniform(0, dash + gap)
            while z + dash < min(end, 100):
                marks.band(x - width / 2, x + width / 2, (z, z + dash), white)
                z += dash + gap

    def line(x: float) -> None:
        for span in plan.spans(margin=3.5):
            marks.band(x - width / 2, x + width / 2, span, white)

    (line if rng.random() < 0.35 else dashes)(plan.middle)
    for lane in range(1, town.lanes):
        dashes(plan.middle + lane * plan.lane)
        dashes(plan.middle - lane * plan.lane)
    edges = rng.random()
    for side, parks, kerb in ((1, plan.parking[1], plan.road_right), (-1, plan.parking[0], plan.road_left)):
        if parks and edges < 0.6:
            line(plan.middle + side * town.lanes * plan.lane)
        elif edges < 0.3:
            line(kerb - side * 0.3)
    zebras = []
    if plan.crossing is not None:
        zebras.append(plan.crossing[0] - 3.2)
        stop = plan.crossing[0] - 4.0
        marks.band(plan.middle + 0.15, plan.road_right - 0.2, (stop - 0.4, stop), white)
    elif rng.random() < 0.3:
        zebras.append(rng.uniform(9, 35))
    for z in zebras:
        for x in np.arange(plan.road_left + 0.5, plan.road_right - 0.7, 1.0):
            marks.band(x, x + 0.5, (z, z + 2.6), white)


def draw_background(stage: Stage, rng: np.random.Generator) -> None:
    """Hills and the town's far end, which close the street."""
    hills, town = stage.stuff("vegetation", _BACKGROUND_KEY, casts=False), stage.town
    for z, height in ((420.0, rng.uniform(10, 45)), (260.0, rng.uniform(4, 12))):
        x = np.linspace(-2.2 * z, 2.2 * z, 90)
        waves = sum(rng.uniform(0.2, 1) * np.sin(x / z * rng.uniform(1, 9) + rng.uniform(0, 6)) for _ in range(5))
        y = height * np.clip(1 + 0.3 * waves + 0.1 * rng.standard_normal(90), 0.3, None)
        x = np.concatenate([x, x[[-1, 0]]]) - stage.geometry.heading * z - 0.5 * stage.geometry.curve * z * z
        points = np.stack([x, np.concatenate([y, [-1, -1]]), np.full(92, z)], 1)
        tone = np.multiply(choose(rng, town.leaves), 0.8)
        hills.flat(points, paint(tone, 0.4, "leaves", 0.12 * z), stage.sun.on((0, 0.5, -0.8)))
    for _ in range(int(rng.integers(4, 12))):
        z, left = rng.uniform(135, 240), rng.uniform(-90, 90)
        color, texture = town.walls[int(rng.integers(len(town.walls)))]
        width, height = rng.uniform(8, 22), 3.2 * rng.uniform(town.storeys[0], town.storeys[1] + 1)
        wall = stage.stuff("building", 1e3 + z, casts=False)
        left -= stage.geometry.heading * z + 0.5 * stage.geometry.curve * z * z
        wall.flat(
            rectangle((left, left + width), (0, height), z),
            paint(color, 0.12, texture, 4),
            stage.sun.on((0, 0, -1)),
        )
        panes = [
            rectangle((left + across, left + across + 1.2), (up, up + 1.4), z)
            for across in np.arange(1, width - 1.5, 2.6).tolist()
            for up in np.arange(1.2, height - 1.5, 3.2).tolist()
        ]
        if panes:
            wall.flat(panes, paint((70, 78, 88), 0.2, "reflection", 9), 0.8)


def draw_houses(stage: Stage, rng: np.random.Generator) -> list[tuple[float, float, float, int]]:
    """The houses of both sides.

    Returns:
        the gaps between them: ``x`` of the front, ``z`` of both ends, side.
    """
    plan, town = stage.plan, stage.town
    gaps = []
    for front, side in ((plan.front_left, -1), (plan.front_right, 1)):
        for start, end in plan.spans(margin=2.0):
            z = start - (rng.uniform(0, 8) if start < 0 else 0)
            while z < end - 4:
                width = rng.uniform(*town.width)
                near_end = z + width
                if end < END and near_end > end:  # the corner house ends where the other street begins
                    near_end = end
                if near_end - z > 5:
                    _House(stage, rng, front, side, z, near_end).draw()
                    z = near_end
                if end - z > 1 and (rng.random() < town.gap or near_end > z):
                    far = min(z + rng.uniform(3, 10), end)
                    gaps.append((front, z, far, side))
                    z = far
    return gaps


class _House:
    """A house: its front along the street, its near end across it, windows, a roof."""

    def __init__(
        self, stage: Stage, rng: np.random.Generator, front: float, side: int, start: float, end: float
    ) -> None:
        town = stage.town
        self.stage, self.rng = stage, rng
        self.side, self.start, self.end = side, start, end
        self.front = front + side * rng.uniform(0, 0.25)
        self.back = self.front + side * rng.uniform(8, 13)
        self.storeys = int(rng.integers(town.storeys[0], town.storeys[1] + 1))
        self.storey = rng.uniform(2.8, 3.5)
        self.height = self.storeys * self.storey + rng.uniform(0.3, 0.9)
        color, texture = town.walls[int(rng.integers(len(town.walls)))]
        self.color = np.clip(np.asarray(color) * rng.uniform(0.85, 1.1) + rng.uniform(-8, 8, 3), 20, 245)
        self.wall = paint(
            self.color, 0.2 if texture == "brick" else 0.1, texture, {"brick": 1.3, "boards": 2.4}.get(texture, 4.0)
        )
        self.bays = max(1, round((end - start) / rng.uniform(2.2, 3.4)))
        self.bay = (end - start) / self.bays
        self.facing = stage.sun.on((-side, 0, 0))
        self.across = stage.sun.on((0, 0, -1))
        self.glass = paint(np.array((62, 72, 84)) * rng.uniform(0.7, 1.5), 0.5, "reflection", rng.uniform(5, 14))
        self.lit = rng.random() < 0.15

    def draw(self) -> None:
        z = np.linspace(self.start, self.end, self.bays + 1)
        self._add_front(_upright(self.front, z[:-1], z[1:], 0.0, self.height), self.wall, z[1:], up=0.05)
        if self.start > 0.6:
            end_wall = Brush(self.stage.geometry, self._segment("building"), self.start + 0.01)
            points: list[Point] = [
                (self.front, 0, self.start),
                (self.back, 0, self.start),
                (self.back, self.height, self.start),
                (self.front, self.height, self.start),
            ]
            end_wall.flat(points, self.wall, self.across, up=0.05)
            self._draw_end_windows(end_wall)
        if self.rng.random() < self.stage.town.roofs:
            self._draw_roof()
        else:
            self._draw_cornice()
        self._draw_windows(z)

    def _segment(self, name: str) -> int:
        return self.stage.segments.index(name)

    def _add_front(
        self,
        points: Floats,
        covering: Paint,
        keys: ArrayLike,
        up: float = 0.0,
        light: float = 1.0,
        tint: ArrayLike | None = None,
    ) -> None:
        self.stage.geometry.add(
            points,
            covering,
            segment=self._segment("building"),
            key=keys,
            light=light * self.facing,
            up=up,
            tint=tint,
            casts=True,
        )

    def _draw_windows(self, z: NDArray[np.float64]) -> None:
        rng, town = self.rng, self.stage.town
        share = np.sqrt(town.glazed) * rng.uniform(0.85, 1.1)
        wide, high = min(0.95, share * rng.uniform(0.8, 1.1)) * self.bay, min(0.9, share) * self.storey
        shop = rng.random() < town.shops
        storeys = np.arange(1 if shop else 0, self.storeys)
        row, column = (part.ravel() for part in np.meshgrid(storeys, np.arange(self.bays), indexing="ij"))
        middle, sill = self.start + (column + 0.5) * self.bay, row * self.storey + 0.55 * (self.storey - high) + 0.25
        far = self.start + (column + 1) * self.bay
        front = self.front - 0.02 * self.side
        frame = paint(np.clip(self.color * rng.choice([0.55, 1.25]), 30, 235), 0.05)
        self._add_front(
            _upright(front, middle - wide / 2 - 0.1, middle + wide / 2 + 0.1, sill - 0.1, sill + high + 0.1), frame, far
        )
        tone = rng.uniform(0.5, 1.4, len(row))
        self._add_front(
            _upright(front, middle - wide / 2, middle + wide / 2, sill, sill + high), self.glass, far, up=0.1, tint=tone
        )
        curtains = rng.random(len(row)) < 0.3
        drop = sill + high * rng.uniform(0.3, 0.8, len(row))
        self._add_front(
            _upright(front, middle - wide / 2, middle + wide / 2, drop, sill + high)[curtains],
            paint((186, 180, 168), 0.1),
            far[curtains],
            light=0.75,
        )
        if town.glazed < 0.6:
            bar = _upright(front, middle - 0.04, middle + 0.04, sill, sill + high)
            self._add_front(bar, frame, far)
        ledge = _upright(front, middle - wide / 2 - 0.15, middle + wide / 2 + 0.15, sill - 0.22, sill - 0.1)
        self._add_front(ledge, paint(np.minimum(1.15 * self.color, 240), 0.05), far)
        if shop:
            self._draw_shop(z, front)
        else:
            door = int(rng.integers(self.bays))
            at = self.start + (door + 0.5) * self.bay
            colors = ((86, 52, 36), (44, 60, 54), (60, 62, 70), (120, 40, 34))
            self._add_front(_upright(front, at - 0.65, at + 0.65, 0, 2.3), frame, at + self.bay / 2)
            self._add_front(
                _upright(front, at - 0.5, at + 0.5, 0, 2.15), paint(choose(rng, colors), 0.15), at + self.bay / 2
            )

    def _draw_shop(self, z: NDArray[np.float64], front: float) -> None:
        rng = self.rng
        near, far = z[:-1], z[1:]
        self._add_front(_upright(front, near, far, 0, self.storey - 0.1), paint(np.multiply(self.color, 0.6), 0.1), far)
        self._add_front(
            _upright(front, near + 0.2, far - 0.2, 0.45, self.storey - 0.75),
            self.glass,
            far,
            up=0.1,
            tint=rng.uniform(0.6, 1.6, len(near)),
        )
        hue = rng.uniform(30, 190, 3)
        self._add_front(_upright(front, near, far, self.storey - 0.62, self.storey - 0.12), paint(hue, 0.06), far)
        letters = near + 0.25 * self.bay
        self._add_front(
            _upright(front, letters, letters + 0.5 * self.bay, self.storey - 0.45, self.storey - 0.28),
            paint((220, 214, 200), 0.35, "grain", 0.6),
            far,
        )
        if rng.random() < 0.5:  # awnings reach out over the sidewalk
            out = self.front - self.side * rng.uniform(0.7, 1.2)
            y0, y1 = self.storey - 0.9, self.storey - 0.35
            corners = [
                [(self.front, y1, a + 0.1), (self.front, y1, b - 0.1), (out, y0, b - 0.1), (out, y0, a + 0.1)]
                for a, b in zip(near, far, strict=True)
            ]
            hue = rng.uniform(50, 210, 3)
            self._add_front(np.asarray(corners, np.float32), paint(hue, 0.12), far, light=1.1)
            flaps = _upright(out, near + 0.1, far - 0.1, y0 - 0.2, y0)
            self._add_front(flaps, paint(0.85 * hue, 0.12), far)

    def _draw_end_windows(self, wall: Brush) -> None:
        rng = self.rng
        depth = abs(self.back - self.front)
        count = int(depth / 3)
        if rng.random() < 0.35 or not count:
            return
        panes = [
            rectangle((x - 0.5, x + 0.5), (y, y + 1.3), self.start - 0.01)
            for x in (self.front + self.side * (np.arange(count) + 0.5) * depth / count).tolist()
            for y in (np.arange(self.storeys) * self.storey + 1.0).tolist()
        ]
        wall.flat(panes, self.glass, 0.9 * self.across, up=0.1, tint=rng.uniform(0.6, 1.3, len(panes)))

    def _draw_cornice(self) -> None:
        out, y = self.front - self.side * 0.2, self.height
        z = np.linspace(self.start, self.end, self.bays + 1)
        edge = _upright(out, z[:-1], z[1:], y - 0.35, y + 0.15)
        self._add_front(edge, paint(np.minimum(1.1 * self.color, 240), 0.06), z[1:])

    def _draw_roof(self) -> None:
        rng, geometry = self.rng, self.stage.geometry
        rise, eave = rng.uniform(2.0, 4.0), 0.4
        ridge = (self.front + self.back) / 2
        z = np.linspace(self.start - 0.2, self.end + 0.2, self.bays + 1)
        out = self.front - self.side * eave
        slopes = [
            [
                (out, self.height - 0.1, a),
                (out, self.height - 0.1, b),
                (ridge, self.height + rise, b),
                (ridge, self.height + rise, a),
            ]
            for a, b in pairwise(z.tolist())
        ]
        steep = np.array((-self.side * rise, abs(ridge - out), 0)) / np.hypot(rise, ridge - out)
        tiles = paint(choose(rng, self.stage.town.tiles), 0.25, "tiles", 2.6)
        segment = self._segment("building")
        geometry.add(slopes, tiles, segment=segment, key=z[1:] + 0.3, light=self.stage.sun.on(steep), casts=True)
        if self.start > 0.6:
            gable = [
                (self.front, self.height, self.start),
                (self.back, self.height, self.start),
                (ridge, self.height + rise, self.start),
            ]
            geometry.add(gable, self.wall, segment=segment, key=self.start + 0.01, light=self.across)


def _upright(x: float, near: ArrayLike, far: ArrayLike, low: ArrayLike, high: ArrayLike) -> Floats:
    """``(n, 4, 3)``: rectangles along the street."""
    near, far, low, high = np.broadcast_arrays(*(np.atleast_1d(part) for part in (near, far, low, high)))
    across = np.full(near.shape, x)
    corners = [(across, low, near), (across, low, far), (across, high, far), (across, high, near)]
    return np.stack([np.stack(corner, 1) for corner in corners], 1).astype(np.float32)
