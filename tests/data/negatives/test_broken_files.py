"""Broken files of a source: the next object takes the place, as with training images."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from outmask.data.negatives import CocoInstances, FolderObjects, LabelMapObjects
from outmask.errors import OutmaskError

COUNT = 100
"""Images of each source: one may be broken, two are too many."""

Source = FolderObjects | CocoInstances | LabelMapObjects


@pytest.fixture(params=["folder", "coco", "label_maps"])
def source(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    davis: Callable[..., Path],
    coco: Callable[..., tuple[Path, Path]],
    label_maps: Callable[..., Path],
) -> tuple[Callable[[], Source], Callable[[int], Path]]:
    """Opens the source anew; the path of an image. The objects of image i are grey as 2 i."""
    if request.param == "folder":
        root = davis(tmp_path, {f"cube_{index:03d}": 2 * index for index in range(COUNT)})
        return lambda: FolderObjects(root), lambda index: root / f"images/cube_{index:03d}.png"
    if request.param == "coco":
        zebra = [{"name": "zebra", "x": x, "value": 0} for x in (5, 25)]
        images = {index: [{**one, "value": 2 * index} for one in zebra[: 1 + index % 2]] for index in range(COUNT)}
        path, root = coco(tmp_path, images)
        return lambda: CocoInstances(path, root, minimum_area=50), lambda index: root / f"{index}.png"
    root = label_maps(tmp_path, {f"{index:03d}": [7] for index in range(COUNT)})
    for index in range(COUNT):
        Image.new("RGB", (60, 40), (2 * index,) * 3).save(root / f"images/training/{index:03d}.jpg")
    return (
        lambda: LabelMapObjects(root, objects=1, longest_side=(20, 60)),
        lambda index: root / f"images/training/{index:03d}.jpg",
    )


def draw(source: Source, seeds: range) -> list[tuple[int, tuple[int, ...]]]:
    """The image each draw came from, and the shape of the object."""
    cutouts = [source.sample(np.random.default_rng(seed), ())[0] for seed in seeds]
    return [(round(float(cutout.rgb[cutout.mask].mean()) / 2), cutout.mask.shape) for cutout in cutouts]


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def resize(path: Path) -> None:
    with Image.open(path) as image:
        image.resize((30, 20)).save(path)


SEEDS = range(400)


@pytest.mark.parametrize("damage", [cut_off, Path.unlink, resize])
def test_the_next_image_takes_the_place_of_a_broken_one_in_whatever_order(
    source: tuple[Callable[[], Source], Callable[[int], Path]],
    damage: Callable[[Path], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    make, path = source
    healthy = draw(make(), SEEDS)
    assert 41 in {image for image, _ in healthy}
    opened, again = make(), make()
    damage(path(41))
    with caplog.at_level(logging.WARNING, "outmask"):
        drawn = draw(opened, SEEDS)
    assert drawn == [(42 if image == 41 else image, shape) for image, shape in healthy]
    (record,) = caplog.records
    assert path(41).stem in record.getMessage()
    assert f"1 of {COUNT} " in record.getMessage()
    assert opened.broken == 1
    assert draw(again, SEEDS[::-1]) == drawn[::-1]


def test_two_of_a_hundred_are_too_many(source: tuple[Callable[[], Source], Callable[[int], Path]]) -> None:
    make, path = source
    opened = make()
    cut_off(path(41))
    cut_off(path(42))
    with pytest.raises(OutmaskError, match=f"2 of {COUNT} .* more than 1%: mend or remove them"):
        draw(opened, SEEDS)


def test_a_source_of_which_nothing_can_be_read_says_so(
    source: tuple[Callable[[], Source], Callable[[int], Path]],
) -> None:
    make, path = source
    opened = make()
    shutil.rmtree(path(0).parent)
    with pytest.raises(OutmaskError, match="no such file.*can't be used"):
        draw(opened, SEEDS)


@pytest.mark.parametrize("segmentation", [[[5, 4, 5, 4, 5, 4]], [[5, 4, 15]], {"size": [40, 60], "counts": [3]}, 7])
def test_a_coco_object_without_a_readable_outline_is_passed_over(
    tmp_path: Path, coco: Callable[..., tuple[Path, Path]], segmentation: Any, caplog: pytest.LogCaptureFixture
) -> None:
    path, root = coco(tmp_path, {index: [{"name": "zebra", "x": 5, "value": 2 * index}] for index in range(COUNT)})
    content = json.loads(path.read_text())
    content["annotations"][41]["segmentation"] = segmentation
    path.write_text(json.dumps(content))
    with caplog.at_level(logging.WARNING, "outmask"):
        images = {image for image, _ in draw(CocoInstances(path, root, minimum_area=50), SEEDS)}
    assert 41 not in images
    assert 42 in images
    (record,) = caplog.records
    assert "instances.json: an object of 41.png: " in record.getMessage()
