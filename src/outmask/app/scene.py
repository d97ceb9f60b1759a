"""The demo's street, drawn here so that the demo needs no file: houses, trees, cars, and a cow that stands on the road.

A pinhole camera looks down a straight street. Ground and house fronts are planes, coloured per pixel by where the
pixel's ray meets them; trees and the cow are heaps of lit spheres; cars are boxes of polygons. Everything is drawn at
twice the size, veiled by haze, blurred as a lens does and given a sensor's noise.

World coordinates are metres: x to the right, y up, z ahead of the camera. Colours are RGB, 0 to 255.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Point = tuple[float, float, float]
Rgb = tuple[float, float, float]

_SUPERSAMPLING = 2
_SUN = np.array([-0.50, 0.70, -0.51], np.float32)  # towards the sun: behind the camera's left shoulder
_HAZE, _HAZE_DISTANCE = (206.0, 214.0, 222.0), 150.0
_LEFT_FRONT, _ROAD_LEFT, _CENTER_LINE, _ROAD_RIGHT, _RIGHT_FRONT = -8.8, -5.6, -1.8, 4.2, 7.6
_STREET_END = 120.0
_EVERYTHING = np.s_[:, :]


class Scene(NamedTuple):
    """A drawn street.

    Attributes:
        image: ``(H, W, 3)`` uint8 RGB.
        unknown: ``(H, W)`` bool, the pixels of the one object that no street model knows.
    """

    image: NDArray[np.uint8]
    unknown: NDArray[np.bool_]


def draw_scene(size: tuple[int, int] = (540, 960), seed: int = 0) -> Scene:
    """Draw the street.

    Args:
        size: ``(H, W)`` of the picture, wider than high.
        seed: of everything random: textures, windows, leaves.
    """
    canvas = _Canvas(_SUPERSAMPLING * size[0], _SUPERSAMPLING * size[1], np.random.default_rng(seed))
    cow = _cow(x=0.1, z=9.5)
    cars = [
        _Car(x=3.05, z=13.5, color=(60, 76, 104)),
        _Car(x=3.1, z=21.0, color=(158, 156, 150)),
        _Car(x=-3.7, z=17.5, color=(132, 34, 30), oncoming=True),
        _Car(x=-3.6, z=44.0, color=(196, 196, 194), oncoming=True),
    ]
    trees = [_tree(canvas.rng, x, z, crown) for x, z, crown in _TREES]
    _draw_sky(canvas)
    _draw_street_end(canvas)
    _draw_house_fronts(canvas)
    _draw_ground(canvas, [cow, *trees], cars)
    drawings: list[tuple[float, Callable[[], object]]] = [(tree.z, partial(_draw_tree, canvas, tree)) for tree in trees]
    drawings += [(car.z, partial(_draw_car, canvas, car)) for car in cars]
    for _, draw in sorted(drawings, key=lambda pair: -pair[0]):
        draw()
    unknown = _draw_cow(canvas, cow)
    return Scene(_photograph(canvas, size), cv2.resize(unknown, size[::-1], interpolation=cv2.INTER_AREA) > 0.5)


class _Canvas:
    """The picture in the making, and the camera that sees it; sizes are supersampled pixels."""

    def __init__(self, height: int, width: int, rng: np.random.Generator) -> None:
        self.height, self.width, self.rng = height, width, rng
        self.focal, self.eye = 0.95 * width, 1.45
        self.horizon, self.center = 0.43 * height, 0.5 * width
        self.color: Floats = np.zeros((height, width, 3), np.float32)
        rows, columns = np.mgrid[:height, :width].astype(np.float32)
        self.right: Floats = (columns + 0.5 - self.center) / self.focal  # of a pixel's ray: x / z
        self.down: Floats = (rows + 0.5 - self.horizon) / self.focal  # (eye - y) / z
        self.clouds, self.grain = _texture(rng, 1.5), _texture(rng, 0.5)

    def project(self, points: Any) -> Floats:
        """``(n, 3)`` world points as ``(n, 2)`` pixels ``(column, row)``."""
        x, y, z = np.asarray(points, np.float32).T
        pixels: Floats = np.stack(
            [self.center + self.focal * x / z, self.horizon + self.focal * (self.eye - y) / z], axis=1
        )
        return pixels

    def paint(self, mask: NDArray[Any], color: NDArray[Any] | Rgb, depth: Any, window: Any = _EVERYTHING) -> None:
        """Lay a colour over a window of the picture where the mask (0 to 1) says, veiled by the haze of its depth."""
        clear = np.exp(-np.asarray(depth, np.float32) / _HAZE_DISTANCE)[..., None]
        veiled = np.asarray(color, np.float32) * clear + np.asarray(_HAZE, np.float32) * (1 - clear)
        self.color[window] += mask[..., None].astype(np.float32) * (veiled - self.color[window])

    def polygon(self, points: Sequence[Point], color: Rgb, fade: float = 0.0, opacity: float = 1.0) -> None:
        """Fill a polygon, lighter at its top and darker at its bottom by the share ``fade``."""
        corners = self.project(points)
        low = np.clip(np.floor(corners.min(axis=0)) - 1, 0, (self.width, self.height)).astype(int)
        high = np.clip(np.ceil(corners.max(axis=0)) + 2, 0, (self.width, self.height)).astype(int)
        mask = np.zeros((high - low)[::-1], np.uint8)
        if mask.size:
            cv2.fillPoly(mask, [np.rint((corners - low) * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
            shade = np.linspace(1 + fade, 1 - fade, len(mask), dtype=np.float32)[:, None, None]
            depth = sum(z for _, _, z in points) / len(points)
            window = np.s_[low[1] : high[1], low[0] : high[0]]
            self.paint(mask * np.float32(opacity / 255), shade * np.asarray(color, np.float32), depth, window)


def _texture(rng: np.random.Generator, power: float, side: int = 512) -> Floats:
    """``(side, side)`` noise of unit variance that tiles; its spectrum falls as ``1 / f^power``."""
    spectrum = np.fft.rfft2(rng.standard_normal((side, side)))
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
    frequency[0, 0] = np.inf
    noise = np.fft.irfft2(spectrum / frequency**power)
    return np.asarray(noise / noise.std(), np.float32)


def _sample(texture: Floats, u: NDArray[Any], v: NDArray[Any], period: float) -> Floats:
    """The texture at ``(u, v)``, repeated every ``period`` units."""
    side = len(texture)
    x, y = (np.asarray(w, np.float32) * np.float32(1 / period) for w in (u, v))
    x, y = (x - np.floor(x)) * side, (y - np.floor(y)) * side
    return np.asarray(cv2.remap(texture, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP))


def _band(values: Floats, center: float, width: float, softness: Floats | float) -> Floats:
    """1 within ``width`` around ``center``, falling to 0 over ``softness`` on both sides."""
    edge: Floats = np.clip((width / 2 - np.abs(values - center)) / softness + 0.5, 0, 1)
    return edge


def _draw_sky(canvas: _Canvas) -> None:
    window = np.s_[: int(canvas.horizon) + 8, :]
    up = np.maximum(-canvas.down[window], 0.02)
    blue, pale = np.array((92, 142, 202), np.float32), np.array((214, 224, 234), np.float32)
    sky = pale + (blue - pale) * np.clip(up / 0.5, 0, 1)[..., None] ** 0.7
    # A flat layer of clouds far above: its texture grows finer towards the horizon.
    noise = _sample(canvas.clouds, canvas.right[window] / up, 1 / up, 26)
    cover = np.clip(0.9 * noise + 0.05, 0, 1) * np.clip(9 * up, 0, 1)
    canvas.color[window] = sky + 0.75 * cover[..., None] * (np.array((240, 242, 246), np.float32) - sky)


def _draw_street_end(canvas: _Canvas) -> None:
    """Hills and a line of trees where the street ends."""
    for depth, base, ragged, color in ((420.0, 34.0, 14.0, (110, 122, 116)), (_STREET_END, 7.0, 3.0, (62, 78, 50))):
        top = int(canvas.horizon - canvas.focal * (base + 3 * ragged) / depth)
        window = np.s_[max(0, top) : int(canvas.horizon) + 8, :]
        x, y = canvas.right[window] * depth, canvas.eye - canvas.down[window] * depth
        skyline = base + ragged * _sample(canvas.clouds, x, np.full_like(x, depth), 3 * depth)
        leaves = _sample(canvas.grain, x, y, 0.4 * depth)
        skyline += 0.04 * base * leaves
        mask = np.clip((skyline - y) / (0.01 * base), 0, 1) * (y > -1)
        canvas.paint(mask, np.asarray(color, np.float32) * (1 + 0.22 * leaves[..., None]), depth, window)


class _House(NamedTuple):
    start: float  # z
    end: float
    height: float
    color: Rgb
    storey: float
    bay: float  # from window to window


_PLASTER = [(196, 184, 160), (168, 108, 84), (204, 200, 190), (178, 160, 128), (150, 92, 74), (186, 190, 192)]


def _houses(rng: np.random.Generator) -> list[_House]:
    """A row of houses along the street, wall to wall."""
    houses, start = [], -4.0
    while start < _STREET_END:
        end = start + rng.uniform(9, 16)
        storeys, storey = int(rng.integers(2, 4)), rng.uniform(2.9, 3.4)
        color = _PLASTER[int(rng.integers(len(_PLASTER)))]
        houses.append(_House(start, end, storeys * storey + 0.9, color, storey, rng.uniform(1.9, 2.7)))
        start = end
    return houses


def _draw_house_fronts(canvas: _Canvas) -> None:
    for front, light in ((_LEFT_FRONT, 0.66), (_RIGHT_FRONT, 1.0)):  # the sun stands on the left
        with np.errstate(divide="ignore"):
            z = front / canvas.right
        z = np.where((z > 0) & (z < _STREET_END), z, -1).astype(np.float32)
        y = np.asarray(canvas.eye - canvas.down * z, np.float32)
        pixel = z / canvas.focal  # metres that a pixel covers
        for house in reversed(_houses(canvas.rng)):
            _draw_end_wall(canvas, house, front)
            mask = np.clip((house.height - y) / pixel, 0, 1) * ((z >= house.start) & (z < house.end))
            rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
            if not len(rows):
                continue
            window = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            dirt = 0.07 * _sample(canvas.clouds, z[window], y[window], 23)
            dirt += 0.05 * _sample(canvas.grain, z[window], y[window], 5)
            wall: Floats = np.asarray(house.color, np.float32) * (1 + dirt)[..., None]
            color = _with_windows(canvas, house, wall, z[window], y[window], pixel[window])
            canvas.paint(mask[window], light * color, z[window], window)


def _draw_end_wall(canvas: _Canvas, house: _House, front: float) -> None:
    """The bare wall that a house shows above its lower neighbour."""
    if house.start > 1:
        back = 1.7 * front
        corners = [(front, 0.0), (front, house.height), (back, house.height), (back, 0.0)]
        shaded = (0.62 * house.color[0], 0.62 * house.color[1], 0.62 * house.color[2])
        canvas.polygon([(x, y, house.start) for x, y in corners], shaded, 0.05)


def _with_windows(canvas: _Canvas, house: _House, wall: Floats, z: Floats, y: Floats, pixel: Floats) -> Floats:
    """A house's wall with windows, a shop on the ground floor, ledges, and the wall's edge to its neighbour."""
    storey, bay = np.floor(y / house.storey), np.floor((z - house.start) / house.bay)
    up, along = y - storey * house.storey, z - house.start - bay * house.bay
    soft = np.maximum(3 * pixel, 0.02)
    is_shop = storey == 0
    across, tall = np.where(is_shop, 0.86, 0.5) * house.bay, np.where(is_shop, 0.66, 0.52) * house.storey
    middle = np.where(is_shop, 0.42, 0.52) * house.storey
    pane = np.clip((across / 2 - np.abs(along - house.bay / 2)) / soft + 0.5, 0, 1)
    pane *= np.clip((tall / 2 - np.abs(up - middle)) / soft + 0.5, 0, 1)
    frame = np.clip((across / 2 + 0.09 - np.abs(along - house.bay / 2)) / soft + 0.5, 0, 1)
    frame *= np.clip((tall / 2 + 0.09 - np.abs(up - middle)) / soft + 0.5, 0, 1)
    # Every window reflects another part of the sky and of the opposite side.
    brightness = canvas.rng.uniform(0.45, 1.25, (64, 64)).astype(np.float32)[
        np.clip(storey, 0, 63).astype(int), np.clip(bay, 0, 63).astype(int)
    ]
    glass = (brightness * (0.75 + 0.5 * up / house.storey))[..., None] * np.array((66, 74, 84), np.float32)
    bars = _band(along, house.bay / 2, 0.06, soft) * ~is_shop
    color = wall + frame[..., None] * (np.array((206, 204, 198), np.float32) - wall)
    color += pane[..., None] * (glass - color)
    color += (pane * bars)[..., None] * (np.array((200, 198, 192), np.float32) - color)
    ledge = np.maximum(_band(up, 0.1, 0.2, soft) * (storey > 0), _band(y, house.height - 0.25, 0.5, soft))
    color += 0.5 * ledge[..., None] * (wall * 1.18 - color)
    sign = _band(y, 0.88 * house.storey, 0.5, soft) * _band(z, (house.start + house.end) / 2, 0.7 * house.bay * 3, soft)
    hue = np.asarray(_SIGNS[int(canvas.rng.integers(len(_SIGNS)))], np.float32)
    color += sign[..., None] * (hue - color)
    shade = 1 - 0.45 * _band(z, house.end, 0.3, soft) - 0.25 * np.clip(1 - y / 0.6, 0, 1)
    shaded: Floats = color * shade[..., None]
    return shaded


_SIGNS = [(150, 40, 36), (40, 70, 110), (46, 92, 60), (190, 160, 70), (60, 56, 54)]


def _draw_ground(canvas: _Canvas, heaps: Sequence[_Heap], cars: Sequence[_Car]) -> None:
    """Road, markings, kerbs and pavements, with the shadows of what stands on them."""
    first = int(canvas.horizon) + 2
    window = np.s_[first:, :]
    z = canvas.eye / canvas.down[window]
    x = canvas.right[window] * z
    pixel = z / canvas.focal
    soft = np.maximum(1.5 * pixel, 0.01)
    seen = 1 / (1 + (z * z / canvas.focal / 0.12) ** 2)  # what is finer than a pixel is not seen
    grain, stains = _sample(canvas.grain, x, z, 2.2) * seen, _sample(canvas.clouds, x, 0.35 * z, 9)
    tracks = sum(_band(x, lane + wheel, 0.5, 0.5) for lane in (0.1, -3.7) for wheel in (-0.78, 0.78))
    asphalt = 96 * (1 + 0.10 * grain + 0.05 * stains - 0.06 * np.asarray(tracks))
    color = asphalt[..., None] * np.array((1.0, 1.0, 1.03), np.float32)

    dashes = np.clip((1.5 - np.abs(np.mod(z - 1.0, 7.5) - 1.5)) / np.maximum(40 * pixel * z / 20, 0.05) + 0.5, 0, 1)
    lines = _band(x, _CENTER_LINE, 0.16, soft) * dashes
    lines = np.maximum(lines, _band(x, 1.95, 0.12, soft))
    lines = np.maximum(lines, _band(x, _ROAD_LEFT + 0.45, 0.12, soft))
    worn = np.clip(0.82 + 0.22 * _sample(canvas.clouds, x, z, 3) - 0.15 * grain, 0, 1)
    color += (lines * worn)[..., None] * (np.array((222, 222, 216), np.float32) - color)

    for kerb, pavement_end in ((_ROAD_LEFT, _LEFT_FRONT), (_ROAD_RIGHT, _RIGHT_FRONT)):
        outside = np.clip((x - kerb) * np.sign(kerb) / soft + 0.5, 0, 1)[..., None]
        joints = np.maximum(_band(np.mod(x, 0.6), 0.3, 0.02, soft), _band(np.mod(z, 0.6), 0.3, 0.02, soft * z / 3))
        slabs = 158 * (1 + 0.06 * grain + 0.06 * stains - 0.16 * joints * seen)
        color += outside * (slabs[..., None] * np.array((1.0, 0.975, 0.94), np.float32) - color)
        stone = _band(x, kerb, 0.28, soft) * (1 + 0.05 * grain)
        color += stone[..., None] * (np.array((182, 178, 170), np.float32) - color)
        gutter = _band(x, kerb - np.sign(kerb) * 0.2, 0.14, soft)
        color *= 1 - 0.35 * gutter[..., None]
        wall_foot = np.clip(1 - np.abs(x - pavement_end) / 0.5, 0, 1)
        color *= 1 - 0.3 * wall_foot[..., None]

    light = _light_on_ground(x, z, heaps, cars)
    # The houses on the left shade their pavement.
    light = np.minimum(light, 1 - 0.45 * np.clip((_ROAD_LEFT + 0.9 + 0.15 * stains - x) / 0.5, 0, 1))
    between = np.clip((x - _LEFT_FRONT) / soft, 0, 1) * np.clip((_RIGHT_FRONT - x) / soft, 0, 1)
    canvas.paint(between, color * light[..., None], z, window)


def _light_on_ground(x: Floats, z: Floats, heaps: Sequence[_Heap], cars: Sequence[_Car]) -> Floats:
    """1 in the sun, less in shadows and close under things, at points of the ground."""
    per_metre, left, near, width, depth = 25, -10.0, 0.0, 20, 70
    sunlit, sky = np.ones((2, depth * per_metre, width * per_metre), np.float32)

    def pixels(points: NDArray[Any]) -> NDArray[np.int32]:
        return np.rint((points - (left, near)) * per_metre * 16).astype(np.int32)

    for heap in heaps:
        ground = heap.centers[:, [0, 2]]
        cast = ground - heap.centers[:, 1:2] / _SUN[1] * _SUN[[0, 2]]
        for shadow, foot, radius, y in zip(pixels(cast), pixels(ground), heap.radii, heap.centers[:, 1], strict=True):
            cv2.circle(sunlit, shadow.tolist(), round(radius * per_metre * 16), 0, -1, cv2.LINE_AA, 4)
            if y < 1.5:
                cv2.circle(sky, foot.tolist(), round(radius * per_metre * 16), 0.5, -1, cv2.LINE_AA, 4)
    for car in cars:
        outline = np.add([(-0.85, 0), (0.85, 0), (0.85, 4.3), (-0.85, 4.3)], (car.x, car.z))
        roof = outline - 0.9 / _SUN[1] * _SUN[[0, 2]]
        cv2.fillConvexPoly(sunlit, cv2.convexHull(np.concatenate([pixels(outline), pixels(roof)])), 0, cv2.LINE_AA, 4)
        cv2.fillConvexPoly(sky, pixels(outline), 0.1, cv2.LINE_AA, 4)
    light = 0.46 + 0.54 * cv2.GaussianBlur(sunlit, (0, 0), 1.5)
    light *= cv2.GaussianBlur(sky, (0, 0), 3.5)
    return np.asarray(
        cv2.remap(light, (x - left) * per_metre, (z - near) * per_metre, cv2.INTER_LINEAR, borderValue=1.0)
    )


@dataclass(frozen=True)
class _Heap:
    """Spheres that make one solid.

    Attributes:
        z: where it stands.
        centers: ``(n, 3)``.
        radii: ``(n,)``.
        materials: ``(n,)`` what each sphere is of.
    """

    z: float
    centers: Floats
    radii: Floats
    materials: NDArray[np.int64]

    def render(self, canvas: _Canvas) -> tuple[Any, Floats, Floats, Floats, NDArray[np.int64]]:
        """Window of the picture, its coverage, surface points ``(h, w, 3)``, normals ``(h, w, 3)`` and materials."""
        pixels = canvas.project(self.centers)
        sizes = canvas.focal * self.radii / self.centers[:, 2]
        low = np.clip((pixels - sizes[:, None]).min(axis=0) - 2, 0, (canvas.width, canvas.height)).astype(int)
        high = np.clip((pixels + sizes[:, None]).max(axis=0) + 3, 0, (canvas.width, canvas.height)).astype(int)
        window = np.s_[low[1] : high[1], low[0] : high[0]]
        right, down = canvas.right[window], canvas.down[window]
        depth = np.full(right.shape, np.inf, np.float32)
        normals = np.zeros((*right.shape, 3), np.float32)
        materials = np.zeros(right.shape, np.int64)
        corners = np.concatenate([pixels - sizes[:, None], pixels + sizes[:, None] + 1], axis=1) - np.tile(low, 2)
        for (x0, y0, x1, y1), center, radius, material in zip(
            np.clip(corners, 0, None).astype(int), self.centers, self.radii, self.materials, strict=True
        ):
            box = np.s_[y0:y1, x0:x1]
            # Rays are taken as parallel within a sphere, which is small against its distance.
            dx = (right[box] * center[2] - center[0]) / radius
            dy = (canvas.eye - down[box] * center[2] - center[1]) / radius
            inside = 1 - dx * dx - dy * dy
            dz = np.sqrt(np.maximum(inside, 0))
            surface = center[2] - radius * dz
            nearer = (inside > 0) & (surface < depth[box])
            depth[box][nearer] = surface[nearer]
            materials[box][nearer] = material
            normals[box][nearer] = np.stack([dx, dy, -dz], axis=-1)[nearer]
        mask = np.isfinite(depth).astype(np.float32)
        depth = np.where(mask > 0, depth, self.z).astype(np.float32)
        points = np.stack([right * depth, canvas.eye - down * depth, depth], axis=-1)
        return window, mask, points, normals, materials


_LEAVES, _BARK = 0, 1
_TREES = ((5.7, 17.0, 1.5), (5.8, 30.0, 1.8), (-7.0, 20.0, 1.5), (-7.1, 34.0, 1.9), (5.8, 47.0, 1.9), (-7.0, 52.0, 2.0))


def _tree(rng: np.random.Generator, x: float, z: float, crown: float) -> _Heap:
    count, base = 160, 2.3
    directions = rng.standard_normal((count, 3))
    directions *= (rng.uniform(0.1, 1, (count, 1)) ** (1 / 3)) / np.linalg.norm(directions, axis=1, keepdims=True)
    leaves = np.array([x, base + crown, z]) + directions * (0.95 * crown, 1.15 * crown, 0.95 * crown)
    trunk = np.array([[x + 0.03 * np.sin(3 * y), y, z] for y in np.arange(0.05, base + 0.6 * crown, 0.05)])
    radii = np.concatenate([rng.uniform(0.08, 0.30, count) * crown, np.full(len(trunk), 0.11)])
    materials = np.repeat([_LEAVES, _BARK], [count, len(trunk)])
    return _Heap(z, np.concatenate([leaves, trunk]).astype(np.float32), radii.astype(np.float32), materials)


def _draw_tree(canvas: _Canvas, tree: _Heap) -> None:
    window, mask, points, normals, materials = tree.render(canvas)
    foliage = materials == _LEAVES
    x, y = points[..., 0], points[..., 1]
    leaf = _sample(canvas.grain, x, y, 4.5)
    clumps = _sample(canvas.clouds, x + 0.4 * points[..., 2], y, 2.2)
    # Crowns are ragged: leaves come and go where the crown is thin, most of all at its edge.
    inner = cv2.GaussianBlur(mask, (0, 0), 0.10 * canvas.focal / tree.z)
    ragged = np.clip(5 * (inner - 0.72) + 1.0 * leaf + 1.0 * clumps + 1.6, 0, 1)
    mask = np.where(foliage, mask * ragged, mask)
    round_ = cv2.GaussianBlur(normals, (0, 0), 0.07 * canvas.focal / tree.z)
    light = 0.42 + 0.5 * np.clip((0.2 * normals + 0.9 * round_) @ _SUN, -0.3, 1)
    green = np.array((84, 100, 46), np.float32) * (light * (1 + 0.42 * leaf + 0.30 * clumps))[..., None]
    bark = np.array((92, 80, 68), np.float32) * (light * (1 + 0.2 * leaf))[..., None]
    canvas.paint(mask, np.where(foliage[..., None], np.clip(green, 10, 230), bark), points[..., 2], window)


@dataclass(frozen=True)
class _Car:
    """A car seen from behind, or from the front where it is oncoming; ``z`` is its near end, ``x`` its middle."""

    x: float
    z: float
    color: Rgb
    oncoming: bool = False


# Outlines from behind, in metres from the middle of the near end.
_BODY = ((-0.86, 0.3), (-0.9, 0.55), (-0.88, 0.86), (-0.8, 0.95), (0.8, 0.95), (0.88, 0.86), (0.9, 0.55), (0.86, 0.3))
_CABIN = ((-0.80, 0.93), (-0.62, 1.36), (-0.54, 1.44), (0.54, 1.44), (0.62, 1.36), (0.80, 0.93))
_GLASS = ((-0.69, 0.96), (-0.55, 1.32), (0.55, 1.32), (0.69, 0.96))


def _draw_car(canvas: _Canvas, car: _Car) -> None:
    def at(outline: Sequence[tuple[float, float]], depth: float, narrow: float = 1.0) -> list[Point]:
        return [(car.x + narrow * x, y, car.z + depth) for x, y in outline]

    def scaled(factor: float) -> Rgb:
        return (factor * car.color[0], factor * car.color[1], factor * car.color[2])

    lit = 0.62 if car.x > 0 else 1.0  # of the visible side: the sun stands on the left
    side = car.x - np.sign(car.x) * 0.86
    for far in (3.6, 0.75):  # wheels of the visible side
        for radius, color in ((0.31, (24, 24, 26)), (0.19, (92, 94, 98))):
            rim = [(radius * np.sin(turn), radius * np.cos(turn)) for turn in np.linspace(0, 6.2, 24)]
            canvas.polygon([(side, 0.31 + y, car.z + far + z) for y, z in rim], color)
    # Body and cabin sweep from the far end to the near one.
    for depth in np.linspace(4.2, 0.0, 40):
        canvas.polygon(at(_BODY, depth, 1 - 0.05 * (depth > 3.9)), scaled(lit * 0.8), 0.25)
        if 0.35 < depth < 2.9:
            slope = 1 - 0.12 * max(0.0, depth - 2.0)
            canvas.polygon(at([(x, 0.93 + slope * (y - 0.93)) for x, y in _CABIN], depth), (34, 38, 44), 0.3)
    canvas.polygon(at(_CABIN, 0.45), scaled(0.95), 0.15)
    canvas.polygon(at(_GLASS, 0.35), (58, 66, 76), 0.45)
    canvas.polygon(at([(-0.5, 1.3), (-0.2, 1.3), (-0.42, 0.98), (-0.62, 0.98)], 0.34), (150, 164, 178), 0.2, 0.35)
    sill = [*at([(-0.8, 0.94), (0.8, 0.94)], 0.0), *at([(0.7, 0.96), (-0.7, 0.96)], 0.4)]
    canvas.polygon(sill, scaled(1.25))
    for wheel in (-0.72, 0.72):
        tyre = [(wheel - 0.11, 0.0), (wheel + 0.11, 0.0), (wheel + 0.11, 0.42), (wheel - 0.11, 0.42)]
        canvas.polygon(at(tyre, 0.3), (20, 20, 22))
    canvas.polygon(at(_BODY, 0.0), car.color, 0.28)
    canvas.polygon(at([(-0.88, 0.3), (0.88, 0.3), (0.9, 0.5), (-0.9, 0.5)], -0.02), scaled(0.55), 0.2)
    canvas.polygon(at([(-0.8, 0.26), (0.8, 0.26), (0.84, 0.34), (-0.84, 0.34)], -0.02), (26, 26, 28))
    lamp = (232, 232, 226) if car.oncoming else (150, 26, 24)
    for mirrored in (-1, 1):
        corners = [(0.56, 0.66), (0.87, 0.62), (0.86, 0.84), (0.62, 0.82)]
        canvas.polygon(at([(mirrored * x, y) for x, y in corners], -0.03), lamp, 0.25)
        mirror = [(mirrored * 0.92, 1.0), (mirrored * 1.08, 1.0), (mirrored * 1.08, 1.12), (mirrored * 0.92, 1.12)]
        canvas.polygon(at(mirror, 1.6 if car.oncoming else 2.4), scaled(0.7))
    canvas.polygon(at([(-0.26, 0.56), (0.26, 0.56), (0.26, 0.67), (-0.26, 0.67)], -0.03), (216, 216, 208), 0.1)
    if car.oncoming:
        canvas.polygon(at([(-0.45, 0.7), (0.45, 0.7), (0.42, 0.82), (-0.42, 0.82)], -0.03), (30, 30, 32))


_FUR, _HORN, _HOOF, _SKIN = 0, 1, 2, 3


_Limb = tuple[list[tuple[float, float, float, float]], int]
"""Knots ``(x, y, z, radius)`` from one end to the other, and what it is of."""


def _leg(knots: list[tuple[float, float, float]], z: float) -> list[_Limb]:
    """A leg of knots ``(x, y, radius)`` in the plane ``z``, and its hoof."""
    foot = knots[-1][0]
    hoof = [(foot - 0.01, 0.10, z, 0.065), (foot - 0.03, 0.04, z, 0.07)]
    return [([(x, y, z, radius) for x, y, radius in knots], _FUR), (hoof, _HOOF)]


def _cow(x: float, z: float) -> _Heap:
    """A cow that stands across the road, its head to the left, drawn limb by limb as rows of spheres."""
    limbs: list[_Limb] = [
        ([(0.80, 1.12, 0.0, 0.28), (0.45, 1.06, 0.0, 0.37), (0.0, 0.98, 0.0, 0.41), (-0.5, 1.04, 0.0, 0.36)], _FUR),
        ([(-0.5, 1.08, 0.0, 0.34), (-0.82, 1.24, 0.0, 0.25), (-1.08, 1.42, 0.0, 0.18)], _FUR),
        ([(-1.06, 1.47, 0.0, 0.16), (-1.26, 1.36, 0.0, 0.13), (-1.48, 1.20, 0.0, 0.095)], _FUR),
        ([(-1.47, 1.21, 0.0, 0.10), (-1.54, 1.16, 0.0, 0.085)], _SKIN),
        ([(-1.02, 1.53, -0.10, 0.05), (-0.93, 1.50, -0.24, 0.075), (-0.88, 1.45, -0.33, 0.03)], _FUR),
        ([(-1.02, 1.53, 0.10, 0.05), (-0.93, 1.50, 0.24, 0.075), (-0.88, 1.45, 0.33, 0.03)], _FUR),
        ([(-1.07, 1.60, -0.07, 0.045), (-1.10, 1.70, -0.17, 0.035), (-1.20, 1.80, -0.18, 0.012)], _HORN),
        ([(-1.07, 1.60, 0.07, 0.045), (-1.08, 1.71, 0.17, 0.035), (-1.17, 1.81, 0.18, 0.012)], _HORN),
        *_leg([(-0.58, 0.95, 0.19), (-0.60, 0.66, 0.10), (-0.60, 0.40, 0.075), (-0.59, 0.12, 0.06)], -0.17),
        *_leg([(-0.42, 0.95, 0.19), (-0.40, 0.66, 0.10), (-0.38, 0.40, 0.075), (-0.36, 0.12, 0.06)], 0.17),
        *_leg([(0.72, 1.02, 0.25), (0.70, 0.74, 0.14), (0.84, 0.46, 0.08), (0.78, 0.12, 0.06)], -0.17),
        *_leg([(0.60, 1.02, 0.25), (0.54, 0.74, 0.14), (0.64, 0.46, 0.08), (0.58, 0.12, 0.06)], 0.17),
        ([(1.04, 1.26, 0.0, 0.05), (1.12, 1.05, 0.0, 0.03), (1.11, 0.72, 0.0, 0.025)], _FUR),
        ([(1.11, 0.72, 0.0, 0.03), (1.10, 0.60, 0.0, 0.065), (1.09, 0.46, 0.0, 0.03)], _FUR),
        ([(0.42, 0.72, -0.05, 0.14), (0.34, 0.66, -0.05, 0.10)], _SKIN),
    ]
    spheres, materials = [], []
    for knots, material in limbs:
        steps = np.linspace(0, len(knots) - 1, 16 * (len(knots) - 1) + 1)
        parts = np.asarray(knots, np.float32).T
        spheres.append(np.stack([np.interp(steps, np.arange(len(knots)), part) for part in parts], axis=1))
        materials.append(np.full(len(steps), material))
    all_spheres = np.concatenate(spheres).astype(np.float32)
    centers = all_spheres[:, :3] + np.array([x, 0, z], np.float32)
    return _Heap(z, centers, all_spheres[:, 3], np.concatenate(materials))


def _draw_cow(canvas: _Canvas, cow: _Heap) -> Floats:
    """Draw it; returns its mask over the whole picture, ``(H, W)`` float32, 0 or 1."""
    window, mask, points, normals, materials = cow.render(canvas)
    # Rows of spheres become skin over flesh once their normals are smoothed.
    sigma = 0.035 * canvas.focal / cow.z
    weight = cv2.GaussianBlur(mask, (0, 0), sigma) + 1e-3
    normals = 0.35 * normals + 0.65 * cv2.GaussianBlur(normals, (0, 0), sigma) / weight[..., None]
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True) + 1e-6
    x, y, z = np.moveaxis(points, -1, 0)
    hair = _sample(canvas.grain, 2.2 * x + 0.3 * y, 0.5 * y, 1.1)
    patches = np.clip(6 * (_sample(canvas.clouds, x + 3.1, y + 0.6 * z, 4.2) - 0.45 + 0.05 * hair), 0, 1)[..., None]
    brown, white = np.array((112, 66, 40), np.float32), np.array((214, 206, 192), np.float32)
    color = brown + patches * (white - brown)
    for material, tone in ((_HORN, (196, 184, 156)), (_HOOF, (52, 46, 42)), (_SKIN, (128, 98, 90))):
        color[materials == material] = tone
    ground_shine = 0.16 * np.clip(-normals[..., 1], 0, 1)
    light = 0.38 + 0.16 * normals[..., 1] + 0.72 * np.clip(normals @ _SUN, 0, 1) + ground_shine
    light *= 0.72 + 0.28 * np.clip(y / 0.9, 0, 1)  # little sky is seen from under the belly
    canvas.paint(mask, np.clip(color * (light * (1 + 0.10 * hair))[..., None], 0, 250), z, window)
    column, row = canvas.project([(cow.centers[:, 0].min() + 0.30, 1.43, cow.z)])[0].astype(int).tolist()
    cv2.circle(canvas.color, (column, row), int(0.022 * canvas.focal / cow.z), (18, 14, 12), -1, cv2.LINE_AA)
    whole = np.zeros((canvas.height, canvas.width), np.float32)
    whole[window] = mask
    return whole


def _photograph(canvas: _Canvas, size: tuple[int, int]) -> NDArray[np.uint8]:
    """What a dashboard camera makes of it: lens blur, vignette, contrast, sensor noise, sharpening."""
    picture = cv2.resize(cv2.GaussianBlur(canvas.color, (0, 0), 0.9), size[::-1], interpolation=cv2.INTER_AREA)
    glow = cv2.GaussianBlur(picture, (0, 0), 0.03 * size[1])
    picture = 0.94 * picture + 0.06 * glow
    rows, columns = np.mgrid[: size[0], : size[1]].astype(np.float32)
    radius = np.hypot(rows / size[0] - 0.5, columns / size[1] - 0.5)
    picture *= (1.04 - 0.28 * radius**2)[..., None]
    picture = 255 * np.clip(picture / 255, 0, 1) ** 1.06
    noise = canvas.rng.standard_normal(picture.shape).astype(np.float32)
    noise = 0.6 * noise + 0.8 * cv2.GaussianBlur(noise, (0, 0), 0.7)
    picture += noise * (1.2 + 0.10 * np.sqrt(np.clip(picture, 0, 255)))
    return np.asarray(np.clip(np.rint(picture), 0, 255), np.uint8)
