"""Objects of no known class, cut from other images and pasted on street scenes as void.

M2F-EAM 3.4 (negatives) and Mask2Anomaly's AnomalyMix.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from outmask.data.images import read_image
from outmask.data.labels import VOID, Sample
from outmask.errors import OutmaskError

STREET_CATEGORIES = ("person", "bicycle", "car", "motorcycle", "bus", "truck", "traffic light", "stop sign")
"""COCO categories that a street taxonomy knows; Mask2Anomaly leaves out every image that shows one."""

# Cut-outs kept decoded by each source: a few hundred megabytes at most, all of a small source.
_CACHED_CUTOUTS = 1024


@dataclass(frozen=True)
class Cutout:
    """An object cut along its mask.

    Attributes:
        rgb: ``(h, w, 3)`` uint8 RGB.
        mask: ``(h, w)`` bool, True on the object; at least one pixel.

    Raises:
        OutmaskError: on other shapes or types, or an empty mask.
    """

    rgb: NDArray[np.uint8]
    mask: NDArray[np.bool_]

    def __post_init__(self) -> None:
        if self.mask.ndim != 2 or self.mask.dtype != np.bool_:
            raise OutmaskError(f"a cut-out's mask must be (h, w) bool, got {self.mask.shape} {self.mask.dtype}")
        if self.rgb.shape != (*self.mask.shape, 3) or self.rgb.dtype != np.uint8:
            raise OutmaskError(
                f"a cut-out's rgb must be {(*self.mask.shape, 3)} uint8 like its mask, "
                f"got {self.rgb.shape} {self.rgb.dtype}"
            )
        if not self.mask.any():
            raise OutmaskError("a cut-out needs at least one pixel in its mask")

    @classmethod
    def from_image(cls, image: NDArray[np.uint8], mask: NDArray[np.bool_]) -> Cutout:
        """Cut the bounding box of ``mask`` ``(H, W)`` out of ``image`` ``(H, W, 3)``."""
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if not len(rows):
            raise OutmaskError("a cut-out needs at least one pixel in its mask")
        box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
        return cls(image[box].copy(), mask[box].copy())


class NegativeSource(Protocol):
    """Where objects to paste come from."""

    def sample(self, rng: np.random.Generator, batch: Sequence[Sample]) -> list[Cutout]:
        """One draw: the objects that belong together, at least one.

        Args:
            rng: every random choice comes from it.
            batch: other images of the batch, for sources that cut from them; may be empty.
        """
        ...


class FolderObjects:
    """Objects from frames with a foreground mask, as DAVIS has them; a draw is the foreground of one frame.

    Args:
        root: folder with ``images/SEQ_N.jpg`` and ``masks/SEQ_N.png``, foreground where the mask is not 0.
        images, masks: names of the two folders.
        sequences: sequences (the text before the last ``_``) to take; all by default. Take only those whose object is
            no class of the taxonomy.
        exclude: sequences to leave out.

    Raises:
        OutmaskError: where the layout differs, a sequence does not exist, nothing is left; at reading, where a file
            can't be decoded or image and mask differ in size.
    """

    def __init__(
        self,
        root: str | Path,
        images: str = "images",
        masks: str = "masks",
        sequences: Sequence[str] | None = None,
        exclude: Sequence[str] = (),
    ) -> None:
        root = Path(root)
        by_stem = {path.stem: path for path in sorted((root / images).glob("*.*"))}
        frames = [(by_stem[path.stem], path) for path in sorted((root / masks).glob("*.png")) if path.stem in by_stem]
        if not frames:
            raise OutmaskError(
                f"no objects under {root}; expected {images}/SEQ_N.jpg with {masks}/SEQ_N.png (0 = background)"
            )
        found = {_sequence(mask) for _, mask in frames}
        if strangers := sorted({*(sequences or ()), *exclude} - found):
            raise OutmaskError(f"{root} has no sequences {strangers}: choose from {', '.join(sorted(found))}")
        wanted = (found if sequences is None else set(sequences)) - set(exclude)
        self.frames = [(image, mask) for image, mask in frames if _sequence(mask) in wanted]
        self._empty: set[int] = set()
        self._cache: dict[int, Cutout] = {}
        if not self.frames:
            raise OutmaskError(f"{root}: no sequence is left to take objects from")

    def __len__(self) -> int:
        return len(self.frames)

    def sample(self, rng: np.random.Generator, batch: Sequence[Sample]) -> list[Cutout]:
        """The foreground of one frame; see :class:`NegativeSource`."""
        # Frames in which the object has left the picture have an empty mask: take the next one that shows it.
        start = int(rng.integers(len(self.frames)))
        for step in range(len(self.frames)):
            cutout = self._cutout((start + step) % len(self.frames))
            if cutout is not None:
                return [cutout]
        raise OutmaskError(f"every mask in {self.frames[0][1].parent} is empty: nothing to paste")

    def _cutout(self, index: int) -> Cutout | None:
        if index in self._cache:
            return self._cache[index]
        if index in self._empty:
            return None
        image_path, mask_path = self.frames[index]
        image, mask = read_image(image_path), _read_mask(mask_path)
        if image.shape[:2] != mask.shape:
            raise OutmaskError(
                f"{mask_path}: mask is {mask.shape[1]}x{mask.shape[0]}, its image {image.shape[1]}x{image.shape[0]}"
            )
        if not mask.any():
            self._empty.add(index)
            return None
        return _keep(self._cache, index, Cutout.from_image(image, mask))


class CocoInstances:
    """Objects of COCO images in the ``instances_*.json`` format.

    Crowds are never taken. Polygons, uncompressed and compressed run lengths are understood.

    Args:
        annotations: the JSON file.
        images_root: folder of its images.
        exclude_categories: categories that the street taxonomy knows.
        exclude: ``"image"`` leaves out every image that shows one of them (Mask2Anomaly); ``"instance"`` leaves out
            only these instances, for small collections.
        minimum_area: smallest object, in pixels.
        joint: a draw is one object, or, if True, all objects of one image in their joint bounding box (AnomalyMix).

    Raises:
        OutmaskError: where the file is not in this format, a category does not exist, no object is left; at reading,
            where an image can't be read or has another size than the file says.
    """

    def __init__(
        self,
        annotations: str | Path,
        images_root: str | Path,
        exclude_categories: Sequence[str] = STREET_CATEGORIES,
        exclude: Literal["image", "instance"] = "image",
        minimum_area: int = 1000,
        joint: bool = False,
    ) -> None:
        if exclude not in ("image", "instance"):
            raise OutmaskError(f"exclude must be 'image' or 'instance', got {exclude!r}")
        self.path, self.images_root = Path(annotations), Path(images_root)
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            self._images = {image["id"]: image for image in content["images"]}
            names = {category["name"]: category["id"] for category in content["categories"]}
            instances = [(item["image_id"], item["category_id"], item) for item in content["annotations"]]
        except OSError:
            raise OutmaskError(f"{self.path} not found: expected a COCO instances_*.json") from None
        except (ValueError, KeyError, TypeError) as error:
            raise OutmaskError(f"{self.path}: expected a COCO instances_*.json, got trouble with {error}") from None
        if strangers := sorted(set(exclude_categories) - set(names)):
            raise OutmaskError(f"{self.path} has no categories {strangers}: choose from {', '.join(sorted(names))}")
        street = {names[name] for name in exclude_categories}
        left_out = {image for image, category, _ in instances if category in street} if exclude == "image" else set()
        by_image: defaultdict[int, list[Mapping[str, Any]]] = defaultdict(list)
        for image, category, item in instances:
            known = category in street or image in left_out
            if not known and not item.get("iscrowd", 0) and item["area"] >= minimum_area:
                by_image[image].append(item)
        self.draws = list(by_image.values()) if joint else [[item] for items in by_image.values() for item in items]
        self._cache: dict[int, Cutout] = {}
        if not self.draws:
            raise OutmaskError(
                f"{self.path}: no object of at least {minimum_area} pixels is left "
                f"without {', '.join(exclude_categories)}"
            )

    def __len__(self) -> int:
        return len(self.draws)

    def sample(self, rng: np.random.Generator, batch: Sequence[Sample]) -> list[Cutout]:
        """One object, or the objects of one image as one; see :class:`NegativeSource`."""
        index = int(rng.integers(len(self.draws)))
        if index in self._cache:
            return [self._cache[index]]
        entry = self._images[self.draws[index][0]["image_id"]]
        path = self.images_root / entry["file_name"]
        image = read_image(path)
        size = (int(entry["height"]), int(entry["width"]))
        if image.shape[:2] != size:
            raise OutmaskError(
                f"{path}: image is {image.shape[1]}x{image.shape[0]}, but {self.path.name} says {size[1]}x{size[0]}"
            )
        mask = np.zeros(size, dtype=np.bool_)
        for item in self.draws[index]:
            mask |= decode_segmentation(item["segmentation"], size)
        return [_keep(self._cache, index, Cutout.from_image(image, mask))]


class MixedObjects:
    """Several sources, one of which is drawn each time.

    Args:
        sources: the sources.
        weights: how often each is drawn, up to a factor; equally often by default.

    Raises:
        OutmaskError: without sources, or on weights that do not fit them.
    """

    def __init__(self, sources: Sequence[NegativeSource], weights: Sequence[float] | None = None) -> None:
        weights = [1.0] * len(sources) if weights is None else list(weights)
        if not sources or len(weights) != len(sources) or min(weights) < 0 or sum(weights) <= 0:
            raise OutmaskError(
                f"expected sources with one positive weight each, got {len(sources)} sources, weights {weights}"
            )
        self.sources = tuple(sources)
        self.probabilities = np.asarray(weights, dtype=np.float64) / sum(weights)

    def sample(self, rng: np.random.Generator, batch: Sequence[Sample]) -> list[Cutout]:
        """A draw of one of the sources; see :class:`NegativeSource`."""
        return self.sources[int(rng.choice(len(self.sources), p=self.probabilities))].sample(rng, batch)


def paste(
    sample: Sample,
    cutouts: Sequence[Cutout],
    rng: np.random.Generator,
    relative_size: tuple[float, float] | None = (0.1, 0.8),
) -> Sample:
    """Paste objects on a sample, each at its own uniform place, as void and outlier.

    Each object is shrunk until its longest side is a uniformly drawn fraction of the host's shorter side; it is never
    enlarged, because its blur would give it away. M2F-EAM draws pixels instead, randint[96, 384) on hosts of
    1024 x 2048, which is (0.09, 0.375) here; the default goes further, because on small images objects of that size are
    lost. Objects larger than the host are scaled to fit. Their outermost pixels are blended with the host; pixels
    outside of the objects stay as they are.

    Args:
        sample: the host; it is not changed.
        cutouts: the objects; a later one covers an earlier one.
        rng: every random choice comes from it.
        relative_size: the longest side's range, as fractions of the host's shorter side; None = the object's own size
            (AnomalyMix of Mask2Anomaly).

    Raises:
        OutmaskError: on a range that is not positive and rising.
    """
    _check_relative_size(relative_size)
    if not cutouts:
        return sample
    image, labels, outlier = sample.image.copy(), sample.labels.copy(), sample.outlier.copy()
    height, width = labels.shape
    for cutout in cutouts:
        own_height, own_width = cutout.mask.shape
        scale = min(1.0, height / own_height, width / own_width)
        if relative_size is not None:
            longest = rng.uniform(*relative_size) * min(height, width)
            scale = min(scale, longest / max(own_height, own_width))
        size = (max(1, round(own_height * scale)), max(1, round(own_width * scale)))
        rgb, inside = _shrink(cutout, size)
        top, left = int(rng.integers(height - size[0] + 1)), int(rng.integers(width - size[1] + 1))
        place = (slice(top, top + size[0]), slice(left, left + size[1]))
        image[place] = _blend(rgb, inside, image[place])
        labels[place][inside] = VOID
        outlier[place][inside] = True
    return Sample(image, labels, outlier, sample.name)


class PasteNegatives:
    """A transform that pastes objects on a share of the images.

    Args:
        source: where the objects come from.
        probability: share of the images that get objects: 1 in M2F-EAM, 0.2 in Mask2Anomaly.
        count: fewest and most draws from the source per image, both included.
        relative_size: see :func:`paste`.

    Raises:
        OutmaskError: on a probability outside of [0, 1], or pairs that do not rise.
    """

    def __init__(
        self,
        source: NegativeSource,
        probability: float,
        count: tuple[int, int] = (1, 3),
        relative_size: tuple[float, float] | None = (0.1, 0.8),
    ) -> None:
        if not 0 <= probability <= 1:
            raise OutmaskError(f"probability must be from 0 to 1, got {probability}")
        if not 1 <= count[0] <= count[1]:
            raise OutmaskError(f"count must be a rising pair of at least 1, got {tuple(count)}")
        _check_relative_size(relative_size)
        self.source = source
        self.probability = probability
        self.count = count
        self.relative_size = relative_size

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        if rng.random() >= self.probability:
            return sample
        draws = int(rng.integers(self.count[0], self.count[1] + 1))
        cutouts = [cutout for _ in range(draws) for cutout in self.source.sample(rng, ())]
        return paste(sample, cutouts, rng, self.relative_size)


def decode_segmentation(segmentation: Any, size: tuple[int, int]) -> NDArray[np.bool_]:
    """``(H, W)`` bool mask of a COCO ``segmentation``: polygons, or run lengths as a list or as a string.

    Args:
        segmentation: ``[[x, y, x, y, ...], ...]`` or ``{"size": [H, W], "counts": ...}``.
        size: ``(H, W)``.

    Raises:
        OutmaskError: on run lengths that do not cover the image, or another format.
    """
    if isinstance(segmentation, list):
        # OpenCV fills the outline's own pixels too: drawn four times as large, the mask grows by 1/8 of a pixel only.
        large = np.zeros((4 * size[0], 4 * size[1]), dtype=np.uint8)
        for polygon in segmentation:
            # COCO's coordinates count from the pixels' corners, OpenCV's from their centres.
            corners = np.rint(4 * np.asarray(polygon, dtype=np.float64).reshape(-1, 2) - 0.5).astype(np.int32)
            # One fill per polygon: filled together, overlapping parts of one object would cancel out.
            cv2.fillPoly(large, [corners], 255)
        covered: NDArray[np.bool_] = cv2.resize(large, (size[1], size[0]), interpolation=cv2.INTER_AREA) >= 128
        return covered
    if not isinstance(segmentation, dict) or "counts" not in segmentation:
        raise OutmaskError("a COCO segmentation must be a list of polygons or run lengths with 'counts'")
    counts = segmentation["counts"]
    runs = np.asarray(_decompress(counts) if isinstance(counts, str) else counts, dtype=np.int64)
    if tuple(segmentation.get("size", size)) != size or runs.sum() != size[0] * size[1] or (runs < 0).any():
        raise OutmaskError(
            f"COCO run lengths must cover {size[1]}x{size[0]} pixels without a rest, got {runs.sum()} pixels"
        )
    # Runs alternate between background and object, down the columns.
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return np.ascontiguousarray(flat.reshape(size[1], size[0]).T)


def _decompress(text: str) -> list[int]:
    """Run lengths of COCO's compressed form: 5 bits a character, the lowest first."""
    runs: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        value |= (bits & 0x1F) << shift
        shift += 5
        if not bits & 0x20:
            if bits & 0x10:  # the sign bit of the last group
                value -= 1 << shift
            # From the fourth on, a run is given as its difference to the run two before, the last of its own kind.
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    return runs


