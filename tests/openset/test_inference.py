"""Score maps of an image: scores and detectors, with and without refinement and mirror."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from outmask import detectors, scores
from outmask.detectors import StandardisedMaxLogits
from outmask.errors import OutmaskError
from outmask.openset import inference
from outmask.openset.inference import masks_and_maps, score_maps
from outmask.openset.refine import refine, refinement_mask
from outmask.preprocessing import Preprocessing
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


def predict_pixels(image: NDArray[np.uint8]) -> PixelPrediction:
    """The colours as logits; they grow to the right."""
    return PixelPrediction(predict(image).mask_logits)


@dataclass
class Model:
    """A member whose network is a function of the image."""

    prediction: Callable[[NDArray[np.uint8]], scores.Prediction] = predict
    taxonomy: Taxonomy = TAXONOMY
    name: str = "a test's"
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    statistics: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)

    @property
    def model(self) -> nn.Module:
        return self  # type: ignore[return-value]

    def __call__(self, pixels: Tensor) -> scores.Prediction:
        return self.prediction(pixels[0].permute(1, 2, 0).numpy())

    def preprocess(self, image: NDArray[np.uint8]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None]


def test_plain_maps_are_the_engines() -> None:
    maps = score_maps([Model()], IMAGE, ["eam", "m2a"], SIZE)
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
    torch.testing.assert_close(score_maps([Model()], IMAGE, [name], SIZE, TAXONOMY)[name], straight)
    both = score_maps([Model()], IMAGE, [name], SIZE, TAXONOMY, flip=True)
    torch.testing.assert_close(both[name], (straight + mirrored.flip(-1)) / 2)
    assert torch.equal(both["labels"], scores.evaluate(predict(IMAGE), [], SIZE)["labels"])


def test_refinement_needs_things_and_stuff() -> None:
    with pytest.raises(OutmaskError, match="needs to know things from stuff"):
        score_maps([Model()], IMAGE, ["eam"], SIZE, Taxonomy(("a", "b", "c"), COLORS))


def test_refinement_needs_masks() -> None:
    with pytest.raises(OutmaskError, match="predicts none"):
        score_maps([Model(predict_pixels)], IMAGE, ["entropy"], SIZE, TAXONOMY)


def test_things_are_removed_where_asked_for() -> None:
    maps = score_maps([Model()], IMAGE, ["eam"], SIZE, TAXONOMY, remove="things")
    keep = refinement_mask(predict(IMAGE), TAXONOMY, SIZE, "things")
    torch.testing.assert_close(maps["eam"], refine(scores.score(predict(IMAGE), "eam", SIZE), keep, -1.0))


def test_a_detectors_map_is_resized_and_averaged_like_a_score() -> None:
    statistics = {"sml": {"mean": torch.tensor([1.0, 2, 3]), "deviation": torch.tensor([1.0, 2, 3])}}
    member = Model(predict_pixels, statistics=statistics)

    def expected(image: NDArray[np.uint8]) -> Tensor:
        own = StandardisedMaxLogits()(member, member.preprocess(image))
        assert own.shape == (1, 6, 8)
        return F.interpolate(own[None], SIZE, mode="bilinear")[0]

    straight, mirrored = expected(IMAGE), expected(np.ascontiguousarray(IMAGE[:, ::-1]))
    maps = score_maps([member], IMAGE, ["sml", "entropy"], SIZE)
    assert list(maps) == ["entropy", "labels", "sml"]
    torch.testing.assert_close(maps["sml"], straight)
    both = score_maps([member], IMAGE, ["sml"], SIZE, flip=True)
    torch.testing.assert_close(both["sml"], (straight + mirrored.flip(-1)) / 2)
    assert not torch.allclose(both["sml"], straight)


def test_scores_and_detectors_have_one_list_of_names() -> None:
    names = inference.available()
    assert names == [*scores.available(), *detectors.available()]
    assert len(set(names)) == len(names)
    for name in names:
        inference.check(name)
        assert "  (" in inference.describe(name)
        assert "\n" not in inference.describe(name)
    with pytest.raises(OutmaskError, match="unknown score 'mahalanobs': did you mean 'mahalanobis'"):
        inference.check("mahalanobs")
    with pytest.raises(OutmaskError, match="unknown score ''"):
        inference.describe("")


def test_every_name_has_a_display_range() -> None:
    statistics = {"mahalanobis": {"means": torch.zeros(3, 5), "whitening": torch.zeros(5, 4)}}
    for name in inference.available():
        low, high = inference.display_range(Model(statistics=statistics), name)
        assert np.isfinite([low, high]).all()
        assert low < high
    with pytest.raises(OutmaskError, match="needs statistics"):
        inference.display_range(Model(), "mahalanobis")


def test_masks_and_maps_come_from_one_pass() -> None:
    seen: list[NDArray[np.uint8]] = []

    def counted(image: NDArray[np.uint8]) -> MaskPrediction:
        seen.append(image)
        return predict(image)

    masks, maps = masks_and_maps([Model(counted)], IMAGE, ["eam"], SIZE, TAXONOMY)
    assert len(seen) == 1
    assert torch.equal(masks.mask_logits, predict(IMAGE).mask_logits)
    assert torch.equal(maps["eam"], score_maps([Model()], IMAGE, ["eam"], SIZE, TAXONOMY)["eam"])
    masks, maps = masks_and_maps([Model(counted)], IMAGE, ["eam"], SIZE, flip=True)
    assert len(seen) == 3
    assert torch.equal(masks.mask_logits, predict(IMAGE).mask_logits)  # not those of the mirrored image
    assert torch.equal(maps["eam"], score_maps([Model()], IMAGE, ["eam"], SIZE, flip=True)["eam"])


def test_segments_need_the_masks_of_one_model() -> None:
    with pytest.raises(OutmaskError, match="an ensemble has no masks of its own"):
        masks_and_maps([Model(), Model()], IMAGE, ["eam"], SIZE)
    with pytest.raises(OutmaskError, match="this model predicts none"):
        masks_and_maps([Model(predict_pixels)], IMAGE, ["entropy"], SIZE)
