"""Overlapping windows: an equation written out as the oracle, ranges, coverage, and what is held at once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from weakref import ref

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from outmask.errors import ImageError, OutmaskError
from outmask.openset import inference
from outmask.openset.inference import masks_and_maps, score_maps
from outmask.openset.windows import fitting_window, spans, window_size, windowed
from outmask.preprocessing import Preprocessing
from outmask.scores import Prediction
from outmask.segmenter import Segmenter
from outmask.types import MaskPrediction, PixelPrediction, Taxonomy

Image = NDArray[np.uint8]
LENGTHS = st.integers(1, 40)


def image(height: int, width: int, seed: int = 0) -> Image:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def by_content(seen: Image) -> dict[str, Tensor]:
    """A view whose maps depend on the whole crop, so that windows disagree."""
    grey = torch.from_numpy(seen[..., 0]).float()
    score = torch.sin(grey + grey.sum())
    return {"score": score[None], "labels": (score > 0)[None].long() + seen.shape[0] + int(grey.sum()) % 7}


def starts(length: int, window: int) -> list[int]:
    """Where windows begin: every three quarters of a window, the last where it ends at the border."""
    found = [0]
    while found[-1] + window < length:
        found.append(min(found[-1] + window - window // 4, length - window))
    return found


def tent(place: int, window: int) -> float:
    """Distance of a pixel's centre to the nearer end of its window."""
    return min(place + 0.5, window - place - 0.5)


def oracle(maps: Callable[[Image], dict[str, Tensor]], whole: Image, window: tuple[int, int]) -> list[list[Any]]:
    """Of every pixel: the mean score by weights, the lowest and highest of its windows, and the label."""
    height, width = whole.shape[:2]
    h, w = min(window[0], height), min(window[1], width)
    parts = [
        (y, x, {name: map_[0].tolist() for name, map_ in maps(whole[y : y + h, x : x + w]).items()})
        for y in starts(height, h)
        for x in starts(width, w)
    ]
    pixels = []
    for row in range(height):
        pixels.append([])
        for column in range(width):
            covering = [
                (
                    tent(row - y, h) * tent(column - x, w),
                    part["score"][row - y][column - x],
                    part["labels"][row - y][column - x],
                )
                for y, x, part in parts
                if y <= row < y + h and x <= column < x + w
            ]
            total = sum(weight for weight, *_ in covering)
            mean = sum(weight / total * score for weight, score, _ in covering)
            low, high = min(score for _, score, _ in covering), max(score for _, score, _ in covering)
            label = max(covering, key=lambda each: each[0])[2]
            pixels[-1].append((mean, low, high, label))
    return pixels


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 24), st.integers(1, 24), st.integers(1, 30), st.integers(1, 30), st.integers(0, 3))
def test_scores_are_means_within_the_range_of_their_windows_and_labels_of_the_nearest(
    height: int, width: int, high: int, wide: int, seed: int
) -> None:
    whole = image(height, width, seed)
    found = windowed(by_content, whole, (high, wide))
    expected = np.array(oracle(by_content, whole, (high, wide)))
    score = found["score"][0].double().numpy()
    np.testing.assert_allclose(score, expected[..., 0], rtol=0, atol=2e-6)  # up to nine terms of at most 1, in float32
    assert (score >= expected[..., 1]).all()
    assert (score <= expected[..., 2]).all()
    np.testing.assert_array_equal(found["labels"][0].numpy(), expected[..., 3])
    assert found["labels"].dtype == torch.int64


@settings(deadline=None)
@given(LENGTHS, LENGTHS)
def test_windows_cover_every_pixel_and_their_weights_sum_to_one(length: int, window: int) -> None:
    found = spans(length, window)
    assert [span.start for span in found] == starts(length, min(length, window))
    assert {span.stop - span.start for span in found} == {min(length, window)}
    assert (found[0].start, found[-1].stop) == (0, length)
    total, owned = np.zeros(length), np.zeros(length, np.int64)
    for span in found:
        assert (span.weights > 0).all()
        assert (span.weights <= 1).all()
        np.testing.assert_allclose(span.earlier, total[span.start : span.stop], atol=1e-6)
        total[span.start : span.stop] += span.weights
        owned[span.own_start : span.own_stop] += 1
        assert span.start <= span.own_start < span.own_stop <= span.stop
    np.testing.assert_allclose(total, 1, atol=1e-6)
    assert (owned == 1).all()


def test_two_windows_fade_into_each_other() -> None:
    first, second = spans(14, 8)  # they share pixels 6 and 7
    np.testing.assert_allclose(first.weights[6:], [0.75, 0.25])
    np.testing.assert_allclose(second.weights[:2], [0.25, 0.75])
    assert (first.own_stop, second.own_start) == (7, 7)


@pytest.mark.parametrize("window", [(9, 13), (9, 14), (100, 13), (100, 100)])
def test_one_window_that_covers_everything_is_no_window(window: tuple[int, int]) -> None:
    whole = image(9, 13)
    found, expected = windowed(by_content, whole, window), by_content(whole)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@settings(deadline=None, max_examples=40)
