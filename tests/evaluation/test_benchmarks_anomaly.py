"""Published layouts of the benchmarks with labels of known and anomaly."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from outmask.errors import OutmaskError
from outmask.evaluation.benchmarks import Benchmark, open_benchmark

LABEL = [[0, 1, 255], [1, 0, 0]]
CITY = "04_Maurener_Weg_8"


def names(benchmark: Benchmark) -> list[str]:
    return [record.name for record in benchmark]


# --- Road Anomaly


def test_road_anomaly_in_its_published_layout(trees: Any) -> None:
    root = trees.road_anomaly()
    benchmark = open_benchmark("road_anomaly", root)
    assert (benchmark.split, benchmark.track, benchmark.taxonomy) == ("test", "anomaly", None)
    x, y = benchmark
    assert [(x.name, x.image), (y.name, y.image)] == [("x", root / "frames/x.jpg"), ("y", root / "frames/y.webp")]
    for record in benchmark:
        np.testing.assert_array_equal(record.label(), [[0, 1, 0], [1, 1, 0]])


def test_road_anomaly_numbers_objects_where_its_files_do(trees: Any) -> None:
    x, y = open_benchmark("road_anomaly", trees.road_anomaly())
    np.testing.assert_array_equal(x.instances(), [[0, 1, 0], [2, 2, 0]])
    assert x.instances().dtype == np.int32
    assert y.instances is None


def test_road_anomaly_has_no_value_1(trees: Any) -> None:
    root = trees.road_anomaly()
    trees.png("frames/x.labels/labels_semantic.png", [[0, 1], [2, 0]])
    with pytest.raises(OutmaskError, match=r"labels_semantic\.png holds 1; expected only 0, 2$"):
        next(iter(open_benchmark("road_anomaly", root))).label()


def remove(path: str) -> Callable[[Path], object]:
    return lambda root: (root / path).unlink()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (remove("frame_list.json"), "no readable"),
        (remove("frames/y.webp"), r"1 of 4 files are missing, the first .*frames/y\.webp"),
        (remove("frames/x.labels/labels_semantic.png"), "1 of 4 files are missing, the first .*labels_semantic"),
        (lambda root: (root / "frame_list.json").write_text("{not json"), "no readable"),
        (lambda root: (root / "frame_list.json").write_text("[]"), "must be a list of image file names"),
        (lambda root: (root / "frame_list.json").write_text("[1, 2]"), "must be a list of image file names"),
        (lambda root: (root / "frame_list.json").write_text(json.dumps([".."])), "files are missing"),
    ],
)
def test_road_anomaly_must_be_whole(trees: Any, damage: Callable[[Path], object], said: str) -> None:
    damage(trees.road_anomaly())
    with pytest.raises(OutmaskError, match=f"{said}.*; expected frame_list.json, frames/X.jpg") as error:
        open_benchmark("road_anomaly", trees.root)
    assert "\n" not in str(error.value)


def test_a_damaged_object_file_is_named(trees: Any) -> None:
    root = trees.road_anomaly()
    record = next(iter(open_benchmark("road_anomaly", root)))
    path = trees.image("frames/x.labels/labels_instance.png")
    with pytest.raises(OutmaskError, match=r"labels_instance\.png: instances must be integers in one channel"):
        record.instances()
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(OutmaskError, match=r"can't read instances: .*labels_instance\.png is not an image"):
        record.instances()


def test_the_real_road_anomaly(real_data: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "outmask"):
        benchmark = open_benchmark("road_anomaly", real_data / "RoadAnomaly_jpg")
    assert not caplog.records  # it is whole
    assert len(benchmark) == 60
    labels = {record.name: record.label() for record in benchmark}
    share = sum(int((label == 1).sum()) for label in labels.values()) / sum(label.size for label in labels.values())
    assert share == pytest.approx(0.0985, abs=5e-5)  # published with the benchmark's results
    numbered = [record for record in benchmark if record.instances is not None]
    assert len(numbered) == 46
    for record in numbered:
        instances = record.instances()
        np.testing.assert_array_equal(instances > 0, labels[record.name] == 1)
        assert np.unique(instances).tolist() == list(range(instances.max() + 1))


# --- SegmentMeIfYouCan

ANOMALY_VALIDATION = [f"validation{number:04}" for number in range(10)]


def anomaly_track(trees: Any, labelled: list[str] = ANOMALY_VALIDATION) -> Path:
    test = ["airplane0001", "cow0012", "boat_trailer0000"]
    return trees.smiyc("dataset_AnomalyTrack", [*ANOMALY_VALIDATION, *test], labelled, ".jpg")


@pytest.mark.parametrize("folder", [".", "dataset_AnomalyTrack"])
def test_the_anomaly_track_is_validated_on_ten_labelled_frames(trees: Any, folder: str) -> None:
    benchmark = open_benchmark("smiyc_anomaly21", anomaly_track(trees) / folder)
    assert (benchmark.split, names(benchmark)) == ("validation", ANOMALY_VALIDATION)
    for record in benchmark:
        np.testing.assert_array_equal(record.label(), LABEL)


@pytest.mark.parametrize("labelled", [ANOMALY_VALIDATION, []])
def test_the_anomaly_track_is_tested_on_the_other_frames_whose_labels_are_hidden(trees: Any, labelled: list) -> None:
    benchmark = open_benchmark("smiyc_anomaly21", anomaly_track(trees, labelled), "test")
    assert names(benchmark) == ["airplane0001", "boat_trailer0000", "cow0012"]
    assert all(record.label is None for record in benchmark)


def test_a_missing_label_of_a_track_is_counted_and_named(trees: Any) -> None:
    root = anomaly_track(trees, ANOMALY_VALIDATION[:7])
    with pytest.raises(OutmaskError, match="3 of 10 files are missing, the first .*validation0007_labels_semantic.png"):
        open_benchmark("smiyc_anomaly21", root)


OBSTACLE_TEST = ["curvy-street_carton_6", "darkasphalt2_dog_1", "darkasphalt_cans_2", "one-way-street_bagB_2"]
OBSTACLE_OTHER = ["snowstorm1_00_16_02.578", "snowstorm2_00_01_38.181", "driveway_carton_bowl_3"]
OBSTACLE_VALIDATION = [f"validation_{number}" for number in range(1, 41)]


def obstacle_track(trees: Any) -> Path:
    everything = [*OBSTACLE_TEST, *OBSTACLE_OTHER, *OBSTACLE_VALIDATION]
    return trees.smiyc("dataset_ObstacleTrack", everything, OBSTACLE_VALIDATION, ".webp")


def test_the_obstacle_track_is_validated_without_ten_frames(trees: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "outmask"):
        benchmark = open_benchmark("smiyc_obstacle21", obstacle_track(trees))
    assert not caplog.records
    assert len(benchmark) == 30  # as the published set
    left_out = {f"validation_{number}" for number in (19, 21, 22, 23, 24, 25, 26, 27, 28, 29)}
    assert set(names(benchmark)) == set(OBSTACLE_VALIDATION) - left_out
    assert benchmark.track == "obstacle"
    np.testing.assert_array_equal(benchmark.records[0].label(), LABEL)


def test_the_obstacle_track_is_tested_by_day_and_without_falling_snow(trees: Any) -> None:
    benchmark = open_benchmark("smiyc_obstacle21", obstacle_track(trees), "test")
    assert names(benchmark) == sorted(OBSTACLE_TEST)
    assert all(record.label is None and record.image.suffix == ".webp" for record in benchmark)


def test_a_track_without_images_of_the_split_is_refused(trees: Any) -> None:
    root = trees.smiyc("dataset_ObstacleTrack", OBSTACLE_TEST, [], ".webp")
    with pytest.raises(OutmaskError, match="no image belongs to the split 'validation'; expected dataset_Obstacle"):
        open_benchmark("smiyc_obstacle21", root)


# --- Lost and Found

VALID = [f"{CITY}_000000_{number:06}" for number in (30, 90)] + ["10_Schlossberg_9_000003_000010"]
WITH_KNOWN = [
    "15_Rechbergstr_Deckenpfronn_000004_000160",
    "01_Hanns_Klemm_Str_45_000006_000240",
    "01_Hanns_Klemm_Str_45_000007_000060",
    "10_Schlossberg_9_000004_000010",
]
EMPTY = ["02_Hanns_Klemm_Str_44_000000_000010", f"{CITY}_000000_000060"]


def test_lost_and_found_counts_the_road_and_what_lies_on_it(trees: Any) -> None:
    benchmark = open_benchmark("lost_and_found", trees.lost_and_found(VALID))
    record = benchmark.records[0]
    label = record.label()
    assert label[16, 0] == 0  # road
    assert (label[0, 30], label[8, 30], label[0, 34]) == (1, 1, 1)  # objects of both classes, on and off the road
    assert label[16, 50] == 255
    assert set(np.unique(label)) == {0, 1, 255}
    instances = record.instances()
    assert (instances[16, 0], instances[16, 50]) == (0, -1)
    assert (instances[0, 30], instances[8, 30], instances[20, 30]) == (1, 2, 3)
    np.testing.assert_array_equal(instances > 0, label == 1)
    np.testing.assert_array_equal(instances < 0, label == 255)


def test_lost_and_founds_frames_without_labels_are_left_out(trees: Any) -> None:
    root = trees.lost_and_found(VALID, empty=EMPTY)
    trees.lost_and_found(["20_Elsewhere_000000_000010"], "train", empty=["20_Elsewhere_000000_000020"])
    assert names(open_benchmark("lost_and_found", root)) == sorted(VALID)
    assert names(open_benchmark("lost_and_found", root, "train")) == ["20_Elsewhere_000000_000010"]


def test_lost_and_found_without_known_objects_drops_four_prefixes(trees: Any) -> None:
    root = trees.lost_and_found([*VALID, *WITH_KNOWN], empty=EMPTY)
    assert names(open_benchmark("lost_and_found", root)) == sorted([*VALID, *WITH_KNOWN])
    assert names(open_benchmark("lost_and_found", root, "test_no_known")) == sorted(VALID)


@pytest.mark.parametrize(("value", "meaning"), [(0, 255), (1, 0), (2, 1), (200, 1), (201, 255), (255, 255)])
def test_the_edges_of_lost_and_founds_coding(trees: Any, value: int, meaning: int) -> None:
    root = trees.lost_and_found(VALID)
    trees.png(f"gtCoarse/test/{CITY}/{VALID[0]}_gtCoarse_labelIds.png", [[value, 1]])
    assert open_benchmark("lost_and_found", root).records[0].label().tolist() == [[meaning, 0]]


def test_lost_and_found_is_complete_or_refused(trees: Any) -> None:
    root = trees.lost_and_found(VALID)
    (root / f"gtCoarse/test/{CITY}/{VALID[0]}_gtCoarse_instanceIds.png").unlink()
    assert [record.instances is None for record in open_benchmark("lost_and_found", root)] == [True, False, False]
    (root / f"gtCoarse/test/{CITY}/{VALID[0]}_gtCoarse_labelIds.png").unlink()
    with pytest.raises(OutmaskError, match=f"1 of 3 files are missing, the first .*{VALID[0]}_gtCoarse_labelIds.png"):
        open_benchmark("lost_and_found", root)
    with pytest.raises(OutmaskError, match="leftImg8bit/train is missing"):
        open_benchmark("lost_and_found", root, "train")


def test_an_object_of_lost_and_found_must_have_a_number(trees: Any) -> None:
    root = trees.lost_and_found(VALID)
    trees.png(f"gtCoarse/test/{CITY}/{VALID[0]}_gtCoarse_instanceIds.png", [[0, 1, 9, 9000]], np.uint16)
    with pytest.raises(OutmaskError, match=r"hold 9; expected 1000 \* class \+ number for objects and the class ids 0"):
        open_benchmark("lost_and_found", root).records[0].instances()


# --- Fishyscapes


def test_fishyscapes_labels_find_their_frames_of_lost_and_found(trees: Any) -> None:
    root = trees.fs_lost_and_found()
    benchmark = open_benchmark("fs_lost_and_found", root)
    assert [(record.name, record.image) for record in benchmark] == [
        (name, root / f"leftImg8bit/{split}/{CITY}/{name}_leftImg8bit.png")
        for name, split in ((f"{CITY}_000000_000030", "train"), (f"{CITY}_000001_000090", "test"))
    ]
    for record in benchmark:
        np.testing.assert_array_equal(record.label(), LABEL)
    benchmark.records[1].image.unlink()
    with pytest.raises(OutmaskError, match=f"1 of 2 frames are missing in .*, the first {CITY}_000001_000090_leftImg"):
        open_benchmark("fs_lost_and_found", root)


def test_fishyscapes_static_in_its_published_layout(trees: Any) -> None:
    root = trees.fs_static()
    benchmark = open_benchmark("fs_static", root)
    assert names(benchmark) == ["0000_frankfurt_000001_046504", "0001_munster_000012_000019"]
    for record in benchmark:
        assert record.image == root / f"{record.name}_rgb.jpg"
        np.testing.assert_array_equal(record.label(), LABEL)
    (root / "0001_munster_000012_000019_labels.png").unlink()
    with pytest.raises(OutmaskError, match="1 of 2 files are missing, the first .*0001_munster_000012_000019_labels"):
        open_benchmark("fs_static", root)
