"""A model that is asked for the same images again and again, and runs once for each."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from torch import Tensor

from outmask.data.images import ImageSource, read_image
from outmask.scores import Prediction
from outmask.segmenter import Segmenter

KEPT_BYTES = 2 << 30
"""Most memory that the predictions may take: some 500 of 50 masks of 96x192."""


@dataclass
class Remembering(Segmenter):
    """A segmenter that keeps what it predicted, the latest images' where there is no room for all.

    Thresholds, open-IoU and segments each take walks over the same images; what differs is what is made of the masks.
    Detectors, which ask the model itself, run it again.
    """

    _kept: dict[bytes, Prediction] = field(default_factory=dict)
    _bytes: int = 0

    @classmethod
    def of(cls, segmenter: Segmenter) -> Remembering:
        """The same model."""
        return cls(**vars(segmenter))

    def prediction(self, image: ImageSource) -> Prediction:
        """As of :class:`Segmenter`; not to be changed."""
        pixels = read_image(image)
        key = hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).digest()
        if key not in self._kept:
            made = super().prediction(pixels)
            self._bytes += _size(made)
            self._kept[key] = made
            while self._bytes > KEPT_BYTES:
                self._bytes -= _size(self._kept.pop(next(iter(self._kept))))
            return made
        return self._kept[key]


def _size(prediction: Prediction) -> int:
    return sum(part.nbytes for part in vars(prediction).values() if isinstance(part, Tensor))
