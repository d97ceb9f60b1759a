"""Deep ensembles: what is averaged, for models of pixels and of masks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from outmask import scores
from outmask.detectors import ensemble_maps
from outmask.detectors.ensemble import joint_prediction
from outmask.errors import OutmaskError
from outmask.preprocessing import Preprocessing
from outmask.segmenter import Ensemble, Segmenter
from outmask.types import MaskPrediction, PixelPrediction, Taxonomy

SIZE = (24, 40)


def logits(seed: int, *shape: int) -> Tensor:
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def combined(predictions: list[scores.Prediction], names: list[str], size: tuple[int, int]) -> dict[str, Tensor]:
    return ensemble_maps(predictions, [scores.evaluate(one, names, size) for one in predictions], size)


def test_scores_of_the_distribution_are_those_of_the_average_distribution() -> None:
    members = [PixelPrediction(logits(seed, 2, 4, 5, 6)) for seed in range(3)]
    maps = combined([*members], ["msp", "entropy", "kl"], (5, 6))
    mean = torch.stack([one.logits.double().softmax(1) for one in members]).mean(0)
    expected = {
        "msp": -mean.amax(1),
        "entropy": -(mean * mean.log()).sum(1),
        "kl": np.log(4) + mean.log().mean(1),
    }
    for name, score in expected.items():
        torch.testing.assert_close(maps[name].double(), score, rtol=1e-5, atol=1e-6)
    assert torch.equal(maps["labels"], mean.argmax(1))


def test_other_scores_of_pixels_are_averages() -> None:
    members = [PixelPrediction(logits(seed, 1, 4, 5, 6), logits(seed, 1, 5, 6)) for seed in range(3)]
    names = ["maxlogit", "energy", "void", "densehybrid"]
    maps = combined([*members], names, (9, 7))
    for name in names:
        single = [scores.score(one, name, (9, 7)) for one in members]
        torch.testing.assert_close(maps[name], sum(single) / 3)


def test_scores_of_masks_are_averages_and_labels_those_of_the_average_class_scores() -> None:
    members = [MaskPrediction(logits(seed, 1, 6, 5), logits(seed + 9, 1, 6, 5, 6)) for seed in range(3)]
    names = ["eam", "am", "aem", "unclaimed"]
    maps = combined([*members], names, (5, 6))
    for name in names:
        torch.testing.assert_close(maps[name], sum(scores.score(one, name, (5, 6)) for one in members) / 3)
    class_scores = sum(
        torch.einsum("bqk,bqhw->bkhw", one.class_logits.softmax(2)[..., :-1], one.mask_logits.sigmoid())
        for one in members
    )
    assert isinstance(class_scores, Tensor)
    assert torch.equal(maps["labels"], class_scores.argmax(1))


def test_masks_of_models_with_and_without_a_negative_class_go_together() -> None:
    plain = MaskPrediction(logits(0, 1, 6, 5), logits(1, 1, 6, 5, 6))
    negative = MaskPrediction(logits(2, 1, 6, 6), logits(3, 1, 6, 5, 6), negative_class=True)
    maps = combined([plain, negative], ["eam"], (5, 6))
    assert int(maps["labels"].max()) <= 3
    torch.testing.assert_close(maps["eam"], sum(scores.score(one, "eam", (5, 6)) for one in (plain, negative)) / 2)


def test_predictions_of_smaller_images_are_resized() -> None:
    small, large = PixelPrediction(logits(0, 1, 4, 3, 5)), PixelPrediction(logits(1, 1, 4, 6, 8))
    joint = joint_prediction([small, large])
    assert isinstance(joint, PixelPrediction)
    resized = F.interpolate(small.logits, (6, 8), mode="bilinear")
    expected = (resized.softmax(1) + large.logits.softmax(1)) / 2
    torch.testing.assert_close(joint.logits.exp(), expected)


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("per_pixel", ["msp", "entropy", "kl", "maxlogit", "odin", "mcdropout"]),
        ("masks", ["eam", "am", "rba", "unclaimed"]),
    ],
)
@pytest.mark.parametrize("flip", [False, True])
def test_equal_members_give_what_one_of_them_gives(
    tiny: Callable[..., Segmenter], image: NDArray[np.uint8], name: str, asked: list[str], flip: bool
) -> None:
    one = tiny(name)
    maps, expected = (who.maps(image, asked, SIZE, flip=flip) for who in (Ensemble([one, one, one]), one))
    assert maps.keys() == expected.keys()
    for key in asked:
        torch.testing.assert_close(maps[key], expected[key], rtol=1e-5, atol=1e-6)
    assert torch.equal(maps["labels"], expected["labels"])


def test_members_that_differ_are_averaged_each_with_its_own_preprocessing(
    tiny: Callable[..., Segmenter], image: NDArray[np.uint8]
) -> None:
    first, second = tiny("masks", 0), tiny("masks", 1)
    second.preprocessing = Preprocessing((0, 0, 0), (99, 99, 99), short_side=64)
    ensemble = Ensemble([first, second])
    assert ensemble.name == "masks 0 + masks 1"
    result = ensemble.predict(image, score="eam", refine=True)
    single = [who.predict(image, score="eam", refine=True) for who in (first, second)]
    assert np.abs(single[0].score - single[1].score).max() > 1e-3
    np.testing.assert_allclose(result.score, (single[0].score + single[1].score) / 2, atol=1e-6)
    assert result.threshold is None


def test_members_that_share_no_classes_or_scores_are_refused(
    tiny: Callable[..., Segmenter], image: NDArray[np.uint8]
) -> None:
    masks, pixels = tiny("masks"), tiny("per_pixel")
    with pytest.raises(OutmaskError, match="at least two models, got 1"):
        Ensemble([masks])
    with pytest.raises(OutmaskError, match="must all predict masks, or all pixels"):
        Ensemble([masks, pixels]).maps(image, [], SIZE)
    other = tiny("masks")
    other.taxonomy = Taxonomy(("sky", "road", "car"), ((0, 0, 0), (1, 1, 1), (2, 2, 2)))
    with pytest.raises(OutmaskError, match="must have the same classes, in the same order"):
        Ensemble([masks, other])
    with pytest.raises(OutmaskError, match="must know the same classes, got"):
        joint_prediction([PixelPrediction(torch.zeros(1, 3, 2, 2)), PixelPrediction(torch.zeros(1, 4, 2, 2))])
