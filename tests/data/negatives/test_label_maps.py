from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from outmask.data.images import read_image
from outmask.data.labels import VOID, Sample
from outmask.data.negatives import ADE20K_STREET_IDS, LabelMapObjects, PasteNegatives, paste
from outmask.errors import OutmaskError

Tree = Callable[..., Path]


def drawn_ids(source: LabelMapObjects, draws: int = 60) -> set[int]:
    """Ids of the objects that a source gives, by their grey values."""
    rng = np.random.default_rng(0)
    cutouts = [cutout for _ in range(draws) for cutout in source.sample(rng, ())]
    return {round(float(np.median(cutout.rgb[cutout.mask])) / 10) for cutout in cutouts}


def test_a_draw_is_three_regions_of_one_image_in_its_frame(tmp_path: Path, label_maps: Tree) -> None:
    root = label_maps(tmp_path, {"a": [1, 2, 3, 0]})
    image = read_image(root / "images/training/a.jpg")
    cutouts = LabelMapObjects(root).sample(np.random.default_rng(0), ())
    assert len(cutouts) == 3
    for cutout in cutouts:
        assert np.array_equal(cutout.rgb, image), "an image below the drawn size keeps its own"
        rows = np.flatnonzero(cutout.mask.all(1))
        assert len(rows) == cutout.mask.any(1).sum() == 10
        assert rows[0] % 10 == 0
        assert rows[-1] - rows[0] == 9


