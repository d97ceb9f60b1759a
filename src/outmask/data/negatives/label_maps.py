"""Objects of images with semantic label maps, such as ADE20K's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from outmask.data.broken import BrokenItems
from outmask.data.images import IMAGE_SUFFIXES, read_image, read_values
from outmask.data.negatives.cutouts import Cutout
from outmask.errors import OutmaskError

if TYPE_CHECKING:
    from outmask.data.transforms import SampleSource

# fmt: off
ADE20K_STREET_IDS = (
    1,    # wall
    2,    # building
    3,    # sky
    5,    # tree
    7,    # road
    10,   # grass
    12,   # sidewalk
    13,   # person
    14,   # earth
    18,   # plant
    21,   # car
    26,   # house
    30,   # field
    33,   # fence
    44,   # signboard
    47,   # sand
    49,   # skyscraper
    53,   # path
    73,   # palm
    81,   # bus
    84,   # truck
    92,   # dirt track
    94,   # pole
    95,   # land
    103,  # van
    117,  # minibike
    128,  # bicycle
    137,  # traffic light
)
# fmt: on
"""Ids of ADE20K's 150 scene-parsing classes that Cityscapes' classes cover; the papers leave none of them out."""


class LabelMapObjects:
    """Regions of an image with one semantic label each: the negatives of M2F-EAM, made from ADE20K.

    A draw follows the paper's released code: one image, its longest side shrunk to a uniformly drawn number of pixels,
    and then ``objects`` of the ids that its label map still holds, drawn with replacement. As there, every id counts,
    id 0 ("other") too, and an object keeps the whole image as its frame: it is the frame that gets a uniform place. The
    image is shrunk by area where the code takes every n-th pixel.

    Args:
        root: the dataset's folder.
        images, labels: folders of the images and of their label maps, under the same stem: PNGs of ids, 8 or 16 bits.
            By default those of ADE20K's scene-parsing release (``ADEChallengeData2016``).
        objects: how many objects a draw gives; one id may be among them several times.
        longest_side: fewest and most pixels of the shrunk image's longest side, both included; (96, 383) is the code's
            randint[96, 384), meant for hosts of 1024 x 2048. None keeps the image's own size: together with
            ``paste(relative_size=...)`` the frame's longest side is then a fraction of any host's shorter side, drawn
            for each object.
        exclude: ids to leave out, such as ``(0, *ADE20K_STREET_IDS)``.

    Raises:
        OutmaskError: where the layout differs, or on bad numbers; at reading, where too many images are
            :attr:`broken`, or no id is left in any image.
    """

    def __init__(
        self,
        root: str | Path,
        images: str = "images/training",
        labels: str = "annotations/training",
        *,
        objects: int = 3,
        longest_side: tuple[int, int] | None = (96, 383),
        exclude: Sequence[int] = (),
    ) -> None:
        if objects < 1:
            raise OutmaskError(f"objects must be at least 1, got {objects}")
        if longest_side is not None and not 1 <= longest_side[0] <= longest_side[1]:
            raise OutmaskError(f"longest_side must be a rising pair of pixels, got {tuple(longest_side)}")
        root = Path(root)
        found = (path for path in sorted((root / images).glob("*")) if path.suffix.lower() in IMAGE_SUFFIXES)
        pairs = [(path, root / labels / f"{path.stem}.png") for path in found]
        if not pairs:
            raise OutmaskError(f"no images in {root / images}; name the folders of images and label maps")
        if missing := [label for _, label in pairs if not label.is_file()]:
            raise OutmaskError(
                f"{len(missing)} of {len(pairs)} images in {root / images} have no label map, the first at {missing[0]}"
            )
        self.pairs = pairs
        self.objects = objects
        self.longest_side = longest_side
        self.exclude = np.asarray(exclude, dtype=np.int64)
        self._broken = BrokenItems(len(pairs), f"images of {root}")

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def broken(self) -> int:
        """How many images were found that can't be decoded, or whose label map has several channels or another size;
        the next one serves instead."""
        return self._broken.count

    def sample(self, rng: np.random.Generator, batch: SampleSource) -> list[Cutout]:
        """Objects of one image, each in the image's frame; see :class:`NegativeSource`."""
        # An image all of whose ids are left out is passed over: take the next one that has others.
        start = int(rng.integers(len(self.pairs)))
        for step in range(len(self.pairs)):
            cutouts = self._cut(*self._broken.pass_over((start + step) % len(self.pairs), self._read), rng)
            if cutouts:
                return cutouts
        raise OutmaskError(f"no image in {self.pairs[0][0].parent} shows an id that is not left out: nothing to paste")

    def _read(self, index: int) -> tuple[NDArray[np.uint8], NDArray[Any]]:
        """Image ``(H, W, 3)`` and ids ``(H, W)``."""
        image_path, label_path = self.pairs[index]
        image, ids = read_image(image_path), read_values(label_path, "the label map")
        if ids.ndim != 2:
            raise OutmaskError(f"{label_path}: a label map must hold ids in one channel, got {ids.shape[2]} channels")
        if image.shape[:2] != ids.shape:
            raise OutmaskError(
                f"{label_path}: label map is {ids.shape[1]}x{ids.shape[0]}, its image {image.shape[1]}x{image.shape[0]}"
            )
        return image, ids

    def _cut(self, image: NDArray[np.uint8], ids: NDArray[Any], rng: np.random.Generator) -> list[Cutout]:
        if self.longest_side is not None:
            longest = int(rng.integers(self.longest_side[0], self.longest_side[1] + 1))
            if longest < max(ids.shape):
                height, width = (max(1, round(side * longest / max(ids.shape))) for side in ids.shape)
                image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
                # OpenCV resizes no 32-bit integers; ids of any picture fit 16 bits.
                ids = cv2.resize(ids.astype(np.uint16), (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
        remaining = np.setdiff1d(ids, self.exclude)
        if not len(remaining):
            return []
        return [Cutout(image, ids == id_) for id_ in rng.choice(remaining, self.objects)]
