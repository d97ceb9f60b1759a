"""Scenes: what stands on a street, drawn and photographed, with the truth about every pixel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray

from outmask.data.labels import VOID
from outmask.data.taxonomies import WORLD
from outmask.data.world import street
from outmask.data.world.fixtures import draw_fence, draw_lamp, draw_sign, draw_traffic_light
from outmask.data.world.geometry import Camera, Geometry, Sun
from outmask.data.world.people import draw_cyclist, draw_person
from outmask.data.world.plants import draw_hedge, draw_plant
from outmask.data.world.shading import Lens, Weather, decode_jpeg, photograph, shade
from outmask.data.world.street import Plan, Stage
from outmask.data.world.towns import Town, find_town
from outmask.data.world.traffic import LENGTHS, draw_vehicle
from outmask.data.world.unknowns import Family, families
from outmask.errors import OutmaskError
from outmask.types import Segment

Unknowns = Literal["none", "test", "validation", "negatives"]

_SEED = 1017
"""Of the world; another one would be another world."""


@dataclass(frozen=True)
class WorldScene:
    """A photograph of the world and what it shows.

    Attributes:
        jpeg: the camera's file.
        panoptic: ``(H, W)`` int32: the segment of each pixel, from 1; each stuff class is one, and each object.
        segments: what they are, segment ``n`` at place ``n - 1``; scores are 1.
        families: by segment id, the family of each object of no known class.
    """

    jpeg: bytes
    panoptic: NDArray[np.int32]
    segments: tuple[Segment, ...]
    families: Mapping[int, str]

    @cached_property
    def image(self) -> NDArray[np.uint8]:
        """``(H, W, 3)`` uint8 RGB."""
        return decode_jpeg(self.jpeg)

    @cached_property
    def labels(self) -> NDArray[np.uint8]:
        """``(H, W)`` uint8 class ids of the taxonomy ``world``; ``VOID`` on objects of no known class."""
        classes = [VOID if segment.is_unknown else segment.class_id for segment in self.segments]
        return np.array([VOID, *classes], np.uint8)[self.panoptic]

    @property
    def unknown(self) -> NDArray[np.bool_]:
        """``(H, W)`` bool: the objects of no known class."""
        return np.equal(self.labels, VOID)

    @property
    def instances(self) -> NDArray[np.int32]:
        """``(H, W)`` int32: as ``panoptic`` on things and unknown objects, 0 on stuff."""
        things = cast(tuple[bool, ...], WORLD.things)
        kept = np.zeros(len(self.segments) + 1, np.int32)
        for segment in self.segments:
            if segment.is_unknown or things[segment.class_id]:
                kept[segment.id] = segment.id
        return kept[self.panoptic]


class World:
    """All streets of a town, each drawn when it is asked for.

    A scene depends on the town, its index and nothing else: it is the same, bit for bit, in every process. Objects of
    no known class are put into streets that are the same without them.

    Args:
        town: ``"t1"`` to ``"t4"`` for training, ``"t5"`` and ``"t6"`` for testing.
        unknowns: which families of objects of no known class stand there: none, those for testing, for choosing
            thresholds, or those that serve as negatives in training.

    Raises:
        OutmaskError: on an unknown town, or unknown ``unknowns``.
    """

    def __init__(self, town: str, unknowns: Unknowns = "none") -> None:
        self.name, self.unknowns = town, unknowns
        self.town = find_town(town)
        self.families = {} if unknowns == "none" else families(unknowns)

    def scene(self, index: int, size: tuple[int, int] = (512, 1024)) -> WorldScene:
        """The scene of a number; in any size it shows the same street.

        Args:
            index: from 0.
            size: ``(H, W)``, at least 16 by 16. The field of view is that of the width, or of twice the height where
                that is more.

        Raises:
            OutmaskError: on a negative index, or a smaller size.
        """
        if index < 0:
            raise OutmaskError(f"scenes are numbered from 0, got {index}")
        if min(size) < 16:
            raise OutmaskError(f"a scene needs at least 16 x 16 pixels, got {size[0]} x {size[1]}")
        seeds = np.random.SeedSequence([_SEED, self.town.seed, index]).spawn(4)
        look, layout, strangers, sensor = (np.random.Generator(np.random.PCG64(seed)) for seed in seeds)
        view, sun, weather, lens = _conditions(self.town, look)
        curve = look.uniform(-1, 1) * self.town.curve
        stage = Stage(self.town, Plan.draw(self.town, layout), Geometry(sun, look.normal(0, 0.035), curve))
        places = _furnish(stage, layout)
        names: dict[int, str] = {}
        if self.families:
            names = _place_unknowns(stage, strangers, self.families, places)

        camera = view.camera(size)
        faces = stage.geometry.faces(camera)
        seen = faces.draw(camera.height, camera.width)
        light = shade(seen, faces, stage.geometry.shadows(camera), camera, weather)
        return _scene(photograph(light, lens, sensor), faces.segment[seen], stage.segments, names)


@dataclass(frozen=True)
class _View:
    """A camera whatever its resolution: shares of the picture's size."""

    focal: float
    horizon: float
    center: float
    eye: float

    def camera(self, size: tuple[int, int]) -> Camera:
        height, width = size
        focal = self.focal * max(width, 2 * height)
        return Camera(height, width, focal, self.horizon * height, self.center * width, self.eye)


