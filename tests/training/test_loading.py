"""The share of a training step's time that its data takes: what is measured, on what."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from outmask.data import datasets
from outmask.errors import OutmaskError
from outmask.training import loading
from outmask.training.build import build_training_set
from outmask.training.run import read_recipe


def test_the_first_epoch_is_read_from_disk_the_second_from_memory_and_both_are_shares_of_a_step(
    recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[int] = [0]
    counts: list[int] = []
    read = datasets.read_image
    times = iter([3.0, 4.0, 5.0, 1.0, 1.0, 2.0, 20.0, 10.0, 9.0])

    def counted(path: Path) -> object:
        decoded[0] += 1
        return read(path)

    def timed(run: Callable[[], object]) -> float:
        decoded[0] = 0
        run()
        counts.append(decoded[0])
        return next(times)

    monkeypatch.setattr(datasets, "read_image", counted)
    monkeypatch.setattr(loading, "_seconds", timed)
    share = loading.compare_loading(replace(read_recipe(recipe), batch_size=1), steps=3)
    assert (share.from_disk, share.from_memory) == (0.4, 0.1)
    # Three images once each, then out of memory; a step makes no batch.
    assert counts == [1, 1, 1, 0, 0, 0, 0, 0, 0]


def test_epochs_must_be_whole_batches(recipe: Path) -> None:
    with pytest.raises(OutmaskError, match="3 images are no whole batches of 2"):
        loading.compare_loading(read_recipe(recipe))


def test_the_synthetic_recipes_paste_objects_and_fill_whole_batches(tmp_path: Path) -> None:
    recipes = loading.synthetic_recipes(tmp_path)
    for recipe in recipes.values():
        draws = build_training_set(replace(recipe, iterations=1000))
        assert sum(map(len, draws.datasets)) % recipe.batch_size == 0
        samples = [draws[index] for index in range(recipe.batch_size)]
        assert {sample.labels.shape for sample in samples} == {recipe.crop}
        assert any(sample.outlier.any() for sample in samples)
    name, street = next(iter(recipes.items()))
    height, width = street.crop
    assert name == f"the street recipe, {street.batch_size} crops of {height}x{width} from 360x480"
