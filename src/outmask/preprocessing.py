"""How an image becomes a model's input: resized to a short side, normalised."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from outmask.errors import OutmaskError


@dataclass(frozen=True)
class Preprocessing:
    """Resizing and normalisation; the defaults are Mask2Former's for street scenes.

    Attributes:
        mean, std: per RGB channel, on the 0-255 scale.
        short_side: pixels that the image's shorter side is resized to; None keeps its size.
        long_side: the most pixels its longer side may then have; None for no limit.

    Raises:
        OutmaskError: on deviations or sides that are not positive.
    """

    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    std: tuple[float, float, float] = (58.395, 57.12, 57.375)
    short_side: int | None = 1024
    long_side: int | None = 2048

    def __post_init__(self) -> None:
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise OutmaskError(f"mean and std need three values each, std above 0, got {self.mean} and {self.std}")
        if any(side is not None and side < 1 for side in (self.short_side, self.long_side)):
            raise OutmaskError(
                f"short_side and long_side must be at least 1, got {self.short_side} and {self.long_side}"
            )

    def size(self, height: int, width: int) -> tuple[int, int]:
        """``(height, width)`` that an image is resized to; its aspect stays, each side has at least one pixel."""
        scale = 1.0 if self.short_side is None else self.short_side / min(height, width)
        if self.long_side is not None:
            scale = min(scale, self.long_side / max(height, width))
        return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))

    def __call__(self, image: NDArray[np.uint8]) -> Tensor:
        """``(H, W, 3)`` uint8 RGB -> ``(1, 3, h, w)`` float32, resized (bilinear, antialiased) and normalised."""
        height, width = self.size(*image.shape[:2])
        if (height, width) != image.shape[:2]:
            image = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
        return self.normalise(torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float())

    def normalise(self, pixels: Tensor) -> Tensor:
        """``(B, 3, H, W)`` float on the 0-255 scale -> normalised, contiguous."""
        mean, std = (pixels.new_tensor(values).view(1, 3, 1, 1) for values in (self.mean, self.std))
        return ((pixels - mean) / std).contiguous()

    def to_json(self) -> dict[str, Any]:
        """The ``preprocessing`` entry of a model's ``config.json``."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Preprocessing:
        """Inverse of :meth:`to_json`."""
        mean, std = (tuple(float(part) for part in values[name]) for name in ("mean", "std"))
        return cls(mean, std, values["short_side"], values["long_side"])  # type: ignore[arg-type]