def _conditions(town: Town, rng: np.random.Generator) -> tuple[_View, Sun, Weather, Lens]:
    """The camera, the light, the air and what the camera makes of them."""
    view = _View(rng.uniform(0.78, 0.98), rng.uniform(0.40, 0.47), rng.uniform(0.46, 0.54), rng.uniform(1.3, 1.65))
    kind = int(rng.choice(5, p=town.weather))
    turn, low = rng.uniform(-2.4, 2.4), kind == _LOW_SUN
    up = rng.uniform(0.28, 0.42) if low else rng.uniform(0.5, 0.85)
    across, ahead = np.sin(turn) * np.sqrt(1 - up * up), -np.cos(turn) * np.sqrt(1 - up * up)
    direct = (0.78, 0.62, 0.0, 0.28, 0.62)[kind] * rng.uniform(0.9, 1.1)
    ambient = (0.42, 0.48, 0.80, 0.66, 0.36)[kind] * rng.uniform(0.93, 1.07)
    sun = Sun((float(across), float(up), float(ahead)), direct, ambient)
    haze = np.array(((196, 210, 224), (198, 206, 214), (190, 194, 198), (206, 206, 202), (206, 176, 148))[kind])
    zenith = np.array(((64, 116, 186), (92, 134, 186), (150, 158, 168), (160, 172, 184), (74, 92, 132))[kind])
    cloud = np.array(((244, 244, 244), (228, 230, 234), (172, 176, 182), (214, 214, 212), (222, 170, 140))[kind])
    shift = rng.uniform(-8, 8, 3)
    weather = Weather(
        _rgb(zenith + shift),
        _rgb(haze + shift),
        _rgb(cloud),
        clouds=(0.35, 0.6, 0.75, 0.45, 0.5)[kind] + rng.uniform(-0.15, 0.15),
        visibility=(420, 330, 240, 95, 220)[kind] * rng.uniform(0.8, 1.3),
        drift=(rng.uniform(0, 1), rng.uniform(0, 1)),
    )
    warm = (0.02, 0.0, -0.03, 0.02, 0.06)[kind] + rng.uniform(-0.03, 0.03)
    lens = Lens(
        exposure=rng.uniform(92, 122) * (0.85 if low else 1.0),
        tint=(1 + warm, 1.0, 1 - warm),
        contrast=rng.uniform(0.95, 1.15),
        blur=rng.uniform(0.55, 0.8),
        noise=rng.uniform(2.0, 4.5),
        quality=int(rng.integers(82, 96)),
    )
    return view, sun, weather, lens


_LOW_SUN = 4  # in the order of Town.weather


def _rgb(color: NDArray[np.float64]) -> tuple[float, float, float]:
    red, green, blue = color.tolist()
    return red, green, blue


