import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from outmask.data.labels import IGNORE, VOID, Sample
from outmask.data.negatives import (
    CocoInstances,
    Cutout,
    FolderObjects,
    MixedObjects,
    PasteNegatives,
    decode_segmentation,
    paste,
)
from outmask.errors import OutmaskError

DATA = os.environ.get("OUTMASK_DATA")
needs_data = pytest.mark.skipif(DATA is None, reason="OUTMASK_DATA does not name a folder of real datasets")

RED = (250, 0, 0)


def host(height: int = 20, width: int = 30, seed: int = 0) -> Sample:
    rng = np.random.default_rng(seed)
    return Sample(
        rng.integers(0, 100, (height, width, 3), dtype=np.uint8),
        rng.choice(np.array([0, 1, 2, IGNORE], dtype=np.uint8), (height, width)),
        np.zeros((height, width), dtype=bool),
        "host",
    )


def disc(height: int, width: int, color: tuple[int, int, int] = RED) -> Cutout:
    rows, columns = np.ogrid[:height, :width]
    mask = ((2 * rows + 1) / height - 1) ** 2 + ((2 * columns + 1) / width - 1) ** 2 <= 1
    rgb = np.full((height, width, 3), (0, 250, 0), dtype=np.uint8)
    rgb[mask] = color
    return Cutout(rgb, mask)


class Fixed:
    """A source that always gives the same objects."""

    def __init__(self, *cutouts: Cutout) -> None:
        self.cutouts = list(cutouts)

    def sample(self, rng: np.random.Generator, batch: Any) -> list[Cutout]:
        return self.cutouts


def test_a_pasted_object_is_void_and_outlier_and_the_rest_stays_as_it_was() -> None:
    before = host()
    after = paste(before, [disc(9, 9)], np.random.default_rng(1))
    assert after.outlier.any()
    assert (after.labels[after.outlier] == VOID).all()
    rest = ~after.outlier
    assert np.array_equal(after.image[rest], before.image[rest])
    assert np.array_equal(after.labels[rest], before.labels[rest])
    assert not before.outlier.any(), "the host itself is not changed"
    assert np.array_equal(before.image, host().image)


def test_an_object_shows_its_own_colour_with_a_soft_rim_and_without_its_old_background() -> None:
    before = host()
    after = paste(before, [disc(40, 40)], np.random.default_rng(1), relative_size=(0.6, 0.6))
    inside = after.outlier
    assert (after.image[inside][:, 1] <= 100).all(), "the green around the cut-out is nowhere"
    assert (after.image[inside][:, 0] >= 125).all(), "no pixel called outlier is mostly host"
    core = inside.copy()
    for axis in (0, 1):
        core &= np.roll(inside, 1, axis) & np.roll(inside, -1, axis)
        core &= np.roll(np.roll(inside, 1, axis), 1, 1 - axis) & np.roll(np.roll(inside, -1, axis), -1, 1 - axis)
        core &= np.roll(np.roll(inside, 1, axis), -1, 1 - axis) & np.roll(np.roll(inside, -1, axis), 1, 1 - axis)
    assert core.any()
    assert (after.image[core] == RED).all()


def test_a_line_one_pixel_wide_stays_visible() -> None:
    line = Cutout(np.full((1, 12, 3), RED, np.uint8), np.ones((1, 12), bool))
    after = paste(host(), [line], np.random.default_rng(0), relative_size=None)
    assert after.outlier.sum() == 12
    assert (after.image[after.outlier][:, 0] >= 125).all()


def test_an_object_that_covers_little_of_its_box_does_not_vanish_when_shrunk() -> None:
    sparse = Cutout(np.full((40, 40, 3), RED, np.uint8), np.eye(40, dtype=bool))
    after = paste(host(), [sparse], np.random.default_rng(0), relative_size=(0.2, 0.2))
    assert after.outlier.sum() >= 4


def test_an_object_pasted_on_ignored_pixels_is_void_there() -> None:
    blank = Sample(np.zeros((9, 9, 3), np.uint8), np.full((9, 9), IGNORE, np.uint8), np.zeros((9, 9), bool), "blank")
    after = paste(blank, [disc(5, 5)], np.random.default_rng(0), relative_size=None)
    assert np.array_equal(after.labels == VOID, after.outlier)


