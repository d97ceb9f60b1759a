from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from outmask.data.labels import Sample
from outmask.data.negatives import (
    CocoInstances,
    Cutout,
    FolderObjects,
    LabelMapObjects,
    MixedObjects,
    PasteNegatives,
)
from outmask.errors import OutmaskError


def test_a_folder_gives_its_foregrounds_cut_to_their_box(
    tmp_path: Path, davis: Callable[..., Path], values: Callable[..., set[int]]
) -> None:
    source = FolderObjects(davis(tmp_path, {"camel_00000": 10, "kite-surf_1": 20, "kite-surf_2": 30}))
    (cutout,) = source.sample(np.random.default_rng(0), ())
    assert cutout.mask.shape == (4, 6)
    assert cutout.mask.all()
    assert values(source) == {10, 20, 30}


def test_only_chosen_sequences_are_taken(
    tmp_path: Path, davis: Callable[..., Path], values: Callable[..., set[int]]
) -> None:
    root = davis(tmp_path, {"camel_00000": 10, "kite-surf_1": 20, "kite-surf_2": 30})
    assert values(FolderObjects(root, sequences=["camel"])) == {10}
    assert values(FolderObjects(root, exclude=["camel"])) == {20, 30}
    with pytest.raises(OutmaskError, match=r"\['kite'\].*camel, kite-surf"):
        FolderObjects(root, sequences=["kite"])
    with pytest.raises(OutmaskError, match="no sequence is left"):
        FolderObjects(root, sequences=["camel"], exclude=["camel"])


def test_frames_without_their_object_are_passed_over(
    tmp_path: Path, davis: Callable[..., Path], values: Callable[..., set[int]]
) -> None:
    root = davis(tmp_path, {"camel_0": 10, "camel_1": 20, "camel_2": 30})
    Image.fromarray(np.zeros((12, 16), np.uint8)).save(root / "masks/camel_1.png")
    assert values(FolderObjects(root)) == {10, 30}


def test_folders_of_another_kind_are_refused(tmp_path: Path, davis: Callable[..., Path]) -> None:
    with pytest.raises(OutmaskError, match=r"images/SEQ_N\.jpg with masks/SEQ_N\.png"):
        FolderObjects(tmp_path / "nowhere")
    root = davis(tmp_path, {"camel_0": 10})
    Image.fromarray(np.ones((5, 5), np.uint8)).save(root / "masks/camel_0.png")
    with pytest.raises(OutmaskError, match=r"camel_0\.png: mask is 5x5, its image 16x12"):
        FolderObjects(root).sample(np.random.default_rng(0), ())


class Fixed:
    """A source of 3x3 blocks of one grey value."""

    def __init__(self, value: int) -> None:
        self.cutout = Cutout(np.full((3, 3, 3), value, np.uint8), np.ones((3, 3), bool))

    def sample(self, rng: np.random.Generator, batch: Any) -> list[Cutout]:
        return [self.cutout]


def test_a_mixture_draws_its_sources_by_weight() -> None:
    source = MixedObjects([Fixed(10), Fixed(20), Fixed(30)], [3, 1, 0])
    rng = np.random.default_rng(0)
    drawn = [int(source.sample(rng, ())[0].rgb[0, 0, 0]) for _ in range(400)]
    assert set(drawn) == {10, 20}
    # 300 expected, standard deviation 8.7: five of them.
    assert abs(drawn.count(10) - 300) < 44


def test_a_mixture_needs_one_weight_per_source() -> None:
    with pytest.raises(OutmaskError, match="one positive weight each"):
        MixedObjects([Fixed(10)], [0.5, 0.5])
    with pytest.raises(OutmaskError, match="one positive weight each"):
        MixedObjects([])


def test_real_objects_can_be_pasted(real_data: Path) -> None:
    coco = real_data / "tiny_coco"
    source = MixedObjects(
        [
            FolderObjects(real_data / "davis_objects", sequences=["camel", "goat"]),
            CocoInstances(coco / "annotations/instances_train2017.json", coco / "train2017"),
            LabelMapObjects(real_data / "ade20k_sample/sampleData", "images", "annotations"),
        ]
    )
    size = (227, 320)
    host = Sample(np.zeros((*size, 3), np.uint8), np.zeros(size, np.uint8), np.zeros(size, bool), "host")
    for seed in range(9):
        after = PasteNegatives(source, 1.0)(host, np.random.default_rng(seed))
        assert 0 < after.outlier.sum() < 227 * 320
