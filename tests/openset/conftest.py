"""Random scenes of overlapping masks, for panoptic segmentation and unknown objects."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from outmask.types import MaskPrediction, Taxonomy

TAXONOMY = Taxonomy(
    ("road", "sky", "wall", "car", "person"), ((1, 1, 1),) * 5, (False, False, False, True, True), ("road",)
)

Scenes = Callable[..., MaskPrediction]


@pytest.fixture(scope="session")
def taxonomy() -> Taxonomy:
    """Three classes of stuff, two of things."""
    return TAXONOMY


@pytest.fixture(scope="session")
def scene() -> Scenes:
    """``scene(seed, masks)``: boxes of many sizes, in float64, where no two values tie and rounding decides nothing.

    Half of the masks are sure of a class, a quarter of *no object*, a quarter unsure. ``negative`` makes it one of a
    model that has learned the class *negative*, of which masks are as often as of each of the five known ones.
    """

    def make(seed: int, masks: int = 12, height: int = 12, width: int = 16, negative: bool = False) -> MaskPrediction:
        generator = torch.Generator().manual_seed(seed)

        def random(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        classes = 5 + negative
        class_logits = random(1, masks, classes + 1)
        favourite = torch.randint(0, classes, (masks,), generator=generator)
        favourite[0::4] = classes
        lead = 6 + 2 * random(masks)
        lead[1::4] = 0
        class_logits[0, range(masks), favourite] += lead
        rows, columns = torch.arange(height).double()[:, None], torch.arange(width).double()
        centre = torch.rand(2, masks, 1, 1, generator=generator, dtype=torch.float64)
        extent = torch.rand(2, masks, 1, 1, generator=generator, dtype=torch.float64) * 0.45 + 0.05
        vertical = (rows - centre[0] * height).abs() / height - extent[0]
        horizontal = (columns - centre[1] * width).abs() / width - extent[1]
        mask_logits = -30 * torch.maximum(vertical, horizontal) + random(masks, height, width) / 4
        return MaskPrediction(class_logits, mask_logits[None], negative_class=negative)

    return make