def test_without_a_relative_size_an_object_keeps_its_own() -> None:
    cutout = disc(7, 11)
    after = paste(host(), [cutout], np.random.default_rng(0), relative_size=None)
    rows, columns = np.flatnonzero(after.outlier.any(1)), np.flatnonzero(after.outlier.any(0))
    assert np.array_equal(after.outlier[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], cutout.mask)


@pytest.mark.parametrize("relative_size", [None, (5.0, 9.0)])
@pytest.mark.parametrize("size", [(100, 3), (3, 100), (400, 300)])
def test_an_object_larger_than_the_host_is_scaled_to_fit(
    size: tuple[int, int], relative_size: tuple[float, float] | None
) -> None:
    block = Cutout(np.zeros((*size, 3), np.uint8), np.ones(size, bool))
    after = paste(host(20, 30), [block], np.random.default_rng(0), relative_size)
    scale = min(20 / size[0], 30 / size[1])
    assert after.outlier.any(1).sum() == max(1, round(size[0] * scale))
    assert after.outlier.any(0).sum() == max(1, round(size[1] * scale))


def test_an_object_is_never_enlarged() -> None:
    after = paste(host(200, 300), [disc(5, 5)], np.random.default_rng(0), relative_size=(0.8, 0.8))
    assert after.outlier.sum() == disc(5, 5).mask.sum()


@pytest.mark.parametrize("fraction", [0.2, 0.5, 1.0])
def test_the_longest_side_is_a_fraction_of_the_hosts_shorter_side(fraction: float) -> None:
    square = Cutout(np.zeros((90, 60, 3), np.uint8), np.ones((90, 60), bool))
    after = paste(host(40, 70), [square], np.random.default_rng(0), (fraction, fraction))
    assert after.outlier.any(1).sum() == 40 * fraction
    assert after.outlier.any(0).sum() == round(40 * fraction * 60 / 90)


@settings(max_examples=60, deadline=None)
@given(
    host_size=st.tuples(st.integers(1, 24), st.integers(1, 24)),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    low=st.floats(0.01, 2),
    spread=st.floats(0, 2),
    seed=st.integers(0, 1000),
)
def test_whatever_is_pasted_lies_in_the_host_and_leaves_at_least_one_pixel(
    host_size: tuple[int, int], size: tuple[int, int], low: float, spread: float, seed: int
) -> None:
    before = host(*host_size)
    after = paste(before, [disc(*size)], np.random.default_rng(seed), (low, low + spread))
    assert after.labels.shape == before.labels.shape
    assert np.array_equal(after.labels == VOID, after.outlier)
    assert 1 <= after.outlier.sum() <= size[0] * size[1]
    assert np.array_equal(after.image[~after.outlier], before.image[~after.outlier])


def test_places_are_uniform_up_to_the_hosts_edges() -> None:
    dot = Cutout(np.zeros((1, 1, 3), np.uint8), np.ones((1, 1), bool))
    rng = np.random.default_rng(0)
    hits = sum(paste(host(3, 4), [dot], rng, None).outlier.astype(int) for _ in range(1200))
    # 100 expected in each of the 12 places, standard deviation 9.6: five of them.
    assert (np.abs(hits - 100) < 48).all()


def test_the_same_generator_pastes_the_same() -> None:
    transform = PasteNegatives(Fixed(disc(9, 9), disc(5, 9)), 0.5)
    one, two = (transform(host(), np.random.default_rng(3)) for _ in range(2))
    assert np.array_equal(one.image, two.image)
    assert np.array_equal(one.outlier, two.outlier)


@pytest.mark.parametrize(("probability", "expected"), [(0.0, 0), (1.0, 400), (0.25, 100)])
def test_the_probability_is_the_share_of_images_that_get_objects(probability: float, expected: int) -> None:
    transform = PasteNegatives(Fixed(disc(5, 5)), probability)
    rng = np.random.default_rng(0)
    pasted = sum(bool(transform(host(), rng).outlier.any()) for _ in range(400))
    # Standard deviation 8.7 at a quarter; the ends are exact.
    assert abs(pasted - expected) <= (0 if probability in (0, 1) else 35)


