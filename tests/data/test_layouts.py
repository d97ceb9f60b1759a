"""The official layouts of the datasets that are trained on, as miniature trees."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from outmask.data.datasets import NO_SUCH_ID, lookup_table, open_dataset
from outmask.data.labels import IGNORE, VOID
from outmask.data.taxonomies import CITYSCAPES, taxonomy
from outmask.errors import OutmaskError
from outmask.types import Taxonomy


def write(path: Path, ids: NDArray[np.uint8] | None = None, size: tuple[int, int] = (2, 3)) -> None:
    """A label map of ``ids``, or a black image of the ``size``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((*size, 3), np.uint8) if ids is None else ids).save(path)


def row(*ids: int) -> NDArray[np.uint8]:
    return np.array([ids], np.uint8)


# Dataset, image, label: of split "train", then of "val".
TREES = {
    "mapillary_vistas": [
        ("training/images/a.jpg", "training/labels/a.png"),
        ("validation/images/b.jpg", "validation/labels/b.png"),
    ],
    "mapillary_vistas_v2": [
        ("training/images/a.jpg", "training/v2.0/labels/a.png"),
        ("validation/images/b.jpg", "validation/v2.0/labels/b.png"),
    ],
    "ade20k": [
        ("images/training/ADE_train_1.jpg", "annotations/training/ADE_train_1.png"),
        ("images/validation/ADE_val_1.jpg", "annotations/validation/ADE_val_1.png"),
    ],
    "streethazards": [
        ("train/images/training/t1-3/0.png", "train/annotations/training/t1-3/0.png"),
        ("train/images/validation/t5/7.png", "train/annotations/validation/t5/7.png"),
    ],
}
NAMES = {
    "mapillary_vistas": ["train/a", "val/b"],
    "mapillary_vistas_v2": ["train/a", "val/b"],
    "ade20k": ["train/ADE_train_1", "val/ADE_val_1"],
    "streethazards": ["train/t1-3/0", "val/t5/7"],
}


@pytest.mark.parametrize("name", TREES)
def test_each_split_is_read_from_its_official_folders(tmp_path: Path, name: str) -> None:
    classes = taxonomy(name)
    first, last = classes.evaluation_ids[0], classes.evaluation_ids[-1]
    for image, labels in TREES[name]:
        write(tmp_path / image, size=(1, 2))
        write(tmp_path / labels, row(first, last))
    for split, expected in zip(("train", "val"), NAMES[name], strict=True):
        dataset = open_dataset(name, tmp_path, split)
        assert dataset.taxonomy is classes
        assert [sample.name for sample in dataset] == [expected]
        assert dataset[0].labels.tolist() == [[0, classes.num_classes - 1]]


@pytest.mark.parametrize(
    ("name", "unlabelled", "beyond"),
    [("mapillary_vistas", 65, 66), ("mapillary_vistas_v2", 123, 124), ("ade20k", 0, 151), ("streethazards", 4, 14)],
)
def test_pixels_without_a_class_are_void_and_other_ids_are_refused(
    tmp_path: Path, name: str, unlabelled: int, beyond: int
) -> None:
    image, labels = TREES[name][0]
    write(tmp_path / image, size=(1, 1))
    write(tmp_path / labels, row(unlabelled))
    assert open_dataset(name, tmp_path, "train")[0].labels.tolist() == [[VOID]]
    assert open_dataset(name, tmp_path, "train", unlabelled="ignore")[0].labels.tolist() == [[IGNORE]]
    write(tmp_path / labels, row(beyond))
    with pytest.raises(OutmaskError, match=rf"holds {beyond}; expected only"):
        open_dataset(name, tmp_path, "train")[0]


@pytest.mark.parametrize("name", [*TREES, "coco_panoptic"])
def test_another_folder_is_refused_in_one_line_with_the_layout_expected(tmp_path: Path, name: str) -> None:
    (tmp_path / "images").mkdir()
    with pytest.raises(OutmaskError, match=rf"{name}: no images of split 'train' under .*; expected .*train") as error:
        open_dataset(name, tmp_path, "train")
    assert "\n" not in str(error.value)
    with pytest.raises(OutmaskError, match=r"has no split 'training': choose from train, val"):
        open_dataset(name, tmp_path, "training")


