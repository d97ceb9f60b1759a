"""AP of unknown instances against pycocotools' COCOeval."""

import contextlib
import io
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from outmask.errors import OutmaskError
from outmask.metrics.instances import InstanceAP

EXACT = 1e-9  # percent: COCO adds one part in 1e16 to the precision's denominator
Image = tuple[np.ndarray, np.ndarray, np.ndarray]


def cocoeval(images: list[Image], minimum_gt_area: int = 0) -> dict[str, float]:
    """AP and AP50 by COCOeval, of masks without the pixels outside; what is empty then is not handed to it."""
    mask = pytest.importorskip("pycocotools.mask")
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def annotation(image_id: int, pixels: np.ndarray, number: int, **values: float) -> dict[str, Any]:
        rle = mask.encode(np.asfortranarray(pixels, np.uint8))
        common = {"id": number, "image_id": image_id, "category_id": 1, "iscrowd": 0, "segmentation": rle}
        return common | {"area": int(pixels.sum())} | values

    real: list[dict[str, Any]] = []
    predicted: list[dict[str, Any]] = []
    for image_id, (masks, scores, truth) in enumerate(images):
        for value in np.unique(truth[truth > 0]):
            real.append(annotation(image_id, truth == value, len(real) + 1))  # 0 would read as no match
        stack = masks if masks.ndim == 3 else masks == np.arange(1, len(scores) + 1)[:, None, None]
        for pixels, score in zip(stack & (truth != -1), scores, strict=True):
            if pixels.any():
                predicted.append(annotation(image_id, pixels, len(predicted) + 1, score=float(score)))
    with contextlib.redirect_stdout(io.StringIO()):
        apis = []
        for annotations in (real, predicted):
            api = COCO()
            api.dataset = {
                "images": [{"id": image_id, "height": 1, "width": 1} for image_id in range(len(images))],
                "categories": [{"id": 1, "name": "unknown"}],
                "annotations": annotations,
            }
            api.createIndex()
            apis.append(api)
        evaluation = COCOeval(*apis, "segm")
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[minimum_gt_area, 1e10]], ["all"]
        evaluation.params.maxDets = [100]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, 0, 0, 0]
    if (precision == -1).all():
        return {"AP": float("nan"), "AP50": float("nan")}
    return {"AP": 100 * precision.mean(), "AP50": 100 * precision[0].mean()}


def measured(images: list[Image], minimum_gt_area: int = 0) -> dict[str, float]:
    metric = InstanceAP(minimum_gt_area)
    for image in images:
        metric.update(*image)
    return metric.compute()


def equal(images: list[Image], minimum_gt_area: int = 0) -> None:
    values = measured(images, minimum_gt_area)
    expected = cocoeval(images, minimum_gt_area)
    assert {key: values[key] for key in expected} == pytest.approx(expected, abs=EXACT, rel=0, nan_ok=True)


def image(seed: int, digits: int = 12, id_map: bool = False) -> Image:
    """Objects that touch, nest and leave the image, and predictions that hit, miss and repeat them.

    Few ``digits`` make scores tie.
    """
    rng = np.random.default_rng(seed)
    height, width = rng.integers(16, 48, 2)
    truth = np.zeros((height, width), np.int64)

    def box() -> tuple[slice, slice]:
        top, left = rng.integers(-3, height), rng.integers(-3, width)
        tall, wide = rng.integers(1, 16, 2)
        return slice(max(top, 0), max(top + tall, 0)), slice(max(left, 0), max(left + wide, 0))

    for _ in range(rng.integers(0, 6)):
        truth[box()] = rng.integers(1, 50)
    masks, scores = [], []
    for value in np.unique(truth[truth > 0]):
        for _ in range(rng.integers(0, 3)):
            near = np.roll(truth == value, rng.integers(-1, 2, 2), (0, 1))
            near[box()] &= rng.random() < 0.85
            masks.append(near)
            scores.append(0.5 + rng.random())
    for _ in range(rng.integers(0, 4)):
        masks.append(np.zeros(truth.shape, bool))
        masks[-1][box()] = True
        scores.append(rng.random())
    for _ in range(rng.integers(0, 3)):
        truth[box()] = -1
    stack = np.array(masks, bool).reshape(-1, height, width)
    confidence = np.round(np.array(scores, float), digits)
    if id_map:
        ids = np.zeros(truth.shape, np.int32)
        for number, pixels in enumerate(stack, 1):
            ids[pixels] = number
        return ids, confidence, truth
    return stack, confidence, truth


@pytest.mark.parametrize("minimum_gt_area", [0, 20])
@pytest.mark.parametrize("id_map", [False, True], ids=["overlapping masks", "id map"])
@pytest.mark.parametrize("digits", [12, 1], ids=["distinct scores", "tied scores"])
def test_equals_cocoeval_on_random_images(digits: int, id_map: bool, minimum_gt_area: int) -> None:
    images = [image(seed, digits, id_map) for seed in range(200)]
    for start in range(0, len(images), 4):
        equal(images[start : start + 4], minimum_gt_area)
    equal(images, minimum_gt_area)
    assert 5 < measured(images, minimum_gt_area)["AP"] < 95  # far from the cases that every rule gets right


