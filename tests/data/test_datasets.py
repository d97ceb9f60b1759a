from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from outmask.data.datasets import SegmentationDataset, available, lookup_table, open_dataset, spans
from outmask.data.labels import IGNORE, VOID
from outmask.data.taxonomies import CAMVID, CITYSCAPES, IDD_LITE
from outmask.errors import OutmaskError


def write(root: Path, image: str, labels: str, ids: np.ndarray, size: tuple[int, int] | None = None) -> None:
    """An image and its label map; the image's red channel holds the ids too."""
    for path in (root / image, root / labels):
        path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((*(size or ids.shape), 3), dtype=np.uint8)
    if size is None:
        pixels[..., 0] = ids
    Image.fromarray(pixels).save(root / image)
    Image.fromarray(ids).save(root / labels)


CAMVID_IDS = np.arange(12, dtype=np.uint8).reshape(3, 4)
IDD_IDS = np.array([[0, 1, 2, 3], [4, 5, 6, 255]], dtype=np.uint8)
CITYSCAPES_IDS = np.arange(34, dtype=np.uint8).reshape(2, 17)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write(tmp_path / "camvid", "train/0001TP_1.png", "trainannot/0001TP_1.png", CAMVID_IDS)
    write(tmp_path / "idd", "leftImg8bit/train/12/f3_image.png", "gtFine/train/12/f3_label.png", IDD_IDS)
    stem = "val/aachen/aachen_000000_000019_"
    write(tmp_path / "city", f"leftImg8bit/{stem}leftImg8bit.png", f"gtFine/{stem}gtFine_labelIds.png", CITYSCAPES_IDS)
    return tmp_path


def test_camvid_reads_its_layout_and_leaves_out_what_nobody_labelled(root: Path) -> None:
    dataset = open_dataset("camvid", root / "camvid", "train")
    sample = dataset[0]
    assert dataset.taxonomy is CAMVID
    assert sample.name == "train/0001TP_1"
    assert sample.labels.ravel().tolist() == [*range(11), IGNORE]
    assert np.array_equal(sample.image[..., 0], CAMVID_IDS)
    assert not sample.outlier.any()


def test_idd_lite_reads_its_layout(root: Path) -> None:
    sample = open_dataset("idd_lite", root / "idd", "train")[0]
    assert sample.name == "train/12/f3"
    assert sample.labels.tolist() == [[0, 1, 2, 3], [4, 5, 6, IGNORE]]


def test_cityscapes_turns_label_ids_into_classes_and_the_rest_into_void(root: Path) -> None:
    sample = open_dataset("cityscapes", root / "city", "val")[0]
    assert sample.name == "val/aachen/aachen_000000_000019"
    expected = np.full(34, VOID)
    expected[list(CITYSCAPES.evaluation_ids)] = np.arange(19)
    assert sample.labels.ravel().tolist() == expected.tolist()


@pytest.mark.parametrize(("name", "folder", "split"), [("camvid", "camvid", "train"), ("cityscapes", "city", "val")])
def test_unlabelled_pixels_become_what_is_asked_for(root: Path, name: str, folder: str, split: str) -> None:
    void = open_dataset(name, root / folder, split, unlabelled="void")[0].labels
    ignore = open_dataset(name, root / folder, split, unlabelled="ignore")[0].labels
    assert VOID in void
    assert IGNORE not in void
    assert np.array_equal(ignore == IGNORE, void == VOID)


def test_mapped_datasets_hold_the_classes_of_the_target(root: Path) -> None:
    dataset = open_dataset("camvid", root / "camvid", "train", target="idd_lite")
    assert dataset.taxonomy is IDD_LITE
    # sky, building, pole, road | sidewalk, tree, sign, fence | car, pedestrian, bicyclist, unlabelled
    assert dataset[0].labels.tolist() == [[6, 5, 4, 0], [1, 5, 4, 4], [3, 2, 2, IGNORE]]
    mapped = open_dataset("cityscapes", root / "city", "val", target="idd_lite")[0].labels.ravel()
    names = {id_: None if mapped[id_] == VOID else IDD_LITE.names[mapped[id_]] for id_ in (7, 8, 22, 25, 33, 29)}
    assert names == {
        **{7: "drivable", 8: "non-drivable", 22: "non-drivable", 25: "living things", 33: "vehicles", 29: None}
    }


