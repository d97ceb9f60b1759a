"""Monte Carlo dropout: mutual information, which layers drop, and whose random numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy
from torch import Tensor, nn

from outmask.detectors import MonteCarloDropout
from outmask.detectors.dropout import mutual_information
from outmask.errors import OutmaskError
from outmask.segmenter import Segmenter


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 6), st.floats(0.1, 20))
def test_mutual_information_is_the_difference_of_two_entropies(seed: int, passes: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    logits = scale * rng.normal(size=(passes, 1, 4, 2, 3))
    ours = mutual_information(list(torch.from_numpy(logits).log_softmax(2)))[0].numpy()
    probabilities = torch.from_numpy(logits).softmax(2).numpy()[:, 0]
    expected = entropy(probabilities.mean(0), axis=0) - entropy(probabilities, axis=1).mean(0)
    np.testing.assert_allclose(ours, expected, atol=1e-12)
    assert (ours > -1e-15).all()
    assert (ours <= math.log(min(passes, 4)) + 1e-12).all()


def test_passes_that_agree_have_none_and_passes_that_contradict_log_two() -> None:
    sure = torch.tensor([60.0, 0, 0]).log_softmax(0).view(1, 3, 1, 1)
    assert float(mutual_information([sure] * 3)) == pytest.approx(0, abs=1e-7)
    other = sure.flip(1)
    assert float(mutual_information([sure, other])) == pytest.approx(math.log(2), rel=1e-6)


def test_a_network_without_dropout_gets_one_before_its_head(linear: Any, pixels: Tensor) -> None:
    detector = MonteCarloDropout(passes=4, rate=0.3, seed=5)
    score = detector(linear, pixels)
    torch.manual_seed(5)
    passes = [linear.model.head(nn.functional.dropout(pixels, 0.3)).logits.log_softmax(1) for _ in range(4)]
    torch.testing.assert_close(score, mutual_information(passes).detach(), rtol=0, atol=1e-6)
    assert float(score.max()) > 1e-3


@pytest.mark.parametrize("name", ["per_pixel", "deeplab", "segformer"])
def test_a_seed_decides_and_the_callers_random_numbers_stay(tiny: Callable[..., Segmenter], name: str) -> None:
    segmenter = tiny(name)
    pixels = torch.randn(1, 3, 32, 48)
    before = torch.get_rng_state()
    first = MonteCarloDropout(passes=3)(segmenter, pixels)
    assert torch.equal(torch.get_rng_state(), before)
    assert first.shape == (1, 32, 48)
    assert torch.equal(MonteCarloDropout(passes=3)(segmenter, pixels), first)
    assert not torch.equal(MonteCarloDropout(passes=3, seed=1)(segmenter, pixels), first)
    assert float(first.max()) > 0
    assert not any(module.training for module in segmenter.model.modules())


@pytest.mark.parametrize("name", ["deeplab", "segformer"])
def test_only_dropout_layers_are_switched_on(tiny: Callable[..., Segmenter], name: str) -> None:
    """A rate of 0 in them leaves no randomness at all: stochastic depth and norms stay in eval mode."""
    segmenter = tiny(name)
    layers = [module for module in segmenter.model.modules() if isinstance(module, nn.Dropout) and module.p > 0]
    assert layers
    for layer in layers:
        layer.p = 1e-12  # still "a layer that drops", and never does
    score = MonteCarloDropout(passes=2)(segmenter, torch.randn(1, 3, 32, 48))
    assert float(score.abs().max()) < 1e-6


def test_its_own_layers_are_used_before_one_is_inserted(linear: Any, pixels: Tensor) -> None:
    class Dropping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.dropout = linear.model, nn.Dropout(0.5)

        def forward(self, pixels: Tensor) -> Any:
            return self.inner(self.dropout(pixels))

    subject = replace(linear, model=Dropping().eval())
    own = MonteCarloDropout(passes=3, rate=0.5)(subject, pixels)  # it has no features and needs none
    torch.testing.assert_close(own, MonteCarloDropout(passes=3, rate=0.5)(linear, pixels), rtol=0, atol=0)


def test_layers_that_drop_nothing_are_no_dropout(linear: Any, pixels: Tensor) -> None:
    expected = MonteCarloDropout(passes=3)(linear, pixels)
    linear.model.unused = nn.Dropout(0.0)
    assert torch.equal(MonteCarloDropout(passes=3)(linear, pixels), expected)


@pytest.mark.parametrize("values", [{"passes": 1}, {"rate": 0.0}, {"rate": 1.0}])
def test_settings_out_of_range_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(OutmaskError, match="at least 2 passes and a rate between 0 and 1"):
        MonteCarloDropout(**values)
