"""People on foot and on bicycles, as limbs between their joints."""

from __future__ import annotations

import numpy as np

from outmask.data.world.geometry import Paint, Rgb, paint
from outmask.data.world.shapes import capsules, chain, choose, disc, ring
from outmask.data.world.street import Stage

_SKINS: tuple[Rgb, ...] = ((214, 172, 146), (190, 142, 112), (140, 98, 74), (92, 64, 50))
_HAIRS: tuple[Rgb, ...] = ((40, 30, 26), (84, 60, 40), (150, 120, 76), (120, 116, 112))
_SHOES = (40, 36, 34)


def _cloth(stage: Stage, rng: np.random.Generator) -> Paint:
    return paint(np.asarray(choose(rng, stage.town.clothes)) * rng.uniform(0.8, 1.15), 0.14, "grain", 0.8)


def draw_person(stage: Stage, rng: np.random.Generator, x: float, z: float) -> None:
    """Someone who walks along or across the street."""
    brush = stage.thing("person", z)
    tall = rng.uniform(1.55, 1.9) if rng.random() < 0.85 else rng.uniform(1.1, 1.4)
    aside = rng.random() < 0.5  # seen from the side
    step = rng.uniform(0.08, 0.17) * (1 if rng.random() < 0.5 else -1)
    stride, shoulders = (step, 0.07) if aside else (0.35 * step, 0.115)
    skin, top, trousers = paint(choose(rng, _SKINS), 0.08), _cloth(stage, rng), _cloth(stage, rng)
    hair, shoes = paint(choose(rng, _HAIRS), 0.2, "grain", 0.4), paint(_SHOES, 0.1)

    def limb(knots: list[tuple[float, float, float]], covering: Paint) -> None:
        """Knots of x, y and radius, in body heights."""
        points = [(x + tall * across, tall * up, z, tall * radius) for across, up, radius in knots]
        brush.round(capsules(chain(points)), covering)

    hips = 0.045 if not aside else 0.02
    skirt = rng.random() < 0.2
    for side in (-1, 1):
        foot = side * (hips + stride)
        knee = side * (hips + 0.45 * stride) + (0.02 if aside else 0)
        limb([(side * hips, 0.5, 0.055), (knee, 0.27, 0.042), (foot, 0.05, 0.030)], skin if skirt else trousers)
        limb([(foot, 0.02, 0.022), (foot + (0.06 if aside else 0.015 * side), 0.018, 0.02)], shoes)

    def arm(side: int) -> None:
        swing = -side * 1.1 * stride
        elbow = (side * (shoulders + 0.02) + 0.5 * swing, 0.63, 0.028)
        limb([(side * shoulders, 0.79, 0.034), elbow], top)
        limb([elbow, (side * (shoulders + 0.02) + swing, 0.49, 0.020)], top if rng.random() < 0.6 else skin)

    arm(-1)
    if not aside:
        arm(1)
    wide, waist = 0.75 * shoulders, 0.8 * shoulders if not aside else 0.065
    body = [
        (-wide, 0.82),
        (wide, 0.82),
        (shoulders, 0.78),
        (waist, 0.62),
        (waist + 0.015, 0.48),
        (-waist - 0.015, 0.48),
        (-waist, 0.62),
        (-shoulders, 0.78),
    ]
    brush.round([(x + tall * across, tall * up, z) for across, up in body], top)
    if skirt:
        hem = [(-waist - 0.01, 0.54), (waist + 0.01, 0.54), (waist + 0.06, 0.32), (-waist - 0.06, 0.32)]
        brush.round([(x + tall * across, tall * up, z) for across, up in hem], trousers)
    if aside:
        arm(1)
    limb([(0, 0.82, 0.032), (0, 0.88, 0.030)], skin)
    head = 0.065 * tall
    brush.round(disc(x, 0.93 * tall, z, 0.85 * head, 14, 1.2), skin)
    away = rng.random() < 0.5 and not aside
    cap = [
        (x + 0.92 * head * np.cos(turn), 0.945 * tall + 1.1 * head * np.sin(turn), z)
        for turn in np.linspace(-0.4 if not away else -1.1, np.pi + (0.4 if not away else 1.1), 12)
    ]
    brush.round(cap, hair)
    if rng.random() < 0.3:
        bag = _cloth(stage, rng)
        side = rng.choice([-1, 1])
        limb([(side * (shoulders + 0.04), 0.50, 0.045), (side * (shoulders + 0.05), 0.40, 0.05)], bag)
    stage.geometry.contact(x, z, 0.28, 0.2)


