from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outmask.data.flow import FlowConfig, PatchFlow
from outmask.data.labels import IGNORE, VOID, Sample
from outmask.data.negatives import (
    CocoInstances,
    Cutout,
    FlowSamples,
    FolderObjects,
    InlierPatches,
    LabelMapObjects,
    MixedObjects,
    NegativeSource,
    PasteNegatives,
    paste,
)
from outmask.errors import OutmaskError

RED = (250, 0, 0)


def host(height: int = 20, width: int = 30, seed: int = 0) -> Sample:
    rng = np.random.default_rng(seed)
    return Sample(
        rng.integers(0, 100, (height, width, 3), dtype=np.uint8),
        rng.choice(np.array([0, 1, 2, IGNORE], dtype=np.uint8), (height, width)),
        np.zeros((height, width), dtype=bool),
        "host",
    )


def disc(height: int, width: int, color: tuple[int, int, int] = RED) -> Cutout:
    rows, columns = np.ogrid[:height, :width]
    mask = ((2 * rows + 1) / height - 1) ** 2 + ((2 * columns + 1) / width - 1) ** 2 <= 1
    rgb = np.full((height, width, 3), (0, 250, 0), dtype=np.uint8)
    rgb[mask] = color
    return Cutout(rgb, mask)


class Fixed:
    """A source that always gives the same objects."""

    def __init__(self, *cutouts: Cutout) -> None:
        self.cutouts = list(cutouts)

    def sample(self, rng: np.random.Generator, batch: Any) -> list[Cutout]:
        return self.cutouts


def test_a_pasted_object_is_void_and_outlier_and_the_rest_stays_as_it_was() -> None:
    before = host()
    after = paste(before, [disc(9, 9)], np.random.default_rng(1))
    assert after.outlier.any()
    assert (after.labels[after.outlier] == VOID).all()
    rest = ~after.outlier
    assert np.array_equal(after.image[rest], before.image[rest])
    assert np.array_equal(after.labels[rest], before.labels[rest])
    assert not before.outlier.any(), "the host itself is not changed"
    assert np.array_equal(before.image, host().image)


class Recorded:
    """A source that remembers what it gave, and the generator's state after that."""

    def __init__(self, source: NegativeSource) -> None:
        self.source = source
        self.cutouts: list[Cutout] = []

    def sample(self, rng: np.random.Generator, batch: Any) -> list[Cutout]:
        drawn = self.source.sample(rng, batch)
        self.cutouts += drawn
        self.state = rng.bit_generator.state
        return drawn


def paste_pixel_by_pixel(sample: Sample, cutouts: list[Cutout], rng: np.random.Generator) -> Sample:
    """The oracle, for objects that keep their size: object over host, by half at least where it has a rim."""
    image, labels, outlier = sample.image.copy(), sample.labels.copy(), sample.outlier.copy()
    for cutout in cutouts:
        height, width = cutout.mask.shape
        top = rng.integers(labels.shape[0] - height + 1)
        left = rng.integers(labels.shape[1] - width + 1)
        for row, column in np.argwhere(cutout.mask):
            neighbours = cutout.mask[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2].sum()
            share = max(0.5, neighbours / 9)
            for channel in range(3):
                # No tie but at exactly one half: a multiple of 1/9 is never a half.
                mixed = (1 - share) * image[top + row, left + column, channel] + share * cutout.rgb[
                    row, column, channel
                ]
                image[top + row, left + column, channel] = np.rint(round(mixed, 6))
            labels[top + row, left + column] = VOID
            outlier[top + row, left + column] = True
    return Sample(image, labels, outlier, sample.name)


