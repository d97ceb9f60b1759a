"""What each mask claims, against a literal reading of Mask2Former's rule, mask by mask."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from outmask.openset.claims import claimed_pixels
from outmask.types import MaskPrediction

Scenes = Callable[..., MaskPrediction]


def literal(prediction: MaskPrediction, size: tuple[int, int]) -> set[tuple[int, float, bytes]]:
    """Class, probability and pixels of each mask that is left."""
    masks = F.interpolate(prediction.mask_logits, size, mode="bilinear", align_corners=False)[0].sigmoid().numpy()
    rows = prediction.class_logits[0].softmax(-1).numpy()
    queries = [query for query, row in enumerate(rows) if row.argmax() < len(row) - 1 and row.max() > 0.8]
    claims = set()
    for query in queries:
        wins = np.all([rows[query].max() * masks[query] >= rows[other].max() * masks[other] for other in queries], 0)
        held = masks[query] >= 0.5
        if (wins & held).any() and wins.sum() / held.sum() >= 0.8:
            claims.add((int(rows[query].argmax()), round(float(rows[query].max()), 9), (wins & held).tobytes()))
    return claims


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 2**20),
    masks=st.integers(1, 20),
    size=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    negative=st.booleans(),
)
def test_each_mask_claims_what_the_rule_gives_it(
    scene: Scenes, seed: int, masks: int, size: tuple[int, int], negative: bool
) -> None:
    prediction = scene(seed, masks, negative=negative)
    owners, classes = claimed_pixels(prediction, size)
    assert owners.dtype == np.int32
    found = {
        (class_, round(probability, 9), (owners == n).tobytes()) for n, (class_, probability) in enumerate(classes, 1)
    }
    assert found == literal(prediction, size)
    assert owners.max() <= len(classes) == len(found)
    assert classes == sorted(classes, key=lambda each: -each[1])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_logit_that_is_no_finite_number_costs_no_more_than_the_pixels_around_it(scene: Scenes, value: float) -> None:
    prediction = scene(3, 12)
    prediction.mask_logits[0, :, 0, 0] = value  # the corner of all masks
    owners, classes = claimed_pixels(prediction, (48, 64))
    assert len(classes) > 0
    assert set(np.unique(owners[8:, 8:])) - {0} == set(range(1, len(classes) + 1))
