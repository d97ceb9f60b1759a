"""COCO panoptic annotations, open-set splits and the PNG coding."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps
from numpy.typing import NDArray
from PIL import Image

from outmask.data.coco import NO_CATEGORY, find, ids_to_rgb, read_labels, relabel_for_training, rgb_to_ids
from outmask.data.coco_classes import COCO_OPEN_PANOPTIC, COCO_PANOPTIC, UNKNOWN_CLASSES
from outmask.data.datasets import open_dataset
from outmask.data.labels import IGNORE, VOID
from outmask.data.records import Record
from outmask.errors import OutmaskError

ID = dict(zip(COCO_PANOPTIC.names, COCO_PANOPTIC.evaluation_ids, strict=True))
CATEGORIES = [{"id": id_, "name": name, "isthing": 1} for name, id_ in ID.items()]


def label(name: str) -> int:
    return COCO_PANOPTIC.names.index(name)


def segment(id_: int, name: str, crowd: int = 0) -> dict[str, Any]:
    return {"id": id_, "category_id": ID[name], "iscrowd": crowd}


# Ids beyond 255 and 65535 need all three colours; the list is not sorted.
SEGMENTS = [
    segment(70_000, "sky-other-merged"),
    segment(300, "cat"),
    segment(7, "person", crowd=1),
    segment(9, "person"),
    segment(8, "cat", crowd=1),
]
IDS = np.array([[0, 7, 8], [9, 300, 70_000]], np.int32)


def write(root: Path, segments: list[dict[str, Any]], ids: NDArray[np.int32], pngs: str = "annotations") -> Path:
    """A tree of one image in COCO's layout; gives the annotation's path."""
    for folder in ("annotations", f"{pngs}/panoptic_train2017", "train2017"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    Image.fromarray(ids_to_rgb(ids)).save(root / pngs / "panoptic_train2017/000000000042.png")
    Image.new("RGB", ids.shape[::-1]).save(root / "train2017/000000000042.jpg")
    annotation = {
        "images": [{"id": 42, "file_name": "000000000042.jpg"}],
        "categories": CATEGORIES,
        "annotations": [{"image_id": 42, "file_name": "000000000042.png", "segments_info": segments}],
    }
    path = root / "annotations/panoptic_train2017.json"
    path.write_text(json.dumps(annotation))
    return path


@pytest.mark.parametrize("pngs", ["annotations", "."])
def test_segments_become_classes_crowds_are_ignored_and_the_rest_is_void(tmp_path: Path, pngs: str) -> None:
    write(tmp_path, SEGMENTS, IDS, pngs)
    dataset = open_dataset("coco_panoptic", tmp_path, "train")
    assert dataset.taxonomy is COCO_PANOPTIC
    assert dataset[0].name == "train/000000000042"
    expected = [[VOID, IGNORE, IGNORE], [label("person"), label("cat"), label("sky-other-merged")]]
    assert dataset[0].labels.tolist() == expected
    left_out = open_dataset("coco_panoptic", tmp_path, "train", unlabelled="ignore", ignore_classes=["person"])
    assert left_out[0].labels.tolist() == [[IGNORE] * 3, [IGNORE, *expected[1][1:]]]


def test_things_are_told_apart_where_training_is_panoptic(tmp_path: Path) -> None:
    segments = [segment(70_000, "sky-other-merged"), segment(300, "cat"), segment(7, "person", crowd=1),
                segment(9, "person"), segment(10, "person")]  # fmt: skip
    write(tmp_path, segments, np.array([[0, 7, 10], [9, 300, 70_000], [8, 9, 9]], np.int32))
    sample = open_dataset("coco_panoptic", tmp_path, "train", panoptic=True)[0]
    person, cat, sky = (label(name) for name in ("person", "cat", "sky-other-merged"))
    assert sample.labels.tolist() == [[VOID, IGNORE, person], [person, cat, sky], [VOID, person, person]]
    assert sample.instances is not None
    (_, _, third), (first, second, of_sky), (unlisted, *same) = sample.instances.tolist()
    assert len({first, second, third}) == 3
    assert min(first, second, third) > 0
    assert same == [first, first]
    assert (of_sky, unlisted) == (0, 0)


def test_unknown_classes_are_void_crowds_included_and_the_others_move_up(tmp_path: Path) -> None:
    write(tmp_path, SEGMENTS, IDS)
    left = COCO_OPEN_PANOPTIC[20]
    dataset = open_dataset("coco_panoptic", tmp_path, "train", target="coco_panoptic_open20")
    assert dataset.taxonomy is left
    sky = left.names.index("sky-other-merged")
    assert sky == label("sky-other-merged") - 16
    assert dataset[0].labels.tolist() == [[VOID, IGNORE, VOID], [left.names.index("person"), VOID, sky]]


@pytest.mark.parametrize("percent", UNKNOWN_CLASSES)
def test_an_annotation_that_was_relabelled_gives_the_same_labels(tmp_path: Path, percent: int) -> None:
    names = [*UNKNOWN_CLASSES[20], "person", "sky-other-merged"]
    ids = np.arange(len(names), dtype=np.int32).reshape(2, -1) + 1
    path = write(tmp_path, [segment(number, name) for number, name in enumerate(names, start=1)], ids)
    target = f"coco_panoptic_open{percent}"
    mapped = open_dataset("coco_panoptic", tmp_path, "train", target=target)[0].labels
    assert (mapped == VOID).sum() == len(UNKNOWN_CLASSES[percent])
    path.write_text(json.dumps(relabel_for_training(json.loads(path.read_text()), percent)))
    assert np.array_equal(open_dataset("coco_panoptic", tmp_path, "train", target=target)[0].labels, mapped)


@settings(max_examples=50, deadline=None)
@given(
    ids=nps.arrays(np.int32, (4, 5), elements=st.sampled_from([0, 1, 5, 256, 65_536, 2**24 - 1])),
    categories=st.dictionaries(
        st.sampled_from([1, 2, 5, 256, 65_536, 2**24 - 1]), st.tuples(st.integers(1, 6), st.booleans())
    ),
)
def test_every_pixel_means_what_its_own_segment_says(
    tmp_path_factory: pytest.TempPathFactory,
    ids: NDArray[np.int32],
    categories: dict[int, tuple[int, bool]],
) -> None:
    path = tmp_path_factory.mktemp("segments") / "x.png"
    Image.fromarray(ids_to_rgb(ids)).save(path)
    table = np.full(256, 253, np.uint8)
    table[[NO_CATEGORY, 1, 2, 3, 4, 5, 6]] = [VOID, 10, 11, 12, 13, VOID, IGNORE]
    rows = [(0, NO_CATEGORY, 0), *sorted((id_, *value) for id_, value in categories.items())]
    labels = read_labels(Record(path, path, "x", np.array(rows, np.int32)), table)
    assert labels.dtype == np.uint8
    for place, id_ in np.ndenumerate(ids):
        category, crowd = categories.get(int(id_), (NO_CATEGORY, False))
        meant = int(table[category])
        assert labels[place] == (IGNORE if crowd and meant != VOID else meant)


def test_the_annotation_is_checked_when_the_dataset_is_opened(tmp_path: Path) -> None:
    path = write(tmp_path, SEGMENTS, IDS)
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "images": []}))
    with pytest.raises(
        OutmaskError, match=r"panoptic_train2017\.json: expected a COCO panoptic JSON, .*KeyError\(42\)"
    ):
        open_dataset("coco_panoptic", tmp_path, "train")
    path.write_text(json.dumps({**content, "annotations": []}))
    with pytest.raises(OutmaskError, match="no images of split 'train'"):
        open_dataset("coco_panoptic", tmp_path, "train")
    path.write_text("{")
    with pytest.raises(OutmaskError, match="expected a COCO panoptic JSON") as error:
        open_dataset("coco_panoptic", tmp_path, "train")
    assert "\n" not in str(error.value)
    content["annotations"][0]["segments_info"][0]["category_id"] = 12  # a street sign: COCO never published it
    path.write_text(json.dumps(content))
    with pytest.raises(OutmaskError, match=r"categories \[12\], which COCO panoptic does not have"):
        open_dataset("coco_panoptic", tmp_path, "train")


def test_missing_images_and_segments_are_counted(tmp_path: Path) -> None:
    write(tmp_path, SEGMENTS, IDS)
    (tmp_path / "annotations/panoptic_train2017/000000000042.png").unlink()
    with pytest.raises(OutmaskError, match=r"1 of 1 images of split 'train' have no labels.*000000000042\.png"):
        open_dataset("coco_panoptic", tmp_path, "train")
    (tmp_path / "train2017/000000000042.jpg").unlink()
    with pytest.raises(OutmaskError, match=r"1 of 1 images .* are missing, the first .*000000000042\.jpg"):
        open_dataset("coco_panoptic", tmp_path, "train")


def test_a_grey_picture_of_segments_is_refused_by_name(tmp_path: Path) -> None:
    write(tmp_path, SEGMENTS, IDS)
    Image.new("L", (3, 2)).save(tmp_path / "annotations/panoptic_train2017/000000000042.png")
    with pytest.raises(OutmaskError, match=r"000000000042\.png: a COCO panoptic image is \(H, W, 3\) uint8"):
        open_dataset("coco_panoptic", tmp_path, "train")[0]
    with pytest.raises(OutmaskError, match="without the list of its segments"):
        read_labels(Record(tmp_path, tmp_path / "x.png", "x"), np.zeros(256, np.uint8))


def test_records_keep_the_order_of_the_annotation_and_their_own_segments(tmp_path: Path) -> None:
    path = write(tmp_path, SEGMENTS, IDS)
    content = json.loads(path.read_text())
    for id_ in (5, 3):
        content["images"].append({"id": id_, "file_name": f"{id_}.jpg"})
        listed = [segment(id_, "dog")] if id_ == 3 else []
        content["annotations"].append({"image_id": id_, "file_name": f"{id_}.png", "segments_info": listed})
        shutil.copy(tmp_path / "train2017/000000000042.jpg", tmp_path / f"train2017/{id_}.jpg")
    path.write_text(json.dumps(content))
    records = find(tmp_path, "train")
    assert [record.name for record in records] == ["train/000000000042", "train/5", "train/3"]
    ids = [record.segments[:, 0].tolist() for record in records if record.segments is not None]
    assert ids == [[0, 7, 8, 9, 300, 70_000], [0], [0, 3]]


@given(st.lists(st.integers(0, 256**3 - 1), min_size=1, max_size=20))
def test_png_coding_goes_there_and_back(ids: list[int]) -> None:
    coded = ids_to_rgb(np.array([ids]))
    assert coded.dtype == np.uint8
    assert [int(r) + 256 * int(g) + 65536 * int(b) for r, g, b in coded[0]] == ids
    assert rgb_to_ids(coded).tolist() == [ids]


def test_png_coding_refuses_what_it_cannot_hold() -> None:
    with pytest.raises(OutmaskError, match="256\\^3"):
        ids_to_rgb(np.array([[256**3]]))
    with pytest.raises(OutmaskError, match="uint8"):
        rgb_to_ids(np.zeros((2, 2, 4), np.uint8))


def test_the_classes_are_the_published_file_s(real_data: Path) -> None:
    published = json.loads((real_data / "coco_panoptic_sample/panoptic_coco_categories.json").read_text())
    assert COCO_PANOPTIC.names == tuple(category["name"] for category in published)
    assert COCO_PANOPTIC.evaluation_ids == tuple(category["id"] for category in published)
    assert COCO_PANOPTIC.colors == tuple(tuple(category["color"]) for category in published)
    assert COCO_PANOPTIC.things == tuple(bool(category["isthing"]) for category in published)


def test_real_annotations_agree_with_their_two_channel_form(tmp_path: Path, real_data: Path) -> None:
    sample = real_data / "coco_panoptic_sample/sample_data"
    shutil.copytree(sample / "panoptic_examples", tmp_path / "annotations/panoptic_val2017")
    shutil.copytree(sample / "input_images", tmp_path / "val2017")
    shutil.copy(sample / "panoptic_examples.json", tmp_path / "annotations/panoptic_val2017.json")
    dataset = open_dataset("coco_panoptic", tmp_path, "val")
    assert len(dataset) == 2
    for item in dataset:
        stem = item.name.removeprefix("val/")
        categories = np.array(Image.open(sample / f"panoptic_examples_2ch_format/{stem}.png"))[..., 0]
        known = (item.labels != VOID) & (item.labels != IGNORE)
        assert known.mean() > 0.8
        assert np.array_equal(np.array(COCO_PANOPTIC.evaluation_ids)[item.labels[known]], categories[known])
        assert set(np.unique(categories[item.labels == VOID])) <= {0}