@given(st.floats(-1e6, 1e6, width=32), st.integers(1, 30), st.integers(1, 30))
def test_what_all_windows_agree_on_stays_exactly(value: float, high: int, wide: int) -> None:
    def constant(seen: Image) -> dict[str, Tensor]:
        return {"score": torch.full((1, *seen.shape[:2]), value)}

    assert (windowed(constant, image(23, 29), (high, wide))["score"] == value).all()


def test_a_view_of_pixels_alone_is_unchanged() -> None:
    def by_pixel(seen: Image) -> dict[str, Tensor]:
        grey = torch.from_numpy(seen).float().sum(2)
        return {"score": -grey, "labels": grey.long()}

    whole = image(31, 45)
    found, expected = windowed(by_pixel, whole, (8, 11)), by_pixel(whole)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_no_view_is_larger_than_a_window_and_none_is_kept() -> None:
    seen: list[int] = []
    made: list[ref[Tensor]] = []

    def watched(part: Image) -> dict[str, Tensor]:
        assert not any(map_() is not None for map_ in made)
        seen.append(part.shape[0] * part.shape[1])
        maps = by_content(part)
        made.extend(map(ref, maps.values()))
        return maps

    windowed(watched, image(100, 120), (16, 20))
    assert seen == [16 * 20] * len(starts(100, 16)) * len(starts(120, 20))


def test_maps_of_another_size_are_refused() -> None:
    with pytest.raises(OutmaskError, match="must have its size"):
        windowed(lambda part: {"score": torch.zeros(1, 2, 2)}, image(20, 20), (8, 8))


@pytest.mark.parametrize("window", [0, -3, (4,), (4, 0), (1, 2, 3), 2.5, "8"])
def test_what_is_no_window_is_refused(window: Any) -> None:
    with pytest.raises(OutmaskError, match="a window is"):
        window_size(window)


@settings(deadline=None)
@given(st.integers(1, 400), st.integers(1, 400), st.integers(1, 5000))
def test_a_fitting_window_is_no_larger_than_it_may_be(height: int, width: int, most: int) -> None:
    window = fitting_window((height, width), lambda *sides: sides[0] * sides[1], most)
    if window is None:
        assert height * width <= most
        return
    assert window[0] * window[1] <= most < height * width
    assert window[0] <= height
    assert window[1] <= width


def test_fitting_windows_are_few_and_of_the_images_own_scale() -> None:
    def at_own_size(height: int, width: int) -> int:
        return height * width

    def resized(height: int, width: int) -> int:
        high, wide = Preprocessing(short_side=1024, long_side=None).size(height, width)
        return high * wide

    most = 8 << 20
    assert fitting_window((2160, 3840), at_own_size, most) is None  # a 4K frame
    # 24 megapixels in two by two windows: 4 / 7 of each side overlaps by a quarter.
    assert fitting_window((4000, 6000), at_own_size, most) == (2286, 3429)
    assert [len(spans(4000, 2286)), len(spans(6000, 3429))] == [2, 2]
    assert fitting_window((6000, 8000), resized, most) is None
    # A panorama keeps its short side, by which the model scales it.
    assert fitting_window((1024, 20000), resized, most) == (1024, 8000)
    # Each window would be enlarged to 4096 x 4096: none is smaller to the model than the image.
    assert fitting_window((2000, 2000), lambda height, width: 4096 * 4096, most) is None


COLORS = ((0, 0, 0), (1, 1, 1), (2, 2, 2))
TAXONOMY = Taxonomy(("road", "sky", "car"), COLORS, (False, False, True), ("road",))


def predict(seen: Image) -> MaskPrediction:
    """Three masks, two of them surely sky; the model believes in the right, and in what the whole image looks like."""
    pixels = torch.from_numpy(seen).float().permute(2, 0, 1)[None] / 32 - 6
    class_logits = torch.tensor([[[0.0, 9, 0, 0], [0, 9, 0, 0], [2, 0, 1, 0]]])
    return MaskPrediction(class_logits, pixels + torch.arange(seen.shape[1]) / 4 + pixels.mean())


def predict_pixels(seen: Image) -> PixelPrediction:
    """The masks' logits as those of classes."""
    return PixelPrediction(predict(seen).mask_logits)


@dataclass
class Model:
    """A member whose network is a function of the image."""

    prediction: Callable[[Image], Prediction] = predict
    taxonomy: Taxonomy = TAXONOMY
    name: str = "a test's"
    preprocessing: Preprocessing = field(default_factory=lambda: Preprocessing(short_side=None, long_side=None))
    statistics: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)

    @property
    def model(self) -> torch.nn.Module:
        return self  # type: ignore[return-value]

    def __call__(self, pixels: Tensor) -> Prediction:
        return self.prediction(pixels[0].permute(1, 2, 0).numpy())

    def preprocess(self, seen: Image) -> Tensor:
        return torch.from_numpy(seen).permute(2, 0, 1)[None]


SML = {"sml": {"mean": torch.tensor([1.0, 2, 3]), "deviation": torch.tensor([1.0, 2, 3])}}


