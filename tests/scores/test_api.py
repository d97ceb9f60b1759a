import re

import numpy as np
import pytest
import torch

from outmask import scores
from outmask.errors import OutmaskError
from outmask.scores.declarations import SCORES
from outmask.types import MaskPrediction, PixelPrediction

PREDICTION = MaskPrediction(torch.zeros(2, 3, 5), torch.zeros(2, 3, 4, 6))
PIXELS = PixelPrediction(torch.zeros(2, 4, 4, 6))
AWARE = PixelPrediction(torch.zeros(2, 4, 4, 6), torch.zeros(2, 4, 6))


def test_every_promised_score_is_available() -> None:
    of_masks = [
        "am",
        "ahm",
        "aem",
        "aem-energy",
        "eam",
        "eam-energy",
        "eam-energy-logits",
        "m2a",
        "rba",
        "uno",
        "unclaimed",
    ]
    of_pixels = ["msp", "maxlogit", "entropy", "energy", "kl"]
    of_aware = ["void", "ood-head", "densehybrid"]
    assert scores.available() == of_masks + of_pixels + of_aware
    assert scores.available(PREDICTION) == of_masks
    assert scores.available(PIXELS) == of_pixels
    assert scores.available(AWARE) == of_pixels + of_aware


@pytest.mark.parametrize("prediction", [PREDICTION, PIXELS, AWARE])
def test_every_score_fits_the_predictions_that_say_so_and_no_other(prediction: scores.Prediction) -> None:
    for name in scores.available():
        if name in scores.available(prediction):
            assert scores.score(prediction, name, (3, 2)).shape == (2, 3, 2)
        else:
            with pytest.raises(OutmaskError, match=f"'{name}'.*choose from {scores.available(prediction)[0]}, "):
                scores.score(prediction, name, (3, 2))


def test_a_refusal_says_what_kind_of_prediction_there_is() -> None:
    with pytest.raises(OutmaskError, match="'eam' is one of masks and this is a prediction of pixels: choose from msp"):
        scores.evaluate(PIXELS, ["msp", "eam"], (2, 2))
    with pytest.raises(OutmaskError, match="'msp' is one of pixels and this is a prediction of masks: choose from am"):
        scores.evaluate(PREDICTION, ["eam", "msp"], (2, 2))
    with pytest.raises(OutmaskError, match="'void' needs the outlier_logits.*has none: choose from msp, .*, kl$"):
        scores.evaluate(PIXELS, ["msp", "void"], (2, 2))


def test_evaluate_gives_what_was_asked_for_and_labels() -> None:
    maps = scores.evaluate(PREDICTION, ["m2a", "am"], (7, 9))
    assert list(maps) == ["m2a", "am", "labels"]
    assert {name: (map_.shape, map_.dtype) for name, map_ in maps.items()} == {
        "m2a": ((2, 7, 9), torch.float32),
        "am": ((2, 7, 9), torch.float32),
        "labels": ((2, 7, 9), torch.int64),
    }
    assert list(scores.evaluate(PREDICTION, [], (1, 1))) == ["labels"]


@pytest.mark.parametrize("name", SCORES)
def test_one_score_alone_is_the_same_as_among_all(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    prediction = MaskPrediction(torch.randn(1, 6, 4, generator=generator), torch.randn(1, 6, 5, 4, generator=generator))
    together = scores.evaluate(prediction, list(SCORES), (11, 13))[name]
    alone = scores.score(prediction, name, (11, 13))
    # Products of other shapes may add up in another order.
    torch.testing.assert_close(alone, together, rtol=1e-6, atol=1e-6)


def test_sizes_of_numpy_are_sizes() -> None:
    assert scores.score(PREDICTION, "eam", tuple(np.array([3, 2]))).shape == (2, 3, 2)


def test_unknown_score_is_refused_with_the_one_that_was_meant() -> None:
    with pytest.raises(OutmaskError, match=r"'eam-enrgy'.*did you mean 'eam-energy'.*choose from am, ahm") as refusal:
        scores.score(PREDICTION, "eam-enrgy", (2, 2))
    assert "\n" not in str(refusal.value)
    with pytest.raises(OutmaskError, match="unknown score 'xyz123': choose from"):
        scores.check("xyz123")
    with pytest.raises(OutmaskError, match="unknown score"):
        scores.describe("msp!")
    with pytest.raises(OutmaskError, match="unknown score"):
        scores.display_range("EAM", 19)


def test_a_bare_name_is_refused_as_names() -> None:
    with pytest.raises(OutmaskError, match=re.escape("give ['eam']")):
        scores.evaluate(PREDICTION, "eam", (2, 2))


@pytest.mark.parametrize("size", [(0, 4), (4, -1), (4,), (4, 4, 4), (4.0, 4)])
def test_bad_sizes_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(OutmaskError, match="two positive integers"):
        scores.evaluate(PREDICTION, ["eam"], size)


def test_uno_is_refused_without_a_negative_class() -> None:
    prediction = MaskPrediction(torch.zeros(1, 3, 2), torch.zeros(1, 3, 4, 6))
    with pytest.raises(OutmaskError, match=r"'uno' expects a known class and.*negative class"):
        scores.score(prediction, "uno", (4, 6))


def test_display_range_is_refused_without_classes() -> None:
    with pytest.raises(OutmaskError, match="at least 1, got 0"):
        scores.display_range("aem-energy", 0)
