"""Layouts that benchmarks come in, and what is said where they don't."""

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from outmask.data.images import read_image
from outmask.errors import OutmaskError
from outmask.evaluation import available, open_benchmark

LABEL = np.array([[0, 1, 255], [1, 0, 0]], np.uint8)


def write_folder(root: Path, names: tuple[str, ...] = ("a.jpg", "b.png"), anomaly: int = 1) -> Path:
    (root / "images").mkdir(parents=True)
    (root / "labels_masks").mkdir()
    for name in names:
        Image.new("RGB", (3, 2)).save(root / "images" / name)
        label = np.where(LABEL == 1, anomaly, LABEL).astype(np.uint8)
        Image.fromarray(label).save(root / "labels_masks" / f"{Path(name).stem}.png")
    return root


def write_road_anomaly(root: Path) -> Path:
    names = ["x.jpg", "y.webp"]
    for name in names:
        folder = root / "frames" / f"{Path(name).stem}.labels"
        folder.mkdir(parents=True)
        Image.new("RGB", (3, 2)).save(root / "frames" / name)
        Image.fromarray(np.array([[0, 2, 0], [2, 2, 0]], np.uint8)).save(folder / "labels_semantic.png")
    (root / "frame_list.json").write_text(json.dumps(names))
    return root


def test_folder_gives_each_image_with_its_label(tmp_path: Path) -> None:
    benchmark = open_benchmark("folder", write_folder(tmp_path))
    assert (benchmark.name, len(benchmark)) == ("folder", 2)
    for _ in range(2):  # a benchmark can be walked again
        records = list(benchmark)
        assert [(record.name, record.image.name) for record in records] == [("a", "a.jpg"), ("b", "b.png")]
        for record in records:
            np.testing.assert_array_equal(record.label(), LABEL)
            assert record.label().dtype == np.uint8


def test_folder_takes_another_anomaly_id(tmp_path: Path) -> None:
    root = write_folder(tmp_path, anomaly=14)
    for record in open_benchmark("folder", root, anomaly_id=14):
        np.testing.assert_array_equal(record.label(), LABEL)
    with pytest.raises(OutmaskError, match=r"holds 14; .*--anomaly-id") as error:
        next(iter(open_benchmark("folder", root))).label()
    assert str(root / "labels_masks" / "a.png") in str(error.value)


@pytest.mark.parametrize("anomaly_id", [0, 255])
def test_anomaly_id_must_not_mean_something_else(tmp_path: Path, anomaly_id: int) -> None:
    with pytest.raises(OutmaskError, match="already means"):
        open_benchmark("folder", write_folder(tmp_path), anomaly_id=anomaly_id)


def test_folder_leaves_unlabelled_images_out_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write_folder(tmp_path)
    (root / "labels_masks/a.png").unlink()
    with caplog.at_level(logging.WARNING, "outmask"):
        assert [record.name for record in open_benchmark("folder", root)] == ["b"]
    assert "1 of 2 images" in caplog.text


def test_folder_refuses_two_images_of_one_label(tmp_path: Path) -> None:
    with pytest.raises(OutmaskError, match="share one label"):
        open_benchmark("folder", write_folder(tmp_path, ("a.jpg", "a.png")))


def test_road_anomaly_is_read_in_its_original_layout(tmp_path: Path) -> None:
    records = list(open_benchmark("road_anomaly", write_road_anomaly(tmp_path)))
    assert [(record.name, record.image.name) for record in records] == [("x", "x.jpg"), ("y", "y.webp")]
    np.testing.assert_array_equal(records[0].label(), [[0, 1, 0], [1, 1, 0]])


def test_road_anomaly_takes_no_anomaly_id(tmp_path: Path) -> None:
    with pytest.raises(OutmaskError, match="is for the benchmark folder"):
        open_benchmark("road_anomaly", write_road_anomaly(tmp_path), anomaly_id=2)


def remove(path: str) -> Callable[[Path], None]:
    return lambda root: (root / path).unlink()


@pytest.mark.parametrize(
    "damage",
    [
        remove("frame_list.json"),
        remove("frames/y.webp"),
        remove("frames/x.labels/labels_semantic.png"),
        lambda root: (root / "frame_list.json").write_text("{not json"),
        lambda root: (root / "frame_list.json").write_text("[]"),
        lambda root: (root / "frame_list.json").write_text("[1, 2]"),
    ],
)
def test_road_anomaly_says_what_layout_it_expects(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    damage(write_road_anomaly(tmp_path))
    with pytest.raises(OutmaskError, match=r"expected frame_list.json, frames/X.jpg") as error:
        open_benchmark("road_anomaly", tmp_path)
    assert "\n" not in str(error.value)


def test_folder_says_what_layout_it_expects(tmp_path: Path) -> None:
    with pytest.raises(OutmaskError, match=r"images is missing; expected images/\*"):
        open_benchmark("folder", tmp_path)
    root = write_folder(tmp_path)
    for label in (root / "labels_masks").iterdir():
        label.unlink()
    with pytest.raises(OutmaskError, match=r"expected images/\* with labels_masks"):
        open_benchmark("folder", root)
    with pytest.raises(OutmaskError, match="no such folder"):
        open_benchmark("folder", tmp_path / "none")


def test_labels_that_are_none_are_refused(tmp_path: Path) -> None:
    root = write_folder(tmp_path, ("a.jpg",))
    (record,) = open_benchmark("folder", root)
    path = root / "labels_masks/a.png"
    Image.fromarray(np.dstack([LABEL] * 3)).save(path)
    with pytest.raises(OutmaskError, match="one channel"):
        record.label()
    path.write_bytes(path.read_bytes()[:45])
    with pytest.raises(OutmaskError, match=r"a\.png cannot be read"):
        record.label()


def test_unknown_benchmark_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(OutmaskError, match="road_anomaly, folder"):
        open_benchmark("kitti", tmp_path)
    assert available() == ["road_anomaly", "folder"]


@pytest.mark.skipif("OUTMASK_DATA" not in os.environ, reason="set OUTMASK_DATA to the folder of real data")
def test_the_real_benchmarks_open() -> None:
    data = Path(os.environ["OUTMASK_DATA"])
    road = open_benchmark("road_anomaly", data / "RoadAnomaly_jpg")
    assert len(road) == 60
    labels = [record.label() for record in road]
    share = sum(int((label == 1).sum()) for label in labels) / sum(label.size for label in labels)
    assert share == pytest.approx(0.0985, abs=5e-5)  # published with the benchmark's results
    lost = open_benchmark("folder", data / "fs_lostandfound_val_even")
    assert len(lost) == 50
    record = next(iter(lost))
    assert read_image(record.image).shape[:2] == record.label().shape
