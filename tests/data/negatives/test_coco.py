import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outmask.data.negatives import (
    CocoInstances,
    decode_segmentation,
)
from outmask.errors import OutmaskError


@pytest.fixture
def annotations(tmp_path: Path, coco: Callable[..., tuple[Path, Path]]) -> tuple[Path, Path]:
    return coco(
        tmp_path,
        {
            1: [{"name": "zebra", "x": 5, "value": 10}, {"name": "cake", "x": 30, "value": 20}],
            2: [{"name": "zebra", "x": 5, "value": 30}, {"name": "car", "x": 30, "value": 40}],
            3: [{"name": "cake", "x": 5, "value": 50, "iscrowd": 1}, {"name": "cake", "x": 30, "value": 60}],
        },
    )


def test_coco_images_with_a_street_class_are_left_out_whole(
    annotations: tuple[Path, Path], values: Callable[..., set[int]]
) -> None:
    source = CocoInstances(*annotations, minimum_area=50)
    assert values(source) == {10, 20, 60}
    (cutout,) = source.sample(np.random.default_rng(0), ())
    assert cutout.mask.shape == (8, 10)


def test_coco_may_leave_out_the_instances_only(annotations: tuple[Path, Path], values: Callable[..., set[int]]) -> None:
    assert values(CocoInstances(*annotations, exclude="instance", minimum_area=50)) == {10, 20, 30, 60}


def test_coco_categories_to_leave_out_can_be_chosen(
    annotations: tuple[Path, Path], values: Callable[..., set[int]]
) -> None:
    assert values(CocoInstances(*annotations, ["zebra"], minimum_area=50)) == {60}


def test_joint_draws_keep_the_objects_of_an_image_together(annotations: tuple[Path, Path]) -> None:
    source = CocoInstances(*annotations, minimum_area=50, joint=True)
    assert len(source) == 2
    drawn = [source.sample(np.random.default_rng(seed), ())[0] for seed in range(10)]
    assert {cutout.mask.shape for cutout in drawn} == {(8, 35), (8, 10)}
    together = next(cutout for cutout in drawn if cutout.mask.shape[1] == 35)
    assert set(np.unique(together.rgb[together.mask])) == {10, 20}
    assert not together.mask[:, 10:25].any()


def test_small_objects_are_left_out(annotations: tuple[Path, Path]) -> None:
    with pytest.raises(OutmaskError, match="no object of at least 81 pixels"):
        CocoInstances(*annotations, minimum_area=81)


def test_small_images_are_left_out(annotations: tuple[Path, Path], values: Callable[..., set[int]]) -> None:
    assert values(CocoInstances(*annotations, minimum_area=50, minimum_side=40)) == {10, 20, 60}
    with pytest.raises(OutmaskError, match="sides of at least 41"):
        CocoInstances(*annotations, minimum_area=50, minimum_side=41)


def test_a_subset_of_the_images_is_a_function_of_its_seed(
    annotations: tuple[Path, Path], values: Callable[..., set[int]]
) -> None:
    def subset(seed: int) -> set[int]:
        return values(CocoInstances(*annotations, minimum_area=50, images=1, seed=seed))

    found = [subset(seed) for seed in range(10)]
    assert found == [subset(seed) for seed in range(10)]
    assert {frozenset(one) for one in found} == {frozenset({10, 20}), frozenset({60})}
    assert values(CocoInstances(*annotations, minimum_area=50, images=2)) == {10, 20, 60}
    with pytest.raises(OutmaskError, match="2 images have objects to take, 3 were asked for"):
        CocoInstances(*annotations, minimum_area=50, images=3)


def test_coco_files_of_another_kind_are_refused(annotations: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(OutmaskError, match="not found"):
        CocoInstances(tmp_path / "none.json", tmp_path)
    stranger = '{"images": [], "categories": [], "annotations": [{"image_id": 7, "category_id": 1, "area": 9}]}'
    for text in ("{", "[]", '{"images": []}', stranger):
        (tmp_path / "other.json").write_text(text)
        with pytest.raises(OutmaskError, match=r"expected a COCO instances_\*\.json"):
            CocoInstances(tmp_path / "other.json", tmp_path)
    with pytest.raises(OutmaskError, match=r"no categories \['lorry'\].*zebra"):
        CocoInstances(*annotations, ["lorry"])
    with pytest.raises(OutmaskError, match="'image' or 'instance'"):
        CocoInstances(*annotations, exclude="all")  # type: ignore[arg-type]


def test_polygons_fill_the_pixels_they_enclose() -> None:
    mask = decode_segmentation([[2, 1, 6, 1, 6, 4, 2, 4], [5, 3, 8, 3, 8, 5, 5, 5]], (6, 10))
    expected = np.zeros((6, 10), dtype=bool)
    expected[1:4, 2:6] = True
    expected[3:5, 5:8] = True
    assert np.array_equal(mask, expected), "parts of one object that overlap must not cancel out"


def compress(runs: list[int]) -> str:
    """COCO's ``rleToString``, written after its C source: the inverse of what is tested."""
    text = ""
    for index, run in enumerate(runs):
        value = run - runs[index - 2] if index > 2 else run
        more = True
        while more:
            bits = value & 0x1F
            value >>= 5
            more = value != -1 if bits & 0x10 else value != 0
            text += chr((bits | 0x20 if more else bits) + 48)
    return text


@settings(max_examples=60, deadline=None)
@given(runs=st.lists(st.integers(0, 5000), min_size=1, max_size=12))
def test_compressed_and_plain_run_lengths_are_the_same_mask(runs: list[int]) -> None:
    runs[-1] += sum(runs) % 2
    size = (2, sum(runs) // 2)
    mask = decode_segmentation({"size": list(size), "counts": runs}, size)
    assert np.array_equal(decode_segmentation({"size": list(size), "counts": compress(runs)}, size), mask)
    assert mask.sum() == sum(runs[1::2])


def test_run_lengths_go_down_the_columns() -> None:
    mask = decode_segmentation({"size": [2, 3], "counts": [1, 2, 3]}, (2, 3))
    assert mask.tolist() == [[False, True, False], [True, False, False]]


@pytest.mark.parametrize("segmentation", [{"size": [2, 3], "counts": [1, 2]}, {"size": [3, 2], "counts": [6]}, {}, "x"])
def test_segmentations_that_do_not_cover_the_image_are_refused(segmentation: Any) -> None:
    with pytest.raises(OutmaskError, match="COCO"):
        decode_segmentation(segmentation, (2, 3))


def test_real_polygons_have_the_area_that_coco_states(real_data: Path) -> None:
    content = json.loads((real_data / "tiny_coco/annotations/instances_val2017.json").read_text())
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    ratios = [
        decode_segmentation(item["segmentation"], sizes[item["image_id"]]).sum() / item["area"]
        for item in content["annotations"]
        if item["area"] > 1000
    ]
    # The outline is drawn 1/8 of a pixel too far out; COCO's own drawing differs by about as much.
    assert 0.99 < np.median(ratios) < 1.02
    assert max(ratios) < 1.1
