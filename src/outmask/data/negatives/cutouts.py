"""The interface of all sources of negatives: cut-out objects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from outmask.errors import OutmaskError

if TYPE_CHECKING:
    from outmask.data.transforms import SampleSource

K = TypeVar("K")

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

    def sample(self, rng: np.random.Generator, batch: SampleSource) -> list[Cutout]:
        """One draw: the objects that belong together, at least one.

        Args:
            rng: every random choice comes from it.
            batch: other training images, for sources that cut from them; may be empty. Its images are read when they
                are indexed, so that a source that needs none costs nothing.
        """
        ...


def keep(cache: dict[K, Cutout], key: K, cutout: Cutout) -> Cutout:
    """Remember a decoded cut-out as long as there is room; returns it."""
    if len(cache) < _CACHED_CUTOUTS:
        cache[key] = cutout
    return cutout
