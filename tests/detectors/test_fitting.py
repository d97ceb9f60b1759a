"""One pass over the training set, for all detectors that learn from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from outmask.detectors import DETECTORS, FittedDetector, available, fit, fitted
from outmask.errors import OutmaskError
from outmask.segmenter import Segmenter

FITTED = [detector for detector in DETECTORS.values() if isinstance(detector, FittedDetector)]


def images(count: int) -> list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    rng = np.random.default_rng(0)
    return [
        (rng.integers(0, 256, (24, 40, 3), dtype=np.uint8), rng.choice([0, 1, 2, 255], (24, 40)).astype(np.uint8))
        for _ in range(count)
    ]


def test_all_statistics_come_from_one_pass(linear: Any) -> None:
    calls = []
    own = linear.model.features
    linear.model.features = lambda pixels: calls.append(pixels) or own(pixels)
    together = fit(linear, FITTED, images(3), 3)
    assert len(calls) == 3
    assert list(together) == ["sml", "mahalanobis", "react"]
    for detector in FITTED:
        alone = fit(linear, [detector], images(3), 3)[detector.name]
        assert alone.keys() == together[detector.name].keys()
        assert all(torch.equal(alone[name], together[detector.name][name]) for name in alone)
        assert all(tensor.device.type == "cpu" for tensor in alone.values())


@pytest.mark.parametrize("name", ["per_pixel", "deeplab"])
def test_fitted_detectors_run_on_the_models_that_have_features(
    tiny: Callable[..., Segmenter], image: NDArray[np.uint8], name: str
) -> None:
    segmenter = tiny(name)
    ready = replace(segmenter, statistics=fit(segmenter, FITTED, images(3), 3))
    maps = ready.maps(image, available(), (24, 40))
    assert set(maps) == {*available(), "labels"}
    for detector in available():
        assert (maps[detector].shape, maps[detector].dtype) == ((1, 24, 40), torch.float32)
        assert maps[detector].isfinite().all()
        assert float(maps[detector].std()) > 0
        low, high = ready.display_range(detector)
        assert low < high
    labels = ready.maps(image, [], (24, 40))["labels"]
    assert torch.equal(maps["labels"], labels)


def test_a_transformers_model_has_logits_but_no_features(tiny: Callable[..., Segmenter]) -> None:
    segmenter = tiny("segformer")
    assert fit(segmenter, [fitted("sml")], images(2), 3)["sml"]["mean"].shape == (3,)
    with pytest.raises(OutmaskError, match="'mahalanobis' needs features .* is a SemanticSegmentationModel"):
        fit(segmenter, [fitted("sml"), fitted("mahalanobis")], images(2), 3)


def test_without_images_there_is_nothing_to_learn(linear: Any) -> None:
    with pytest.raises(OutmaskError, match="no training images"):
        fit(linear, FITTED, [], 3)


@pytest.mark.parametrize("name", ["odin", "eam", ""])
def test_only_detectors_with_statistics_are_fitted(name: str) -> None:
    with pytest.raises(OutmaskError, match=f"'{name}' is no detector .* choose from sml, mahalanobis, react$"):
        fitted(name)


@pytest.mark.parametrize("detector", available())
def test_a_mask_model_has_none_and_says_what_it_has(
    tiny: Callable[..., Segmenter], image: NDArray[np.uint8], detector: str
) -> None:
    statistics = {"sml": {"mean": torch.zeros(3), "deviation": torch.ones(3)}, "mahalanobis": {}, "react": {}}
    segmenter = replace(tiny("masks"), statistics=statistics)
    with pytest.raises(
        OutmaskError, match=f"'{detector}' needs .* masks 0 (predicts masks|is a Mask2Former)"
    ) as caught:
        segmenter.maps(image, [detector], (24, 40))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("detector", [detector.name for detector in FITTED])
def test_a_model_without_statistics_says_how_to_make_them(
    tiny: Callable[..., Segmenter], image: NDArray[np.uint8], detector: str
) -> None:
    with pytest.raises(OutmaskError, match=f"outmask fit --model DIR --detector {detector} --config RECIPE$"):
        tiny("per_pixel").predict(image, score=detector)