def test_the_count_is_the_number_of_draws_from_the_source() -> None:
    class Counting(Fixed):
        draws = 0

        def sample(self, rng: np.random.Generator, batch: Any) -> list[Cutout]:
            self.draws += 1
            return super().sample(rng, batch)

    source = Counting(disc(3, 3))
    transform, seen = PasteNegatives(source, 1.0, count=(2, 4)), set()
    for seed in range(40):
        source.draws = 0
        transform(host(), np.random.default_rng(seed))
        seen.add(source.draws)
    assert seen == {2, 3, 4}


def test_bad_options_are_refused() -> None:
    source = Fixed(disc(3, 3))
    with pytest.raises(OutmaskError, match="probability"):
        PasteNegatives(source, 1.5)
    with pytest.raises(OutmaskError, match="count"):
        PasteNegatives(source, 1.0, count=(0, 2))
    with pytest.raises(OutmaskError, match="relative_size"):
        PasteNegatives(source, 1.0, relative_size=(0.5, 0.1))
    with pytest.raises(OutmaskError, match="relative_size"):
        paste(host(), [disc(3, 3)], np.random.default_rng(0), (0.0, 0.5))
    with pytest.raises(OutmaskError, match="one positive weight each"):
        MixedObjects([source], [0.5, 0.5])
    with pytest.raises(OutmaskError, match="one positive weight each"):
        MixedObjects([])


@pytest.mark.parametrize(
    ("rgb", "mask", "complaint"),
    [
        (np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2), bool), "at least one pixel"),
        (np.zeros((2, 2, 3), np.uint8), np.ones((2, 2), np.uint8), "bool"),
        (np.zeros((2, 3, 3), np.uint8), np.ones((2, 2), bool), "rgb must be"),
        (np.zeros((2, 2, 3)), np.ones((2, 2), bool), "rgb must be"),
    ],
)
def test_a_cutout_refuses_what_is_none(rgb: np.ndarray, mask: np.ndarray, complaint: str) -> None:
    with pytest.raises(OutmaskError, match=complaint):
        Cutout(rgb, mask)


def davis(root: Path, frames: dict[str, int]) -> Path:
    """Frames of 12x16 whose object is a 4x6 block of one grey value."""
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for stem, value in frames.items():
        image, mask = np.zeros((12, 16, 3), np.uint8), np.zeros((12, 16), np.uint8)
        image[5:9, 7:13], mask[5:9, 7:13] = value, 255
        Image.fromarray(image).save(root / f"images/{stem}.png")
        Image.fromarray(mask).save(root / f"masks/{stem}.png")
    return root


def values(source: Any, draws: int = 60) -> set[int]:
    """Grey values of the objects that a source gives."""
    rng = np.random.default_rng(0)
    cutouts = [cutout for _ in range(draws) for cutout in source.sample(rng, ())]
    return {int(value) for cutout in cutouts for value in np.unique(cutout.rgb[cutout.mask])}


def test_a_folder_gives_its_foregrounds_cut_to_their_box(tmp_path: Path) -> None:
    source = FolderObjects(davis(tmp_path, {"camel_00000": 10, "kite-surf_1": 20, "kite-surf_2": 30}))
    (cutout,) = source.sample(np.random.default_rng(0), ())
    assert cutout.mask.shape == (4, 6)
    assert cutout.mask.all()
    assert values(source) == {10, 20, 30}


def test_only_chosen_sequences_are_taken(tmp_path: Path) -> None:
    root = davis(tmp_path, {"camel_00000": 10, "kite-surf_1": 20, "kite-surf_2": 30})
    assert values(FolderObjects(root, sequences=["camel"])) == {10}
    assert values(FolderObjects(root, exclude=["camel"])) == {20, 30}
    with pytest.raises(OutmaskError, match=r"\['kite'\].*camel, kite-surf"):
        FolderObjects(root, sequences=["kite"])
    with pytest.raises(OutmaskError, match="no sequence is left"):
        FolderObjects(root, sequences=["camel"], exclude=["camel"])


def test_frames_without_their_object_are_passed_over(tmp_path: Path) -> None:
    root = davis(tmp_path, {"camel_0": 10, "camel_1": 20, "camel_2": 30})
    Image.fromarray(np.zeros((12, 16), np.uint8)).save(root / "masks/camel_1.png")
    assert values(FolderObjects(root)) == {10, 30}