def draw_cyclist(stage: Stage, rng: np.random.Generator, x: float, z: float) -> None:
    """Someone on a bicycle, who rides along the street or across it."""
    brush = stage.thing("cyclist", z)
    aside = rng.random() < 0.3
    narrow, towards = (1.0, 1) if aside else (0.16, 1 if rng.random() < 0.5 else -1)
    skin, top, trousers = paint(choose(rng, _SKINS), 0.08), _cloth(stage, rng), _cloth(stage, rng)
    frame, tyre, shoes = _cloth(stage, rng), paint((28, 28, 30), 0.1), paint(_SHOES, 0.1)
    pedal = rng.uniform(0, 2 * np.pi)
    sign = 1 if rng.random() < 0.5 else -1

    def limb(knots: list[tuple[float, float, float, float]], covering: Paint) -> None:
        """Knots of metres along, up and to the side, and radius."""
        points = [
            (x + narrow * sign * along + (1 - narrow) * aslant, up, z, radius) for along, up, aslant, radius in knots
        ]
        brush.round(capsules(chain(points)), covering)

    def wheel(along: float) -> None:
        brush.flat(ring(x + narrow * sign * along, 0.34, z, 0.34, 0.29, 18, max(narrow, 0.14)), tyre, 0.7)

    def leg(side: int) -> None:
        turn = pedal + (np.pi if side > 0 else 0)
        foot = (0.05 + 0.17 * np.cos(turn), 0.30 + 0.17 * np.sin(turn), 0.12 * side)
        knee = (0.20, 0.62 + 0.08 * np.sin(turn), 0.15 * side)
        limb([(-0.18, 0.92, 0.09 * side, 0.085), (*knee, 0.062), (*foot, 0.045)], trousers)
        limb([(*foot, 0.045), (foot[0] + 0.12, foot[1] - 0.03, foot[2], 0.04)], shoes)

    def arm(side: int) -> None:
        limb(
            [(0.12, 1.36, 0.19 * side, 0.055), (0.30, 1.15, 0.26 * side, 0.045), (0.45, 1.02, 0.22 * side, 0.035)], top
        )

    wheel(-0.52)
    wheel(0.52)
    leg(-1)
    arm(-1)
    limb([(-0.52, 0.34, 0, 0.02), (-0.2, 0.82, 0, 0.02), (0.4, 0.8, 0, 0.02), (0.52, 0.34, 0, 0.02)], frame)
    limb([(-0.2, 0.82, 0, 0.02), (0.05, 0.3, 0, 0.02), (0.4, 0.8, 0, 0.02)], frame)
    limb([(0.42, 1.0, -0.26, 0.02), (0.42, 1.0, 0.26, 0.02)], tyre)
    limb([(-0.3, 0.88, 0, 0.06), (-0.08, 0.9, 0, 0.03)], tyre)
    hips, shoulders = (0.15, 0.20) if not aside else (0.12, 0.12)
    lean = narrow * sign
    body = [
        (x - 0.2 * lean - hips, 0.88, z),
        (x - 0.2 * lean + hips, 0.88, z),
        (x + 0.12 * lean + shoulders, 1.34, z),
        (x + 0.12 * lean + 0.7 * shoulders, 1.44, z),
        (x + 0.12 * lean - 0.7 * shoulders, 1.44, z),
        (x + 0.12 * lean - shoulders, 1.34, z),
    ]
    brush.round(body, top)
    leg(1)
    arm(1)
    head = x + 0.18 * lean
    brush.round(disc(head, 1.6, z, 0.10, 14, 1.25), skin)
    helmet = paint(choose(rng, stage.town.vehicles), 0.1)
    shell = [
        (head + 0.115 * np.cos(turn), 1.63 + 0.12 * np.sin(turn), z)
        for turn in np.linspace(-0.1 if towards > 0 else -0.7, np.pi + (0.1 if towards > 0 else 0.7), 12)
    ]
    brush.round(shell, helmet)
    stage.geometry.contact(x, z, 0.2 + 0.5 * narrow, 0.7 - 0.5 * narrow)
