"""Objects of no known class, in families that share neither shape nor texture.

Each family belongs to one use: what is pasted or placed in training (``negatives``), what thresholds are chosen on
(``validation``), what is tested on (``test``). No known class carries a texture of theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, get_args

import numpy as np

from outmask.data.world.geometry import Paint, Rgb
from outmask.data.world.shapes import Brush, capsules, chain, disc, lathed, ring
from outmask.errors import OutmaskError

Use = Literal["test", "validation", "negatives"]

Draw = Callable[[Brush, np.random.Generator, float, float], None]
"""Brush, generator and the place ``(x, z)`` on the ground; the brush says how far it is."""


@dataclass(frozen=True)
class Family:
    """A kind of objects.

    Attributes:
        draw: draws one.
        textures: what it may carry.
        use: what it is for.
        half: metres that one reaches to the left and to the right at most.
    """

    draw: Draw
    textures: tuple[str, ...]
    use: Use
    half: float


def _two(rng: np.random.Generator, pairs: tuple[tuple[Rgb, Rgb], ...], texture: str, period: float) -> Paint:
    """A texture between two colours that belong together, a little lighter or darker."""
    first, second = pairs[int(rng.integers(len(pairs)))]
    tone = rng.uniform(0.8, 1.1)
    low, high = np.multiply(first, tone).tolist(), np.multiply(second, tone).tolist()
    return Paint((low[0], low[1], low[2]), (high[0], high[1], high[2]), texture, period)


def _bright(rng: np.random.Generator, texture: str, period: float) -> Paint:
    """A texture between two colours that have nothing to do with each other."""
    first, second = rng.uniform(30, 235, (2, 3)).tolist()
    return Paint((first[0], first[1], first[2]), (second[0], second[1], second[2]), texture, period)


# --- for testing ------------------------------------------------------------------------------------------------------


def _animal(brush: Brush, rng: np.random.Generator, x: float, z: float) -> None:
    """Four legs, a neck, a head with ears or horns, a tail: anything from a calf to a moose."""
    size, side = rng.uniform(0.75, 1.25), 1.0 if rng.random() < 0.5 else -1.0
    coats: tuple[tuple[Rgb, Rgb], ...] = (
        ((104, 66, 42), (206, 198, 184)),
        ((60, 50, 44), (112, 92, 74)),
        ((134, 104, 70), (170, 142, 106)),
        ((40, 38, 38), (216, 212, 204)),
    )
    coat = _two(rng, coats, "fur", rng.uniform(1.6, 3.0))
    dark = Paint((46, 40, 36), (70, 60, 54), "fur", 1.0)
    leg, neck, thick = rng.uniform(0.75, 1.1), rng.uniform(0.25, 0.75), rng.uniform(0.85, 1.1)
    back = leg + 0.3 * thick

    def limb(knots: list[tuple[float, float, float]], covering: Paint = coat) -> None:
        points = [(x + side * size * along, size * up, z, size * radius) for along, up, radius in knots]
        # Little, so that the limbs grow into each other.
        brush.round(capsules(chain(points)), covering, bend=0.4)

    def legs(shift: float) -> None:
        for at, bend in ((0.55, -0.05), (-0.62, 0.10)):
            limb([(at + shift, leg, 0.15 * thick), (at + shift + bend, 0.5 * leg, 0.075), (at + shift, 0.08, 0.055)])
            limb([(at + shift, 0.05, 0.055), (at + shift + 0.03, 0.04, 0.05)], dark)

    legs(0.12)
    limb([(-0.72, back + 0.05, 0.05), (-0.86, back - 0.2, 0.035), (-0.84, 0.55 * leg, 0.05)])
    limb([(-0.6, back - 0.02, 0.29 * thick), (0.0, back - 0.08, 0.32 * thick), (0.5, back, 0.30 * thick)])
    head = (0.95 + 0.25 * neck, back + 0.75 * neck)
    limb([(0.55, back + 0.03, 0.24 * thick), (head[0] - 0.08, head[1], 0.14)])
    if rng.random() < 0.6:
        for turn in (0.0, 0.12):
            limb(
                [(head[0] - 0.1 + turn, head[1] + 0.12, 0.035), (head[0] - 0.2 + 2 * turn, head[1] + 0.42, 0.015)], dark
            )
    limb([(head[0] - 0.12, head[1] + 0.12, 0.05), (head[0] - 0.26, head[1] + 0.2, 0.03)])
    limb([(head[0] - 0.05, head[1], 0.13), (head[0] + 0.26, head[1] - 0.16, 0.085)])
    limb([(head[0] + 0.30, head[1] - 0.18, 0.06), (head[0] + 0.33, head[1] - 0.2, 0.05)], dark)
    legs(-0.1)


def _boulder(brush: Brush, rng: np.random.Generator, x: float, z: float) -> None:
    """A rock of flat facets around a few ridges."""
    wide, high = rng.uniform(0.5, 1.2), rng.uniform(0.5, 1.3)
    turn = np.linspace(0, 2 * np.pi, 11, endpoint=False)
    reach = rng.uniform(0.8, 1.1, 11)
    rim_x, rim_y = x + wide * reach * np.cos(turn), high * (0.5 + 0.55 * reach * np.sin(turn))
    rim = np.stack([rim_x, np.maximum(rim_y, 0), np.full(11, z)], 1)
    tones: tuple[tuple[Rgb, Rgb], ...] = (
        ((62, 60, 58), (140, 136, 130)),
        ((84, 66, 52), (160, 134, 110)),
        ((54, 58, 64), (112, 118, 126)),
    )
    covering = _two(rng, tones, "cracks", rng.uniform(1.0, 2.0))
    middle = np.array([x + wide * rng.uniform(-0.3, 0.3), high * rng.uniform(0.5, 0.75), z])
    inner = middle + 0.45 * (rim - middle) + np.append(rng.uniform(-0.08, 0.08, (11, 2)), np.zeros((11, 1)), 1)
    for corner in range(11):
        after = (corner + 1) % 11
        out = (rim[corner] + rim[after]) / 2 - middle
        normal = np.array([out[0] / wide, out[1] / high, -0.7]) + rng.normal(0, 0.15, 3)
        normal /= np.linalg.norm(normal)
        light = brush.geometry.sun.on(normal) * (0.75 if out[1] < 0 else 1.0)
        brush.flat(np.stack([rim[corner], rim[after], inner[after], inner[corner]]), covering, light)
    brush.flat(inner, covering, brush.geometry.sun.on((0.1, 0.5, -0.85)))


def _sofa(brush: Brush, rng: np.random.Generator, x: float, z: float) -> None:
    """An upholstered seat with arms and cushions."""
    half, deep, back = rng.uniform(0.55, 1.15), 0.85, rng.uniform(0.8, 1.05)
    fabrics: tuple[tuple[Rgb, Rgb], ...] = (
        ((130, 34, 40), (206, 170, 120)),
        ((36, 60, 90), (150, 170, 190)),
        ((110, 96, 60), (196, 184, 150)),
        ((60, 90, 70), (170, 180, 120)),
    )
    fabric = _two(rng, fabrics, "plaid", rng.uniform(0.6, 1.0))
    dark = fabric.times(0.75)
    brush.box((x - half, 0.1, z + deep - 0.2), (x + half, back, z + deep), fabric)
    brush.box((x - half, 0.1, z), (x + half, 0.42, z + deep - 0.2), dark)
    count = 1 if half < 0.7 else 2
    for index in range(count):
        left, wide = x - half + 0.16 + index * (2 * half - 0.32) / count, (2 * half - 0.32) / count
        brush.box((left + 0.02, 0.42, z - 0.03), (left + wide - 0.02, 0.56, z + deep - 0.2), fabric)
    for side in (-1, 1):
        arm = sorted((x + side * half, x + side * (half - 0.16)))
        brush.box((arm[0], 0.1, z - 0.05), (arm[1], 0.66, z + deep - 0.1), fabric)
        brush.round(disc((arm[0] + arm[1]) / 2, 0.66, z - 0.06, 0.11), dark)


def _logs(brush: Brush, rng: np.random.Generator, x: float, z: float) -> None:
    """A heap of trunks that lie across the street."""
    half, radius = rng.uniform(0.7, 1.5), rng.uniform(0.14, 0.24)
    woods: tuple[tuple[Rgb, Rgb], ...] = (
        ((70, 50, 36), (130, 98, 68)),
        ((96, 84, 72), (150, 138, 120)),
        ((84, 52, 40), (150, 90, 60)),
    )
    bark = _two(rng, woods, "rings", rng.uniform(0.8, 1.4))
    cut = Paint((186, 146, 96), (224, 190, 140), "rings", 0.5)
    rows = int(rng.integers(1, 4))
    for row in range(rows):
        for index in range(rows - row):
            y = radius * (1 + 1.75 * row)
            at = z + 0.1 * (rows - index) - 0.05 * row
            shift, end = rng.uniform(-0.2, 0.2), 1 if rng.random() < 0.5 else -1
            near, far = x + shift - half, x + shift + half
            brush.round(
                [(near, y - radius, at), (far, y - radius, at), (far, y + radius, at), (near, y + radius, at)], bark
            )
            tip = disc(x + shift + end * half, y, at, 1.0, 14)
            tip[:, 0] = x + shift + end * half + 0.35 * radius * (tip[:, 0] - x - shift - end * half)
            tip[:, 1] = y + radius * (tip[:, 1] - y)
            brush.flat(tip, cut, brush.geometry.sun.on((0.7 * end, 0.1, -0.7)))


def _barrels(brush: Brush, rng: np.random.Generator, x: float, z: float) -> None:
    """Drums, standing side by side or on each other."""
    high, radius = rng.uniform(0.8, 1.0), rng.uniform(0.26, 0.34)
    places = (
        [(0.0, 0.0)] if rng.random() < 0.4 else [(-radius, 0.0), (radius, 0.0), (0.0, high)][: int(rng.integers(2, 4))]
    )
    for across, low in places:
        colors: tuple[tuple[Rgb, Rgb], ...] = (
            ((30, 70, 130), (120, 70, 40)),
            ((150, 40, 30), (100, 70, 50)),
            ((70, 90, 60), (130, 84, 50)),
            ((190, 150, 40), (110, 70, 40)),
        )
        metal = _two(rng, colors, "rust", rng.uniform(0.8, 1.6))
        rims = [0, 0.03, 0.06, 0.33, 0.36, 0.63, 0.66, 0.95, 1.0]
        swell = [1, 1.04, 1, 1.0, 1.05, 1.0, 1.05, 1.0, 1.03]
        bands = lathed(x + across, z, [(low + high * up, radius * wide) for up, wide in zip(rims, swell, strict=True)])
        brush.round(bands, metal, tint=np.where(np.arange(8) % 2 == 1, 1.0, 0.88))
        brush.flat(disc(x + across, low + high, z, radius, 14, 0.12), metal, brush.geometry.sun.on((0, 1, 0)))


def _balloon(brush: Brush, rng: np.random.Generator, x: float, z: float) -> None:
    """A balloon with its basket, low over the ground."""
    radius, low = rng.uniform(0.8, 1.2), rng.uniform(0.1, 0.5)
    silk = _bright(rng, "stripes", 2 * radius)
    middle = low + 0.5 + 1.9 * radius
    rope = Paint((70, 60, 50), (90, 80, 66), "rings", 0.5)
    for side in (-1, 1):
        ends = [(x + side * 0.18, low + 0.3, z, 0.02), (x + side * 0.75 * radius, middle - 0.6 * radius, z, 0.02)]
        brush.round(capsules(chain(ends)), rope)
    turn = np.linspace(-0.62 * np.pi + np.pi / 2, 0.62 * np.pi + np.pi / 2, 24)
    outline = [(x + radius * np.cos(angle), middle + 1.1 * radius * np.sin(angle), z) for angle in turn]
    neck = [(x - 0.22 * radius, middle - 1.35 * radius, z), (x + 0.22 * radius, middle - 1.35 * radius, z)]
    brush.round([*outline, *neck], silk)
    brush.box(
        (x - 0.2, low, z - 0.15), (x + 0.2, low + 0.35, z + 0.15), Paint((120, 84, 50), (170, 130, 84), "stripes", 0.5)
    )


# --- for choosing thresholds ------------------------------------------------------------------------------------------


def _snowman(brush: Brush, rng: np.random.Generator, x: float, z: float) -> None:
    """Three balls on each other, with buttons and a nose."""
    radius, y = rng.uniform(0.35, 0.5), 0.0
    tones: tuple[tuple[Rgb, Rgb], ...] = (
        ((196, 202, 210), (236, 238, 240)),
        ((150, 190, 200), (226, 236, 240)),
        ((220, 170, 180), (240, 230, 230)),
    )
    snow = _two(rng, tones, "speckles", 0.8)
    for size in (radius, 0.75 * radius, 0.52 * radius):
        y += 0.85 * size
        brush.round(disc(x, y, z, size, 18), snow)
        y += 0.75 * size
    coal = Paint((30, 28, 28), (60, 56, 54), "speckles", 0.3)
    for up in (0.9, 1.25, 1.6, 2.0):
        brush.round(disc(x, up * radius, z, 0.07 * radius, 8), coal)
    nose = [(x, y - 0.45 * radius, z), (x, y - 0.6 * radius, z), (x + 0.5 * radius, y - 0.55 * radius, z)]
    brush.flat(nose, Paint((206, 110, 30), (230, 130, 50), "speckles", 0.5), 0.9)


def _table(brush: Brush, rng: np.random.Generator, x: float, z: float) -> None:
    """A table on four legs."""
    half, high, deep = rng.uniform(0.5, 1.0), rng.uniform(0.7, 0.95), 0.8
    woods: tuple[tuple[Rgb, Rgb], ...] = (
        ((150, 104, 60), (196, 152, 100)),
        ((200, 190, 170), (236, 228, 210)),
        ((86, 60, 46), (120, 84, 60)),
    )
    wood = _two(rng, woods, "parquet", 0.8)
    for along in (deep - 0.1, 0.0):
        for side in (-1, 1):
            left = x + side * (half - 0.06) - 0.05
            brush.box((left, 0, z + along), (left + 0.1, high, z + along + 0.1), wood)
    brush.box((x - half, high, z - 0.1), (x + half, high + 0.08, z + deep + 0.1), wood)


def _goal(brush: Brush, rng: np.random.Generator, x: float, z: float) -> None:
    """A small goal: three poles and the net behind them."""
    half, high, thick = rng.uniform(0.7, 1.2), rng.uniform(0.9, 1.4), 0.06
    net = _bright(rng, "net", 1.2)
    poles = _bright(rng, "net", 0.6)
    brush.flat(
        [(x - half, 0, z + 0.4), (x + half, 0, z + 0.4), (x + half, high, z), (x - half, high, z)],
        net,
        brush.geometry.sun.on((0, 0, -1)),
    )
    corners = [(x - half, 0.0), (x - half, high), (x + half, high), (x + half, 0.0)]
    brush.round(capsules(chain([(across, up, z - 0.02, thick) for across, up in corners])), poles)


# --- for training -----------------------------------------------------------------------------------------------------


def _star(brush: Brush, rng: np.random.Generator, x: float, z: float) -> None:
    """A thick star that stands on two of its points."""
    points, radius = int(rng.integers(5, 9)), rng.uniform(0.5, 0.95)
    turn = np.pi / 2 + np.linspace(0, 2 * np.pi, 2 * points, endpoint=False)
    reach = radius * np.where(np.arange(2 * points) % 2 == 0, 1.0, rng.uniform(0.4, 0.65))
    across, up = reach * np.cos(turn), reach * np.sin(turn)
    up -= up.min()
    covering = _bright(rng, "checks", rng.uniform(0.8, 1.8))
    outline = np.stack([x + across, up, np.full(2 * points, z)], 1)
    middle = np.array([x, up.mean(), z])
    for corner in range(2 * points):
        after = (corner + 1) % (2 * points)
        out = (outline[corner] + outline[after]) / 2 - middle
        normal = np.array([out[0], out[1], -0.6 * radius])
        light = brush.geometry.sun.on(normal / np.linalg.norm(normal))
        brush.flat(np.stack([outline[corner], outline[after], middle]), covering, light)


def _hoop(brush: Brush, rng: np.random.Generator, x: float, z: float) -> None:
    """A thick ring on its edge, turned more or less away."""
    radius, thick = rng.uniform(0.45, 0.9), rng.uniform(0.25, 0.5)
    covering = _bright(rng, "zigzag", rng.uniform(0.6, 1.4))
    brush.round(ring(x, radius, z, radius, (1 - thick) * radius, 24, rng.uniform(0.55, 1)), covering)


def _umbrella(brush: Brush, rng: np.random.Generator, x: float, z: float) -> None:
    """An open umbrella or parasol on its stick."""
    radius, high = rng.uniform(0.6, 1.1), rng.uniform(0.7, 1.6)
    covering = _bright(rng, "dots", rng.uniform(0.7, 1.4))
    stick = Paint((90, 90, 96), (130, 130, 136), "dots", 0.5)
    brush.round(capsules(chain([(x, 0, z + 0.01, 0.03), (x, high + 0.2, z + 0.01, 0.03)])), stick)
    gores = 6
    edges = np.linspace(-1, 1, gores + 1)
    for index in range(gores):
        sides = []
        for edge in (edges[index], edges[index + 1]):
            rise = np.linspace(0, np.pi / 2, 7)
            sides.append(
                np.stack([x + radius * edge * np.cos(rise), high + 0.6 * radius * np.sin(rise), np.full(7, z)], 1)
            )
        middle = (edges[index] + edges[index + 1]) / 2
        light = brush.geometry.sun.on(np.array((0.8 * middle, 0.5, -0.33)) / np.linalg.norm((0.8 * middle, 0.5, -0.33)))
        tone = 0.8 if index % 2 else 1.0
        brush.flat(np.concatenate([sides[0], sides[1][::-1]]), covering, light, 0.1, np.array([tone]))


def _crystals(brush: Brush, rng: np.random.Generator, x: float, z: float) -> None:
    """Spikes that grow out of the ground."""
    covering = _bright(rng, "mosaic", rng.uniform(0.5, 1.0))
    for index in range(int(rng.integers(3, 7))):
        at, wide = x + rng.uniform(-0.5, 0.5), rng.uniform(0.12, 0.25)
        high, lean = rng.uniform(0.5, 1.5), rng.uniform(-0.35, 0.35)
        near = z - 0.01 * index
        left, right, edge = (at - wide, 0, near), (at + wide, 0, near), (at + rng.uniform(-0.4, 0.4) * wide, 0, near)
        neck, tip = 0.75 * high, (at + lean, high, near)
        sides = [(point[0] + 0.75 * lean, neck, near) for point in (left, edge, right)]
        for first, second, upper, normal in (
            (left, edge, sides[:2], (-0.7, 0.2, -0.68)),
            (edge, right, sides[1:], (0.7, 0.2, -0.68)),
        ):
            brush.flat([first, second, upper[1], tip, upper[0]], covering, brush.geometry.sun.on(normal))


def _tent(brush: Brush, rng: np.random.Generator, x: float, z: float) -> None:
    """A tent, its entrance towards the camera."""
    half, high, deep = rng.uniform(0.6, 1.1), rng.uniform(0.8, 1.3), rng.uniform(1.2, 2.0)
    covering = _bright(rng, "waves", rng.uniform(0.8, 1.6))
    for side in (-1, 1):
        normal = np.array((side * high, half, 0)) / np.hypot(high, half)
        if side * x < 0:
            slope = [(x + side * half, 0, z), (x, high, z), (x, high, z + deep), (x + side * half, 0, z + deep)]
            brush.flat(slope, covering, brush.geometry.sun.on(normal))
    brush.flat([(x - half, 0, z), (x + half, 0, z), (x, high, z)], covering, brush.geometry.sun.on((0, 0, -1)), 0.1)
    door = [(x - 0.3 * half, 0, z - 0.01), (x + 0.3 * half, 0, z - 0.01), (x, 0.75 * high, z - 0.01)]
    brush.flat(door, covering, 0.35)


FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "animal": Family(_animal, ("fur",), "test", 1.6),
        "boulder": Family(_boulder, ("cracks",), "test", 1.3),
        "sofa": Family(_sofa, ("plaid",), "test", 1.2),
        "logs": Family(_logs, ("rings",), "test", 1.8),
        "barrels": Family(_barrels, ("rust",), "test", 0.7),
        "balloon": Family(_balloon, ("stripes", "rings"), "test", 1.2),
        "snowman": Family(_snowman, ("speckles",), "validation", 0.6),
        "table": Family(_table, ("parquet",), "validation", 1.1),
        "goal": Family(_goal, ("net",), "validation", 1.3),
        "star": Family(_star, ("checks",), "negatives", 1.0),
        "hoop": Family(_hoop, ("zigzag",), "negatives", 1.0),
        "umbrella": Family(_umbrella, ("dots",), "negatives", 1.2),
        "crystals": Family(_crystals, ("mosaic",), "negatives", 1.2),
        "tent": Family(_tent, ("waves",), "negatives", 1.2),
    }
)
"""All families by name."""


def families(use: Use) -> dict[str, Family]:
    """The families for one use.

    Raises:
        OutmaskError: on an unknown use.
    """
    if use not in get_args(Use):
        raise OutmaskError(f"objects of no known class are for {', '.join(get_args(Use))}, got {use!r}")
    return {name: family for name, family in FAMILIES.items() if family.use == use}