@pytest.mark.parametrize("name", TREES)
def test_images_without_labels_are_counted(tmp_path: Path, name: str) -> None:
    image, labels = TREES[name][0]
    for number in range(3):
        write((tmp_path / image).with_stem(f"x{number}"))
    write((tmp_path / labels).with_stem("x1"), row(1))
    with pytest.raises(OutmaskError, match=r"2 of 3 images of split 'train' have no labels, the first at .*x0\.png"):
        open_dataset(name, tmp_path, "train")


def test_objects_of_cityscapes_are_told_apart_and_groups_of_them_ignored(tmp_path: Path) -> None:
    image, labels, instances = (
        tmp_path / f"{folder}/train/ulm/ulm_0_{kind}.png"
        for folder, kind in (
            ("leftImg8bit", "leftImg8bit"),
            ("gtFine", "gtFine_labelIds"),
            ("gtFine", "gtFine_instanceIds"),
        )
    )
    write(image, size=(1, 7))
    write(labels, row(7, 26, 26, 26, 24, 0, 24))  # road, three pixels of cars, person, unlabelled, person
    dataset = open_dataset("cityscapes", tmp_path, "train", panoptic=True)
    with pytest.raises(OutmaskError, match=r"can't read instances: .*ulm_0_gtFine_instanceIds\.png: no such file"):
        dataset[0]
    Image.fromarray(np.array([[7, 26001, 26001, 26000, 24, 0, 24003]], np.uint16)).save(instances)
    sample = dataset[0]
    road, car, person = (CITYSCAPES.names.index(name) for name in ("road", "car", "person"))
    assert sample.labels.tolist() == [[road, car, car, car, IGNORE, VOID, person]]
    assert sample.instances is not None
    assert sample.instances.tolist() == [[0, 26001, 26001, 26000, 0, 0, 24003]]
    assert open_dataset("cityscapes", tmp_path, "train")[0].instances is None
    Image.fromarray(np.zeros((1, 7, 3), np.uint8)).save(instances)
    with pytest.raises(OutmaskError, match=r"instances must be a 16-bit PNG with one channel, got \(1, 7, 3\) uint8"):
        dataset[0]


def test_panoptic_training_is_refused_where_objects_cannot_be_told_apart(tmp_path: Path) -> None:
    image, labels = TREES["ade20k"][0]
    write(tmp_path / image)
    write(tmp_path / labels, row(1))
    with pytest.raises(OutmaskError, match="ade20k does not tell objects apart, .*cityscapes, coco_panoptic, world do"):
        open_dataset("ade20k", tmp_path, "train", panoptic=True)


def test_the_world_s_objects_are_told_apart_its_unknown_ones_too() -> None:
    dataset = open_dataset("world", Path(), "train_negatives", panoptic=True)
    sample = dataset[0]
    assert sample.instances is not None
    things = np.isin(sample.labels, [index for index, thing in enumerate(dataset.taxonomy.things or ()) if thing])
    assert np.array_equal(sample.instances > 0, things | sample.outlier)
    kinds = {number: set(sample.labels[sample.instances == number]) for number in np.unique(sample.instances) if number}
    assert len(kinds) > 3
    assert all(len(labels) == 1 for labels in kinds.values()), "an object is of one class"


def test_what_operating_systems_leave_behind_is_no_image(tmp_path: Path) -> None:
    image, labels = TREES["ade20k"][0]
    write(tmp_path / image)
    write(tmp_path / labels, row(1))
    (tmp_path / image).with_name("._ADE_train_1.jpg").write_bytes(b"resource fork")
    assert len(open_dataset("ade20k", tmp_path, "train")) == 1