def _check_relative_size(relative_size: tuple[float, float] | None) -> None:
    if relative_size is not None and not 0 < relative_size[0] <= relative_size[1]:
        raise OutmaskError(f"relative_size must be a rising pair of positive fractions, got {tuple(relative_size)}")


def _shrink(cutout: Cutout, size: tuple[int, int]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Colours ``(h, w, 3)`` and mask ``(h, w)`` at ``size``, no larger than the cut-out; the mask never gets empty."""
    mask = cutout.mask.astype(np.float32)
    colors = cutout.rgb.astype(np.float32)
    if size == cutout.mask.shape:
        return colors, cutout.mask
    shape = (size[1], size[0])
    cover = cv2.resize(mask, shape, interpolation=cv2.INTER_AREA)
    # Only the object's own pixels are averaged: no fringe of the background it was cut from.
    colors = cv2.resize(colors * mask[..., None], shape, interpolation=cv2.INTER_AREA)
    return colors / np.maximum(cover, 1e-6)[..., None], cover >= min(0.5, float(cover.max()))


def _blend(rgb: NDArray[np.float32], inside: NDArray[np.bool_], host: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The host with the object on it; its outermost pixels are mixed with the host's, at least by half."""
    share = cv2.blur(inside.astype(np.float32), (3, 3), borderType=cv2.BORDER_CONSTANT)
    weight = np.where(inside, np.maximum(share, 0.5), 0)[..., None]
    mixed: NDArray[np.float32] = np.rint(host + weight * (rgb - host)).clip(0, 255)
    return mixed.astype(np.uint8)


def _read_mask(path: Path) -> NDArray[np.bool_]:
    try:
        with Image.open(path) as picture:
            mask = np.array(picture)
    except (OSError, SyntaxError, ValueError) as error:
        raise OutmaskError(f"{path}: can't read the mask ({error})") from None
    foreground: NDArray[np.bool_] = (mask if mask.ndim == 2 else mask[..., :3].any(-1)) != 0
    return foreground


def _sequence(path: Path) -> str:
    return path.stem.rpartition("_")[0] or path.stem


def _keep(cache: dict[int, Cutout], index: int, cutout: Cutout) -> Cutout:
    if len(cache) < _CACHED_CUTOUTS:
        cache[index] = cutout
    return cutout