def test_folders_of_another_kind_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OutmaskError, match=r"images/SEQ_N\.jpg with masks/SEQ_N\.png"):
        FolderObjects(tmp_path / "nowhere")
    root = davis(tmp_path, {"camel_0": 10})
    Image.fromarray(np.ones((5, 5), np.uint8)).save(root / "masks/camel_0.png")
    with pytest.raises(OutmaskError, match=r"camel_0\.png: mask is 5x5, its image 16x12"):
        FolderObjects(root).sample(np.random.default_rng(0), ())


CATEGORIES = ("person", "bicycle", "car", "motorcycle", "bus", "truck", "traffic light", "stop sign", "zebra", "cake")


def coco(root: Path, images: dict[int, list[dict[str, Any]]]) -> tuple[Path, Path]:
    """Images of 40x60 in which each instance, 8x10 at its own x, has its own grey value."""
    entries, annotations = [], []
    for number, instances in images.items():
        pixels = np.zeros((40, 60, 3), np.uint8)
        for instance in instances:
            x, value = instance["x"], instance["value"]
            pixels[4:12, x : x + 10] = value
            annotations.append(
                {
                    "image_id": number,
                    "category_id": CATEGORIES.index(instance["name"]) + 1,
                    "iscrowd": instance.get("iscrowd", 0),
                    "area": 80,
                    "segmentation": [[x, 4, x + 10, 4, x + 10, 12, x, 12]],
                }
            )
        Image.fromarray(pixels).save(root / f"{number}.png")
        entries.append({"id": number, "file_name": f"{number}.png", "height": 40, "width": 60})
    path = root / "instances.json"
    categories = [{"id": index + 1, "name": name} for index, name in enumerate(CATEGORIES)]
    path.write_text(json.dumps({"images": entries, "annotations": annotations, "categories": categories}))
    return path, root


@pytest.fixture
def annotations(tmp_path: Path) -> tuple[Path, Path]:
    return coco(
        tmp_path,
        {
            1: [{"name": "zebra", "x": 5, "value": 10}, {"name": "cake", "x": 30, "value": 20}],
            2: [{"name": "zebra", "x": 5, "value": 30}, {"name": "car", "x": 30, "value": 40}],
            3: [{"name": "cake", "x": 5, "value": 50, "iscrowd": 1}, {"name": "cake", "x": 30, "value": 60}],
        },
    )


def test_coco_images_with_a_street_class_are_left_out_whole(annotations: tuple[Path, Path]) -> None:
    source = CocoInstances(*annotations, minimum_area=50)
    assert values(source) == {10, 20, 60}
    (cutout,) = source.sample(np.random.default_rng(0), ())
    assert cutout.mask.shape == (8, 10)


def test_coco_may_leave_out_the_instances_only(annotations: tuple[Path, Path]) -> None:
    assert values(CocoInstances(*annotations, exclude="instance", minimum_area=50)) == {10, 20, 30, 60}


def test_coco_categories_to_leave_out_can_be_chosen(annotations: tuple[Path, Path]) -> None:
    assert values(CocoInstances(*annotations, ["zebra"], minimum_area=50)) == {60}


def test_joint_draws_keep_the_objects_of_an_image_together(annotations: tuple[Path, Path]) -> None:
    source = CocoInstances(*annotations, minimum_area=50, joint=True)
    assert len(source) == 2
    drawn = [source.sample(np.random.default_rng(seed), ())[0] for seed in range(10)]
    assert {cutout.mask.shape for cutout in drawn} == {(8, 35), (8, 10)}
    together = next(cutout for cutout in drawn if cutout.mask.shape[1] == 35)
    assert set(np.unique(together.rgb[together.mask])) == {10, 20}
    assert not together.mask[:, 10:25].any()


def test_small_objects_are_left_out(annotations: tuple[Path, Path]) -> None:
    with pytest.raises(OutmaskError, match="no object of at least 81 pixels"):
        CocoInstances(*annotations, minimum_area=81)


