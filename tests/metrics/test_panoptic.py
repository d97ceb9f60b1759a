"""Panoptic quality against a literal reading of panopticapi's rule, and on real COCO panoptic images."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from outmask.data.coco import rgb_to_ids
from outmask.errors import OutmaskError
from outmask.metrics.panoptic import PanopticQuality
from outmask.types import Segment

EXACT = 1e-9  # percent: sums of the same float64 terms in another order
Scene = tuple[np.ndarray, list[dict[str, int]], np.ndarray, list[dict[str, int]]]

CLOSED = [
    {"id": 1, "name": "car", "isthing": 1},
    {"id": 7, "name": "person", "isthing": 1},
    {"id": 11, "name": "road", "isthing": 0},
    {"id": 90, "name": "sky", "isthing": 0},
    {"id": 40, "name": "cow", "isthing": 1},
    {"id": 41, "name": "boat", "isthing": 1},
]
OPEN = [category | ({"unknown": True} if category["name"] in ("cow", "boat") else {}) for category in CLOSED]


def pooled_class(categories: list[dict[str, Any]], category_id: int) -> str:
    category = next(category for category in categories if category["id"] == category_id)
    return "unknown" if category.get("unknown") else category["name"]


def oracle(categories: list[dict[str, Any]], scenes: list[Scene]) -> dict[str, Any]:
    """The rule on sets of pixels, one pair of segments at a time."""
    ious: dict[str, list[float]] = defaultdict(list)
    false_positives: dict[str, int] = defaultdict(int)
    false_negatives: dict[str, int] = defaultdict(int)
    for panoptic, segments, gt_panoptic, gt_segments in scenes:
        void = gt_panoptic == 0
        found: set[int] = set()
        for segment in segments:
            name, mask = pooled_class(categories, segment["category_id"]), panoptic == segment["id"]
            matched = False
            forgiven = void & mask
            for gt in gt_segments:
                if pooled_class(categories, gt["category_id"]) != name:
                    continue
                gt_mask = gt_panoptic == gt["id"]
                if gt.get("iscrowd"):
                    forgiven |= gt_mask & mask
                    continue
                iou = (gt_mask & mask).sum() / (gt_mask | (mask & ~void)).sum()
                if iou > 0.5:
                    ious[name].append(iou)
                    found.add(gt["id"])
                    matched = True
            if not matched and not forgiven.sum() / mask.sum() > 0.5:
                false_positives[name] += 1
        for gt in gt_segments:
            if gt["id"] not in found and not gt.get("iscrowd"):
                false_negatives[pooled_class(categories, gt["category_id"])] += 1

    things: dict[str, bool] = {}
    for category in categories:
        name = pooled_class(categories, category["id"])
        things[name] = things.get(name, False) or bool(category["isthing"])
    per_class, nan = {}, float("nan")
    for name in things:
        tp, fp, fn = len(ious[name]), false_positives[name], false_negatives[name]
        values = {"PQ": nan, "SQ": nan, "RQ": nan}
        if tp + fp + fn:
            values = {
                "PQ": 100 * sum(ious[name]) / (tp + 0.5 * fp + 0.5 * fn),
                "SQ": 100 * sum(ious[name]) / tp if tp else 0.0,
                "RQ": 100 * tp / (tp + 0.5 * fp + 0.5 * fn),
            }
        per_class[name] = values | {"TP": tp, "FP": fp, "FN": fn}

    def mean(key: str, names: list[str]) -> float:
        values = [per_class[name][key] for name in names if not np.isnan(per_class[name][key])]
        return sum(values) / len(values) if values else nan

    groups = {
        "": list(things),
        "_things": [name for name in things if things[name]],
        "_stuff": [name for name in things if not things[name]],
        "_known": [name for name in things if name != "unknown"],
        "_unknown": [name for name in things if name == "unknown"],
        "_known_things": [name for name in things if things[name] and name != "unknown"],
        "_known_stuff": [name for name in things if not things[name] and name != "unknown"],
    }
    result = {f"{key}{suffix}": mean(key, names) for suffix, names in groups.items() for key in ("PQ", "SQ", "RQ")}
    return result | {"per_class": per_class}


def equal(values: dict[str, Any], expected: dict[str, Any], tolerance: float = EXACT) -> None:
    values, expected = dict(values), dict(expected)
    classes, expected_classes = values.pop("per_class"), expected.pop("per_class")
    assert values == pytest.approx(expected, abs=tolerance, rel=0, nan_ok=True)
    assert classes.keys() == expected_classes.keys()
    for name, row in classes.items():
        assert row == pytest.approx(expected_classes[name], abs=tolerance, rel=0, nan_ok=True)


def measured(categories: list[dict[str, Any]], *scenes: Scene) -> dict[str, Any]:
    metric = PanopticQuality(categories)
    for scene in scenes:
        metric.update(*scene)
    return metric.compute()


def rectangles(rng: np.random.Generator, ids: np.ndarray, count: int) -> None:
    """Draw segments over one another: nested, touching, cut by the border, down to single pixels; 0 is void."""
    height, width = ids.shape
    for _ in range(count):
        top, left = rng.integers(-2, height), rng.integers(-2, width)
        tall, wide = rng.integers(1, height + 1) if rng.random() < 0.7 else 1, rng.integers(1, width // 2 + 1)
        ids[max(top, 0) : max(top + tall, 0), max(left, 0) : max(left + wide, 0)] = rng.integers(0, 400)


def listed(rng: np.random.Generator, ids: np.ndarray, crowds: float = 0) -> list[dict[str, int]]:
    """A list in random order with random classes for the segments of a map."""
    segments = [
        {"id": int(id_), "category_id": int(rng.choice([1, 7, 11, 40, 41])), "iscrowd": int(rng.random() < crowds)}
        for id_ in np.unique(ids[ids > 0])
    ]
    return [segments[index] for index in rng.permutation(len(segments))]


def scene(seed: int) -> Scene:
    """A ground truth and a prediction that agrees with it in part: moved, redrawn, relabelled, with holes."""
    rng = np.random.default_rng(seed)
    gt = np.zeros(rng.integers(6, 25, 2), np.int64)
    rectangles(rng, gt, int(rng.integers(0, 9)))
    gt_segments = listed(rng, gt, crowds=0.15)
    prediction = np.roll(gt, rng.integers(-1, 2, 2), (0, 1))
    rectangles(rng, prediction, int(rng.integers(0, 4)))
    prediction[rng.random(gt.shape) < 0.05] = 0
    category_of = {segment["id"]: segment["category_id"] for segment in gt_segments}
    segments = listed(rng, prediction)
    for segment in segments:
        if rng.random() < 0.8:
            segment["category_id"] = category_of.get(segment["id"], segment["category_id"])
    return prediction, segments, gt, gt_segments


@pytest.mark.parametrize("categories", [CLOSED, OPEN], ids=["closed", "open"])
def test_equals_the_literal_rule_on_random_maps(categories: list[dict[str, Any]]) -> None:
    scenes = [scene(seed) for seed in range(300)]
    for each in scenes:
        equal(measured(categories, each), oracle(categories, [each]))
    values = measured(categories, *scenes)
    equal(values, oracle(categories, scenes))
    classes = [row for name, row in values["per_class"].items() if name != "sky"]  # sky is never drawn
    assert all(row[count] > 20 for row in classes for count in ("TP", "FP", "FN"))  # every rule was at work


def lines(*rows: str) -> np.ndarray:
    return np.array([[int(digit) for digit in row] for row in rows])


def counts(prediction: np.ndarray, classes: list[int], gt: np.ndarray, gt_classes: list[int], *crowds: int) -> Any:
    """TP, FP, FN of cars after one image whose segments 1, 2 ... have the classes given."""
    segments = [{"id": id_, "category_id": category} for id_, category in enumerate(classes, 1)]
    gt_segments = [
        {"id": id_, "category_id": category, "iscrowd": int(id_ in crowds)}
        for id_, category in enumerate(gt_classes, 1)
    ]
    row = measured(CLOSED, (prediction, segments, gt, gt_segments))["per_class"]["car"]
    return row["TP"], row["FP"], row["FN"]


def test_an_overlap_of_exactly_one_half_is_no_match() -> None:
    assert counts(lines("1100"), [1], lines("1111"), [1]) == (0, 1, 1)
    assert counts(lines("1110"), [1], lines("1111"), [1]) == (1, 0, 0)


def test_only_what_is_predicted_on_void_leaves_the_union() -> None:
    """The prediction covers the object and as much void again: IoU 1. An object that it half leaves void is missed."""
    values = measured(
        CLOSED,
        (lines("1111"), [{"id": 1, "category_id": 1}], lines("1100"), [{"id": 1, "category_id": 1}]),
    )
    assert values["SQ"] == 100
    assert counts(lines("1100"), [1], lines("1111"), [1]) == (0, 1, 1)  # torchmetrics: a match


@pytest.mark.parametrize(("on_void", "expected"), [(2, (0, 1, 1)), (3, (0, 0, 1))])
def test_a_false_positive_that_is_more_than_half_on_void_is_forgiven(on_void: int, expected: tuple[int, ...]) -> None:
    gt = lines("2222", "1111")
    gt[0, :on_void] = 0
    assert counts(lines("1111", "0000"), [1], gt, [1, 11]) == expected


def test_void_and_crowds_of_the_class_forgive_together_and_crowds_of_others_do_not() -> None:
    prediction, gt = lines("1111111"), lines("0011222")  # 2 pixels of void, 2 of a crowd, 3 of road
    assert counts(prediction, [1], gt, [1, 11], 1) == (0, 0, 0)
    assert counts(prediction, [1], gt, [7, 11], 1) == (0, 1, 0)


def test_a_crowd_is_neither_matched_nor_missed() -> None:
    assert counts(lines("11110"), [1], lines("11110"), [1], 1) == (0, 0, 0)
    assert counts(lines("00000"), [], lines("11110"), [1], 1) == (0, 0, 0)


def test_several_crowds_of_a_class_forgive_together() -> None:
    assert counts(lines("1111111"), [1], lines("1122333"), [1, 1, 11], 1, 2) == (0, 0, 0)


def test_the_mean_is_over_the_classes_that_occur() -> None:
    """A car found, a person missed, and one road where there is none: three classes."""
    values = measured(
        CLOSED,
        (
            lines("1122", "1100"),
            [{"id": 1, "category_id": 1}, {"id": 2, "category_id": 11}],
            lines("1133", "1100"),
            [{"id": 1, "category_id": 1}, {"id": 3, "category_id": 7}],
        ),
    )
    assert values["PQ"] == pytest.approx(100 / 3)
    assert values["PQ_things"] == 50
    assert values["PQ_stuff"] == 0
    assert values["per_class"]["road"] == {"PQ": 0, "SQ": 0, "RQ": 0, "TP": 0, "FP": 1, "FN": 0}
    assert np.isnan(values["per_class"]["sky"]["PQ"])
    assert np.isnan(values["PQ_unknown"])


def unknown_object(id_: int) -> Segment:
    return Segment(id=id_, class_id=254, name="unknown", is_unknown=True, area=1, score=0.3, bbox=(0, 0, 1, 1))


def test_unknown_segments_match_any_unknown_category() -> None:
    gt = lines("1122", "1133")
    gt_segments = [{"id": 1, "category_id": 40}, {"id": 2, "category_id": 41}, {"id": 3, "category_id": 1}]
    known = Segment(id=3, class_id=1, name="car", is_unknown=False, area=2, score=0.9, bbox=(2, 1, 2, 1))
    values = measured(OPEN, (gt, [unknown_object(1), {"id": 2, "category_id": 40}, known], gt, gt_segments))
    assert values["PQ_unknown"] == values["PQ_known_things"] == values["PQ"] == 100
    assert values["per_class"]["unknown"]["TP"] == 2
    assert list(values["per_class"]) == ["car", "person", "road", "sky", "unknown"]


def test_an_unknown_object_that_is_predicted_as_known_is_missed_and_a_false_positive() -> None:
    gt = lines("1122")
    gt_segments = [{"id": 1, "category_id": 40}, {"id": 2, "category_id": 1}]
    values = measured(OPEN, (gt, [{"id": 1, "category_id": 7}, {"id": 2, "category_id": 1}], gt, gt_segments))
    assert values["per_class"]["unknown"]["FN"] == values["per_class"]["person"]["FP"] == 1
    assert values["PQ_unknown"] == 0
    assert values["PQ_known"] == 50
    assert values["PQ"] == pytest.approx(100 / 3)


def test_the_unknown_class_is_stuff_only_where_all_of_it_is() -> None:
    gt, segments = lines("12"), [{"id": 1, "category_id": 1}, {"id": 2, "category_id": 2}]
    for isthing, group in ((0, "PQ_stuff"), (1, "PQ_things")):
        categories = [
            {"id": 1, "name": "mud", "isthing": 0, "unknown": True},
            {"id": 2, "name": "cow", "isthing": isthing, "unknown": True},
        ]
        values = measured(categories, (gt, segments, gt, segments))
        assert values[group] == values["PQ_unknown"] == 100
        assert np.isnan(values["PQ_known"])


SEEDS = st.integers(0, 10**6)


@given(SEEDS)
@settings(max_examples=50, deadline=None)
def test_a_perfect_prediction_is_100_and_an_empty_one_0(seed: int) -> None:
    _, _, gt, gt_segments = scene(seed)
    perfect = measured(OPEN, (gt, gt_segments, gt, gt_segments))
    empty = measured(OPEN, (np.zeros_like(gt), [], gt, gt_segments))
    if all(segment["iscrowd"] for segment in gt_segments):
        assert np.isnan([perfect["PQ"], empty["PQ"]]).all()
    else:
        assert perfect["PQ"] == perfect["SQ"] == perfect["RQ"] == 100
        assert empty["PQ"] == empty["SQ"] == empty["RQ"] == 0


@given(st.lists(SEEDS, min_size=3, max_size=6), st.integers(0, 5))
@settings(max_examples=50, deadline=None)
def test_merging_in_any_order_equals_one_pass(seeds: list[int], cut: int) -> None:
    parts = []
    for some in (seeds[:cut], seeds[cut:]):
        parts.append(PanopticQuality(OPEN))
        for seed in some:
            parts[-1].update(*scene(seed))
    expected = measured(OPEN, *map(scene, seeds))
    before = parts[1].compute()
    for first, second in ((0, 1), (1, 0)):
        whole = PanopticQuality(OPEN)
        whole.merge(parts[first])
        whole.merge(parts[second])
        equal(whole.compute(), expected)
    equal(parts[1].compute(), before, tolerance=0)


@given(SEEDS, SEEDS)
@settings(max_examples=100, deadline=None)
def test_neither_the_ids_nor_the_order_of_segments_matter(seed: int, other: int) -> None:
    """New ids span all of 1 ... 256^3 - 1, the image is turned, the lists are shuffled."""
    rng = np.random.default_rng(other)
    ours = scene(seed)
    changed: list[Any] = list(ours)
    for which in (0, 2):
        old = np.unique(ours[which][ours[which] > 0])
        new = rng.choice(256**3 - 1, len(old), replace=False) + 1
        lookup = np.zeros(400, np.int64)
        lookup[old] = new
        changed[which] = lookup[ours[which]][::-1, ::-1]
        renamed = [segment | {"id": int(lookup[segment["id"]])} for segment in ours[which + 1]]
        changed[which + 1] = [renamed[index] for index in rng.permutation(len(renamed))]
    equal(measured(OPEN, tuple(changed)), measured(OPEN, ours))


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.uint64, torch.int32, torch.int64])
def test_every_integer_type_and_tensors_are_the_same(dtype: Any) -> None:
    prediction, segments, gt, gt_segments = scene(5)
    if isinstance(dtype, torch.dtype):
        converted = torch.tensor(prediction).to(dtype), segments, torch.tensor(gt).to(dtype), gt_segments
    else:
        converted = prediction.astype(dtype), segments, gt.astype(dtype), gt_segments
    equal(measured(OPEN, converted), measured(OPEN, (prediction, segments, gt, gt_segments)), tolerance=0)


GT = lines("1122")
GT_SEGMENTS = [{"id": 1, "category_id": 1}, {"id": 2, "category_id": 7}]


@pytest.mark.parametrize(
    ("panoptic", "segments", "message"),
    [
        (lines("1132"), GT_SEGMENTS, r"ids \[3\] of the prediction are in its map and not in its list"),
        (lines("1111"), GT_SEGMENTS, r"ids \[2\] of the prediction are in its list of segments and not in its map"),
        (GT, [*GT_SEGMENTS[:1], {"id": 2, "category_id": 5}], "segment 2 of the prediction has category 5"),
        (GT, [*GT_SEGMENTS, GT_SEGMENTS[0]], "must be unique"),
        (GT, [*GT_SEGMENTS, {"id": 0, "category_id": 1}], "0 is void"),
        (GT, [*GT_SEGMENTS, {"id": 256**3, "category_id": 1}], "lists 16777216"),
        (GT, [{"id": 1}], "needs whole numbers"),
        (GT, [GT_SEGMENTS[0], unknown_object(2)], "mark the categories"),
        (GT.T, GT_SEGMENTS, "resize the prediction"),
        (GT[None], GT_SEGMENTS, "integer map"),
        (GT.astype(float), GT_SEGMENTS, "integer map"),
        (GT > 1, GT_SEGMENTS, "integer map"),
        (GT - 2, GT_SEGMENTS, "has -1 to 0"),
        (GT + 256**3, GT_SEGMENTS, "256\\^3 - 1"),
    ],
)
def test_inconsistent_input_is_refused_and_not_counted(panoptic: Any, segments: list[Any], message: str) -> None:
    metric = PanopticQuality(CLOSED)
    with pytest.raises(OutmaskError, match=message):
        metric.update(panoptic, segments, GT, GT_SEGMENTS)
    assert np.isnan(metric.compute()["PQ"])


def test_an_inconsistent_ground_truth_is_named_as_such() -> None:
    with pytest.raises(OutmaskError, match=r"\[2\] of the ground truth are in its map"):
        PanopticQuality(CLOSED).update(GT, GT_SEGMENTS, GT, GT_SEGMENTS[:1])
    with pytest.raises(OutmaskError, match=r"\[9\] of the ground truth are in its list"):
        PanopticQuality(CLOSED).update(GT, GT_SEGMENTS, GT, [*GT_SEGMENTS, {"id": 9, "category_id": 1}])


@pytest.mark.parametrize(
    ("categories", "message"),
    [
        ([], "at least one"),
        ([{"id": 1, "name": "car"}], "lacks \\['isthing'\\]"),
        ([CLOSED[0], CLOSED[0] | {"name": "van"}], "ids must be unique"),
        ([CLOSED[0], CLOSED[0] | {"id": 2}], "names must be unique"),
        ([*OPEN, {"id": 3, "name": "unknown", "isthing": 1}], "names must be unique"),
    ],
)
def test_unusable_categories_are_refused(categories: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(OutmaskError, match=message):
        PanopticQuality(categories)


def test_metrics_of_other_categories_do_not_merge() -> None:
    with pytest.raises(OutmaskError, match="same categories"):
        PanopticQuality(CLOSED).merge(PanopticQuality(OPEN))


@pytest.fixture(scope="module")
def coco(real_data: Path) -> tuple[list[dict[str, Any]], list[Scene]]:
    """Categories and the two real images, each with its ground truth as the prediction."""
    folder = real_data / "coco_panoptic_sample" / "sample_data"
    truth = json.loads((folder / "panoptic_examples.json").read_text())
    scenes = []
    for annotation in truth["annotations"]:
        with Image.open(folder / "panoptic_examples" / annotation["file_name"]) as image:
            ids = rgb_to_ids(np.asarray(image.convert("RGB")))
        scenes.append((ids, annotation["segments_info"], ids, annotation["segments_info"]))
    return truth["categories"], scenes


def test_real_images_are_consistent_and_a_perfect_prediction_is_100(coco: Any) -> None:
    categories, scenes = coco
    for ids, segments, _, _ in scenes:
        assert {s["id"]: s["area"] for s in segments} == {s["id"]: int((ids == s["id"]).sum()) for s in segments}
    values = measured(categories, *scenes)
    for key in ("PQ", "SQ", "RQ", "PQ_things", "PQ_stuff", "PQ_known"):
        assert values[key] == 100
    real = [segment for _, _, _, segments in scenes for segment in segments if not segment["iscrowd"]]
    assert len(real) == 47
    assert sum(row["TP"] for row in values["per_class"].values()) == len(real)
    assert sum(row["FP"] + row["FN"] for row in values["per_class"].values()) == 0  # three crowds are forgiven


def test_an_empty_prediction_of_real_images_is_0_and_misses_no_crowd(coco: Any) -> None:
    categories, scenes = coco
    empty: list[Scene] = [(np.zeros_like(gt), [], gt, gt_segments) for _, _, gt, gt_segments in scenes]
    values = measured(categories, *empty)
    equal(values, oracle(categories, empty))
    assert all(values[key] == 0 for key in ("PQ", "SQ", "RQ", "PQ_things", "PQ_stuff", "PQ_known"))
    assert [sum(row[count] for row in values["per_class"].values()) for count in ("TP", "FP", "FN")] == [0, 0, 47]


def test_real_crowds_and_void_forgive_and_other_regions_do_not(coco: Any) -> None:
    """A false person, a copy of the real crowd of people, or a piece of void, grown over what is around it."""
    categories, scenes = coco
    for ids, _, _, gt_segments in scenes:
        crowd = next(s["id"] for s in gt_segments if s["iscrowd"] and s["category_id"] == 1)
        largest = max((s for s in gt_segments if not s["iscrowd"]), key=lambda s: s["area"])["id"]
        assert largest != crowd
        free = np.flatnonzero(ids == largest)
        for forgiving in (ids == crowd, ids == 0):
            some = np.flatnonzero(forgiving)[: len(free)]
            for others, false_positives in ((len(some), 1), (len(some) - 1, 0)):
                prediction = np.zeros_like(ids)
                prediction.flat[some] = prediction.flat[free[:others]] = 1
                image = (prediction, [{"id": 1, "category_id": 1}], ids, gt_segments)
                values = measured(categories, image)
                assert values["per_class"]["person"]["FP"] == false_positives
                equal(values, oracle(categories, [image]))


def test_real_images_with_a_damaged_prediction_equal_the_literal_rule(coco: Any) -> None:
    """Moved, with a void band, and with three classes taken as never taught."""
    categories, scenes = coco
    categories = [category | {"unknown": category["name"] in ("person", "skis", "backpack")} for category in categories]
    damaged = []
    for ids, segments, gt, gt_segments in scenes:
        prediction = np.roll(ids, (3, 5), (0, 1))
        prediction[100:160] = 0
        present = set(np.unique(prediction).tolist())
        damaged.append((prediction, [s for s in segments if s["id"] in present], gt, gt_segments))
    values = measured(categories, *damaged)
    equal(values, oracle(categories, damaged))
    assert 0 < values["PQ_unknown"] < 100
    assert 0 < values["PQ_known"] < 100