@dataclass(frozen=True)
class _Footprint:
    """Ground that something stands on: ``x`` of its middle, half its width, from ``near`` to ``far``."""

    x: float
    half: float
    near: float
    far: float

    def meets(self, other: _Footprint, margin: float) -> bool:
        """Whether less than ``margin`` metres lie between the two."""
        beside = abs(self.x - other.x) > self.half + other.half + margin
        return not (beside or self.near > other.far + margin or other.near > self.far + margin)

    def hides(self, other: _Footprint) -> bool:
        """Whether a camera at 0 sees this one before much of the other."""
        if self.near > other.near:
            return False
        # Seen from 0, the sides of what reaches far ahead lie between those of its two ends.
        ends = max(self.near, 1.0), max(min(self.far, other.near), 1.0)
        left, right = min((self.x - self.half) / z for z in ends), max((self.x + self.half) / z for z in ends)
        return left < (other.x + 0.4 * other.half) / other.near and right > (other.x - 0.4 * other.half) / other.near


def _furnish(stage: Stage, rng: np.random.Generator) -> list[_Footprint]:
    """Draw everything that is known; returns where it stands."""
    street.draw_background(stage, rng)
    street.draw_ground(stage, rng)
    gaps = street.draw_houses(stage, rng)
    _draw_gardens(stage, rng, gaps)
    standing: list[_Footprint] = []
    _draw_kerbs(stage, rng, standing)
    _draw_vehicles(stage, rng, standing)
    _draw_people(stage, rng, standing)
    return standing


def _draw_gardens(stage: Stage, rng: np.random.Generator, gaps: list[tuple[float, float, float, int]]) -> None:
    """Fences and plants between the houses, and before them where there is room."""
    plan, town = stage.plan, stage.town
    for front, near, far, side in gaps:
        if rng.random() < 0.6 and far > 2:
            draw_fence(stage, rng, front, (near, far))
        for _ in range(int(rng.integers(0, 3))):
            z = rng.uniform(near, far)
            if z > 4:
                draw_plant(stage, rng, str(rng.choice(town.plants)), front + side * rng.uniform(1.5, 6), z, 1.2)
    for front, walk, side in ((plan.front_left, plan.walk_left, -1), (plan.front_right, plan.walk_right, 1)):
        depth = abs(front - walk)
        if depth < 1.2:
            continue
        bounds = rng.random()
        for span in plan.spans(margin=2.0):
            if bounds < 0.5:
                draw_fence(stage, rng, walk + 0.1 * side, (max(span[0], 2), min(span[1], 70)))
            elif bounds < 0.7:
                draw_hedge(stage, rng, walk + 0.4 * side, (max(span[0], 3), min(span[1], 60)))
        for _ in range(int(rng.integers(1, 7))):
            z = rng.uniform(4, 70)
            if plan.free(z, 2):
                kind = str(rng.choice(town.plants)) if depth > 3 else "bush"
                draw_plant(stage, rng, kind, walk + side * rng.uniform(0.7, depth - 0.4), z, rng.uniform(0.7, 1.1))


def _draw_kerbs(stage: Stage, rng: np.random.Generator, standing: list[_Footprint]) -> None:
    """Trees, lamp posts, signs and traffic lights along both kerbs."""
    plan, town = stage.plan, stage.town

    def stand(x: float, z: float, half: float = 0.25) -> bool:
        place = _Footprint(x, half, z - half, z + half)
        if not plan.free(z, 1.0) or any(place.meets(other, 0.3) for other in standing):
            return False
        standing.append(place)
        return True

    trees = rng.random() < 0.7
    for edge, side in ((plan.road_left, -1), (plan.road_right, 1)):
        if rng.random() < (0.2 if plan.crossing is None else 0.75):
            z = plan.crossing[0] - 1.2 if plan.crossing is not None else rng.uniform(12, 30)
            if stand(edge + 0.5 * side, z):
                draw_traffic_light(stage, rng, edge + 0.5 * side, z)
        for _ in range(int(rng.integers(1, 4))):
            z = rng.uniform(6, 40)
            if stand(edge + 0.45 * side, z):
                draw_sign(stage, rng, edge + 0.45 * side, z)
        z, step = rng.uniform(3, 20), rng.uniform(20, 30)
        while z < 100:
            if stand(edge + 0.4 * side, z):
                draw_lamp(stage, rng, edge + 0.4 * side, z)
            z += step
        z, step = rng.uniform(5, 15), rng.uniform(*town.spacing)
        x = edge + side * (0.5 * plan.verge if plan.verge else 0.7)
        while trees and z < 100:
            kind = str(rng.choice(town.plants))
            if (kind != "bush" or plan.verge) and rng.random() < 0.85 and stand(x, z, 0.35):
                draw_plant(stage, rng, kind, x, z, rng.uniform(0.8, 1.15))
            z += step * rng.uniform(0.8, 1.2)


