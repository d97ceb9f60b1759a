"""What is set up along the street: lamp posts, traffic signs and lights, fences."""

from __future__ import annotations

import numpy as np

from outmask.data.world.geometry import Paint, Rgb, paint
from outmask.data.world.shapes import Brush, capsules, chain, disc, rectangle
from outmask.data.world.street import Stage

_RED, _BLUE, _WHITE, _YELLOW, _BLACK = (176, 32, 30), (30, 70, 150), (226, 226, 222), (222, 180, 40), (28, 28, 30)


def draw_lamp(stage: Stage, rng: np.random.Generator, x: float, z: float) -> None:
    """A lamp post at the kerb, its arm over the road."""
    brush = stage.stuff("pole", z)
    height, reach = rng.uniform(5.5, 8), -np.sign(x) * rng.uniform(0.8, 1.8)
    knots = [(x, 0, z, 0.10), (x, 0.5 * height, z, 0.075), (x, height, z, 0.06), (x + reach, height + 0.25, z, 0.05)]
    brush.round(capsules(chain(knots)), paint(stage.town.poles, 0.08))
    head = [(x + reach, height + 0.2, z, 0.13), (x + 1.35 * reach, height + 0.24, z, 0.10)]
    brush.round(capsules(chain(head)), paint((70, 72, 74), 0.1))
    stage.geometry.contact(x, z, 0.25, 0.25)


def _post(stage: Stage, x: float, z: float, height: float, radius: float = 0.045) -> None:
    post = stage.stuff("pole", z)
    post.round(capsules(chain([(x, 0, z, radius), (x, height, z, radius)])), paint(stage.town.poles, 0.08))
    stage.geometry.contact(x, z, 0.2, 0.2)


def draw_sign(stage: Stage, rng: np.random.Generator, x: float, z: float) -> None:
    """A traffic sign of one of six shapes on its post."""
    height, size = rng.uniform(2.1, 2.6), rng.uniform(0.34, 0.46)
    _post(stage, x, z, height + 0.3)
    brush, light = stage.stuff("traffic sign", z - 0.05), stage.sun.on((0, 0.1, -1)) + 0.1
    y, near = height, z - 0.06

    def plate(corners: int, radius: float, color: Rgb, turn: float = 0.0, stretch: float = 1.0) -> None:
        angles = turn + np.linspace(0, 2 * np.pi, corners, endpoint=False)
        points = [(x + radius * np.cos(angle), y + stretch * radius * np.sin(angle), near) for angle in angles]
        brush.flat(points, paint(color, 0.04), light)

    def bar(wide: float, high: float, color: Rgb) -> None:
        brush.flat(rectangle((x - wide, x + wide), (y - high, y + high), near), paint(color, 0.04), light)

    kind = int(rng.integers(6))
    if kind == 0:  # speed limit
        plate(20, size, _RED)
        plate(20, 0.76 * size, _WHITE)
        bar(0.36 * size, 0.3 * size, _BLACK)
        bar(0.1 * size, 0.18 * size, _WHITE)
    elif kind == 1:  # no entry
        plate(20, size, _RED)
        bar(0.65 * size, 0.14 * size, _WHITE)
    elif kind == 2:  # give way, warning
        turn = rng.choice([np.pi / 2, -np.pi / 2])
        plate(3, 1.2 * size, _RED, turn)
        plate(3, 0.82 * size, _WHITE, turn)
    elif kind == 3:  # stop
        plate(8, size, _WHITE, np.pi / 8)
        plate(8, 0.92 * size, _RED, np.pi / 8)
        bar(0.66 * size, 0.18 * size, _WHITE)
    elif kind == 4:  # parking
        plate(4, 1.2 * size, _BLUE, np.pi / 4, 1.2)
        bar(0.3 * size, 0.5 * size, _WHITE)
        bar(0.1 * size, 0.2 * size, _BLUE)
    else:  # priority
        plate(4, size, _WHITE)
        plate(4, 0.8 * size, _YELLOW)


def draw_traffic_light(stage: Stage, rng: np.random.Generator, x: float, z: float) -> None:
    """A traffic light on its post, or on an arm over the road."""
    height = rng.uniform(3.0, 3.6)
    _post(stage, x, z, height, 0.07)
    places = [(x, height - 0.35)]
    if rng.random() < 0.4:
        reach = -np.sign(x) * rng.uniform(2.0, 3.5)
        arm = stage.stuff("pole", z)
        arm.round(capsules(chain([(x, 5.0, z, 0.06), (x + reach, 5.1, z, 0.05)])), paint(stage.town.poles, 0.08))
        _post(stage, x, z, 5.0, 0.07)
        places.append((x + reach, 4.7))
    shows = int(rng.integers(3))
    for at, y in places:
        brush = stage.stuff("traffic light", z - 0.1)
        light = float(stage.sun.on((0, 0, -1)))
        brush.flat(rectangle((at - 0.2, at + 0.2), (y - 0.52, y + 0.52), z - 0.1), paint((34, 36, 36), 0.1), light)
        colors: tuple[Rgb, ...] = ((255, 60, 40), (255, 190, 60), (70, 240, 150))
        for lamp, color in enumerate(colors):
            dim = paint(np.multiply(color, 0.25), 0.1)
            points = disc(at, y + 0.32 * (1 - lamp), z - 0.11, 0.12, 12)
            brush.flat(points, paint(color, 0.05) if lamp == shows else dim, 1.1 if lamp == shows else light)


def draw_fence(stage: Stage, rng: np.random.Generator, x: float, span: tuple[float, float]) -> None:
    """A fence along the street, of pickets, boards or rails."""
    kind = int(rng.integers(3))
    colors: tuple[Rgb, ...] = ((212, 208, 198), (120, 88, 62), (70, 78, 74), (150, 146, 140))
    covering = paint(colors[int(rng.integers(len(colors)))], 0.15, "bark", 1.5)
    height = rng.uniform(0.9, 1.5)
    if kind == 1:
        covering = Paint(covering.color, covering.other, "boards", 2.0)
    step = {0: 0.22, 1: 1.0, 2: 1.2}[kind]
    near = np.arange(max(span[0], 0.5), span[1] - 0.05, step)
    if not len(near):
        return
    side = -1.0 if x > 0 else 1.0
    light = float(stage.sun.on((side, 0, 0)))

    def upright(z0: np.ndarray, z1: np.ndarray, low: float, high: float) -> None:
        corners = [
            np.stack([np.full(len(z0), x), np.full(len(z0), y), z], 1)
            for y, z in ((low, z0), (low, z1), (high, z1), (high, z0))
        ]
        stage.geometry.add(
            np.stack(corners, 1),
            covering,
            segment=stage.segments.index("fence"),
            key=z1,
            light=light,
            up=0.1,
            casts=True,
        )

    if kind == 1:
        upright(near, near + step, 0.0, height)
    else:
        rails = np.arange(max(span[0], 0.5), span[1] - 0.05, 1.2)
        for y in (0.3 * height, 0.8 * height) if kind == 0 else (0.35 * height, 0.65 * height, 0.95 * height):
            upright(rails, np.minimum(rails + 1.2, span[1]), y - 0.05, y + 0.05)
        upright(near, near + (0.12 if kind == 0 else 0.1), 0.0, height)


def draw_end_fence(stage: Stage, brush: Brush, x: tuple[float, float], z: float) -> None:
    """A board fence across."""
    brush.flat(rectangle(x, (0.0, 1.6), z), paint((130, 104, 80), 0.2, "boards", 2.0), stage.sun.on((0, 0, -1)), 0.08)
