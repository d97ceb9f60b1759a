"""Patches as negatives: squares of other training images, and samples of a normalising flow (M2F-EAM, table 8)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from outmask.data.flow import PatchFlow
from outmask.data.negatives.cutouts import Cutout
from outmask.errors import OutmaskError

if TYPE_CHECKING:
    from outmask.data.transforms import SampleSource


class InlierPatches:
    """Square patches of the batch's other images: known content where it does not belong (M2F-EAM, table 8).

    A draw is one patch. The paper gives no sizes; the default is the range of the flow's patches, meant for hosts of
    1024 x 2048.

    Args:
        side: fewest and most pixels of a side, both included; where an image is smaller, its shorter side at most.

    Raises:
        OutmaskError: on a pair that does not rise; at sampling, where there are no other images.
    """

    def __init__(self, side: tuple[int, int] = (16, 216)) -> None:
        _check_side(side)
        self.side = side

    def sample(self, rng: np.random.Generator, batch: SampleSource) -> list[Cutout]:
        """A square of one image of ``batch``; see :class:`NegativeSource`."""
        if not len(batch):
            raise OutmaskError("inlier patches are cut from other images: give PasteNegatives the training images")
        image = batch[int(rng.integers(len(batch)))].image
        height, width = image.shape[:2]
        low, high = (min(limit, height, width) for limit in self.side)
        side = int(rng.integers(low, high + 1))
        top, left = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
        return [_whole(image[top : top + side, left : left + side].copy())]


class FlowSamples:
    """Patches that a normalising flow made up, after it was trained on patches of known scenes (M2F-EAM, table 8).

    A draw is one rectangle whose height and width are independently drawn multiples of what the flow's scales allow.
    The default is that of the flow in UNO's released code, {16, 24, ..., 216} with three scales, meant for hosts of
    1024 x 2048. One sample takes milliseconds to tenths of a second on one core, by its area.

    Args:
        flow: a trained flow, on the CPU; see :func:`outmask.data.flow.train_flow`.
        side: fewest and most pixels of a side, both included; multiples of ``flow.multiple``.

    Raises:
        OutmaskError: on sides that the flow can't make.
    """

    def __init__(self, flow: PatchFlow, side: tuple[int, int] = (16, 216)) -> None:
        _check_side(side)
        if any(limit % flow.multiple for limit in side):
            raise OutmaskError(f"side must be multiples of the flow's {flow.multiple} pixels, got {tuple(side)}")
        self.flow = flow
        self.side = side

    def sample(self, rng: np.random.Generator, batch: SampleSource) -> list[Cutout]:
        """One sample of the flow; see :class:`NegativeSource`."""
        low, high = (limit // self.flow.multiple for limit in self.side)
        height, width = (int(count) * self.flow.multiple for count in rng.integers(low, high + 1, size=2))
        return [_whole(self.flow.sample(rng, (height, width))[0])]


def _check_side(side: tuple[int, int]) -> None:
    if not 1 <= side[0] <= side[1]:
        raise OutmaskError(f"side must be a rising pair of pixels, got {tuple(side)}")


def _whole(patch: NDArray[np.uint8]) -> Cutout:
    return Cutout(patch, np.ones(patch.shape[:2], dtype=np.bool_))