_KINDS, _SHARES = ("car", "truck", "bus"), (0.58, 0.21, 0.21)


def _draw_vehicles(stage: Stage, rng: np.random.Generator, standing: list[_Footprint]) -> None:
    """Parked cars, and traffic in every lane."""
    plan, town = stage.plan, stage.town

    def drive(name: str, x: float, z: float, yaw: float) -> None:
        far = z + LENGTHS[name]
        if (
            plan.free(z, 1.5)
            and plan.free(far, 1.5)
            and (plan.crossing is None or far < plan.crossing[0] or z > plan.crossing[1])
        ):
            draw_vehicle(stage, rng, name, x, z, yaw)
            standing.append(_Footprint(x, 1.2, z, far))

    for parks, x, yaw in (
        (plan.parking[0], plan.road_left + 1.1, np.pi),
        (plan.parking[1], plan.road_right - 1.1, 0.0),
    ):
        z, density = rng.uniform(2, 12), rng.uniform(0.3, 0.95)
        while parks and z < 75:
            name = "car" if rng.random() < 0.95 else "truck"
            if rng.random() < density:
                drive(name, x + rng.uniform(-0.1, 0.1), z, yaw if rng.random() < 0.9 else np.pi - yaw)
            z += LENGTHS[name] + rng.uniform(0.7, 1.8)
    for lane in range(town.lanes):
        for side, yaw in ((1, 0.0), (-1, np.pi)):
            x = plan.middle + side * (lane + 0.5) * plan.lane
            own = side > 0 and abs(x) < 0.5 * plan.lane
            z = rng.uniform(11, 34) if own else rng.uniform(5, 34)
            while z < 85:
                name = str(rng.choice(_KINDS, p=_SHARES))
                # A bus close by would hide the street.
                drive("car" if z < 13 else name, x + rng.uniform(-0.25, 0.25), z, yaw)
                z += LENGTHS[name] + rng.exponential(14) + 4
    if plan.crossing is not None and rng.random() < 0.45:
        name, side = str(rng.choice(_KINDS, p=_SHARES)), 1 if rng.random() < 0.5 else -1
        near = plan.crossing[0] + (0.8 if side > 0 else plan.lane + 0.6)
        x = rng.uniform(-14, 6) * side
        draw_vehicle(stage, rng, name, x, near, side * np.pi / 2)
        standing.append(_Footprint(x + 0.5 * side * LENGTHS[name], LENGTHS[name] / 2, near, near + 2.5))


def _draw_people(stage: Stage, rng: np.random.Generator, standing: list[_Footprint]) -> None:
    """People on the sidewalks, some on the road, and cyclists."""
    plan = stage.plan

    def walk(x: float, z: float, cyclist: bool = False) -> None:
        place = _Footprint(x, 0.45 if cyclist else 0.3, z - 0.3, z + 0.3)
        if not any(place.meets(other, 0.2) for other in standing):
            standing.append(place)
            (draw_cyclist if cyclist else draw_person)(stage, rng, x, z)

    for _ in range(int(rng.poisson(6))):
        left = rng.random() < 0.45
        near, far = (
            (plan.walk_left, plan.road_left - plan.verge) if left else (plan.road_right + plan.verge, plan.walk_right)
        )
        x, z = rng.uniform(near + 0.4, far - 0.4), 4.5 + 45 * rng.random() ** 1.5
        for _ in range(int(rng.choice([1, 1, 1, 2, 3]))):
            walk(x, z)
            x, z = x + rng.uniform(-0.7, 0.7), z + rng.uniform(-0.4, 0.4)
    for _ in range(int(rng.choice([0, 0, 1, 2]))):
        walk(rng.uniform(plan.road_left + 0.5, plan.road_right - 0.5), rng.uniform(9, 35))
    for _ in range(int(rng.choice([0, 1, 1, 2]))):
        right = rng.random() < 0.65
        inside = 0.6 + (2.3 if plan.parking[int(right)] else 0.0)
        x = plan.road_right - inside if right else plan.road_left + inside
        walk(x + rng.uniform(-0.3, 0.3), rng.uniform(6, 30), cyclist=True)