def test_coco_files_of_another_kind_are_refused(annotations: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(OutmaskError, match="not found"):
        CocoInstances(tmp_path / "none.json", tmp_path)
    for text in ("{", "[]", '{"images": []}'):
        (tmp_path / "other.json").write_text(text)
        with pytest.raises(OutmaskError, match=r"expected a COCO instances_\*\.json"):
            CocoInstances(tmp_path / "other.json", tmp_path)
    with pytest.raises(OutmaskError, match=r"no categories \['lorry'\].*zebra"):
        CocoInstances(*annotations, ["lorry"])
    with pytest.raises(OutmaskError, match="'image' or 'instance'"):
        CocoInstances(*annotations, exclude="all")  # type: ignore[arg-type]


def test_polygons_fill_the_pixels_they_enclose() -> None:
    mask = decode_segmentation([[2, 1, 6, 1, 6, 4, 2, 4], [5, 3, 8, 3, 8, 5, 5, 5]], (6, 10))
    expected = np.zeros((6, 10), dtype=bool)
    expected[1:4, 2:6] = True
    expected[3:5, 5:8] = True
    assert np.array_equal(mask, expected), "parts of one object that overlap must not cancel out"


def compress(runs: list[int]) -> str:
    """COCO's ``rleToString``, written after its C source: the inverse of what is tested."""
    text = ""
    for index, run in enumerate(runs):
        value = run - runs[index - 2] if index > 2 else run
        more = True
        while more:
            bits = value & 0x1F
            value >>= 5
            more = value != -1 if bits & 0x10 else value != 0
            text += chr((bits | 0x20 if more else bits) + 48)
    return text


@settings(max_examples=60, deadline=None)
@given(runs=st.lists(st.integers(0, 5000), min_size=1, max_size=12))
def test_compressed_and_plain_run_lengths_are_the_same_mask(runs: list[int]) -> None:
    runs[-1] += sum(runs) % 2
    size = (2, sum(runs) // 2)
    mask = decode_segmentation({"size": list(size), "counts": runs}, size)
    assert np.array_equal(decode_segmentation({"size": list(size), "counts": compress(runs)}, size), mask)
    assert mask.sum() == sum(runs[1::2])


def test_run_lengths_go_down_the_columns() -> None:
    mask = decode_segmentation({"size": [2, 3], "counts": [1, 2, 3]}, (2, 3))
    assert mask.tolist() == [[False, True, False], [True, False, False]]


@pytest.mark.parametrize("segmentation", [{"size": [2, 3], "counts": [1, 2]}, {"size": [3, 2], "counts": [6]}, {}, "x"])
def test_segmentations_that_do_not_cover_the_image_are_refused(segmentation: Any) -> None:
    with pytest.raises(OutmaskError, match="COCO"):
        decode_segmentation(segmentation, (2, 3))


def test_a_mixture_draws_its_sources_by_weight() -> None:
    grey = [disc(3, 3, (value,) * 3) for value in (10, 20, 30)]
    source = MixedObjects([Fixed(cutout) for cutout in grey], [3, 1, 0])
    rng = np.random.default_rng(0)
    drawn = [int(source.sample(rng, ())[0].rgb.max(where=grey[0].mask[..., None], initial=0)) for _ in range(400)]
    assert set(drawn) == {10, 20}
    # 300 expected, standard deviation 8.7: five of them.
    assert abs(drawn.count(10) - 300) < 44


@needs_data
def test_real_objects_can_be_pasted() -> None:
    root = Path(DATA or "")
    source = MixedObjects(
        [
            FolderObjects(root / "davis_objects", sequences=["camel", "goat"]),
            CocoInstances(root / "tiny_coco/annotations/instances_train2017.json", root / "tiny_coco/train2017"),
        ]
    )
    after = PasteNegatives(source, 1.0)(host(227, 320), np.random.default_rng(0))
    assert 100 < after.outlier.sum() < 227 * 320


@needs_data
def test_real_polygons_have_the_area_that_coco_states() -> None:
    content = json.loads((Path(DATA or "") / "tiny_coco/annotations/instances_val2017.json").read_text())
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    ratios = [
        decode_segmentation(item["segmentation"], sizes[item["image_id"]]).sum() / item["area"]
        for item in content["annotations"]
        if item["area"] > 1000
    ]
    # The outline is drawn 1/8 of a pixel too far out; COCO's own drawing differs by about as much.
    assert 0.99 < np.median(ratios) < 1.02
    assert max(ratios) < 1.1
