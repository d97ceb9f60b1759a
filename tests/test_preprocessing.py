"""Resizing and normalisation of a model's input."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from outmask.errors import OutmaskError
from outmask.preprocessing import Preprocessing


def test_the_short_side_is_met_unless_the_long_one_forbids() -> None:
    preprocessing = Preprocessing(short_side=1024, long_side=2048)
    assert preprocessing.size(720, 1280) == (1024, 1820)
    assert preprocessing.size(1280, 720) == (1820, 1024)
    assert preprocessing.size(1000, 4000) == (512, 2048)


@given(st.integers(1, 5000), st.integers(1, 5000))
def test_sizes_stay_in_bounds_and_keep_the_aspect(height: int, width: int) -> None:
    new_height, new_width = Preprocessing(short_side=384, long_side=2048).size(height, width)
    assert 1 <= min(new_height, new_width) <= 384
    assert max(new_height, new_width) <= 2048
    scale = min(384 / min(height, width), 2048 / max(height, width))
    # Each side is the scaled one, rounded to a pixel, and never less than one.
    assert abs(new_height - max(1, height * scale)) <= 0.5
    assert abs(new_width - max(1, width * scale)) <= 0.5


def test_native_size_changes_no_pixel() -> None:
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    pixels = Preprocessing((1.0, 2.0, 3.0), (4.0, 5.0, 6.0), None, None)(image)
    assert pixels.dtype == torch.float32
    expected = (image.astype(np.float32) - [1, 2, 3]) / [4, 5, 6]
    np.testing.assert_allclose(pixels[0].permute(1, 2, 0).numpy(), expected, rtol=1e-6)


def test_resizing_keeps_a_constant_image_constant() -> None:
    pixels = Preprocessing(short_side=10, long_side=None)(np.full((33, 50, 3), 77, np.uint8))
    assert pixels.shape == (1, 3, 10, 15)
    assert pixels.flatten(2).std(-1).max() == 0


def test_it_survives_json() -> None:
    preprocessing = Preprocessing((1.0, 2.0, 3.0), (4.0, 5.0, 6.0), None, 99)
    assert Preprocessing.from_json(preprocessing.to_json()) == preprocessing


@pytest.mark.parametrize(
    "change", [{"std": (1.0, 0.0, 1.0)}, {"mean": (1.0, 2.0)}, {"short_side": 0}, {"long_side": -1}]
)
def test_bad_settings_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(OutmaskError):
        Preprocessing(**change)  # type: ignore[arg-type]
