from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from outmask.data.labels import IGNORE, VOID, Sample
from outmask.data.negatives import Cutout, PasteNegatives
from outmask.data.transforms import (
    PADDING_COLOR,
    ColorJitter,
    Compose,
    DrawnSamples,
    PastedValidation,
    RandomFlip,
    RandomScaleCrop,
    TreatVoid,
    collate,
)
from outmask.errors import OutmaskError


def tiles(height: int = 24, width: int = 36, tile: int = 6) -> Sample:
    """Tiles of a constant class; the red channel holds ten times the class, green the outlier mask."""
    rows, columns = np.mgrid[:height, :width] // tile
    labels = ((rows * 7 + columns * 3) % 19).astype(np.uint8)
    outlier = labels % 5 == 0
    image = np.zeros((height, width, 3), dtype=np.uint8)
    image[..., 0], image[..., 1] = labels * 10, outlier * 200
    return Sample(image, labels, outlier, "tiles")


class Numbered:
    """A dataset whose images all hold their own number."""

    def __init__(self, count: int, first: int = 0) -> None:
        self.count, self.first = count, first

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        size = (8, 12)
        image = np.full((*size, 3), self.first + index, dtype=np.uint8)
        return Sample(image, np.zeros(size, np.uint8), np.zeros(size, bool), f"{self.first + index}")


class Blocks:
    """A source of white blocks of 2x3 pixels."""

    def sample(self, rng: np.random.Generator, batch: Any) -> list[Cutout]:
        return [Cutout(np.full((2, 3, 3), 255, np.uint8), np.ones((2, 3), bool))]


def same(one: Sample, two: Sample) -> bool:
    parts = ((one.image, two.image), (one.labels, two.labels), (one.outlier, two.outlier))
    return one.name == two.name and all(np.array_equal(*pair) for pair in parts)


@pytest.mark.parametrize("seed", range(5))
def test_an_unscaled_crop_is_a_window_of_image_labels_and_outliers_alike(seed: int) -> None:
    before = tiles()
    after = RandomScaleCrop((10, 14), (24, 24))(before, np.random.default_rng(seed))
    windows = [
        (top, left)
        for top in range(15)
        for left in range(23)
        if np.array_equal(before.image[top : top + 10, left : left + 14], after.image)
        and np.array_equal(before.labels[top : top + 10, left : left + 14], after.labels)
        and np.array_equal(before.outlier[top : top + 10, left : left + 14], after.outlier)
    ]
    assert windows


@pytest.mark.parametrize("short_side", [12, 17, 24, 37, 48, 96])
def test_scaled_crops_keep_image_and_labels_aligned(short_side: int) -> None:
    for seed in range(10):
        after = RandomScaleCrop((20, 28), (short_side, short_side))(tiles(), np.random.default_rng(seed))
        inside = after.labels != IGNORE
        # Off the tiles' edges, by half of an enlarged pixel, the smooth image holds exactly what the label says.
        flat, margin = inside.copy(), max(1, short_side // 48)
        for axis in (0, 1):
            for shift in range(-margin, margin + 1):
                flat &= np.roll(after.labels, shift, axis) == after.labels
        flat[:margin] = flat[-margin:] = flat[:, :margin] = flat[:, -margin:] = False
        assert flat.any()
        assert np.array_equal(after.image[flat][:, 0], after.labels[flat] * 10)
        assert np.array_equal(after.image[flat][:, 1] > 100, after.outlier[flat])


def test_labels_are_shifted_by_less_than_a_pixel_when_halved() -> None:
    labels = np.zeros((16, 16), np.uint8)
    labels[:, 8:] = 1
    image = np.repeat(labels[..., None] * 200, 3, axis=-1).astype(np.uint8)
    sample = Sample(image, labels, labels == 1, "halves")
    after = RandomScaleCrop((8, 8), (8, 8))(sample, np.random.default_rng(0))
    assert np.array_equal(after.image[..., 0] == 200, after.labels == 1)
    assert np.array_equal(after.outlier, after.labels == 1)


def test_what_lies_outside_of_a_small_image_is_ignored_padding() -> None:
    sample = Sample(np.zeros((4, 6, 3), np.uint8), np.full((4, 6), VOID, np.uint8), np.ones((4, 6), bool), "small")
    after = RandomScaleCrop((10, 12), (4, 4))(sample, np.random.default_rng(0))
    padding = after.labels == IGNORE
    assert padding.sum() == 10 * 12 - 4 * 6
    assert (after.image[padding] == PADDING_COLOR).all()
    assert (after.image[~padding] == 0).all()
    assert np.array_equal(after.outlier, ~padding), "padding is never an outlier"


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    crop=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    low=st.integers(1, 40),
    spread=st.integers(0, 20),
    seed=st.integers(0, 100),
)
def test_a_crop_always_has_its_size_and_shows_only_what_was_there(
    size: tuple[int, int], crop: tuple[int, int], low: int, spread: int, seed: int
) -> None:
    before = tiles(*size)
    after = RandomScaleCrop(crop, (low, low + spread))(before, np.random.default_rng(seed))
    assert after.labels.shape == crop
    assert set(np.unique(after.labels)) <= {*np.unique(before.labels), IGNORE}
    assert (after.labels != IGNORE).any()