def many_detections(seed: int) -> Image:
    """150 single pixels with random scores, and the object, right, with the score 0.5."""
    rng = np.random.default_rng(seed)
    truth = np.zeros((20, 20), np.int64)
    truth[:10] = 1
    masks = np.zeros((151, 400), bool)
    masks[np.arange(150), 200 + np.arange(150)] = True
    masks = masks.reshape(-1, 20, 20)
    masks[150] = truth == 1
    return masks, np.append(rng.random(150), 0.5), truth


@pytest.mark.parametrize("better", [99, 100])
def test_only_the_100_highest_scores_of_an_image_count(better: int) -> None:
    masks, _, truth = many_detections(0)
    scores = np.append(np.where(np.arange(150) < better, 0.9, 0.1), 0.5)
    values = measured([(masks, scores, truth)])
    assert values["AP50"] == (pytest.approx(1.0) if better == 99 else 0)  # precision 1 / 100 at every recall
    assert values["predicted_instances"] == 100
    equal([(masks, scores, truth)])


def test_equals_cocoeval_with_more_than_100_detections() -> None:
    equal([many_detections(seed) for seed in range(20)])


def test_what_lies_outside_does_not_use_up_the_100() -> None:
    masks, _, truth = many_detections(1)
    truth[10:18] = -1
    values = measured([(masks, np.append(np.full(150, 0.9), 0.5), truth)])
    assert values["predicted_instances"] == 1
    assert values["AP"] == 100


def line(digits: str) -> np.ndarray:
    return np.array([[-1 if digit == "." else int(digit) for digit in digits]])


def test_pixels_outside_are_taken_out_of_a_prediction() -> None:
    assert measured([(line("11111"), np.array([0.5]), line("11..."))])["AP"] == 100
    assert measured([(line("11111"), np.array([0.5]), line("1100."))])["AP"] == 10  # IoU 0.5: one threshold of ten
    assert measured([(line("11222"), np.array([0.5, 0.9]), line("11..."))])["predicted_instances"] == 1


def test_an_iou_of_exactly_one_half_is_a_match_and_two_objects_are_not_found_at_once() -> None:
    """Predictions over both of two equal objects have IoU 0.5 with either: one finds the last, another the first."""
    truth, both = line("1122"), np.ones((2, 1, 4), bool)
    assert measured([(both[:1], np.array([0.9]), truth)])["AP50"] == pytest.approx(100 * 51 / 101)
    assert measured([(both, np.array([0.9, 0.8]), truth)])["AP50"] == 100
    equal([(both, np.array([0.9, 0.8]), truth)])
    exact_first = np.concatenate([both[:1], truth[None] == 2])  # the second object is taken when its exact mask comes
    assert measured([(exact_first, np.array([0.9, 0.8]), truth)])["AP50"] == pytest.approx(100 * 51 / 101)
    equal([(exact_first, np.array([0.9, 0.8]), truth)])


def test_small_objects_are_ignored() -> None:
    """A found small object, a missed one and a small false alarm change nothing; a large false alarm does."""
    truth = line("1111110220003300000000")
    masks = np.array([truth == 1, truth == 2, np.zeros_like(truth, bool), np.zeros_like(truth, bool)])
    masks[2, 0, 18:20] = True
    masks[3, 0, 14:18] = True
    scores = np.array([0.2, 0.9, 0.8, 0.1])
    values = measured([(masks, scores, truth)], minimum_gt_area=3)
    assert values == {"AP": 100, "AP50": 100, "gt_instances": 1, "predicted_instances": 4}
    scores[3] = 0.7
    assert measured([(masks, scores, truth)], minimum_gt_area=3)["AP"] == 50
    assert measured([(masks, scores, truth)])["gt_instances"] == 3


NOTHING = np.zeros((0, 6, 6), bool), np.zeros(0), np.zeros((6, 6), int)
OBJECT = np.pad(np.ones((2, 2), int), 2)


def test_without_objects_there_is_no_ap() -> None:
    for images in ([], [NOTHING], [(OBJECT, np.array([0.4]), np.zeros((6, 6), int))]):
        values = measured(images)
        assert np.isnan([values["AP"], values["AP50"]]).all()
        assert values["gt_instances"] == 0
    assert values["predicted_instances"] == 1


def test_without_predictions_ap_is_0() -> None:
    for masks in (NOTHING[0], np.zeros((6, 6), int)):
        values = measured([(masks, np.zeros(0), OBJECT)])
        assert values == {"AP": 0, "AP50": 0, "gt_instances": 1, "predicted_instances": 0}
    equal([(NOTHING[0], NOTHING[1], OBJECT), (OBJECT, np.array([0.4]), OBJECT), NOTHING])


def test_a_false_alarm_in_an_image_without_objects_counts() -> None:
    found = (OBJECT, np.array([0.4]), OBJECT)
    alarm = (OBJECT, np.array([0.6]), np.zeros((6, 6), int))
    assert measured([found, NOTHING])["AP"] == 100
    assert measured([found, alarm])["AP"] == 50


