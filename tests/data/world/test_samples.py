import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from outmask.data.coco import read_segment_ids
from outmask.data.datasets import open_dataset
from outmask.data.images import read_image
from outmask.data.labels import IGNORE, VOID, Target
from outmask.data.taxonomies import CITYSCAPES, WORLD, WORLD_UNKNOWN_CLASSES, taxonomy
from outmask.data.world import World, files, samples
from outmask.data.world.files import write_split
from outmask.data.world.samples import SPLITS, Split, kept_scene
from outmask.errors import OutmaskError

SMALL = (64, 128)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small scenes, and none from before."""
    monkeypatch.setattr(samples, "SIZE", SMALL)
    monkeypatch.setattr(samples, "_kept", {})
    monkeypatch.setattr(samples, "_kept_bytes", 0)


def test_training_never_shows_what_is_tested() -> None:
    for name, split in SPLITS.items():
        uses = {"test": {"t5", "t6"}, "validation": {"t1", "t2", "t3", "t4"}}
        assert split.unknowns != "test" or set(split.towns) <= uses["test"]
        assert split.unknowns == "test" or set(split.towns) <= uses["validation"], name
    trained = {scene for name in ("train", "t1", "t4", "train_negatives") for scene in SPLITS[name].scenes()}
    assert not trained & set(SPLITS["validation"].scenes())
    assert {scene for town in ("t1", "t2", "t3", "t4") for scene in SPLITS[town].scenes()} == set(
        SPLITS["train"].scenes()
    )


def test_the_dataset_gives_the_scenes_of_its_split() -> None:
    data = open_dataset("world", "nowhere", "train")
    assert len(data) == 1200
    assert [data.records[index].name for index in (0, 1, 5)] == [
        "train/t1_000000",
        "train/t2_000000",
        "train/t2_000001",
    ]
    sample, scene = data[5], World("t2").scene(1, SMALL)
    np.testing.assert_array_equal(sample.image, scene.image)
    np.testing.assert_array_equal(sample.labels, scene.labels)
    assert not sample.outlier.any()
    target = Target.from_labels(sample.labels, sample.outlier, WORLD.num_classes)
    assert target.class_ids.tolist() == sorted(set(scene.labels.ravel().tolist()))


def test_placed_objects_are_outliers_and_void() -> None:
    for split, unknowns in (("train_negatives", "negatives"), ("validation", "validation")):
        data = open_dataset("world", "", split)
        sample = data[0]
        scene = World("t1", unknowns).scene(SPLITS[split].first, SMALL)  # type: ignore[arg-type]
        assert sample.outlier.any()
        np.testing.assert_array_equal(sample.outlier, scene.unknown)
        np.testing.assert_array_equal(sample.labels == VOID, scene.unknown)


def test_classes_are_those_of_another_taxonomy_where_it_is_asked_for() -> None:
    sample, scene = open_dataset("world", "", "t1", target="cityscapes")[0], World("t1").scene(0, SMALL)
    for name, expected in (("lane mark", "road"), ("sky", "sky"), ("car", "car")):
        pixels = sample.labels[scene.labels == WORLD.names.index(name)]
        assert set(pixels.tolist()) == {CITYSCAPES.names.index(expected)}
    ignored = open_dataset("world", "", "t1", ignore_classes=["building"])[0]
    assert (ignored.labels[scene.labels == WORLD.names.index("building")] == IGNORE).all()


@pytest.mark.parametrize("percent", [5, 10, 20])
def test_classes_that_are_unknown_are_void_in_open_set_training(percent: int) -> None:
    classes, hidden = taxonomy(f"world_open{percent}"), WORLD_UNKNOWN_CLASSES[percent]
    data, shown = open_dataset("world", "", "train", target=f"world_open{percent}"), False
    for index in range(4):
        sample, scene = data[index], kept_scene(f"t{index + 1}", 0, "none")
        void = np.isin(scene.labels, [WORLD.names.index(name) for name in hidden])
        np.testing.assert_array_equal(sample.labels == VOID, void)
        named = np.array(classes.names)[np.where(void, 0, sample.labels)]
        np.testing.assert_array_equal(named[~void], np.array(WORLD.names)[scene.labels][~void])
        assert not sample.outlier.any()
        shown |= bool(void.any())
    assert shown


def test_test_towns_are_no_training_data() -> None:
    for split in ("t5", "test"):
        with pytest.raises(OutmaskError, match=f"world has no split '{split}': choose from t1, t2"):
            open_dataset("world", "", split)


def test_a_scene_that_was_drawn_before_comes_from_memory_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    first = kept_scene("t3", 7, "negatives")

    def fail(*_: object) -> None:
        raise AssertionError("drawn again")

    monkeypatch.setattr(samples, "World", fail)
    again = kept_scene("t3", 7, "negatives")
    assert (again.jpeg, again.segments, again.families) == (first.jpeg, first.segments, first.families)
    for what in ("image", "labels", "panoptic", "instances"):
        np.testing.assert_array_equal(getattr(again, what), getattr(first, what))


def test_scenes_are_drawn_anew_where_there_is_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "KEPT_BYTES", 0)
    assert kept_scene("t1", 0, "none").jpeg == kept_scene("t1", 0, "none").jpeg
    assert samples._kept == {}


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    short = {name: Split(split.towns, split.unknowns, split.first, 2) for name, split in SPLITS.items()}
    monkeypatch.setattr(files, "SPLITS", short)


@pytest.mark.usefixtures("few")
def test_the_files_hold_the_scenes(tmp_path: Path) -> None:
    folder = write_split(tmp_path / "new", "t6", SMALL)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["t6"]
    listing = json.loads((folder / "panoptic.json").read_text())
    assert [image["file_name"] for image in listing["images"]] == ["t6_000000.jpg", "t6_000001.jpg"]
    scene = World("t6", "test").scene(1, SMALL)
    np.testing.assert_array_equal(read_image(folder / "images/t6_000001.jpg"), scene.image)
    np.testing.assert_array_equal(read_segment_ids(folder / "panoptic/t6_000001.png"), scene.panoptic)
    # COCO's id of a pixel, read independently: R + 256 G + 65536 B.
    blue, green, red = np.moveaxis(cv2.imread(str(folder / "panoptic/t6_000001.png")).astype(int), -1, 0)
    np.testing.assert_array_equal(red + 256 * green + 65536 * blue, scene.panoptic)
    info = listing["annotations"][1]["segments_info"]
    assert [(each["id"], each["category_id"], each["area"]) for each in info] == [
        (segment.id, segment.class_id, segment.area) for segment in scene.segments
    ]
    families = {each["id"]: each["family"] for each in info if "family" in each}
    assert families == scene.families
    unknown = [category["id"] for category in listing["categories"] if category.get("unknown")]
    assert unknown == [WORLD.unknown_id]


@pytest.mark.usefixtures("few")
def test_files_that_are_there_are_left_alone_and_a_broken_attempt_leaves_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(files, "_write", fail)
    with pytest.raises(OutmaskError, match="can't write the world's scenes to .*t5: disk full"):
        write_split(tmp_path, "t5", SMALL)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "t5").mkdir()
    (tmp_path / "t5/panoptic.json").write_text("{}")
    assert write_split(tmp_path, "t5", SMALL) == tmp_path / "t5"
    with pytest.raises(OutmaskError, match="no split 't7'"):
        write_split(tmp_path, "t7")