def test_short_sides_are_drawn_from_the_whole_range() -> None:
    sample = Sample(np.zeros((5, 9, 3), np.uint8), np.zeros((5, 9), np.uint8), np.zeros((5, 9), bool), "small")
    transform = RandomScaleCrop((40, 40), (4, 7))
    heights = {int((transform(sample, np.random.default_rng(i)).labels == 0).any(1).sum()) for i in range(60)}
    assert heights == {4, 5, 6, 7}


def test_flips_mirror_everything_about_half_of_the_time() -> None:
    before, flipped = tiles(), 0
    for seed in range(400):
        after = RandomFlip()(before, np.random.default_rng(seed))
        if not same(before, after):
            mirrored = (before.image[:, ::-1], before.labels[:, ::-1], before.outlier[:, ::-1])
            assert same(after, Sample(*mirrored, "tiles"))
            flipped += 1
    # 200 expected, standard deviation 10: five of them.
    assert 150 < flipped < 250


def test_impossible_crops_are_refused() -> None:
    with pytest.raises(OutmaskError, match="crop"):
        RandomScaleCrop((0, 5), (1, 2))
    with pytest.raises(OutmaskError, match="short_side"):
        RandomScaleCrop((5, 5), (3, 2))


def test_compose_runs_in_order_on_one_generator() -> None:
    crop, flip = RandomScaleCrop((10, 10), (20, 30)), RandomFlip()
    rng = np.random.default_rng(5)
    expected = flip(crop(tiles(), rng), rng)
    assert same(Compose([crop, flip])(tiles(), np.random.default_rng(5)), expected)


def test_colours_change_within_range_and_by_torchs_generator_alone() -> None:
    jitter = ColorJitter(probability=1.0)
    pixels = torch.rand(4, 3, 6, 8)
    torch.manual_seed(1)
    one = jitter(pixels)
    torch.manual_seed(1)
    assert torch.equal(jitter(pixels), one)
    assert not torch.equal(jitter(pixels), one)
    assert one.shape == pixels.shape
    assert one.min() >= 0
    assert one.max() <= 1
    assert not torch.allclose(one, pixels)


def test_images_of_a_batch_get_their_own_colours() -> None:
    torch.manual_seed(0)
    jittered = ColorJitter(probability=1.0)(torch.rand(1, 3, 6, 8).expand(3, 3, 6, 8))
    assert not torch.allclose(jittered[0], jittered[1])


def drawn(length: int, **options: Any) -> DrawnSamples:
    transforms = [PasteNegatives(Blocks(), 0.7), RandomScaleCrop((6, 9), (6, 12)), RandomFlip()]
    return DrawnSamples([Numbered(5), Numbered(3, first=5)], transforms, length=length, **options)


def test_a_draw_depends_on_the_seed_and_its_index_alone() -> None:
    one, two, other = drawn(40, seed=1), drawn(40, seed=1), drawn(40, seed=2)
    forward = [one[i] for i in range(40)]
    backward = [two[i] for i in reversed(range(40))][::-1]
    assert all(same(a, b) for a, b in zip(forward, backward, strict=True))
    assert not all(same(forward[i], other[i]) for i in range(40))


