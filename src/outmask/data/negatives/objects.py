"""Objects of frames with foreground masks, and mixtures of sources."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from outmask.data.broken import BrokenItems
from outmask.data.images import read_image, read_values
from outmask.data.negatives.cutouts import Cutout, NegativeSource, keep
from outmask.errors import OutmaskError

if TYPE_CHECKING:
    from outmask.data.transforms import SampleSource


class FolderObjects:
    """Objects from frames with a foreground mask, as DAVIS has them; a draw is the foreground of one frame.

    Args:
        root: folder with ``images/SEQ_N.jpg`` and ``masks/SEQ_N.png``, foreground where the mask is not 0.
        images, masks: names of the two folders.
        sequences: sequences (the text before the last ``_``) to take; all by default. Take only those whose object is
            no class of the taxonomy.
        exclude: sequences to leave out.

    Raises:
        OutmaskError: where the layout differs, a sequence does not exist, nothing is left; at reading, where too many
            frames are :attr:`broken`.
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
        if not self.frames:
            raise OutmaskError(f"{root}: no sequence is left to take objects from")
        self._empty: set[int] = set()
        self._cache: dict[int, Cutout] = {}
        self._broken = BrokenItems(len(self.frames), f"frames of {root}")

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def broken(self) -> int:
        """How many frames were found that can't be decoded, or whose mask has another size; the next serve instead."""
        return self._broken.count

    def sample(self, rng: np.random.Generator, batch: SampleSource) -> list[Cutout]:
        """The foreground of one frame; see :class:`NegativeSource`."""
        # Frames in which the object has left the picture have an empty mask: take the next one that shows it.
        start = int(rng.integers(len(self.frames)))
        for step in range(len(self.frames)):
            cutout = self._broken.pass_over((start + step) % len(self.frames), self._cutout)
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
        return keep(self._cache, index, Cutout.from_image(image, mask))


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

    def sample(self, rng: np.random.Generator, batch: SampleSource) -> list[Cutout]:
        """A draw of one of the sources; see :class:`NegativeSource`."""
        return self.sources[int(rng.choice(len(self.sources), p=self.probabilities))].sample(rng, batch)


def _read_mask(path: Path) -> NDArray[np.bool_]:
    mask = read_values(path, "the mask")
    foreground: NDArray[np.bool_] = (mask if mask.ndim == 2 else mask[..., :3].any(-1)) != 0
    return foreground


def _sequence(path: Path) -> str:
    return path.stem.rpartition("_")[0] or path.stem
