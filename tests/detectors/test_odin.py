"""ODIN: its perturbation against finite differences, its score against numpy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from outmask import scores
from outmask.detectors import Odin
from outmask.errors import OutmaskError
from outmask.preprocessing import Preprocessing
from outmask.types import PixelPrediction

STD = (51.0, 25.5, 127.5)


class Smooth(nn.Module):
    """Two convolutions in float64: each pixel's logits depend on its neighbours', at half the resolution."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 5, 3, padding=1)
        self.second = nn.Conv2d(5, 4, 2, stride=2)
        self.double()

    def forward(self, pixels: Tensor) -> PixelPrediction:
        return PixelPrediction(self.second(self.first(pixels).tanh()))


def certainty(model: nn.Module, pixels: Tensor, temperature: float) -> Tensor:
    with torch.no_grad():
        return (model(pixels).logits / temperature).softmax(1).amax(1).log().sum()


def test_the_step_is_the_sign_of_the_gradient_of_the_certainty(linear: Any) -> None:
    subject = replace(linear, model=Smooth(), preprocessing=Preprocessing(std=STD))
    pixels = torch.randn(1, 3, 4, 6, dtype=torch.float64)
    step = Odin(temperature=2.0, epsilon=0.01)._step(subject, pixels.clone())
    # 0.01 of the range [0, 1], in deviations.
    np.testing.assert_allclose(step.abs().amax((0, 2, 3)), [0.05, 0.1, 0.02], rtol=1e-12)
    np.testing.assert_allclose(step.abs().amin((0, 2, 3)), [0.05, 0.1, 0.02], rtol=1e-12)
    h = 1e-5
    for index in np.ndindex(1, 3, 4, 6):
        moved = torch.zeros_like(pixels)
        moved[index] = h
        difference = certainty(subject.model, pixels + moved, 2.0) - certainty(subject.model, pixels - moved, 2.0)
        derivative = float(difference) / (2 * h)
        assert abs(derivative) > 1e-6  # h^2 and the rounding of a sum of 6 logarithms leave less than 1e-9
        assert np.sign(derivative) == np.sign(float(step[index]))


def test_the_score_is_that_of_the_perturbed_image(linear: Any) -> None:
    subject = replace(linear, model=Smooth(), preprocessing=Preprocessing(std=STD))
    pixels = torch.randn(2, 3, 4, 6, dtype=torch.float64)
    odin = Odin(temperature=2.0, epsilon=0.01)
    score = odin(subject, pixels)
    moved = pixels + odin._step(subject, pixels.clone())
    with torch.no_grad():
        logits = F.interpolate(subject.model(moved).logits, size=(4, 6), mode="bilinear")
    expected = -(logits / 2.0).softmax(1).amax(1)
    assert (score.shape, score.dtype) == ((2, 4, 6), torch.float32)
    torch.testing.assert_close(score.double(), expected, rtol=0, atol=1e-7)  # half a last place of float32
    assert not score.requires_grad


def test_it_makes_the_network_surer(linear: Any, pixels: Tensor) -> None:
    """To first order, at every pixel of a network without neighbours: its own certainty is all that moves it."""
    sharp, plain = (Odin(temperature=10, epsilon=epsilon)(linear, pixels) for epsilon in (1e-3, 0.0))
    assert (sharp < plain).all()


def test_without_temperature_and_perturbation_it_is_the_maximum_softmax(linear: Any, pixels: Tensor) -> None:
    plain = Odin(temperature=1.0, epsilon=0.0)(linear, pixels)
    torch.testing.assert_close(plain, scores.score(linear.model(pixels), "msp", (6, 8)), rtol=1e-6, atol=0)


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_gradients_are_taken_wherever_it_is_called(linear: Any, pixels: Tensor, mode: Any) -> None:
    expected = Odin()(linear, pixels)
    with mode():
        inside = pixels * 1  # a tensor that was made there
        torch.testing.assert_close(Odin()(linear, inside), expected, rtol=0, atol=0)


def test_weights_are_left_alone(linear: Any, pixels: Tensor) -> None:
    linear.model.requires_grad_(True)
    before = [parameter.clone() for parameter in linear.model.parameters()]
    Odin()(linear, pixels)
    for parameter, old in zip(linear.model.parameters(), before, strict=True):
        assert parameter.grad is None
        assert torch.equal(parameter, old)
    assert not pixels.requires_grad


@pytest.mark.parametrize("settings", [{"temperature": 0.0}, {"epsilon": -0.1}, {"temperature": float("nan")}])
def test_settings_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(OutmaskError, match="ODIN's temperature must be above 0"):
        Odin(**settings)