def test_ignored_classes_are_named_in_the_datasets_own_taxonomy(root: Path) -> None:
    dataset = open_dataset("camvid", root / "camvid", "train", target="idd_lite", ignore_classes=["bicyclist"])
    assert dataset[0].labels.tolist()[2] == [3, 2, IGNORE, IGNORE], "the pedestrian stays a living thing"
    with pytest.raises(OutmaskError, match=r"\['living things'\].*bicyclist"):
        open_dataset("camvid", root / "camvid", "train", target="idd_lite", ignore_classes=["living things"])


def test_a_lookup_table_may_send_a_class_to_void() -> None:
    mapping = {name: "void" if name == "car" else name for name in CAMVID.names}
    table = lookup_table(CAMVID, CAMVID, mapping)
    assert table[:11].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, VOID, 9, 10]
    with pytest.raises(OutmaskError, match="'car' is mapped to 'lorry'"):
        lookup_table(CAMVID, CAMVID, {**mapping, "car": "lorry"})


TAXONOMY = "names: [ground, thing]\ncolors: [[1, 2, 3], [4, 5, 6]]\nthings: [false, true]\nground: [ground]\n"


@pytest.mark.parametrize(("split", "part"), [("all", ""), ("val", "val/")])
def test_any_folder_with_a_taxonomy_is_a_dataset(tmp_path: Path, split: str, part: str) -> None:
    write(tmp_path, f"images/{part}b.png", f"labels/{part}b.png", np.array([[0, 1, 255]], dtype=np.uint8))
    (tmp_path / "taxonomy.yaml").write_text(TAXONOMY)
    dataset = open_dataset("folder", tmp_path, split)
    assert dataset.taxonomy.names == ("ground", "thing")
    assert dataset[0].labels.tolist() == [[0, 1, IGNORE]]
    with pytest.raises(OutmaskError, match=r"\['ground', 'thing'\] are no classes of idd_lite"):
        open_dataset("folder", tmp_path, split, target="idd_lite")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [(None, "not found"), ("names: [a", "not a YAML file"), ("[1]", "expected 'names'"), ("names: [a]", "'colors'")],
)
def test_a_folder_without_a_usable_taxonomy_says_what_it_needs(
    tmp_path: Path, text: str | None, complaint: str
) -> None:
    write(tmp_path, "images/b.png", "labels/b.png", np.zeros((1, 2), dtype=np.uint8))
    if text is not None:
        (tmp_path / "taxonomy.yaml").write_text(text)
    with pytest.raises(OutmaskError, match=complaint) as error:
        open_dataset("folder", tmp_path, "all")
    assert "taxonomy.yaml" in str(error.value)
    assert "\n" not in str(error.value)


def test_palette_label_maps_are_read_as_ids(tmp_path: Path) -> None:
    write(tmp_path, "train/a.png", "trainannot/a.png", CAMVID_IDS)
    picture = Image.fromarray(CAMVID_IDS, mode="P")
    picture.putpalette([value for index in range(256) for value in (255 - index, 0, index)])
    picture.save(tmp_path / "trainannot/a.png")
    assert open_dataset("camvid", tmp_path, "train")[0].labels.ravel().tolist() == [*range(11), IGNORE]


@pytest.mark.parametrize(
    ("name", "layout"), [("camvid", "SPLITannot"), ("idd_lite", "gtFine/SPLIT/SEQ"), ("cityscapes", "labelIds")]
)
def test_another_folder_is_refused_with_the_layout_expected(tmp_path: Path, name: str, layout: str) -> None:
    with pytest.raises(OutmaskError, match=layout) as error:
        open_dataset(name, tmp_path / "elsewhere", "train")
    assert "elsewhere" in str(error.value)


def test_unknown_datasets_splits_and_options_are_refused(root: Path) -> None:
    with pytest.raises(OutmaskError, match=f"'kitti'.*{', '.join(available())}"):
        open_dataset("kitti", root, "train")
    with pytest.raises(OutmaskError, match=r"'training'.*train, val, test"):
        open_dataset("camvid", root / "camvid", "training")
    with pytest.raises(OutmaskError, match=r"'ignore' or 'void', got 'drop'"):
        open_dataset("camvid", root / "camvid", "train", unlabelled="drop")  # type: ignore[arg-type]


def test_images_without_labels_are_refused_at_the_door(root: Path) -> None:
    (root / "idd/gtFine/train/12/f3_label.png").unlink()
    with pytest.raises(OutmaskError, match=r"1 of 1 images of split 'train' have no labels.*f3_label\.png"):
        open_dataset("idd_lite", root / "idd", "train")


