"""Objects that the synthetic world keeps for training, drawn anew each time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from outmask.data.negatives.cutouts import Cutout
from outmask.data.world.objects import draw_object
from outmask.errors import OutmaskError

if TYPE_CHECKING:
    from outmask.data.transforms import SampleSource


class WorldObjects:
    """Objects of the families that the world's test scenes share neither shape nor texture with.

    Args:
        side: fewest and most pixels of an object's longer side.

    Raises:
        OutmaskError: on sides that are no rising pair from 8.
    """

    def __init__(self, side: tuple[int, int] = (64, 320)) -> None:
        if not 8 <= side[0] <= side[1]:
            raise OutmaskError(f"side must be a rising pair of pixels from 8, got {side}")
        self.side = side

    def sample(self, rng: np.random.Generator, batch: SampleSource) -> list[Cutout]:
        """One object; see :class:`NegativeSource`."""
        side = int(rng.integers(self.side[0], self.side[1] + 1))
        return [Cutout(*draw_object(rng, "negatives", side))]