@pytest.fixture(params=["folder", "coco", "joint coco", "label maps", "inlier patches", "flow", "mixture"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> NegativeSource:
    def objects() -> NegativeSource:
        return FolderObjects(request.getfixturevalue("davis")(tmp_path, {"camel_0": 10, "camel_1": 200}))

    def instances(joint: bool) -> NegativeSource:
        shown = [{"name": "zebra", "x": 3, "value": 10}, {"name": "cake", "x": 30, "value": 200}]
        paths = request.getfixturevalue("coco")(tmp_path, {1: shown, 2: []})
        return CocoInstances(*paths, minimum_area=50, joint=joint)

    def regions() -> NegativeSource:
        return LabelMapObjects(request.getfixturevalue("label_maps")(tmp_path, {"a": [1, 2, 3, 0]}))

    kinds: dict[str, Callable[[], NegativeSource]] = {
        "folder": objects,
        "coco": lambda: instances(False),
        "joint coco": lambda: instances(True),
        "label maps": regions,
        "inlier patches": lambda: InlierPatches((3, 20)),
        "flow": lambda: FlowSamples(PatchFlow(FlowConfig(levels=2, steps=1, width=4)), (4, 20)),
        "mixture": lambda: MixedObjects([objects(), InlierPatches((3, 20))]),
    }
    return kinds[request.param]()


@pytest.mark.parametrize("seed", range(4))
def test_every_pixel_of_image_label_and_mask_is_accounted_for(source: NegativeSource, seed: int) -> None:
    before, recorded = host(46, 64), Recorded(source)
    transform = PasteNegatives(recorded, 1.0, relative_size=None, others=[host(30, 25, 1), host(22, 50, 2)])
    after = transform(before, np.random.default_rng(seed))
    rng = np.random.default_rng()
    rng.bit_generator.state = recorded.state
    expected = paste_pixel_by_pixel(before, recorded.cutouts, rng)
    assert after.outlier.any()
    assert np.array_equal(after.outlier, expected.outlier)
    assert np.array_equal(after.labels, expected.labels)
    assert np.array_equal(after.image, expected.image)


@pytest.mark.parametrize("relative_size", [None, (0.3, 3.0)])
def test_every_source_fits_a_host_smaller_than_its_objects(
    source: NegativeSource, relative_size: tuple[float, float] | None
) -> None:
    transform = PasteNegatives(source, 1.0, relative_size=relative_size, others=[host(30, 25, 1)])
    for seed in range(5):
        after = transform(host(4, 3), np.random.default_rng(seed))
        assert after.outlier.any()
        assert np.array_equal(after.labels == VOID, after.outlier)


def test_nothing_pasted_is_nothing_changed() -> None:
    before = host()
    assert paste(before, [], np.random.default_rng(0)) is before


def test_an_object_shows_its_own_colour_with_a_soft_rim_and_without_its_old_background() -> None:
    before = host()
    after = paste(before, [disc(40, 40)], np.random.default_rng(1), relative_size=(0.6, 0.6))
    inside = after.outlier
    assert (after.image[inside][:, 1] <= 100).all(), "the green around the cut-out is nowhere"
    assert (after.image[inside][:, 0] >= 125).all(), "no pixel called outlier is mostly host"
    core = inside.copy()
    for axis in (0, 1):
        core &= np.roll(inside, 1, axis) & np.roll(inside, -1, axis)
        core &= np.roll(np.roll(inside, 1, axis), 1, 1 - axis) & np.roll(np.roll(inside, -1, axis), -1, 1 - axis)
        core &= np.roll(np.roll(inside, 1, axis), -1, 1 - axis) & np.roll(np.roll(inside, -1, axis), 1, 1 - axis)
    assert core.any()
    assert (after.image[core] == RED).all()


def test_a_line_one_pixel_wide_stays_visible() -> None:
    line = Cutout(np.full((1, 12, 3), RED, np.uint8), np.ones((1, 12), bool))
    after = paste(host(), [line], np.random.default_rng(0), relative_size=None)
    assert after.outlier.sum() == 12
    assert (after.image[after.outlier][:, 0] >= 125).all()


def test_an_object_that_covers_little_of_its_box_does_not_vanish_when_shrunk() -> None:
    sparse = Cutout(np.full((40, 40, 3), RED, np.uint8), np.eye(40, dtype=bool))
    after = paste(host(), [sparse], np.random.default_rng(0), relative_size=(0.2, 0.2))
    assert after.outlier.sum() >= 4


def test_an_object_pasted_on_ignored_pixels_is_void_there() -> None:
    blank = Sample(np.zeros((9, 9, 3), np.uint8), np.full((9, 9), IGNORE, np.uint8), np.zeros((9, 9), bool), "blank")
    after = paste(blank, [disc(5, 5)], np.random.default_rng(0), relative_size=None)
    assert np.array_equal(after.labels == VOID, after.outlier)


def test_without_a_relative_size_an_object_keeps_its_own() -> None:
    cutout = disc(7, 11)
    after = paste(host(), [cutout], np.random.default_rng(0), relative_size=None)
    rows, columns = np.flatnonzero(after.outlier.any(1)), np.flatnonzero(after.outlier.any(0))
    assert np.array_equal(after.outlier[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], cutout.mask)


@pytest.mark.parametrize("relative_size", [None, (5.0, 9.0)])
@pytest.mark.parametrize("size", [(100, 3), (3, 100), (400, 300)])
def test_an_object_larger_than_the_host_is_scaled_to_fit(
    size: tuple[int, int], relative_size: tuple[float, float] | None
) -> None:
    block = Cutout(np.zeros((*size, 3), np.uint8), np.ones(size, bool))
    after = paste(host(20, 30), [block], np.random.default_rng(0), relative_size)
    scale = min(20 / size[0], 30 / size[1])
    assert after.outlier.any(1).sum() == max(1, round(size[0] * scale))
    assert after.outlier.any(0).sum() == max(1, round(size[1] * scale))


def test_an_object_is_never_enlarged() -> None:
    after = paste(host(200, 300), [disc(5, 5)], np.random.default_rng(0), relative_size=(0.8, 0.8))
    assert after.outlier.sum() == disc(5, 5).mask.sum()


@pytest.mark.parametrize("fraction", [0.2, 0.5, 1.0])
def test_the_longest_side_is_a_fraction_of_the_hosts_shorter_side(fraction: float) -> None:
    square = Cutout(np.zeros((90, 60, 3), np.uint8), np.ones((90, 60), bool))
    after = paste(host(40, 70), [square], np.random.default_rng(0), (fraction, fraction))
    assert after.outlier.any(1).sum() == 40 * fraction
    assert after.outlier.any(0).sum() == round(40 * fraction * 60 / 90)


@settings(max_examples=60, deadline=None)
@given(
    host_size=st.tuples(st.integers(1, 24), st.integers(1, 24)),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    low=st.floats(0.01, 2),
    spread=st.floats(0, 2),
    seed=st.integers(0, 1000),
)
def test_whatever_is_pasted_lies_in_the_host_and_leaves_at_least_one_pixel(
    host_size: tuple[int, int], size: tuple[int, int], low: float, spread: float, seed: int
) -> None:
    before = host(*host_size)
    after = paste(before, [disc(*size)], np.random.default_rng(seed), (low, low + spread))
    assert after.labels.shape == before.labels.shape
    assert np.array_equal(after.labels == VOID, after.outlier)
    assert 1 <= after.outlier.sum() <= size[0] * size[1]
    assert np.array_equal(after.image[~after.outlier], before.image[~after.outlier])


def test_places_are_uniform_up_to_the_hosts_edges() -> None:
    dot = Cutout(np.zeros((1, 1, 3), np.uint8), np.ones((1, 1), bool))
    rng = np.random.default_rng(0)
    hits = sum(paste(host(3, 4), [dot], rng, None).outlier.astype(int) for _ in range(1200))
    # 100 expected in each of the 12 places, standard deviation 9.6: five of them.
    assert (np.abs(hits - 100) < 48).all()


def test_the_same_generator_pastes_the_same() -> None:
    transform = PasteNegatives(Fixed(disc(9, 9), disc(5, 9)), 0.5)
    one, two = (transform(host(), np.random.default_rng(3)) for _ in range(2))
    assert np.array_equal(one.image, two.image)
    assert np.array_equal(one.outlier, two.outlier)


@pytest.mark.parametrize(("probability", "expected"), [(0.0, 0), (1.0, 400), (0.25, 100)])
def test_the_probability_is_the_share_of_images_that_get_objects(probability: float, expected: int) -> None:
    transform = PasteNegatives(Fixed(disc(5, 5)), probability)
    rng = np.random.default_rng(0)
    pasted = sum(bool(transform(host(), rng).outlier.any()) for _ in range(400))
    # Standard deviation 8.7 at a quarter; the ends are exact.
    assert abs(pasted - expected) <= (0 if probability in (0, 1) else 35)


def test_the_count_is_the_number_of_draws_from_the_source() -> None:
    class Counting(Fixed):
        draws = 0

        def sample(self, rng: np.random.Generator, batch: Any) -> list[Cutout]:
            self.draws += 1
            return super().sample(rng, batch)

    source = Counting(disc(3, 3))
    transform, seen = PasteNegatives(source, 1.0, count=(2, 4)), set()
    for seed in range(40):
        source.draws = 0
        transform(host(), np.random.default_rng(seed))
        seen.add(source.draws)
    assert seen == {2, 3, 4}


def test_bad_options_are_refused() -> None:
    source = Fixed(disc(3, 3))
    with pytest.raises(OutmaskError, match="probability"):
        PasteNegatives(source, 1.5)
    with pytest.raises(OutmaskError, match="count"):
        PasteNegatives(source, 1.0, count=(0, 2))
    with pytest.raises(OutmaskError, match="relative_size"):
        PasteNegatives(source, 1.0, relative_size=(0.5, 0.1))
    with pytest.raises(OutmaskError, match="relative_size"):
        paste(host(), [disc(3, 3)], np.random.default_rng(0), (0.0, 0.5))


@pytest.mark.parametrize(
    ("rgb", "mask", "complaint"),
    [
        (np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2), bool), "at least one pixel"),
        (np.zeros((2, 2, 3), np.uint8), np.ones((2, 2), np.uint8), "bool"),
        (np.zeros((2, 3, 3), np.uint8), np.ones((2, 2), bool), "rgb must be"),
        (np.zeros((2, 2, 3)), np.ones((2, 2), bool), "rgb must be"),
    ],
)
def test_a_cutout_refuses_what_is_none(rgb: np.ndarray, mask: np.ndarray, complaint: str) -> None:
    with pytest.raises(OutmaskError, match=complaint):
        Cutout(rgb, mask)


def test_each_pasted_object_is_an_instance_of_its_own() -> None:
    plain = host()
    numbers = np.full((20, 30), 4, np.uint16)
    before = Sample(plain.image, plain.labels, plain.outlier, "host", numbers)
    after = paste(before, [disc(9, 9), disc(5, 5)], np.random.default_rng(2))
    assert after.instances is not None
    assert set(np.unique(after.instances)) == {4, 5, 6}
    assert np.array_equal(after.instances > 4, after.outlier)
    assert (numbers == 4).all(), "the host is not changed"
    assert paste(plain, [disc(9, 9)], np.random.default_rng(2)).instances is None
