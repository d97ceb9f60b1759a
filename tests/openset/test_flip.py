"""Flip averaging."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from outmask.openset.flip import flip_averaged

IMAGE = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def test_a_model_that_does_not_care_for_mirrors_is_unchanged() -> None:
    def maps(image: NDArray[np.uint8]) -> dict[str, Tensor]:
        pixels = torch.from_numpy(image).float()
        return {"score": pixels.sum(2), "labels": pixels.argmax(2)}

    straight, averaged = maps(IMAGE), flip_averaged(maps, IMAGE)
    assert list(averaged) == ["score", "labels"]
    assert all(torch.equal(averaged[name], straight[name]) for name in straight)


def test_scores_are_the_mean_of_both_views_and_labels_those_of_the_image_itself() -> None:
    column = torch.arange(7.0)

    def maps(image: NDArray[np.uint8]) -> dict[str, Tensor]:
        # A model that believes in the left half: its score falls from left to right, whatever it sees.
        score = torch.from_numpy(image[..., 0]).float() - column
        return {"score": score, "labels": (score > 100).long()}

    averaged = flip_averaged(maps, IMAGE)
    # In a mirror, column c is column 6 - c: the slope cancels, its mean of 3 stays.
    torch.testing.assert_close(averaged["score"], torch.from_numpy(IMAGE[..., 0]).float() - 3)
    assert torch.equal(averaged["labels"], maps(IMAGE)["labels"])