def test_a_longer_run_begins_like_a_shorter_one() -> None:
    assert all(same(drawn(30, seed=3)[i], drawn(8, seed=3)[i]) for i in range(8))


def test_a_resumed_loader_gives_the_rest_of_the_run_with_any_number_of_workers() -> None:
    join = partial(collate, num_classes=1)
    samples = drawn(24, seed=7)
    whole = list(DataLoader(samples, batch_size=4, collate_fn=join))
    rest = list(DataLoader(samples, batch_size=4, sampler=range(12, 24), collate_fn=join, num_workers=2))
    assert len(rest) == 3
    for expected, got in zip(whole[3:], rest, strict=True):
        assert torch.equal(expected.pixels, got.pixels)
        assert expected.names == got.names
        for one, two in zip(expected.targets, got.targets, strict=True):
            assert torch.equal(one.masks, two.masks)
            assert torch.equal(one.outlier, two.outlier)


def test_every_image_is_drawn_once_an_epoch_in_an_order_of_its_own() -> None:
    samples = drawn(32, seed=0)
    epochs = [[samples[i].name for i in range(start, start + 8)] for start in range(0, 32, 8)]
    assert all(sorted(epoch) == [str(number) for number in range(8)] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_a_datasets_images_come_in_another_order_every_epoch() -> None:
    samples = DrawnSamples([Numbered(8)], [], seed=0, length=32)
    orders = {tuple(samples.source(i)[1] for i in range(start, start + 8)) for start in range(0, 32, 8)}
    assert len(orders) == 4


def test_datasets_alternate_within_an_epoch() -> None:
    samples = drawn(32, seed=0)
    orders = {tuple(samples.source(i)[0] for i in range(start, start + 8)) for start in range(0, 32, 8)}
    assert len(orders) > 1
    assert (0, 0, 0, 0, 0, 1, 1, 1) not in orders


def test_an_image_is_transformed_anew_each_time_it_is_drawn() -> None:
    samples = DrawnSamples([Numbered(1)], [RandomScaleCrop((20, 20), (4, 16))], seed=0, length=20)
    assert len({samples[i].labels.tobytes() for i in range(20)}) > 10


def test_weights_set_each_datasets_share_and_its_images_still_come_in_turn() -> None:
    samples = drawn(80, seed=0, weights=[1, 3])
    names = [int(samples[i].name) for i in range(80)]
    second = [name for name in names if name >= 5]
    assert len(second) == 60
    assert all(sorted(second[start : start + 3]) == [5, 6, 7] for start in range(0, 60, 3))
    assert sorted(set(names)) == list(range(8))


def test_a_dataset_of_weight_zero_is_never_drawn() -> None:
    assert {int(sample.name) < 5 for sample in (drawn(16, seed=0, weights=[1, 0])[i] for i in range(16))} == {True}


def test_draws_end_where_the_run_does() -> None:
    samples = drawn(4, seed=0)
    assert len(samples) == 4
    assert len(list(samples)) == 4
    with pytest.raises(IndexError):
        samples[4]


def test_runs_without_images_or_with_odd_weights_are_refused() -> None:
    with pytest.raises(OutmaskError, match="datasets that have images"):
        DrawnSamples([], [], seed=0, length=4)
    with pytest.raises(OutmaskError, match=r"\[5, 0\] images"):
        DrawnSamples([Numbered(5), Numbered(0)], [], seed=0, length=4)
    for weights in ([1.0], [-1.0, 2.0], [0.0, 0.0]):
        with pytest.raises(OutmaskError, match="2 positive numbers"):
            drawn(4, seed=0, weights=weights)
    with pytest.raises(OutmaskError, match="negative"):
        drawn(4, seed=-1)


def test_every_validation_image_has_one_to_three_objects_and_always_the_same() -> None:
    one, two = (PastedValidation(Numbered(30), Blocks(), seed=4, relative_size=None) for _ in range(2))
    areas = set()
    for index in range(30):
        sample = one[index]
        assert same(sample, two[index])
        assert sample.name == str(index)
        assert np.array_equal(sample.labels == VOID, sample.outlier)
        areas.add(int(sample.outlier.sum()))
    assert min(areas) == 6
    assert 12 < max(areas) <= 18
    other = PastedValidation(Numbered(30), Blocks(), seed=5, relative_size=None)
    assert not all(same(one[index], other[index]) for index in range(30))


def test_a_batch_holds_bytes_targets_and_names() -> None:
    samples = [tiles(), Sample(tiles().image[:, ::-1], tiles().labels[:, ::-1], tiles().outlier[:, ::-1], "mirror")]
    batch = collate(samples, num_classes=19)
    assert batch.pixels.dtype == torch.uint8
    assert batch.pixels.is_contiguous()
    assert torch.equal(batch.pixels[1], torch.from_numpy(samples[1].image.copy()).permute(2, 0, 1))
    assert batch.names == ["tiles", "mirror"]
    assert torch.equal(batch.targets[0].masks.flip(-1), batch.targets[1].masks)
    moved = batch.to("meta")
    assert {moved.pixels.device.type, moved.targets[0].masks.device.type} == {"meta"}


def test_images_of_different_sizes_make_no_batch() -> None:
    with pytest.raises(OutmaskError, match="one size"):
        collate([tiles(), tiles(24, 30)], num_classes=19)


@pytest.mark.parametrize("short_side", [12, 24, 37])
def test_instances_move_with_their_labels(short_side: int) -> None:
    plain = tiles()
    before = Sample(plain.image, plain.labels, plain.outlier, "tiles", plain.labels.astype(np.uint16) + 1000)
    for seed in range(10):
        rng = np.random.default_rng(seed)
        after = RandomFlip()(RandomScaleCrop((20, 28), (short_side, short_side))(before, rng), rng)
        assert after.instances is not None
        padding = after.labels == IGNORE
        assert np.array_equal(after.instances[~padding], after.labels[~padding] + np.uint16(1000))
        assert not after.instances[padding].any()


def strip_of_void() -> Sample:
    """A large region of void, a small one, a pasted one, and two known objects."""
    labels = np.zeros((4, 40), np.uint8)
    labels[:, 4:20] = labels[0, 24:28] = labels[:, 30:36] = VOID
    outlier = np.zeros((4, 40), bool)
    outlier[:, 30:36] = True
    instances = np.zeros((4, 40), np.uint16)
    instances[:, :4], instances[:, 30:36] = 1, 7
    return Sample(np.zeros((4, 40, 3), np.uint8), labels, outlier, "void", instances)


def test_void_that_is_ignored_teaches_nothing() -> None:
    before = strip_of_void()
    after = TreatVoid("ignore")(before, np.random.default_rng(0))
    assert np.array_equal(after.labels == IGNORE, before.labels == VOID)
    assert not (after.labels == VOID).any()
    assert not after.outlier.any()


def test_large_regions_of_void_become_outliers_each_an_object_of_its_own() -> None:
    before = strip_of_void()
    after = TreatVoid("outlier", smallest=10)(before, np.random.default_rng(0))
    assert np.array_equal(after.labels, before.labels)
    expected = before.outlier.copy()
    expected[:, 4:20] = True
    assert np.array_equal(after.outlier, expected), "four pixels are too few"
    assert before.instances is not None
    assert after.instances is not None
    assert (after.instances[:, 4:20] == 8).all(), "a number that no other object has"
    assert np.array_equal(np.delete(after.instances, range(4, 20), 1), np.delete(before.instances, range(4, 20), 1))


def test_regions_of_void_touch_at_corners_and_stay_one_region_where_objects_are_not_told_apart() -> None:
    labels = np.kron(np.eye(2, dtype=np.uint8) * VOID, np.ones((5, 5), np.uint8))
    sample = Sample(np.zeros((10, 10, 3), np.uint8), labels, np.zeros((10, 10), bool), "corners")
    after = TreatVoid("outlier", smallest=50)(sample, np.random.default_rng(0))
    assert np.array_equal(after.outlier, labels == VOID)
    assert after.instances is None
