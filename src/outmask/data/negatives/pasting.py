"""Pasting cut-out objects on labelled images, as void."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from outmask.data.broken import UsableImages
from outmask.data.labels import VOID, Sample
from outmask.data.negatives.cutouts import Cutout, NegativeSource
from outmask.errors import OutmaskError

if TYPE_CHECKING:
    from outmask.data.transforms import SampleSource


def paste(
    sample: Sample,
    cutouts: Sequence[Cutout],
    rng: np.random.Generator,
    relative_size: tuple[float, float] | None = (0.1, 0.8),
) -> Sample:
    """Paste objects on a sample, each at its own uniform place, as void and outlier.

    How large an object gets is said in one of two ways:

    - in pixels, as the papers do: ``relative_size=None`` pastes it as large as its source made it. A source that draws
      sizes (:class:`LabelMapObjects`, :class:`InlierPatches`, :class:`FlowSamples`) takes them in pixels of the host;
      AnomalyMix of Mask2Anomaly does not scale its objects at all.
    - relative to the host, for images of any size: the object is shrunk until its longest side is a uniformly drawn
      fraction of the host's shorter side. randint[96, 384) on Cityscapes' 1024 x 2048 (M2F-EAM) is (0.09, 0.375) here;
      the default goes further, because on small images objects of that size are lost.

    An object is never enlarged, because its blur would give it away, and one that is larger than the host is scaled to
    fit. Its outermost pixels are blended with the host, where the papers' code leaves a hard edge for a model to find;
    pixels outside of the objects stay as they are.

    Args:
        sample: the host; it is not changed. Where it has instances, each object becomes one.
        cutouts: the objects; a later one covers an earlier one.
        rng: every random choice comes from it.
        relative_size: the longest side's range, as fractions of the host's shorter side; None = the object's own size.

    Raises:
        OutmaskError: on a range that is not positive and rising.
    """
    _check_relative_size(relative_size)
    if not cutouts:
        return sample
    pasted = sample.map(np.copy)
    image, labels, outlier, instances = pasted.image, pasted.labels, pasted.outlier, pasted.instances
    height, width = labels.shape
    first = 1 if instances is None else int(instances.max()) + 1
    for number, cutout in enumerate(cutouts, first):
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
        if instances is not None:
            instances[place][inside] = number
    return pasted


class PasteNegatives:
    """A transform that pastes objects on a share of the images.

    Args:
        source: where the objects come from.
        probability: share of the images that get objects: 1 in M2F-EAM, 0.2 in Mask2Anomaly.
        count: fewest and most draws from the source per image, both included.
        relative_size: see :func:`paste`.
        others: images that sources may cut from, in place of the rest of a batch: the training images, for example a
            ``torch.utils.data.ConcatDataset`` of the training sets. In a batch of shuffled images, each image beside
            the host is a uniform draw from the training set, so drawing it from there gives patches of the same
            distribution; and made with the host's own generator, a draw stays a function of seed and number alone,
            whatever the batch size, the worker or the machine. (The host itself is among them: once in as many draws
            as there are images.) Broken ones are passed over.

    Raises:
        OutmaskError: on a probability outside of [0, 1], or pairs that do not rise.
    """

    def __init__(
        self,
        source: NegativeSource,
        probability: float,
        count: tuple[int, int] = (1, 3),
        relative_size: tuple[float, float] | None = (0.1, 0.8),
        others: SampleSource = (),
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
        self.others = UsableImages.of(others)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        if rng.random() >= self.probability:
            return sample
        draws = int(rng.integers(self.count[0], self.count[1] + 1))
        cutouts = [cutout for _ in range(draws) for cutout in self.source.sample(rng, self.others)]
        return paste(sample, cutouts, rng, self.relative_size)


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
