"""What every benchmark has in common, and the plain form of those with labels of known and anomaly."""

import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from outmask.data.images import read_image
from outmask.errors import OutmaskError
from outmask.evaluation.benchmarks import Benchmark, Record, available, describe, open_benchmark, splits

LABEL = [[0, 1, 255], [1, 0, 0]]
NAMES = ["road_anomaly", "smiyc_anomaly21", "smiyc_obstacle21", "lost_and_found", "fs_lost_and_found", "fs_static"]
NAMES += ["streethazards", "cityscapes", "camvid", "idd_lite", "coco_open_panoptic", "oodis", "world", "folder"]
BINARY = [*NAMES[:6], "folder"]


def test_the_benchmarks_and_their_splits_have_names() -> None:
    assert available() == NAMES
    assert all("\n" not in describe(name) and len(describe(name)) > 20 for name in NAMES)
    assert {name: splits(name) for name in NAMES} == {
        "road_anomaly": ("test",),
        "smiyc_anomaly21": ("validation", "test"),
        "smiyc_obstacle21": ("validation", "test"),
        "lost_and_found": ("test", "test_no_known", "train"),
        "fs_lost_and_found": ("val",),
        "fs_static": ("val",),
        "streethazards": ("test", "validation"),
        "cityscapes": ("val", "train"),
        "camvid": ("test", "val", "train"),
        "idd_lite": ("val", "train"),
        "coco_open_panoptic": ("20", "10", "5"),
        "oodis": ("validation",),
        "world": (
            "test",
            "t5",
            "t6",
            "validation",
            "open20",
            "open10",
            "open5",
            "validation_open20",
            "validation_open10",
            "validation_open5",
        ),
        "folder": ("all",),
    }


