"""Benchmarks with labels of classes, of panoptic segments and of objects."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outmask.data.images import read_image
from outmask.data.taxonomies import CAMVID, CITYSCAPES, IDD_LITE, STREETHAZARDS, taxonomy
from outmask.errors import OutmaskError
from outmask.evaluation.benchmarks import UNKNOWN_CLASSES, open_benchmark, relabel_for_training, splits

# --- StreetHazards

RAW = [[1, 2, 3, 4, 5], [6, 7, 8, 9, 10], [11, 12, 13, 14, 14]]
SEMANTIC = [[0, 1, 2, 255, 3], [4, 5, 6, 7, 8], [9, 10, 11, 12, 12]]  # 4 is "other", outside; 14 the anomaly
ANOMALOUS = [[0, 0, 0, 255, 0], [0, 0, 0, 0, 0], [0, 0, 0, 1, 1]]


def test_the_taxonomy_of_streethazards() -> None:
    assert taxonomy("streethazards") is STREETHAZARDS
    assert dict(zip(STREETHAZARDS.evaluation_ids, STREETHAZARDS.names, strict=True)) == {
        **{1: "background", 2: "building", 3: "fence", 5: "pedestrian", 6: "pole", 7: "road line", 8: "road"},
        **{9: "sidewalk", 10: "vegetation", 11: "car", 12: "wall", 13: "traffic sign"},
    }
    assert [n for n, thing in zip(STREETHAZARDS.names, STREETHAZARDS.things or (), strict=True) if thing] == [
        "pedestrian",
        "car",
    ]
    assert (STREETHAZARDS.num_classes, STREETHAZARDS.unknown_id, STREETHAZARDS.void_id) == (12, 12, 255)
    assert len(set(STREETHAZARDS.colors)) == 12


def test_streethazards_test_towns_are_groups(trees: Any) -> None:
    root = trees.streethazards(RAW)
    benchmark = open_benchmark("streethazards", root)
    assert [(record.name, record.group) for record in benchmark] == [("t5/0", "t5"), ("t5/1", "t5"), ("t6/0", "t6")]
    assert benchmark.records[2].image == root / "test/images/test/t6/0.png"
    assert (benchmark.taxonomy, benchmark.track) == (STREETHAZARDS, None)
    for record in benchmark:
        np.testing.assert_array_equal(record.semantic(), SEMANTIC)
        np.testing.assert_array_equal(record.label(), ANOMALOUS)
        assert record.semantic().dtype == record.label().dtype == np.uint8
    validation = open_benchmark("streethazards", root, "validation")
    assert [(record.name, record.group) for record in validation] == [("t3/0", "t3")]
    np.testing.assert_array_equal(validation.records[0].semantic(), SEMANTIC)


@pytest.mark.parametrize("stranger", [0, 15, 255])
def test_streethazards_files_hold_1_to_14(trees: Any, stranger: int) -> None:
    record = open_benchmark("streethazards", trees.streethazards([[1, stranger]])).records[0]
    for read in (record.label, record.semantic):
        with pytest.raises(OutmaskError, match=f"holds {stranger}; expected only 1-14$"):
            read()


def test_a_missing_annotation_of_streethazards_is_named(trees: Any) -> None:
    root = trees.streethazards(RAW)
    (root / "test/annotations/test/t5/1.png").unlink()
    with pytest.raises(OutmaskError, match=r"1 of 3 files are missing, the first .*annotations/test/t5/1\.png"):
        open_benchmark("streethazards", root)


def test_the_plain_form_of_streethazards_has_the_taxonomys_ids(trees: Any) -> None:
    benchmark = open_benchmark("streethazards", trees.plain([[0, 11, 12], [255, 5, 0]], "labels"))
    for record in benchmark:
        np.testing.assert_array_equal(record.semantic(), [[0, 11, 12], [255, 5, 0]])
        np.testing.assert_array_equal(record.label(), [[0, 0, 1], [255, 0, 0]])


# --- closed sets


def test_cityscapes_label_ids_become_its_19_classes(trees: Any) -> None:
    ids = list(range(34))
    benchmark = open_benchmark("cityscapes", trees.cityscapes([ids]))
    (record,) = benchmark
    assert (record.name, benchmark.split) == ("val/frankfurt/frankfurt_000000_000294", "val")
    classes = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]  # cityscapesScripts
    assert record.semantic().tolist() == [[classes.index(id_) if id_ in classes else 255 for id_ in ids]]
    assert record.label is None
    assert benchmark.taxonomy is CITYSCAPES


def test_camvid_and_idd_lite_leave_their_void_out(trees: Any) -> None:
    camvid = open_benchmark("camvid", trees.camvid([list(range(12))]))
    assert (camvid.split, camvid.taxonomy) == ("test", CAMVID)
    assert camvid.records[0].semantic().tolist() == [[*range(11), 255]]
    idd = open_benchmark("idd_lite", trees.idd_lite([[*range(7), 255]]))
    assert (idd.split, idd.taxonomy) == ("val", IDD_LITE)
    assert idd.records[0].semantic().tolist() == [[*range(7), 255]]


@pytest.mark.parametrize(
    ("name", "stranger", "allowed"), [("cityscapes", 34, "0-33"), ("camvid", 12, "0-11"), ("idd_lite", 7, "0-6, 255")]
)
def test_ids_outside_of_a_closed_set_are_listed(trees: Any, name: str, stranger: int, allowed: str) -> None:
    root = getattr(trees, name)([[0, stranger]])
    with pytest.raises(OutmaskError, match=f"holds {stranger}; expected only {allowed}$"):
        open_benchmark(name, root).records[0].semantic()


@pytest.mark.parametrize(("name", "classes"), [("cityscapes", 19), ("camvid", 11), ("idd_lite", 7)])
def test_the_plain_form_of_a_closed_set_has_the_taxonomys_ids(trees: Any, name: str, classes: int) -> None:
    root = trees.plain([[*range(classes), 255]], "labels")
    for record in open_benchmark(name, root):
        assert record.semantic().tolist() == [[*range(classes), 255]]
        assert record.label is None
    trees.png("labels/a.png", [[classes, 0]])  # K would be an unknown class
    with pytest.raises(OutmaskError, match=f"holds {classes}; expected only"):
        next(iter(open_benchmark(name, root))).semantic()


@pytest.mark.parametrize(
    ("name", "folder", "split", "images"),
    [
        ("camvid", "camvid", "test", 233),
        ("camvid", "camvid", "val", 101),
        ("idd_lite", "idd20k_lite", "val", 204),
        ("cityscapes", "cityscapes_sample", "val", 1),
    ],
)
def test_the_real_closed_sets(name: str, folder: str, split: str, images: int, real_data: Path) -> None:
    benchmark = open_benchmark(name, real_data / folder, split)
    assert len(benchmark) == images
    assert benchmark.taxonomy is not None
    for record in benchmark.records[:5]:
        semantic = record.semantic()
        assert read_image(record.image).shape[:2] == semantic.shape
        assert set(np.unique(semantic)) <= {*range(benchmark.taxonomy.num_classes), 255}
        assert len(np.unique(semantic)) > 3


# --- COCO

CATEGORIES = [
    {"id": number, "name": name, "isthing": 1, "supercategory": "x"}
    for number, name in enumerate(["person", *UNKNOWN_CLASSES[20]], start=1)
] + [{"id": 187, "name": "sky-other-merged", "isthing": 0, "supercategory": "sky"}]
ID = {category["name"]: category["id"] for category in CATEGORIES}
IDS = [[0, 70000, 70000], [300, 300, 5], [7, 16777215, 16777215]]
SEGMENTS = [
    {"id": 70000, "category_id": ID["bear"], "iscrowd": 0, "area": 2},
    {"id": 300, "category_id": ID["person"], "iscrowd": 0, "area": 2},
    {"id": 5, "category_id": ID["car"], "iscrowd": 1, "area": 1},
    {"id": 7, "category_id": ID["car"], "iscrowd": 0, "area": 1},
    {"id": 16777215, "category_id": 187, "iscrowd": 0, "area": 2},
]


def test_cocos_unknown_classes_are_cumulative() -> None:
    assert UNKNOWN_CLASSES[5] == ("car", "cow", "pizza", "toilet")
    assert set(UNKNOWN_CLASSES[10]) - set(UNKNOWN_CLASSES[5]) == {"boat", "tie", "zebra", "stop sign"}
    assert set(UNKNOWN_CLASSES[20]) - set(UNKNOWN_CLASSES[10]) == {
        *("dining table", "banana", "bicycle", "cake", "sink", "cat", "keyboard", "bear")
    }
    assert [len(UNKNOWN_CLASSES[percent]) for percent in (5, 10, 20)] == [4, 8, 16]
    assert set(UNKNOWN_CLASSES[5]) < set(UNKNOWN_CLASSES[10]) < set(UNKNOWN_CLASSES[20])


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize(("split", "bear"), [("20", 1), ("10", 0), ("5", 0)])
def test_cocos_segments_are_kept_and_its_unknown_classes_marked(trees: Any, plain: bool, split: str, bear: int) -> None:
    names = {"names": ("panoptic.json", "panoptic", "images")} if plain else {}
    benchmark = open_benchmark("coco_open_panoptic", trees.coco_panoptic(IDS, SEGMENTS, CATEGORIES, **names), split)
    (record,) = benchmark
    assert (record.name, benchmark.split) == ("000000000139", split)
    ids, segments = record.panoptic()
    assert ids.dtype == np.int32
    np.testing.assert_array_equal(ids, IDS)
    assert segments == SEGMENTS
    # void and the crowd of cars are outside
    np.testing.assert_array_equal(record.label(), [[255, bear, bear], [0, 0, 255], [1, 0, 0]])
    marked = {category["name"] for category in benchmark.categories if category.get("unknown")}
    assert marked == set(UNKNOWN_CLASSES[int(split)])
    assert [{**category, "unknown": 0} for category in benchmark.categories] == [
        {**category, "unknown": 0} for category in CATEGORIES
    ]


def test_coco_must_be_whole_and_of_its_format(trees: Any) -> None:
    root = trees.coco_panoptic(IDS, SEGMENTS, CATEGORIES)
    listing = root / "annotations/panoptic_val2017.json"
    whole = json.loads(listing.read_text())
    for damaged, said in [
        ({**whole, "annotations": [{}]}, r"no COCO panoptic annotation \(KeyError: 'image_id'\)"),
        ({key: whole[key] for key in ("images", "annotations")}, r"\(KeyError: 'categories'\)"),
        ({**whole, "categories": CATEGORIES[:9]}, "categories lack the unknown classes dining table, banana"),
        ([], "no COCO panoptic annotation"),
    ]:
        listing.write_text(json.dumps(damaged))
        with pytest.raises(OutmaskError, match=f"{said}.*expected annotations/panoptic_val2017.json") as error:
            open_benchmark("coco_open_panoptic", root)
        assert "\n" not in str(error.value)
    listing.write_text(json.dumps(whole))
    (root / "val2017/000000000139.jpg").unlink()
    with pytest.raises(OutmaskError, match=r"1 of 2 files are missing, the first .*val2017/000000000139\.jpg"):
        open_benchmark("coco_open_panoptic", root)


def test_cocos_picture_and_annotation_must_agree(trees: Any) -> None:
    root = trees.coco_panoptic([[0, 8, 300]], SEGMENTS[1:2], CATEGORIES)
    record = open_benchmark("coco_open_panoptic", root).records[0]
    for read in (record.panoptic, record.label):
        with pytest.raises(OutmaskError, match=r"the segments \[8\] are either in the picture or in the annotation"):
            read()
    trees.png("annotations/panoptic_val2017/000000000139.png", [[0, 8]])
    with pytest.raises(OutmaskError, match="a COCO panoptic image is"):
        record.panoptic()


def test_a_category_that_cocos_annotation_lacks_is_refused(trees: Any) -> None:
    root = trees.coco_panoptic([[300]], [{"id": 300, "category_id": 99, "iscrowd": 0}], CATEGORIES)
    with pytest.raises(OutmaskError, match="segment 300 is of category 99, which the annotation lacks"):
        open_benchmark("coco_open_panoptic", root).records[0].label()


SEGMENT = st.fixed_dictionaries({"id": st.integers(1, 99), "category_id": st.sampled_from(sorted(ID.values()))})
ANNOTATION = st.fixed_dictionaries(
    {
        "images": st.just([{"id": 1}]),
        "annotations": st.lists(
            st.fixed_dictionaries({"image_id": st.integers(0, 9), "segments_info": st.lists(SEGMENT, max_size=4)})
        ),
        "categories": st.just(CATEGORIES),
    }
)


@given(ANNOTATION, st.sampled_from([20, 10, 5]))
def test_relabelling_for_training_drops_unknown_segments_and_nothing_else(annotation: dict, percent: int) -> None:
    before = json.dumps(annotation)
    relabelled = relabel_for_training(annotation, percent)
    assert json.dumps(annotation) == before
    unknown = {ID[name] for name in UNKNOWN_CLASSES[percent]}
    assert [category["id"] for category in relabelled["categories"]] == sorted(set(ID.values()) - unknown)
    assert relabelled["images"] == annotation["images"]
    assert len(relabelled["annotations"]) == len(annotation["annotations"])
    for new, old in zip(relabelled["annotations"], annotation["annotations"], strict=True):
        assert new["image_id"] == old["image_id"]
        assert new["segments_info"] == [s for s in old["segments_info"] if s["category_id"] not in unknown]


def test_a_relabelled_annotation_is_not_relabelled_again() -> None:
    once = relabel_for_training({"categories": CATEGORIES, "annotations": []}, 5)
    with pytest.raises(OutmaskError, match="categories lack the unknown classes car, cow, pizza, toilet: they are not"):
        relabel_for_training(once, 20)


def test_relabelling_is_defined_at_three_percentages() -> None:
    with pytest.raises(OutmaskError, match="no unknown classes are defined at 15 %: choose 20, 10 or 5"):
        relabel_for_training({"categories": CATEGORIES, "annotations": []}, 15)


def test_the_real_coco_sample(real_data: Path, tmp_path: Path) -> None:
    sample = real_data / "coco_panoptic_sample" / "sample_data"
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/panoptic_val2017.json").symlink_to(sample / "panoptic_examples.json")
    (tmp_path / "annotations/panoptic_val2017").symlink_to(sample / "panoptic_examples")
    (tmp_path / "val2017").symlink_to(sample / "input_images")
    annotation = json.loads((sample / "panoptic_examples.json").read_text())
    for split in splits("coco_open_panoptic"):
        benchmark = open_benchmark("coco_open_panoptic", tmp_path, split)
        assert [record.name for record in benchmark] == ["000000142238", "000000439180"]
        assert sum(bool(category.get("unknown")) for category in benchmark.categories) == len(
            UNKNOWN_CLASSES[int(split)]
        )
        for record, entry in zip(benchmark, annotation["annotations"], strict=True):
            ids, segments = record.panoptic()
            areas = dict(zip(*np.unique(ids, return_counts=True), strict=True))
            assert all(areas[segment["id"]] == segment["area"] for segment in segments)
            assert segments == entry["segments_info"]
            label = record.label()
            assert ids.shape == label.shape == read_image(record.image).shape[:2]
            crowds = [segment["id"] for segment in segments if segment["iscrowd"]]
            assert crowds  # both images have some
            np.testing.assert_array_equal(label == 255, (ids == 0) | np.isin(ids, crowds))
            assert not (label == 1).any()  # neither shows an unknown class
        relabelled = relabel_for_training(annotation, int(split))
        assert relabelled["annotations"] == annotation["annotations"]
        assert len(relabelled["categories"]) == 133 - len(UNKNOWN_CLASSES[int(split)])


# --- OoDIS


def test_oodis_reads_its_files_as_cityscapes_evaluation_does(trees: Any) -> None:
    # 0, 3 and 29 are void; 7, 24 and a numbered person known; numbered cars unknown objects, a group of cars left out
    ids = [[0, 3, 29, 7, 24, 24001], [26000, 26007, 26000, 26, 7, 26009]]
    (record,) = open_benchmark("oodis", trees.oodis(ids))
    assert record.name == "04_Maurener_Weg_8_000000_000030"
    assert record.image.name == "04_Maurener_Weg_8_000000_000030_leftImg8bit.png"
    np.testing.assert_array_equal(record.instances(), [[-1, -1, -1, 0, 0, 0], [1, 2, 1, -1, 0, 3]])
    np.testing.assert_array_equal(record.label(), [[255, 255, 255, 0, 0, 0], [1, 1, 1, 255, 0, 1]])
    assert (record.instances().dtype, record.label().dtype) == (np.int32, np.uint8)


def test_the_plain_form_of_oodis_numbers_objects_of_any_class(trees: Any) -> None:
    root = trees.plain([[0, 255, 1000], [26001, 65535, 26001]], "instances", np.uint16)
    for record in open_benchmark("oodis", root):
        np.testing.assert_array_equal(record.instances(), [[0, -1, 1], [2, 3, 2]])
        np.testing.assert_array_equal(record.label(), [[0, 255, 1], [1, 1, 1]])
    trees.png("instances/a.png", [[0, 7, 999]], np.uint16)
    with pytest.raises(OutmaskError, match=r"a\.png hold 7, 999; expected 1000 \* class \+ number for objects"):
        next(iter(open_benchmark("oodis", root))).instances()


def test_objects_without_any_known_pixel_around_them_are_refused(trees: Any) -> None:
    """Cityscapes' evaluation calls 0 void: a background of zeros would forgive every false alarm."""
    (record,) = open_benchmark("oodis", trees.oodis([[0, 26000]]))
    for read in (record.instances, record.label):
        with pytest.raises(OutmaskError, match="leave no known pixel, and no false alarm could be counted"):
            read()


def test_a_frame_that_oodis_lacks_is_named(trees: Any) -> None:
    root = trees.oodis([[7, 26000]])
    open_benchmark("oodis", root).records[0].image.unlink()
    with pytest.raises(
        OutmaskError, match="1 of 1 frames are missing in .*fs_lost_found/leftImg8bit, the first 04_Mau"
    ):
        open_benchmark("oodis", root)