def test_the_labels_of_vistas_1_2_are_found_in_the_download_of_version_2_0(tmp_path: Path) -> None:
    write(tmp_path / "training/images/a.jpg", size=(1, 1))
    write(tmp_path / "training/v1.2/labels/a.png", row(13))
    write(tmp_path / "training/v2.0/labels/a.png", row(21))
    old = open_dataset("mapillary_vistas", tmp_path, "train")
    new = open_dataset("mapillary_vistas_v2", tmp_path, "train")
    assert [data.taxonomy.names[int(data[0].labels[0, 0])] for data in (old, new)] == ["Road", "Road"]


def test_vistas_becomes_cityscapes(tmp_path: Path) -> None:
    # Road, lane marking, curb, other rider, car | the sign's back, a bird, unlabelled: no class of Cityscapes.
    write(tmp_path / "training/images/a.jpg", size=(1, 8))
    write(tmp_path / "training/labels/a.png", row(13, 24, 2, 22, 55, 49, 0, 65))
    dataset = open_dataset("mapillary_vistas", tmp_path, "train", target="cityscapes")
    assert dataset.taxonomy is CITYSCAPES
    labels = dataset[0].labels[0].tolist()
    assert [CITYSCAPES.names[label] for label in labels[:5]] == ["road", "road", "sidewalk", "rider", "car"]
    assert labels[5:] == [VOID] * 3


def test_vistas_2_0_ignores_what_may_be_known_or_unknown(tmp_path: Path) -> None:
    classes = taxonomy("mapillary_vistas_v2").names
    wanted = ("Vehicle Group", "Person Group", "Traffic Cone")
    write(tmp_path / "training/images/a.jpg", size=(1, 3))
    write(tmp_path / "training/v2.0/labels/a.png", row(*(classes.index(name) for name in wanted)))
    labels = open_dataset("mapillary_vistas_v2", tmp_path, "train", target="cityscapes")[0].labels
    assert labels.tolist() == [[IGNORE, CITYSCAPES.names.index("person"), VOID]]


def test_labels_with_16_bits_are_refused_in_one_line(tmp_path: Path) -> None:
    image, labels = TREES["mapillary_vistas"][0]
    write(tmp_path / image, size=(1, 1))
    write(tmp_path / labels, row(1))
    Image.fromarray(np.array([[256]], np.uint16)).save(tmp_path / labels)
    with pytest.raises(OutmaskError, match=r"a\.png: labels must be an 8-bit PNG .* got \(1, 1\) uint16$"):
        open_dataset("mapillary_vistas", tmp_path, "train")[0]


def classes_of(count: int, ids: tuple[int, ...] = ()) -> Taxonomy:
    names = tuple(f"class {index}" for index in range(count))
    return Taxonomy(names, ((0, 0, 0),) * count, evaluation_ids=ids, unknown_id=count + 1000, void_id=count + 1001)


def test_taxonomies_that_8_bit_labels_cannot_hold_are_refused_in_one_line() -> None:
    largest = classes_of(NO_SUCH_ID)
    same = {name: name for name in largest.names}
    assert lookup_table(largest, largest, same)[:NO_SUCH_ID].tolist() == list(range(NO_SUCH_ID))
    larger = classes_of(NO_SUCH_ID + 1)
    with pytest.raises(OutmaskError, match=r"labels are 8-bit: a taxonomy may have 253 classes at most, got 254$"):
        lookup_table(larger, larger, {name: name for name in larger.names})
    for id_ in (256, -1):
        wide = classes_of(2, (7, id_))
        with pytest.raises(OutmaskError, match=rf"from 0 to 255, got evaluation_ids {id_}$"):
            lookup_table(wide, wide, {name: name for name in wide.names})


def test_real_ade20k_annotations_are_read(tmp_path: Path, real_data: Path) -> None:
    sample = real_data / "ade20k_sample/sampleData"
    for kind in ("images", "annotations"):
        shutil.copytree(sample / kind, tmp_path / kind / "validation")
    dataset = open_dataset("ade20k", tmp_path, "val")
    assert len(dataset) == 3
    for sample_ in dataset:
        raw = np.array(Image.open(tmp_path / "annotations/validation" / f"{sample_.name.removeprefix('val/')}.png"))
        assert np.array_equal(sample_.labels, np.where(raw == 0, VOID, raw - 1))