@pytest.mark.parametrize("ask", [describe, splits, lambda name: open_benchmark(name, ".")])
def test_an_unknown_benchmark_is_refused_with_the_known_ones(ask: Callable[[str], Any]) -> None:
    with pytest.raises(OutmaskError, match="unknown benchmark 'kitti'; expected one of road_anomaly, .*, folder"):
        ask("kitti")


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_split_is_refused_with_the_known_ones(name: str, tmp_path: Path) -> None:
    with pytest.raises(OutmaskError, match=f"{name} has no split 'dev': choose from {', '.join(splits(name))}"):
        open_benchmark(name, tmp_path, "dev")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("road_anomaly", "frame_list.json, frames/X.jpg and frames/X.labels/labels_semantic.png, or images/*"),
        ("smiyc_anomaly21", "dataset_AnomalyTrack/images/FID.jpg with labels_masks/FID_labels_semantic.png"),
        ("smiyc_obstacle21", "dataset_ObstacleTrack/images/SCENE_X.webp with labels_masks/SCENE_X_labels_semantic.png"),
        ("lost_and_found", "leftImg8bit/SPLIT/NN_Scene/FID_leftImg8bit.png with gtCoarse/SPLIT/NN_Scene/FID_gtCoarse"),
        ("fs_lost_and_found", "fishyscapes_lostandfound/NNNN_FID_labels.png with Lost and Found's leftImg8bit"),
        ("fs_static", "X_rgb.jpg with X_labels.png in one folder, or images/*"),
        ("streethazards", "test/images/test/{t5,t6}/X.png with test/annotations/test/{t5,t6}/X.png"),
        ("cityscapes", "leftImg8bit/SPLIT/CITY/X_leftImg8bit.png (or .jpg) with gtFine/SPLIT/CITY/X_gtFine_labelIds"),
        ("camvid", "SPLIT/X.png (or .jpg) with SPLITannot/X.png, or images/*"),
        ("idd_lite", "leftImg8bit/SPLIT/SEQ/N_image.jpg with gtFine/SPLIT/SEQ/N_label.png, or images/*"),
        ("coco_open_panoptic", "annotations/panoptic_val2017.json, annotations/panoptic_val2017/*.png and val2017/*"),
        ("oodis", "fs_lost_found_instance/gtCoarse/SPLIT/NN_Scene/FID_gtCoarse_instanceIds.png with fs_lost_found"),
        ("folder", "images/* with labels_masks/SAME_STEM.png"),
    ],
)
def test_a_wrong_root_is_refused_with_the_layouts_that_were_expected(name: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    for split in splits(name):
        with pytest.raises(OutmaskError) as error:
            open_benchmark(name, tmp_path, split)
        message = str(error.value)
        assert f"expected {expected}" in message
        assert "images/* with" in message  # the plain form
        assert str(tmp_path) in message
        assert "\n" not in message
    with pytest.raises(OutmaskError, match=f"no such folder; --root is the folder that holds the benchmark {name}"):
        open_benchmark(name, tmp_path / "none")


@pytest.mark.parametrize("name", BINARY)
def test_the_plain_form_gives_each_image_with_its_label(name: str, trees: Any) -> None:
    root = trees.plain(LABEL)
    for split in splits(name):
        benchmark = open_benchmark(name, root, split)
        assert (benchmark.name, benchmark.split, len(benchmark)) == (name, split, 2)
        for _ in range(2):  # a benchmark can be walked again
            assert [(record.name, record.image) for record in benchmark] == [
                ("a", root / "images/a.jpg"),
                ("b", root / "images/b.png"),
            ]
            for record in benchmark:
                np.testing.assert_array_equal(record.label(), LABEL)
                assert record.label().dtype == np.uint8
                assert (record.semantic, record.instances, record.panoptic, record.group) == (None, None, None, "")


def test_component_metrics_have_the_size_limits_of_their_track(trees: Any) -> None:
    root = trees.plain(LABEL)
    tracks = {name: open_benchmark(name, root).track for name in BINARY}
    assert tracks == {
        "road_anomaly": "anomaly",
        "smiyc_anomaly21": "anomaly",
        "smiyc_obstacle21": "obstacle",
        "lost_and_found": "obstacle",
        "fs_lost_and_found": "anomaly",
        "fs_static": None,
        "folder": None,
    }


@pytest.mark.parametrize("name", BINARY)
def test_values_outside_of_the_protocol_are_listed(name: str, trees: Any) -> None:
    root = trees.plain([[0, 1, 9], [254, 0, 9]])
    label = next(iter(open_benchmark(name, root))).label
    with pytest.raises(OutmaskError, match=r"labels_masks/a\.png holds 9, 254; expected only 0-[12], 255"):
        label()


def test_a_plain_road_anomaly_may_keep_its_own_value(trees: Any) -> None:
    root = trees.plain([[0, 2, 0], [2, 2, 0]])
    for record in open_benchmark("road_anomaly", root):
        np.testing.assert_array_equal(record.label(), [[0, 1, 0], [1, 1, 0]])
    with pytest.raises(OutmaskError, match="holds 2; expected only 0-1, 255"):
        next(iter(open_benchmark("fs_static", root))).label()


def test_folder_takes_another_anomaly_id(trees: Any) -> None:
    root = trees.plain(np.where(np.array(LABEL) == 1, 14, LABEL))
    for record in open_benchmark("folder", root, anomaly_id=14):
        np.testing.assert_array_equal(record.label(), LABEL)
    with pytest.raises(OutmaskError, match=r"holds 14; expected only 0-1, 255; name another anomaly with --anomaly"):
        next(iter(open_benchmark("folder", root))).label()


@pytest.mark.parametrize(
    ("anomaly_id", "message"),
    [(0, "already means"), (255, "already means"), (-1, "from 1 to 254"), (256, "from 1 to 254")],
)
def test_an_anomaly_id_must_fit_a_label_and_mean_nothing_else(anomaly_id: int, message: str, trees: Any) -> None:
    with pytest.raises(OutmaskError, match=message):
        open_benchmark("folder", trees.plain(LABEL), anomaly_id=anomaly_id)


@pytest.mark.parametrize("name", NAMES[:-1])
def test_no_other_benchmark_takes_an_anomaly_id(name: str, tmp_path: Path) -> None:
    with pytest.raises(OutmaskError, match=f"is for the benchmark folder; {name} defines its own"):
        open_benchmark(name, tmp_path, anomaly_id=2)


def test_unlabelled_images_of_the_plain_form_are_left_out_and_counted(
    trees: Any, caplog: pytest.LogCaptureFixture
) -> None:
    root = trees.plain(LABEL)
    (root / "labels_masks/a.png").unlink()
    with caplog.at_level(logging.WARNING, "outmask"):
        assert [record.name for record in open_benchmark("folder", root)] == ["b"]
    assert "1 of 2 images" in caplog.text
    (root / "labels_masks/b.png").unlink()
    with pytest.raises(OutmaskError, match="no image has a label; expected images"):
        open_benchmark("folder", root)


def test_two_images_of_one_label_are_refused(trees: Any) -> None:
    root = trees.plain(LABEL)
    trees.image("images/a.png")
    with pytest.raises(OutmaskError, match=r"a\.jpg and .*a\.png would share one label"):
        open_benchmark("folder", root)


def test_what_is_no_image_is_passed_over(trees: Any) -> None:
    root = trees.plain(LABEL)
    (root / "images/notes.txt").write_text("x")
    (root / "images/._a.jpg").write_bytes(b"left by a file manager")
    (root / "images/more.png").mkdir()
    assert [record.name for record in open_benchmark("folder", root)] == ["a", "b"]


def test_labels_that_are_none_are_refused(trees: Any) -> None:
    root = trees.plain(LABEL)
    record = next(iter(open_benchmark("folder", root)))
    path = root / "labels_masks/a.png"
    Image.fromarray(np.dstack([np.array(LABEL, np.uint8)] * 3)).save(path)
    with pytest.raises(OutmaskError, match="one channel"):
        record.label()
    path.write_bytes(path.read_bytes()[:45])
    with pytest.raises(OutmaskError, match=r"can't read labels: .*a\.png cannot be decoded whole") as error:
        record.label()
    assert "\n" not in str(error.value)


def test_a_black_and_white_label_is_one(trees: Any) -> None:
    root = trees.plain(LABEL)
    Image.fromarray(np.array([[False, True], [True, False]])).save(root / "labels_masks/a.png")
    np.testing.assert_array_equal(next(iter(open_benchmark("folder", root))).label(), [[0, 1], [1, 0]])


def test_a_part_of_the_published_set_is_opened_with_a_warning(trees: Any, caplog: pytest.LogCaptureFixture) -> None:
    root = trees.plain(LABEL)
    with caplog.at_level(logging.WARNING, "outmask"):
        open_benchmark("folder", root)
        assert not caplog.records
        open_benchmark("fs_static", root)
    assert f"fs_static, split val: 2 images in {root}, but the published set has 30" in caplog.text


@given(values=st.lists(st.sampled_from([0, 1, 14, 255]), min_size=1, max_size=12))
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_reading_a_label_changes_the_anomaly_value_only(trees: Any, values: list[int]) -> None:
    root = trees.plain([values])
    record = next(iter(open_benchmark("folder", root, anomaly_id=14)))
    if 1 in values:
        with pytest.raises(OutmaskError, match="holds 1; expected only 0, 14, 255"):
            record.label()
    else:
        assert record.label().tolist() == [[1 if value == 14 else value for value in values]]


@pytest.mark.parametrize("name", ["", "/etc/x", "a/../../x", "..", "a\\b"])
def test_a_name_that_leads_out_of_the_output_folder_is_refused(name: str) -> None:
    with pytest.raises(OutmaskError, match="can't name output files"):
        Benchmark("folder", "all", (Record(name, Path("x.png")),))


def test_names_are_unique() -> None:
    with pytest.raises(OutmaskError, match="2 images are called t5/1"):
        Benchmark("folder", "all", (Record("t5/1", Path("x.png")), Record("t5/1", Path("y.png"))))


def test_records_travel_to_other_processes(trees: Any) -> None:
    benchmark = pickle.loads(pickle.dumps(open_benchmark("folder", trees.plain(LABEL))))
    np.testing.assert_array_equal(benchmark.records[0].label(), LABEL)


@pytest.mark.parametrize("name", ["folder", "fs_lost_and_found"])
def test_the_real_frames_of_fishyscapes_open_in_the_plain_form(name: str, real_data: Path) -> None:
    lost = open_benchmark(name, real_data / "fs_lostandfound_val_even")
    assert len(lost) == 50
    for record in lost.records[:3]:
        assert read_image(record.image).shape[:2] == record.label().shape == (1024, 2048)
    without = {record.name for record in lost if not (record.label() == 1).any()}
    assert without == {"82"}  # its one frame without an anomaly
