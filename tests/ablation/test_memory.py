"""A segmenter that remembers gives what it gave, and runs the model once for each image that it has room for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from outmask.ablation import memory
from outmask.ablation.memory import Remembering
from outmask.data.taxonomies import CAMVID
from outmask.preprocessing import Preprocessing
from outmask.segmenter import Segmenter
from outmask.types import MaskPrediction


class Counting(torch.nn.Module):
    """Masks that depend on the image, and how often it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(3, 3, 1, 1))
        self.passes = 0

    def forward(self, pixels: torch.Tensor) -> MaskPrediction:
        self.passes += 1
        masks = torch.nn.functional.conv2d(pixels, self.weight)
        return MaskPrediction(masks.mean((2, 3))[..., None].repeat(1, 1, CAMVID.num_classes + 1), masks)


@pytest.fixture
def plain() -> Segmenter:
    return Segmenter(Counting(), CAMVID, Preprocessing(short_side=None), "counting")


def images(count: int) -> list[NDArray[np.uint8]]:
    return list(np.random.default_rng(0).integers(0, 256, (count, 4, 6, 3), dtype=np.uint8))


def test_scores_and_masks_are_those_of_the_model(plain: Segmenter) -> None:
    remembering = Remembering.of(plain)
    for _ in range(2):
        for image in images(3):
            for name, map_ in remembering.maps(image, ["eam", "am"], (8, 12)).items():
                assert torch.equal(map_, plain.maps(image, ["eam", "am"], (8, 12))[name])
            masks, _ = remembering.masks_and_maps(image, ["eam"], (8, 12))
            assert torch.equal(masks.mask_logits, plain.masks_and_maps(image, ["eam"], (8, 12))[0].mask_logits)


def test_the_model_runs_once_for_each_image(plain: Segmenter) -> None:
    remembering = Remembering.of(plain)
    for image in images(3) * 2:
        remembering.prediction(image)
    remembering.prediction(images(1)[0].reshape(6, 4, 3))  # another image of the same bytes
    assert remembering.model.passes == 4


def test_where_there_is_no_room_the_oldest_is_forgotten(plain: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    remembering = Remembering.of(plain)
    one, two, three = images(3)
    size = sum(part.nbytes for part in vars(plain.prediction(one)).values() if isinstance(part, torch.Tensor))
    monkeypatch.setattr(memory, "KEPT_BYTES", 2 * size)
    passes = remembering.model.passes
    for image, new in ((one, 1), (two, 2), (three, 3), (two, 3), (three, 3), (one, 4)):
        remembering.prediction(image)
        assert remembering.model.passes == passes + new
