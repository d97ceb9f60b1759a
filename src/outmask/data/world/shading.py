"""From the faces that pixels see to the picture that a camera takes of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from outmask.data.world.geometry import NEAR, Camera, Faces, Floats, Rgb
from outmask.data.world.textures import INDEX, MARGIN, SIDE, atlas

_FEATURE = 24
"""Features of a texture to a period: where a pixel covers as much as one of them, none is seen."""


@dataclass(frozen=True)
class Weather:
    """What lies between the scene and the picture.

    Attributes:
        zenith, haze: colours of the sky overhead and at the horizon; far things take the latter.
        cloud: colour of clouds.
        clouds: share of the sky that they cover, 0 to 1.
        visibility: metres after which 37 % of a thing's own colour are left.
        drift: ``(x, z)`` of the clouds' texture.
    """

    zenith: Rgb
    haze: Rgb
    cloud: Rgb
    clouds: float
    visibility: float
    drift: tuple[float, float]


@dataclass(frozen=True)
class Lens:
    """What the camera adds.

    Attributes:
        exposure: mean brightness that the camera aims at, of 255.
        tint: factors of red, green and blue.
        contrast: exponent of the tone curve, around 1.
        blur: standard deviation of the lens's blur, pixels.
        noise: standard deviation of the sensor's noise at full brightness, of 255.
        quality: of the JPEG.
    """

    exposure: float
    tint: Rgb
    contrast: float
    blur: float
    noise: float
    quality: int


def shade(
    seen: NDArray[np.int32], faces: Faces, shadows: NDArray[np.uint8], camera: Camera, weather: Weather
) -> Floats:
    """``(H, W, 3)`` float32 RGB light, 0 to 255 where nothing is overexposed.

    Args:
        seen: ``(H, W)`` rows of the tables of ``faces``.
        faces: what there is.
        shadows: ``(H, W)`` light that reaches the ground, of 255.
        camera: that sees it.
        weather: that it is seen in.
    """
    index = seen.astype(np.intp)
    column = np.arange(camera.width, dtype=np.float32)[None] + np.float32(0.5)
    row = np.arange(camera.height, dtype=np.float32)[:, None] + np.float32(0.5)
    right, down = (column - camera.center) / camera.focal, (row - camera.horizon) / camera.focal

    def of(table: Floats) -> Floats:
        return np.take(table, index, mode="clip")

    def plane(table: Floats, across: Floats, along: Floats) -> Floats:
        value = of(table[:, 0])
        value += of(table[:, 1]) * across
        value += of(table[:, 2]) * along
        return value

    depth = 1 / np.clip(plane(faces.inverse_depth, right, down), 1 / 500, 1 / NEAR)
    light = np.clip(plane(faces.light, column, row), 0.08, 1.6)
    ground = of(faces.ground)
    light *= 1 - ground * (1 - shadows.astype(np.float32) / 255)

    # Walls along the street are measured by z, those across it by x, the ground by both.
    period = of(faces.period)
    steps = 1 - ground
    u = (right * depth + steps * depth) / period
    v = (camera.eye - down * depth + ground * (depth - camera.eye + down * depth)) / period
    texture = _look_up(u, v, of(faces.texture))
    footprint = depth * (1 + ground * depth / camera.eye) * np.float32(_FEATURE / camera.focal) / period
    texture -= 0.5
    texture /= 1 + footprint * footprint
    texture += 0.5

    clear = np.exp(depth * np.float32(-1 / weather.visibility))
    light *= clear
    veil = 1 - clear
    channels = []
    for channel in range(3):
        color = of(faces.others[:, channel] - faces.colors[:, channel])
        color *= texture
        color += of(faces.colors[:, channel])
        color *= light
        color += veil * np.float32(weather.haze[channel])
        channels.append(color)
    picture = cv2.merge(channels)
    _paint_sky(picture, seen == 0, right, down, weather)
    return np.asarray(picture, np.float32)


def _look_up(u: NDArray[Any], v: NDArray[Any], texture: NDArray[Any] | float) -> Floats:
    """The textures of these numbers at ``(u, v)`` periods, 0 to 1."""
    column = (u - np.floor(u)) * SIDE + (texture * (SIDE + 2 * MARGIN) + MARGIN)
    row = (v - np.floor(v)) * SIDE + MARGIN
    values = np.asarray(cv2.remap(atlas(), column, row, cv2.INTER_LINEAR), np.float32)
    values *= 1 / 255
    return values


def _paint_sky(picture: Floats, sky: NDArray[np.bool_], right: Floats, down: Floats, weather: Weather) -> None:
    """A dome that pales towards the horizon, and flat clouds high above the ground."""
    rows = np.flatnonzero(sky.any(1))
    if not len(rows):
        return
    window = slice(0, int(rows[-1]) + 1)
    up = np.maximum(-down[window], 0.015)
    height = 1 - np.exp(-3.2 * up)
    dome = np.asarray(weather.haze, np.float32) + height[..., None] * (
        np.asarray(weather.zenith, np.float32) - np.asarray(weather.haze, np.float32)
    )
    far = np.minimum(1 / up, 14)
    u = 0.11 * right * far + np.float32(weather.drift[0])
    v = np.zeros_like(u) + 0.11 * far + np.float32(weather.drift[1])
    clouds = _look_up(u, v, INDEX["plain"])
    clouds += 0.35 * _look_up(2.7 * u, 2.7 * v, INDEX["plain"])
    cover = np.clip(3.5 * (clouds - 0.675 + 0.75 * (weather.clouds - 0.5)), 0, 1) * np.clip(12 * up, 0, 1)
    color = dome + cover[..., None] * (np.asarray(weather.cloud, np.float32) - dome)
    part = picture[window]
    part[sky[window]] = color[sky[window]]


def photograph(light: Floats, lens: Lens, rng: np.random.Generator) -> bytes:
    """The JPEG file that a camera makes of ``(H, W, 3)`` light: blur, tone curve, vignette, sensor noise."""
    height, width = light.shape[:2]
    levels = np.arange(256) / 255
    tone = 255 * np.clip(levels, 0, 1) ** lens.contrast
    # Automatic, within limits.
    exposure = np.clip(lens.exposure / float(light.mean()), 0.8, 1.7)
    gains = (exposure * np.asarray(lens.tint)).astype(np.float32)
    exposed = np.minimum(light * gains, 255).astype(np.uint8)
    exposed = cv2.LUT(cv2.GaussianBlur(exposed, (0, 0), lens.blur), np.rint(tone).astype(np.uint8))

    rows = (np.arange(height, dtype=np.float32) + 0.5)[:, None] / height - 0.5
    columns = (np.arange(width, dtype=np.float32) + 0.5)[None] / width - 0.5
    vignette = 1.03 - 0.26 * (rows * rows + columns * columns)
    luminance = rng.standard_normal((height, width), dtype=np.float32)
    chroma = rng.standard_normal(((height + 1) // 2, (width + 1) // 2, 3), dtype=np.float32)
    noise = cv2.resize(chroma, (width, height), interpolation=cv2.INTER_LINEAR)
    noise += luminance[..., None]
    # Shot noise grows as the root of the light.
    strength = (lens.noise * (0.25 + 0.75 * np.sqrt(levels))).astype(np.float32)
    noise *= cv2.LUT(exposed, strength)
    noise += exposed * vignette[..., None]
    picture = np.clip(noise, 0, 255, out=noise).astype(np.uint8)
    _, file = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, lens.quality])
    return file.tobytes()


def decode_jpeg(file: bytes) -> NDArray[np.uint8]:
    """``(H, W, 3)`` uint8 RGB: the picture of a JPEG file."""
    decoded = cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR)
    return np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), np.uint8)