def _place_unknowns(
    stage: Stage, rng: np.random.Generator, kinds: Mapping[str, Family], standing: list[_Footprint]
) -> dict[int, str]:
    """Put objects of no known class where they are seen; returns their families by segment."""
    names: dict[int, str] = {}
    placed: list[_Footprint] = []
    for _ in range(int(rng.choice([1, 1, 2, 3]))):
        name = str(rng.choice(list(kinds)))
        half = kinds[name].half
        tries = (_somewhere(stage, rng, half) for _ in range(25))
        place = next((each for each in tries if _is_free(stage, each, standing, placed)), None)
        if place is None:
            if placed:
                continue
            # Traffic keeps its distance from the camera: there is room straight ahead.
            place = _place(rng.uniform(-0.4, 0.4), rng.uniform(6.0, 7.5), half)
        placed.append(place)
        brush = stage.thing(None, place.near + _ROOM)
        names[brush.segment] = name
        kinds[name].draw(brush, rng, place.x, brush.key)
        stage.geometry.contact(place.x, brush.key, 0.7 * half, 0.5)
    return names


_ROOM = 0.5  # metres before an object


def _place(x: float, z: float, half: float) -> _Footprint:
    return _Footprint(x, half, z - _ROOM, z + 1.5)


def _somewhere(stage: Stage, rng: np.random.Generator, half: float) -> _Footprint:
    """On the road, more often than beside it."""
    plan = stage.plan
    left, right = (plan.road_left, plan.road_right) if rng.random() < 0.75 else (plan.walk_left, plan.walk_right)
    return _place(rng.uniform(left + half, right - half), rng.uniform(5.5, 24), half)


def _is_free(stage: Stage, place: _Footprint, standing: list[_Footprint], placed: list[_Footprint]) -> bool:
    """Whether an object there is in the picture, hidden by nothing, and hides no other object."""
    bent = place.x + (stage.geometry.heading + 0.5 * stage.geometry.curve * place.near) * place.near
    return not (
        abs(bent) + 0.5 * place.half > 0.45 * place.near
        or any(place.meets(other, 0.2) or other.hides(place) for other in (*standing, *placed))
        or any(place.hides(other) for other in placed)
    )


def _scene(
    jpeg: bytes, seen: NDArray[np.int32], segments: list[str | None], families_of: Mapping[int, str]
) -> WorldScene:
    """Number what is visible, from 1."""
    count = len(segments)
    rows, columns = (_counts(seen if axis == 0 else seen.T, count) for axis in (0, 1))
    areas = rows.sum(0)
    ids = np.zeros(count, np.int32)
    listed: list[Segment] = []
    kinds: dict[int, str] = {}
    for segment in np.flatnonzero(areas).tolist():
        name, id_ = segments[segment], len(listed) + 1
        ids[segment] = id_
        (top, bottom), (left, right) = (
            np.flatnonzero(lines[:, segment])[[0, -1]].tolist() for lines in (rows, columns)
        )
        class_id = WORLD.unknown_id if name is None else WORLD.names.index(name)
        box = (left, top, right - left + 1, bottom - top + 1)
        listed.append(Segment(id_, class_id, name or "unknown", name is None, int(areas[segment]), 1.0, box))
        if name is None:
            kinds[id_] = families_of[segment]
    return WorldScene(jpeg, ids[seen], tuple(listed), kinds)


def _counts(ids: NDArray[np.int32], count: int) -> NDArray[np.intp]:
    """``(rows, count)``: how often each row of a map holds each of the ids below ``count``."""
    lines = len(ids)
    keys = ids + np.arange(0, lines * count, count, dtype=np.int32)[:, None]
    return np.bincount(keys.ravel(), minlength=lines * count).reshape(lines, count)
