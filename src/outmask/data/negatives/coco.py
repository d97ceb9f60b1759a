"""Objects of COCO images."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from outmask.data.broken import BrokenItems
from outmask.data.images import read_image
from outmask.data.negatives.cutouts import Cutout, keep
from outmask.errors import OutmaskError

if TYPE_CHECKING:
    from outmask.data.transforms import SampleSource

STREET_CATEGORIES = ("person", "bicycle", "car", "motorcycle", "bus", "truck", "traffic light", "stop sign")
"""COCO categories that a street taxonomy knows; Mask2Anomaly leaves out every image that shows one."""


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
        minimum_side: smallest side of an image, in pixels; 480 in AnomalyMix.
        images: take the objects of only so many images, a random subset; all by default. Mask2Anomaly takes 300.
        seed: of this subset; other seeds are other outlier sets (Mask2Anomaly, table IX).

    Raises:
        OutmaskError: where the file is not in this format, a category does not exist, no object is left, or there are
            fewer images than asked for; at reading, where too many images are :attr:`broken`.
    """

    def __init__(
        self,
        annotations: str | Path,
        images_root: str | Path,
        exclude_categories: Sequence[str] = STREET_CATEGORIES,
        exclude: Literal["image", "instance"] = "image",
        minimum_area: int = 1000,
        joint: bool = False,
        *,
        minimum_side: int = 0,
        images: int | None = None,
        seed: int = 0,
    ) -> None:
        if exclude not in ("image", "instance"):
            raise OutmaskError(f"exclude must be 'image' or 'instance', got {exclude!r}")
        self.path, self.images_root = Path(annotations), Path(images_root)
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            self._images = {
                image["id"]: (self.images_root / image["file_name"], (int(image["height"]), int(image["width"])))
                for image in content["images"]
            }
            names = {category["name"]: category["id"] for category in content["categories"]}
            instances = [(item["image_id"], item["category_id"], item) for item in content["annotations"]]
            sizes = {image: self._images[image][1] for image, _, _ in instances}
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
            large = item["area"] >= minimum_area and min(sizes[image]) >= minimum_side
            if large and not known and not item.get("iscrowd", 0):
                by_image[image].append(item)
        if not by_image:
            raise OutmaskError(
                f"{self.path}: no object of at least {minimum_area} pixels, in an image of sides of at least "
                f"{minimum_side}, is left without {', '.join(exclude_categories)}"
            )
        chosen = list(by_image.values())
        if images is not None:
            if not 1 <= images <= len(chosen):
                raise OutmaskError(f"{self.path}: {len(chosen)} images have objects to take, {images} were asked for")
            chosen = [chosen[index] for index in np.random.default_rng(seed).permutation(len(chosen))[:images]]
        # The draws of each image: all of its objects together, or one by one.
        self._objects = [[items] if joint else [[item] for item in items] for items in chosen]
        self._draws = [(image, place) for image, objects in enumerate(self._objects) for place in range(len(objects))]
        self._cache: dict[tuple[int, int], Cutout] = {}
        # By image, not by draw: a broken one is one failure, however many objects it shows.
        self._broken = BrokenItems(len(chosen), f"images of {self.path}")

    def __len__(self) -> int:
        return len(self._draws)

    @property
    def broken(self) -> int:
        """How many images were found that can't be decoded, have another size than the file says, or whose object has
        no pixels; an object of the next one serves instead."""
        return self._broken.count

    def sample(self, rng: np.random.Generator, batch: SampleSource) -> list[Cutout]:
        """One object, or the objects of one image as one; see :class:`NegativeSource`."""
        image, place = self._draws[int(rng.integers(len(self._draws)))]
        return [self._broken.pass_over(image, lambda usable: self._cutout(usable, place))]

    def _cutout(self, image: int, place: int) -> Cutout:
        place %= len(self._objects[image])  # another image that takes this one's place may show fewer objects
        if (image, place) in self._cache:
            return self._cache[image, place]
        items = self._objects[image][place]
        path, size = self._images[items[0]["image_id"]]
        pixels = read_image(path)
        if pixels.shape[:2] != size:
            raise OutmaskError(
                f"{path}: image is {pixels.shape[1]}x{pixels.shape[0]}, but {self.path.name} says {size[1]}x{size[0]}"
            )
        mask = np.zeros(size, dtype=np.bool_)
        try:
            for item in items:
                mask |= decode_segmentation(item["segmentation"], size)
            cutout = Cutout.from_image(pixels, mask)
        except (OutmaskError, ValueError, TypeError, KeyError) as error:
            raise OutmaskError(f"{self.path}: an object of {path.name}: {error}") from None
        return keep(self._cache, (image, place), cutout)


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