def test_ids_are_drawn_uniformly_with_replacement_and_other_counts_as_one(tmp_path: Path, label_maps: Tree) -> None:
    source = LabelMapObjects(label_maps(tmp_path, {"a": [7, 0, 3, 5]}))
    rng = np.random.default_rng(0)
    bands = [[int(cutout.mask.any(1).argmax()) // 10 for cutout in source.sample(rng, ())] for _ in range(200)]
    # 150 of 600 expected of each, standard deviation 10.6; five of them.
    assert (np.abs(np.bincount(np.ravel(bands), minlength=4) - 150) < 53).all()
    # Three fair draws of four differ in 24 of 64 cases: 75 of 200, standard deviation 6.8.
    assert abs(sum(len(set(three)) == 3 for three in bands) - 75) < 35


def test_ids_can_be_left_out_and_images_without_others_are_passed_over(tmp_path: Path, label_maps: Tree) -> None:
    root = label_maps(tmp_path, {"a": [0, 7, 8, 9], "b": [7, 7], "c": [0, 4]})
    assert drawn_ids(LabelMapObjects(root)) == {0, 4, 7, 8, 9}
    assert drawn_ids(LabelMapObjects(root, exclude=(0, *ADE20K_STREET_IDS))) == {4, 8, 9}
    with pytest.raises(OutmaskError, match="not left out"):
        LabelMapObjects(root, exclude=range(10)).sample(np.random.default_rng(0), ())


def test_the_frames_longest_side_is_a_draw_of_pixels(tmp_path: Path, label_maps: Tree) -> None:
    source = LabelMapObjects(label_maps(tmp_path, {"a": [1, 2]}), longest_side=(20, 23))
    rng = np.random.default_rng(0)
    sizes = [{cutout.mask.shape for cutout in source.sample(rng, ())} for _ in range(60)]
    assert {len(one) for one in sizes} == {1}, "the objects of a draw share their frame"
    assert {shape for one in sizes for shape in one} == {(13, 20), (14, 21), (15, 22), (15, 23)}


def test_shrunk_regions_keep_their_own_colour(tmp_path: Path, label_maps: Tree) -> None:
    source = LabelMapObjects(label_maps(tmp_path, {"a": [2, 9]}), longest_side=(30, 30))
    for seed in range(5):
        for cutout in source.sample(np.random.default_rng(seed), ()):
            top = bool(cutout.mask[0, 0])
            assert np.array_equal(cutout.mask, np.repeat(np.arange(20) < 10, 30).reshape(20, 30) == top)
            # JPEG moves grey values by a few.
            assert (np.abs(cutout.rgb[cutout.mask].astype(int) - (20 if top else 90)) <= 4).all()


def test_shrinking_invents_no_ids(tmp_path: Path, label_maps: Tree) -> None:
    source = LabelMapObjects(label_maps(tmp_path, {"a": [2, 9]}), objects=30, longest_side=(31, 31))
    masks = {cutout.mask.tobytes() for cutout in source.sample(np.random.default_rng(0), ())}
    assert len(masks) == 2
    assert sum(np.frombuffer(mask, bool).astype(int) for mask in masks).tolist() == [1] * 31 * 21


def test_the_frame_has_a_uniform_place_so_that_regions_keep_theirs_within_it(tmp_path: Path, label_maps: Tree) -> None:
    source = LabelMapObjects(label_maps(tmp_path, {"a": [1, 2, 3, 4]}), objects=1)
    host = Sample(np.zeros((42, 60, 3), np.uint8), np.zeros((42, 60), np.uint8), np.zeros((42, 60), bool), "host")
    transform = PasteNegatives(source, 1.0, (1, 1), relative_size=None)
    tops = {int(np.flatnonzero(transform(host, np.random.default_rng(s)).outlier.any(1))[0]) for s in range(80)}
    assert tops == {first + offset for first in (0, 10, 20, 30) for offset in (0, 1, 2)}


def test_without_a_size_the_frame_becomes_a_fraction_of_the_host(tmp_path: Path, label_maps: Tree) -> None:
    source = LabelMapObjects(label_maps(tmp_path, {"a": [1]}), longest_side=None)
    host = Sample(np.zeros((50, 80, 3), np.uint8), np.zeros((50, 80), np.uint8), np.zeros((50, 80), bool), "host")
    cutouts = source.sample(np.random.default_rng(0), ())[:1]
    after = paste(host, cutouts, np.random.default_rng(0), (0.6, 0.6))
    assert after.outlier.any(1).sum() == 20
    assert after.outlier.any(0).sum() == 30
    assert (after.labels[after.outlier] == VOID).all()


def test_sixteen_bit_ids_and_flat_folders_are_read(tmp_path: Path, label_maps: Tree) -> None:
    root = label_maps(tmp_path, {"a": [2, 1000]}, ("images", "annotations"), np.uint16)
    source = LabelMapObjects(root, "images", "annotations", longest_side=(12, 50), exclude=(2,))
    assert source.sample(np.random.default_rng(0), ())[0].mask.any()
    with pytest.raises(OutmaskError, match="not left out"):
        LabelMapObjects(root, "images", "annotations", exclude=(2, 1000)).sample(np.random.default_rng(0), ())


def test_other_layouts_and_files_are_refused(tmp_path: Path, label_maps: Tree) -> None:
    with pytest.raises(OutmaskError, match=r"no images in .*images/training; name the folders"):
        LabelMapObjects(tmp_path)
    root = label_maps(tmp_path, {"a": [1], "b": [1]})
    rng = np.random.default_rng(0)
    with pytest.raises(OutmaskError, match="objects must be at least 1"):
        LabelMapObjects(root, objects=0)
    with pytest.raises(OutmaskError, match="rising pair of pixels"):
        LabelMapObjects(root, longest_side=(96, 20))
    (root / "annotations/training/b.png").unlink()
    with pytest.raises(OutmaskError, match=r"1 of 2 images .* no label map.*b\.png"):
        LabelMapObjects(root)
    (root / "images/training/b.jpg").unlink()
    Image.fromarray(np.ones((5, 5), np.uint8)).save(root / "annotations/training/a.png")
    with pytest.raises(OutmaskError, match="label map is 5x5, its image 60x40"):
        LabelMapObjects(root).sample(rng, ())
    Image.fromarray(np.ones((40, 60, 3), np.uint8)).save(root / "annotations/training/a.png")
    with pytest.raises(OutmaskError, match="one channel, got 3"):
        LabelMapObjects(root).sample(rng, ())