@pytest.mark.parametrize(
    ("members", "names", "options"),
    [
        ([Model()], ["eam", "m2a"], {}),
        ([Model()], ["eam"], {"flip": True}),
        ([Model()], ["eam"], {"refine_by": TAXONOMY}),
        ([Model()], ["eam"], {"refine_by": TAXONOMY, "flip": True}),
        ([Model(), Model(lambda seen: predict(seen // 2))], ["eam"], {}),
        ([Model(predict_pixels, statistics=SML)], ["sml", "entropy"], {"flip": True}),
    ],
)
def test_windows_are_outside_of_mirrors_refinement_ensembles_and_detectors(
    members: list[Model], names: list[str], options: dict[str, Any]
) -> None:
    whole = image(18, 26)

    def view(part: Image) -> dict[str, Tensor]:
        return score_maps(members, part, names, part.shape[:2], **options)

    expected = windowed(view, whole, (8, 10))
    found = score_maps(members, whole, names, (18, 26), **options, window=(8, 10))
    assert found.keys() == expected.keys() == {*names, "labels"}
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert not torch.allclose(found[names[0]], view(whole)[names[0]])


def test_large_images_are_seen_through_windows_of_themselves(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[tuple[int, ...]] = []

    def watched(part: Image) -> MaskPrediction:
        seen.append(part.shape)
        return predict(part)

    monkeypatch.setattr(inference, "MOST_PIXELS", 200)
    whole = image(18, 26)
    with caplog.at_level(logging.WARNING):
        found = score_maps([Model(watched)], whole, ["eam"], (18, 26))
    assert set(seen) == {(11, 15, 3)}
    (message,) = caplog.messages
    assert message == "images of 18x26 pixels are too large for the model and seen through windows of 11x15"
    assert torch.equal(found["eam"], score_maps([Model()], whole, ["eam"], (18, 26), window=(11, 15))["eam"])

    seen.clear()
    # As large as may be: whole. And so is what a window covers, however large.
    score_maps([Model(watched)], image(10, 20), ["eam"], (10, 20))
    score_maps([Model(watched)], whole, ["eam"], (18, 26), window=100)
    assert seen == [(10, 20, 3), (18, 26, 3)]
    # One member of an ensemble is enough.
    enlarging = Model(preprocessing=Preprocessing(short_side=12, long_side=None))
    assert inference.window_for([Model(), enlarging], (10, 20)) == (10, 12)


def test_maps_of_another_size_are_resized_from_the_blended_ones() -> None:
    whole = image(18, 26)
    found = score_maps([Model()], whole, ["eam"], (36, 52), window=8)
    at_own_size = score_maps([Model()], whole, ["eam"], (18, 26), window=8)
    expected = torch.nn.functional.interpolate(at_own_size["eam"][None], (36, 52), mode="bilinear")[0]
    assert torch.equal(found["eam"], expected)
    labels = at_own_size["labels"]
    assert torch.equal(found["labels"], labels.repeat_interleave(2, 1).repeat_interleave(2, 2))


def test_segments_are_not_put_together_from_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = image(18, 26)
    with pytest.raises(ImageError, match="18x26 pixels would be seen through windows.*choose a window that covers it"):
        masks_and_maps([Model()], whole, ["eam"], (18, 26), window=16)
    monkeypatch.setattr(inference, "MOST_PIXELS", 200)
    with pytest.raises(ImageError, match="scale it down, or choose a window that covers it$"):
        masks_and_maps([Model()], whole, ["eam"], (18, 26))
    masks, maps = masks_and_maps([Model()], whole, ["eam"], (18, 26), window=(18, 26))
    assert torch.equal(masks.mask_logits, predict(whole).mask_logits)
    assert maps["eam"].shape == (1, 18, 26)


class Pixelwise(torch.nn.Module):
    """Two masks that see nothing but their pixel; counts what goes through it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
        self.largest = 0

    def forward(self, pixels: Tensor) -> MaskPrediction:
        self.largest = max(self.largest, pixels[0, 0].numel())
        class_logits = torch.tensor([[[4.0, 0, 0, 0], [0, 0, 4, 0]]])
        return MaskPrediction(class_logits, pixels.mean(1, keepdim=True) * self.weight[:, None, None])


@pytest.mark.parametrize("window", [16, (16, 16), (7, 40)])
def test_a_segmenter_predicts_through_windows(window: int | tuple[int, int]) -> None:
    preprocessing = Preprocessing(short_side=None, long_side=None)
    segmenter = Segmenter(Pixelwise(), TAXONOMY, preprocessing, "pixelwise")
    whole = image(40, 56)
    with torch.no_grad():
        expected = segmenter.predict(whole, threshold=-0.5, refine=True, flip=True, window=100)
        assert segmenter.model.largest == 40 * 56
        segmenter.model.largest = 0
        found = segmenter.predict(whole, threshold=-0.5, refine=True, flip=True, window=window)
    high, wide = window_size(window)
    assert segmenter.model.largest == high * wide
    np.testing.assert_allclose(found.score, expected.score, rtol=0, atol=1e-6)  # of at most 1, in float32
    np.testing.assert_array_equal(found.labels, expected.labels)
