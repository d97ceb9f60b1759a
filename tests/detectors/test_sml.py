"""Standardised max-logits: statistics of the training set, and what is made of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from outmask.detectors import StandardisedMaxLogits
from outmask.detectors.detector import Observation
from outmask.errors import OutmaskError
from outmask.types import PixelPrediction

NO_LABELS = torch.zeros(1, 1, dtype=torch.int64)


def fitted(predictions: list[Tensor], num_classes: int) -> dict[str, Tensor]:
    """Statistics of ``(1, K, h, w)`` logits, seen one after the other at their own size."""
    maker = StandardisedMaxLogits().fitting(num_classes)
    for logits in predictions:
        maker.update(Observation(PixelPrediction(logits), tuple(logits.shape[-2:]), None, NO_LABELS))
    return maker.compute()


def test_streamed_statistics_are_those_of_all_pixels_at_once() -> None:
    rng = np.random.default_rng(0)
    # Far from 0, where sums of squares would cancel: their float64 error here would be 1e-3 of the variance.
    logits = [rng.normal(1e5, 0.1, (1, 3, 5 + i, 7)).astype(np.float32) for i in range(6)]
    logits[4] += 3  # the images differ from each other
    statistics = fitted([torch.from_numpy(one) for one in logits], 3)
    flat = np.concatenate([one.reshape(3, -1) for one in logits], 1).astype(np.float64)
    peak, label = flat.max(0), flat.argmax(0)
    for class_ in range(3):
        own = peak[label == class_]
        assert statistics["mean"][class_] == np.float32(own.mean())
        assert float(statistics["deviation"][class_]) == pytest.approx(own.std(ddof=1), rel=1e-6)


def test_the_score_is_the_standardised_max_logit(linear: Any, pixels: Tensor) -> None:
    mean, deviation = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([0.5, 2.0, 4.0])
    subject = replace(linear, statistics={"sml": {"mean": mean, "deviation": deviation}})
    score = StandardisedMaxLogits()(subject, pixels)
    assert score.dtype == torch.float32
    logits = linear.model(pixels).logits.detach().numpy()
    for batch, row, column in np.ndindex(2, 6, 8):
        peak = logits[batch, :, row, column]
        label = peak.argmax()
        expected = -(peak.max() - float(mean[label])) / float(deviation[label])
        assert float(score[batch, row, column]) == pytest.approx(expected, abs=1e-5)


def test_the_training_sets_own_scores_are_standardised(linear: Any, pixels: Tensor) -> None:
    """Where a class is predicted, its scores have mean 0 and variance 1."""
    images = [pixels[:1], pixels[1:]]
    statistics = fitted([linear.model(one).logits.detach() for one in images], 3)
    subject = replace(linear, statistics={"sml": statistics})
    score = torch.cat([StandardisedMaxLogits()(subject, one) for one in images])
    labels = linear.model(pixels).logits.argmax(1)
    for class_ in range(3):
        own = score[labels == class_]
        assert len(own) > 5
        assert float(own.mean()) == pytest.approx(0, abs=1e-5)
        assert float(own.std()) == pytest.approx(1, abs=1e-5)


def test_a_class_that_is_never_predicted_has_the_statistics_of_all() -> None:
    logits = torch.randn(1, 3, 9, 9, generator=torch.Generator().manual_seed(0))
    logits[:, 2] = -100
    statistics = fitted([logits], 3)
    peak = logits.amax(1)
    assert float(statistics["mean"][2]) == pytest.approx(float(peak.mean()), rel=1e-6)
    assert float(statistics["deviation"][2]) == pytest.approx(float(peak.std()), rel=1e-6)


def test_what_cannot_be_standardised_is_refused() -> None:
    with pytest.raises(OutmaskError, match="nothing to standardise by"):
        fitted([torch.ones(1, 3, 4, 4)], 3)
