"""ReAct: the percentile of the training set, and the energy of what is clipped by it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from outmask import scores
from outmask.detectors import ReAct, react
from outmask.detectors.detector import Observation
from outmask.errors import OutmaskError
from outmask.types import PixelPrediction

PREDICTION = PixelPrediction(torch.zeros(1, 3, 1, 1))


def threshold(*features: np.ndarray) -> float:
    maker = ReAct().fitting(3)
    for one in features:
        tensor = torch.from_numpy(one.astype(np.float32))[None]
        maker.update(Observation(PREDICTION, (1, 1), tensor, torch.zeros(1, 1, dtype=torch.int64)))
    return float(maker.compute()["threshold"])


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([-300.0, -1.0, 0.0, 5.0]), st.sampled_from([1e-3, 1.0, 100.0]))
def test_the_threshold_is_the_90th_percentile(seed: int, centre: float, scale: float) -> None:
    rng = np.random.default_rng(seed)
    features = [(centre + scale * rng.standard_normal((4, 9, 10))).astype(np.float32) for _ in range(3)]
    found = threshold(*features)
    # The value below which 90 % lie; its bin ends at most 2^-11 of its size above it.
    exact = float(np.percentile(np.concatenate([one.ravel() for one in features]), 90, method="inverted_cdf"))
    assert exact <= found <= exact + 2**-11 * abs(exact)


def test_rectified_features_and_images_of_any_number_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(react, "_CHUNK", 7)
    values = np.maximum(np.random.default_rng(0).standard_normal((3, 6, 6)), 0)
    exact = np.percentile(values, 90, method="inverted_cdf")
    assert threshold(*values[:, None]) == threshold(values)
    assert threshold(values) == pytest.approx(exact, rel=2**-11)
    assert abs(threshold(np.zeros((2, 3, 3)))) < 1e-38  # zeros alone: the least that float32 can say
    with pytest.raises(OutmaskError, match="no activations"):
        threshold()


def test_the_score_is_the_energy_of_clipped_features(linear: Any, pixels: Tensor) -> None:
    subject = replace(linear, statistics={"react": {"threshold": torch.tensor([0.25])}})
    score = ReAct()(subject, pixels)
    weight, bias = (parameter.detach().double().numpy() for parameter in linear.model.head.classes.parameters())
    clipped = np.minimum(pixels.double().numpy(), 0.25)
    logits = np.einsum("kc,bchw->bkhw", weight[:, :, 0, 0], clipped) + bias[:, None, None]
    np.testing.assert_allclose(score, -np.log(np.exp(logits).sum(1)), rtol=1e-5)


def test_what_never_reaches_the_threshold_has_the_energy(linear: Any, pixels: Tensor) -> None:
    subject = replace(linear, statistics={"react": {"threshold": torch.tensor([1e6])}})
    torch.testing.assert_close(
        ReAct()(subject, pixels), scores.score(linear.model(pixels), "energy", (6, 8)), rtol=0, atol=0
    )
