"""What grows along the street: trees of four kinds, bushes, hedges."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from outmask.data.world.geometry import paint
from outmask.data.world.shapes import Brush, blobs, capsules, chain, choose, scatter
from outmask.data.world.street import Stage


def draw_plant(stage: Stage, rng: np.random.Generator, kind: str, x: float, z: float, scale: float = 1.0) -> None:
    """A plant of a kind of ``PLANTS`` at ``(x, z)``."""
    brush = stage.stuff("vegetation", z)
    stage.geometry.contact(x, z, 0.4 * scale, 0.4 * scale)
    PLANTS[kind](stage, brush, rng, x, z, scale)


def _crown(
    stage: Stage,
    brush: Brush,
    rng: np.random.Generator,
    middle: tuple[float, float, float],
    radii: tuple[float, float, float],
    leaf: float,
) -> None:
    """Clumps of leaves in an ellipsoid, lit by where they look and darker deep inside; far ones first."""
    count = int(np.clip(2600 / middle[2], 40, 190))
    places = scatter(rng, count, 0.35)
    places = places[np.argsort(-places[:, 2], kind="stable")]
    outward = places / np.linalg.norm(places, axis=1, keepdims=True)
    depth = np.linalg.norm(places, axis=1)
    light = stage.sun.on(outward) * (0.62 + 0.38 * depth) * rng.uniform(0.85, 1.2, count)
    size = leaf * rng.uniform(0.6, 1.3, (count, 1)) * (1, 0.85) * np.sqrt(190 / count)
    covering = paint(choose(rng, stage.town.leaves), 0.65, "leaves", 1.4)
    brush.flat(blobs(rng, middle + places * radii, size, 0.32), covering, light, 0.05, rng.uniform(0.8, 1.2, count))


def _trunk(
    stage: Stage, brush: Brush, rng: np.random.Generator, x: float, z: float, height: float, radius: float
) -> None:
    lean = rng.uniform(-0.03, 0.03) * height
    knots = [(x, 0.0, z, 1.3 * radius), (x + 0.4 * lean, 0.5 * height, z, radius), (x + lean, height, z, 0.6 * radius)]
    brush.round(capsules(chain(knots)), paint((86, 74, 62), 0.3, "bark", 1.0))


def _round_tree(stage: Stage, brush: Brush, rng: np.random.Generator, x: float, z: float, scale: float) -> None:
    crown, stem = rng.uniform(1.3, 2.1) * scale, rng.uniform(1.9, 2.6)
    _trunk(stage, brush, rng, x, z, stem + crown, 0.13 * scale)
    _crown(stage, brush, rng, (x, stem + crown, z), (crown, 1.1 * crown, crown), 0.23 * crown)


def _tall_tree(stage: Stage, brush: Brush, rng: np.random.Generator, x: float, z: float, scale: float) -> None:
    crown, stem = rng.uniform(0.8, 1.1) * scale, rng.uniform(1.2, 1.8)
    _trunk(stage, brush, rng, x, z, stem + 3 * crown, 0.11 * scale)
    _crown(stage, brush, rng, (x, stem + 2.8 * crown, z), (crown, 2.9 * crown, crown), 0.28 * crown)


def _fir(stage: Stage, brush: Brush, rng: np.random.Generator, x: float, z: float, scale: float) -> None:
    height, width = rng.uniform(4.5, 8.5) * scale, rng.uniform(1.2, 1.8) * scale
    _trunk(stage, brush, rng, x, z, 0.5 * height, 0.12 * scale)
    tiers = int(np.clip(340 / z, 7, 18))
    covering = paint(choose(rng, stage.town.leaves), 0.5, "leaves", 0.9)
    middle, across, _ = stage.sun.around()
    teeth = 17
    for tier in range(tiers):
        share = tier / tiers
        low, reach = 0.6 + share * (height - 0.6), width * (1 - share) + 0.1
        edge = np.linspace(-reach, reach, teeth) + rng.uniform(-0.05, 0.05, teeth) * reach
        droop = (
            low + rng.uniform(-0.1, 0.05, teeth) * reach - rng.uniform(0.1, 0.3, teeth) * reach * (np.arange(teeth) % 2)
        )
        top = low + 0.3 + 2.4 * (height - 0.6) / tiers
        y = np.maximum([*droop, top], 0.05)
        points = np.stack([x + np.array([*edge, 0.03]), y, np.full(teeth + 1, z - 0.01 * tier)], 1)
        brush.geometry.add(
            points,
            covering,
            segment=brush.segment,
            key=z,
            light=0.8 * middle,
            across=across,
            up=-0.3 * middle,
            tint=rng.uniform(0.75, 1.2, 1),
            casts=True,
        )


def _palm(stage: Stage, brush: Brush, rng: np.random.Generator, x: float, z: float, scale: float) -> None:
    height = rng.uniform(4, 7.5) * scale
    lean, radius = rng.uniform(-0.8, 0.8), 0.15 * scale
    knots = [
        (x + lean * (y / height) ** 2, y, z, radius * (1.25 - 0.4 * y / height)) for y in np.linspace(0, height, 6)
    ]
    brush.round(capsules(chain(knots)), paint((128, 108, 84), 0.3, "boards", 1.6))
    covering = paint(choose(rng, stage.town.leaves), 0.35, "bark", 1.0)
    count = 17
    for index in range(count):
        turn = rng.uniform(0, 2 * np.pi)
        reach, rise = rng.uniform(1.5, 2.3) * scale, rng.uniform(0.1, 0.9)
        along = np.linspace(0, 1, 7)
        across = reach * np.cos(turn) * along
        up = rise * along * 1.6 - 1.9 * along**2 * (0.5 + 0.5 * index / count)
        wide = 0.34 * np.sin(np.pi * (0.08 + 0.9 * along)) * scale
        spine_x, spine_y = knots[-1][0] + across, height + up
        jag = wide * (0.65 + 0.35 * (np.arange(7) % 2))
        top, bottom = np.stack([spine_x, spine_y + jag], 1), np.stack([spine_x, spine_y - jag], 1)
        outline = np.concatenate([top, bottom[::-1]])
        points = np.concatenate([outline, np.full((14, 1), z)], 1)
        light = stage.sun.on((0.6 * np.cos(turn), 0.75, 0.3 * np.sin(turn))) * (0.65 + 0.35 * index / count)
        brush.flat(points, covering, light, 0.1)


def _bush(stage: Stage, brush: Brush, rng: np.random.Generator, x: float, z: float, scale: float) -> None:
    size = rng.uniform(0.5, 1.0) * scale
    _crown(stage, brush, rng, (x, 0.75 * size, z), (1.2 * size, 0.8 * size, 0.8 * size), 0.3 * size)


PLANTS: Mapping[str, Callable[[Stage, Brush, np.random.Generator, float, float, float], None]] = MappingProxyType(
    {"round": _round_tree, "tall": _tall_tree, "fir": _fir, "palm": _palm, "bush": _bush}
)
"""The kinds of plants."""


def draw_hedge(stage: Stage, rng: np.random.Generator, x: float, span: tuple[float, float]) -> None:
    """A hedge along the street."""
    covering = paint(choose(rng, stage.town.leaves), 0.5, "leaves", 0.9)
    height = rng.uniform(0.8, 1.5)
    for z in np.arange(span[1], span[0], -0.5):
        brush = stage.stuff("vegetation", float(z))
        count = int(np.clip(200 / z, 5, 16)) if z > 0 else 5
        places: NDArray[np.float64] = rng.uniform((-0.35, 0.1, -0.2), (0.35, 1, 0.2), (count, 3))
        light = stage.sun.on((0, 1, 0)) * (0.35 + 0.5 * places[:, 1])
        middles = np.stack([x + places[:, 0], height * places[:, 1], z + places[:, 2]], 1)
        brush.flat(blobs(rng, middles, np.full((count, 2), 0.3), 0.3), covering, light, 0.05)
