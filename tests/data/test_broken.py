"""Broken items: what takes their place, what is said of them, and when they are too many."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import ConcatDataset, DataLoader, Dataset

from outmask.data.broken import BrokenItems, TooManyBroken, UsableImages
from outmask.data.labels import Sample
from outmask.data.negatives import InlierPatches, PasteNegatives
from outmask.data.transforms import DrawnSamples
from outmask.errors import OutmaskError

SIZE = 1000


def reader(broken: set[int]):  # type: ignore[no-untyped-def]
    def read(index: int) -> int:
        if index in broken:
            raise OutmaskError(f"{index}.png is damaged")
        return index

    return read


@given(broken=st.sets(st.integers(0, SIZE - 1), max_size=9), order=st.permutations(range(0, SIZE, 37)))
def test_the_next_healthy_item_takes_the_place_whatever_was_read_before(broken: set[int], order: list[int]) -> None:
    items = BrokenItems(SIZE, "files")
    for index in [*order, *broken]:
        expected = next(step % SIZE for step in range(index, index + SIZE) if step % SIZE not in broken)
        assert items.pass_over(index, reader(broken)) == expected
    assert items.count == len(broken)


def test_each_is_named_once_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    items = BrokenItems(SIZE, "files of the day")
    with caplog.at_level(logging.WARNING, "outmask"):
        for index in (4, 3, 4, 9):
            items.pass_over(index, reader({3, 4, 9}))
    assert [record.getMessage() for record in caplog.records] == [
        "4.png is damaged (left out; 1 of 1000 files of the day can't be used)",
        "3.png is damaged (left out; 2 of 1000 files of the day can't be used)",
        "9.png is damaged (left out; 3 of 1000 files of the day can't be used)",
    ]


def test_one_percent_is_the_most(caplog: pytest.LogCaptureFixture) -> None:
    items = BrokenItems(200, "files")
    read = reader({10, 20, 30})
    items.pass_over(10, read)
    items.pass_over(20, read)
    with pytest.raises(TooManyBroken, match=r"30.png is damaged \(3 of 200 files can't be used, more than 1%"):
        items.pass_over(30, read)


def test_what_ends_an_inner_collection_ends_the_outer_one() -> None:
    inner, outer = BrokenItems(10, "inner files"), BrokenItems(100_000, "outer files")
    with pytest.raises(TooManyBroken, match="1 of 10 inner files"):
        outer.pass_over(7, lambda index: inner.pass_over(index % 10, reader(set(range(10)))))
    assert outer.count == 0


def test_other_errors_are_no_broken_items() -> None:
    def fails(index: int) -> int:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        BrokenItems(SIZE, "files").pass_over(0, fails)


class Images(Dataset[Sample]):
    """Numbered images, grey as their number, of which some can't be read."""

    def __init__(self, count: int, broken: set[int]) -> None:
        self.count, self.broken = count, broken

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        if index in self.broken:
            raise OutmaskError(f"{index}.png is damaged")
        image = np.full((8, 8, 3), index % 256, np.uint8)
        return Sample(image, np.zeros((8, 8), np.uint8), np.zeros((8, 8), bool), str(index))


def test_images_that_patches_are_cut_from_are_passed_over_too(caplog: pytest.LogCaptureFixture) -> None:
    """With one count and one warning, where hosts and patches come from the same usable images."""
    images = UsableImages(Images(200, {3, 5}))
    paste = PasteNegatives(InlierPatches((4, 4)), 1.0, (1, 1), None, others=ConcatDataset([images]))
    draws = DrawnSamples([images], [paste], seed=0, length=600)
    assert draws.datasets == (images,)
    with caplog.at_level(logging.WARNING, "outmask"):
        assert {sample.name for sample in draws} == {str(index) for index in range(200)} - {"3", "5"}
    assert len(caplog.records) == images.broken == 2


def test_draws_are_the_same_in_every_process() -> None:
    def drawn(workers: int) -> list[bytes]:
        images = Images(200, {3, 5})
        paste = PasteNegatives(InlierPatches((4, 4)), 1.0, (1, 1), None, others=images)
        draws = DrawnSamples([images], [paste], seed=0, length=400)
        loader = DataLoader(draws, batch_size=None, num_workers=workers, collate_fn=lambda sample: sample)
        return [sample.image.tobytes() for sample in loader]

    assert drawn(0) == drawn(2)