def test_an_image_and_labels_of_different_sizes_are_refused_by_name(root: Path) -> None:
    write(root / "camvid", "train/0002.png", "trainannot/0002.png", CAMVID_IDS, size=(4, 3))
    dataset = open_dataset("camvid", root / "camvid", "train")
    with pytest.raises(OutmaskError, match=r"0002\.png: labels are 4x3 but the image 0002\.png is 3x4"):
        dataset[1]


def test_ids_outside_of_the_protocol_are_listed(root: Path) -> None:
    write(root / "camvid", "train/0002.png", "trainannot/0002.png", np.array([[0, 12, 255]], dtype=np.uint8))
    dataset = open_dataset("camvid", root / "camvid", "train")
    with pytest.raises(OutmaskError, match=r"0002\.png holds 12, 255; expected only 0-11$"):
        dataset[1]


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        ([], ""),
        ([3], "3"),
        ([0, 1, 2, 5, 254, 255], "0-2, 5, 254-255"),
        (np.array([254, 255], np.uint8), "254-255"),
        (range(0, 40, 2), ", ".join(map(str, range(0, 40, 2)))),
        (range(0, 42, 2), ", ".join(map(str, range(0, 40, 2))) + ", ..."),
    ],
)
def test_ids_are_listed_in_spans_and_not_without_end(ids: Iterable[int], words: str) -> None:
    assert spans(ids) == words


@pytest.mark.parametrize("damage", ["16-bit", "colours", "text"])
def test_label_files_of_another_format_are_refused_by_name(root: Path, damage: str) -> None:
    path = root / "camvid/trainannot/0001TP_1.png"
    if damage == "text":
        path.write_text("no picture")
    else:
        Image.fromarray(
            CAMVID_IDS.astype(np.uint16) if damage == "16-bit" else np.stack([CAMVID_IDS] * 3, axis=-1)
        ).save(path)
    with pytest.raises(OutmaskError, match=r"0001TP_1\.png.*(expected JPEG, PNG|must be an 8-bit PNG)") as error:
        open_dataset("camvid", root / "camvid", "train")[0]
    assert "\n" not in str(error.value)


def test_cached_samples_are_read_once_and_cannot_be_changed(root: Path) -> None:
    cached = open_dataset("camvid", root / "camvid", "train", cache=True)
    first = cached[0]
    (root / "camvid/train/0001TP_1.png").unlink()
    assert cached[0] is first
    with pytest.raises(ValueError, match="read-only"):
        first.labels[0, 0] = 1
    uncached = SegmentationDataset(cached.records, cached.table, cached.taxonomy, "camvid")
    with pytest.raises(OutmaskError):
        uncached[0]


@pytest.mark.parametrize(
    ("name", "folder", "split", "count", "size"),
    [
        ("camvid", "camvid", "train", 367, (360, 480)),
        ("camvid", "camvid", "val", 101, (360, 480)),
        ("idd_lite", "idd20k_lite", "train", 1403, (227, 320)),
        ("idd_lite", "idd20k_lite", "val", 204, (227, 320)),
        ("cityscapes", "cityscapes_sample", "val", 1, (128, 256)),
    ],
)
def test_the_real_datasets_have_their_published_sizes(
    name: str, folder: str, split: str, count: int, size: tuple[int, int], real_data: Path
) -> None:
    dataset = open_dataset(name, real_data / folder, split, target="idd_lite")
    assert len(dataset) == count
    for index in range(0, count, 50):
        sample = dataset[index]
        assert sample.labels.shape == size
        assert (sample.labels < 7).mean() > 0.5


def test_the_cityscapes_frame_agrees_with_its_own_train_ids(real_data: Path) -> None:
    root = real_data / "cityscapes_sample"
    labels = open_dataset("cityscapes", root, "val")[0].labels
    train_ids = np.array(Image.open(next(root.glob("gtFine/val/*/*_labelTrainIds.png"))))
    # The two files were made small apart from each other, so only the majority of each class has to agree.
    for class_id in np.unique(labels[labels != VOID]):
        assert np.bincount(train_ids[labels == class_id]).argmax() == class_id


def test_a_split_that_was_never_labelled_is_refused(real_data: Path) -> None:
    with pytest.raises(OutmaskError, match="404 of 404 images of split 'test' have no labels"):
        open_dataset("idd_lite", real_data / "idd20k_lite", "test")
