"""Score maps of an image, with and without refinement and mirror."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from outmask import scores
from outmask.errors import OutmaskError
from outmask.openset.inference import score_maps
from outmask.openset.refine import refine, refinement_mask
from outmask.types import MaskPrediction, PixelPrediction, Taxonomy

COLORS = ((0, 0, 0), (1, 1, 1), (2, 2, 2))
TAXONOMY = Taxonomy(("road", "sky", "car"), COLORS, (False, False, True), ("road",))
IMAGE = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
SIZE = (12, 16)


def predict(image: NDArray[np.uint8]) -> MaskPrediction:
    """Three masks, two of them surely sky; their logits grow to the right by more than the image says."""
    pixels = torch.from_numpy(image).float().permute(2, 0, 1)[None] / 32 - 6
    class_logits = torch.tensor([[[0.0, 9, 0, 0], [0, 9, 0, 0], [2, 0, 1, 0]]])
    return MaskPrediction(class_logits, pixels + torch.arange(image.shape[1]) / 4)


def test_plain_maps_are_the_engines() -> None:
    maps = score_maps(predict, IMAGE, ["eam", "m2a"], SIZE)
    expected = scores.evaluate(predict(IMAGE), ["eam", "m2a"], SIZE)
    assert maps.keys() == expected.keys()
    assert all(torch.equal(maps[name], expected[name]) for name in maps)


@pytest.mark.parametrize("name", ["eam", "m2a"])
def test_each_view_is_refined_by_its_own_masks_before_the_average(name: str) -> None:
    def refined(image: NDArray[np.uint8]) -> torch.Tensor:
        prediction = predict(image)
        keep = refinement_mask(prediction, TAXONOMY, SIZE)
        assert 0.1 < keep.float().mean() < 0.9
        return refine(scores.score(prediction, name, SIZE), keep, scores.display_range(name, 3)[0])

    straight, mirrored = refined(IMAGE), refined(np.ascontiguousarray(IMAGE[:, ::-1]))
    torch.testing.assert_close(score_maps(predict, IMAGE, [name], SIZE, TAXONOMY)[name], straight)
    both = score_maps(predict, IMAGE, [name], SIZE, TAXONOMY, flip=True)
    torch.testing.assert_close(both[name], (straight + mirrored.flip(-1)) / 2)
    assert torch.equal(both["labels"], scores.evaluate(predict(IMAGE), [], SIZE)["labels"])


def test_refinement_needs_things_and_stuff() -> None:
    with pytest.raises(OutmaskError, match="needs to know things from stuff"):
        score_maps(predict, IMAGE, ["eam"], SIZE, Taxonomy(("a", "b", "c"), COLORS))


def test_refinement_needs_masks() -> None:
    with pytest.raises(OutmaskError, match="predicts none"):
        score_maps(lambda image: PixelPrediction(torch.zeros(1, 3, 6, 8)), IMAGE, ["entropy"], SIZE, TAXONOMY)
