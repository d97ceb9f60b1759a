"""Segments in COCO's formats, read back by pycocotools."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from scipy import ndimage

from outmask.data.coco import rgb_to_ids
from outmask.errors import OutmaskError
from outmask.output.files import is_output, save_result, write_listings
from outmask.output.objects import compress_run_lengths, describe_segments, polygons, run_lengths
from outmask.types import OpenSetResult, Segment, Taxonomy

TAXONOMY = Taxonomy(("road", "car"), ((1, 2, 3), (4, 5, 6)), (False, True), evaluation_ids=(7, 26))
MASKS = arrays.arrays(np.bool_, st.tuples(st.integers(1, 30), st.integers(1, 30)))


@settings(max_examples=100, deadline=None)
@given(mask=MASKS)
def test_run_lengths_are_cocos(mask: np.ndarray) -> None:
    counts = run_lengths(mask)
    assert counts.sum() == mask.size
    text = compress_run_lengths(counts)
    assert text.encode() == coco_mask.encode(np.asfortranarray(mask, np.uint8))["counts"]
    size = [int(side) for side in mask.shape]
    np.testing.assert_array_equal(coco_mask.decode({"size": size, "counts": text}), mask)


def test_long_runs_are_cocos() -> None:
    mask = np.zeros((3000, 4000), np.bool_)
    mask[:, 3::1000] = mask[17] = True
    expected = coco_mask.encode(np.asfortranarray(mask, np.uint8))["counts"]
    assert compress_run_lengths(run_lengths(mask)).encode() == expected


@settings(max_examples=100, deadline=None)
@given(mask=MASKS, origin=st.tuples(st.integers(0, 5), st.integers(0, 5)))
def test_polygons_hold_the_parts_without_their_holes(mask: np.ndarray, origin: tuple[int, int]) -> None:
    x, y = origin
    outlines = polygons(mask, origin)
    parts, count = ndimage.label(mask, np.ones((3, 3)))
    filled = np.zeros((40, 40), np.bool_)
    for part in range(1, count + 1):
        filled[y : y + mask.shape[0], x : x + mask.shape[1]] |= ndimage.binary_fill_holes(parts == part)
    assert len(outlines) <= count  # a part in the hole of another is not outlined
    drawn = np.zeros((40, 40), np.bool_)
    if outlines:
        drawn = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(outlines, 40, 40))) > 0
    np.testing.assert_array_equal(drawn, filled)


def make_result(name: str = "a.jpg") -> OpenSetResult:
    """Road, a car, and two unknown objects, one in two parts and with a hole."""
    ids = np.ones((20, 30), np.int32)
    ids[2:8, 3:9] = 2
    ids[10:16, 2:9] = ids[10:12, 12:14] = 3
    ids[12:14, 4:6] = 0
    ids[18:, 25:] = 4
    segments = []
    for id_, class_id in enumerate((0, 1, 2, 2), 1):
        rows, columns = np.nonzero(ids == id_)
        x, y = int(columns.min()), int(rows.min())
        box = (x, y, int(columns.max()) + 1 - x, int(rows.max()) + 1 - y)
        label = (*TAXONOMY.names, "unknown")[class_id]
        segments.append(Segment(id_, class_id, label, class_id == 2, len(rows), 1.5 / id_, box))
    zeros = np.zeros(ids.shape, np.int32)
    return OpenSetResult(
        image=np.full((20, 30, 3), 90, np.uint8),
        score=zeros.astype(np.float32),
        labels=zeros,
        taxonomy=TAXONOMY,
        score_name="eam",
        display_range=(-1.0, 0.0),
        panoptic=ids,
        segments=segments,
        source=Path(name),
    )


def test_a_result_with_segments_has_three_more_files(tmp_path: Path) -> None:
    result = make_result()
    names = {path.name for path in save_result(result, tmp_path)}
    assert names >= {"a_panoptic.png", "a_segments.json", "a_segments.jpg"}
    assert len(names) == 6
    assert is_output(tmp_path / "a_panoptic.png")
    assert is_output(tmp_path / "a_segments.jpg")
    np.testing.assert_array_equal(rgb_to_ids(np.asarray(Image.open(tmp_path / "a_panoptic.png"))), result.panoptic)
    stored = json.loads((tmp_path / "a_segments.json").read_text())
    assert stored == describe_segments(result)
    assert (stored["width"], stored["height"]) == (30, 20)
    assert [segment["category_id"] for segment in stored["segments"]] == [7, 26, 27, 27]


def test_a_runs_listings_are_cocos(tmp_path: Path) -> None:
    result = make_result()
    for stem in ("town/000139", "000285"):
        save_result(result, tmp_path, stem)
    images = {"town/000139": Path("town/000139.jpg"), "000285": Path("000285.png")}
    write_listings(tmp_path, images, TAXONOMY)

    listing = json.loads((tmp_path / "panoptic.json").read_text())
    assert [image["id"] for image in listing["images"]] == list(images)  # a stem with a folder is no number
    assert [image["file_name"] for image in listing["images"]] == ["town/000139.jpg", "000285.png"]
    assert [(each["id"], each["name"], each["isthing"], each.get("unknown")) for each in listing["categories"]] == [
        (7, "road", 0, None),
        (26, "car", 1, None),
        (27, "unknown", 1, True),
    ]
    for annotation in listing["annotations"]:
        ids = rgb_to_ids(np.asarray(Image.open(tmp_path / annotation["file_name"])))
        assert {info["id"] for info in annotation["segments_info"]} == set(np.unique(ids).tolist()) - {0}
        for info in annotation["segments_info"]:
            assert info["area"] == (ids == info["id"]).sum()

    objects = COCO(str(tmp_path / "instances.json"))
    assert len(objects.anns) == 4
    assert len(objects.getAnnIds(imgIds=["000285"])) == 2
    for annotation in objects.loadAnns(objects.getAnnIds(imgIds=["town/000139"])):
        mask = objects.annToMask(annotation) > 0
        assert result.panoptic is not None
        np.testing.assert_array_equal(mask, result.panoptic == annotation["segment_id"])
        assert annotation["area"] == mask.sum()
        drawn = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(annotation["polygons"], 20, 30))) > 0
        assert (drawn & ~mask).sum() == (4 if annotation["segment_id"] == 3 else 0)  # its hole


def test_files_that_are_numbers_give_their_images_ids(tmp_path: Path) -> None:
    for stem in ("000139", "000285"):
        save_result(make_result(), tmp_path, stem)
    write_listings(tmp_path, {stem: Path(f"{stem}.jpg") for stem in ("000139", "000285")}, TAXONOMY)
    listing = json.loads((tmp_path / "panoptic.json").read_text())
    assert [annotation["image_id"] for annotation in listing["annotations"]] == [139, 285]


def test_what_is_damaged_or_missing_is_named(tmp_path: Path) -> None:
    (tmp_path / "a_segments.json").write_text("{")
    with pytest.raises(OutmaskError, match="a_segments.json cannot be read as JSON"):
        write_listings(tmp_path, {"a": Path("a.jpg")}, TAXONOMY)
    plain: Any = make_result()
    object.__setattr__(plain, "segments", None)
    with pytest.raises(OutmaskError, match="no segments: predict with task='panoptic'"):
        describe_segments(plain)