@given(st.lists(st.integers(0, 10**6), min_size=2, max_size=6, unique=True), st.integers(0, 5), st.booleans())
@settings(max_examples=50, deadline=None)
def test_merging_in_any_order_equals_one_pass(seeds: list[int], cut: int, id_map: bool) -> None:
    """Scores are distinct here: where they tie across images, the order of the images matters, as in COCOeval."""
    images = [image(seed, id_map=id_map) for seed in seeds]
    expected = measured(images)
    for order in (0, 1):
        parts = []
        for some in (images[:cut], images[cut:]):
            parts.append(InstanceAP())
            for each in some:
                parts[-1].update(*each)
        before = parts[order].compute()
        parts[1 - order].merge(parts[order])
        assert parts[1 - order].compute() == pytest.approx(expected, abs=0, rel=0, nan_ok=True)
        parts[1 - order].update(OBJECT, np.array([0.4]), OBJECT)
        assert parts[order].compute() == pytest.approx(before, abs=0, rel=0, nan_ok=True)


@given(st.integers(0, 10**6), st.integers(0, 10**6))
@settings(max_examples=100, deadline=None)
def test_neither_ids_nor_the_order_of_predictions_nor_orientation_matter(seed: int, other: int) -> None:
    rng = np.random.default_rng(other)
    masks, scores, truth = image(seed)
    order = rng.permutation(len(scores))
    lookup = np.concatenate([[0], np.sort(rng.choice(100_000, 49, replace=False) + 1), [-1]])  # [-1] is the last
    # The order of the ids decides between equal IoUs, so it is kept.
    changed = masks[order][:, ::-1].transpose(0, 2, 1), 1 + 5 * scores[order], lookup[truth][::-1].T
    assert measured([changed]) == pytest.approx(measured([(masks, scores, truth)]), abs=0, rel=0, nan_ok=True)


def test_an_id_map_is_the_same_as_its_masks() -> None:
    for seed in range(30):
        ids, scores, truth = image(seed, id_map=True)
        masks = ids == np.arange(1, len(scores) + 1)[:, None, None]
        assert measured([(masks, scores, truth)]) == pytest.approx(
            measured([(ids, scores, truth)]), abs=0, rel=0, nan_ok=True
        )


def test_tensors_lists_and_every_integer_type_are_the_same() -> None:
    ids, scores, truth = image(7, id_map=True)
    expected = measured([(ids, scores, truth)])
    assert expected["AP"] > 0
    for predicted, numbers, objects in (
        (torch.tensor(ids), torch.tensor(scores), torch.tensor(truth)),
        (ids.astype(np.uint64), scores.tolist(), truth.astype(np.int8)),
        (torch.tensor(ids).to(torch.uint8), (10 * np.argsort(np.argsort(scores))).tolist(), truth),
        (ids, torch.tensor(np.argsort(np.argsort(scores))).to(torch.bfloat16), truth),
    ):
        metric = InstanceAP()
        metric.update(predicted, numbers, objects)
        assert metric.compute() == expected


def test_unsigned_ground_truth_at_the_top_of_its_range_is_an_object() -> None:
    assert measured([(OBJECT, np.array([0.4]), (255 * OBJECT).astype(np.uint8))])["AP"] == 100


@pytest.mark.parametrize(
    ("predicted", "scores", "truth", "message"),
    [
        (OBJECT.astype(float), [0.5], OBJECT, "integer id map or"),
        (OBJECT > 0, [0.5], OBJECT, "integer id map or"),
        (OBJECT[None], [0.5], OBJECT, "integer id map or"),
        (OBJECT, [0.5], OBJECT > 0, "gt_instances must be"),
        (OBJECT[:3], [0.5], OBJECT, "resize"),
        (OBJECT[None] > 0, [0.5], OBJECT[:, :3], "resize"),
        (OBJECT, [np.nan], OBJECT, "1 NaN"),
        (OBJECT, [[0.5]], OBJECT, r"scores must be \(n,\)"),
        (OBJECT[None] > 0, [0.5, 0.4], OBJECT, "1 masks and 2 scores"),
        (2 * OBJECT, [0.5], OBJECT, "go from 0 to 1, got 0 to 2"),
        (-OBJECT, [0.5], OBJECT, "got -1 to 0"),
        (OBJECT, [0.5], -2 * OBJECT, "got -2 to 0"),
        (OBJECT, [0.5], 256**3 * OBJECT, "below 256"),
    ],
)
def test_unusable_input_is_refused_and_not_counted(predicted: Any, scores: Any, truth: Any, message: str) -> None:
    metric = InstanceAP()
    with pytest.raises(OutmaskError, match=message):
        metric.update(predicted, scores, truth)
    assert metric.compute()["gt_instances"] == 0


def test_metrics_of_other_limits_do_not_merge() -> None:
    with pytest.raises(OutmaskError, match="got 0 and 10"):
        InstanceAP().merge(InstanceAP(10))
