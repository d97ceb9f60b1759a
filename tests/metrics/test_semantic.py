"""Class-wise metrics against a slow loop over classes, written from the rules."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from outmask.errors import OutmaskError
from outmask.metrics.semantic import ClosedSetMetrics, OpenIoU

EXACT = 1e-9  # percent: the same ratios of counts, summed in another order


def iou_oracle(labels: np.ndarray, target: np.ndarray, class_id: int, evaluated: np.ndarray) -> float:
    """TP / (TP + FP + FN) of one class over the evaluated pixels, in percent."""
    tp = (evaluated & (labels == class_id) & (target == class_id)).sum()
    fp = (evaluated & (labels == class_id) & (target != class_id)).sum()
    fn = (evaluated & (labels != class_id) & (target == class_id)).sum()
    return 100 * tp / (tp + fp + fn) if tp + fp + fn else np.nan


def mean_oracle(values: dict[int, float]) -> float:
    defined = [value for value in values.values() if not np.isnan(value)]
    return sum(defined) / len(defined) if defined else np.nan


def closed_oracle(labels: np.ndarray, target: np.ndarray, classes: int) -> dict[str, object]:
    known = np.isin(target, np.arange(classes))
    iou = {k: iou_oracle(labels, target, k, known) for k in range(classes)}
    return {
        "mIoU": mean_oracle(iou),
        "pixel_accuracy": 100 * (labels == target)[known].mean() if known.any() else np.nan,
        "IoU": iou,
    }


def open_oracle(
    open_labels: np.ndarray, target: np.ndarray, classes: int, labels: np.ndarray | None = None
) -> dict[str, object]:
    """Anomalies are evaluated in the open set and left out in the closed one."""
    evaluated = np.isin(target, np.arange(classes + 1))
    open_iou = {k: iou_oracle(open_labels, target, k, evaluated) for k in range(classes)}
    iou = dict.fromkeys(range(classes), np.nan) if labels is None else closed_oracle(labels, target, classes)["IoU"]
    return {"open_mIoU": mean_oracle(open_iou), "mIoU": mean_oracle(iou), "open_IoU": open_iou, "IoU": iou}


def assert_same(values: dict[str, object], expected: dict[str, object]) -> None:
    assert values.keys() == expected.keys()
    for key, value in expected.items():
        assert values[key] == pytest.approx(value, rel=0, abs=EXACT, nan_ok=True), key


def random_maps(seed: int, classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Open labels, target and closed labels; some classes may be absent, some pixels are anomalous or outside."""
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 30, size=2))
    present = rng.choice(classes, size=rng.integers(1, classes + 1))
    target = rng.choice(present, size=shape)
    labels = np.where(rng.random(shape) < 0.6, target, rng.choice(present, size=shape))
    target[rng.random(shape) < 0.1] = classes
    target[rng.random(shape) < 0.1] = rng.choice([255, classes + 1, -1])
    rejected = rng.random(shape) < np.where(target == classes, 0.8, 0.1)
    return np.where(rejected, classes, labels), target, labels


def closed(labels: np.ndarray, target: np.ndarray, classes: int) -> ClosedSetMetrics:
    metrics = ClosedSetMetrics(classes)
    metrics.update(labels, target)
    return metrics


def opened(open_labels: np.ndarray, target: np.ndarray, classes: int, labels: np.ndarray | None = None) -> OpenIoU:
    metrics = OpenIoU(classes)
    metrics.update(open_labels, target, labels)
    return metrics


@pytest.mark.parametrize("classes", [1, 2, 5, 19])
def test_equals_the_loop_over_classes_on_random_maps(classes: int) -> None:
    for seed in range(100):
        open_labels, target, labels = random_maps(seed, classes)
        assert_same(closed(labels, target, classes).compute(), closed_oracle(labels, target, classes))
        for closed_labels in (None, labels):
            values = opened(open_labels, target, classes, closed_labels).compute()
            assert_same(values, open_oracle(open_labels, target, classes, closed_labels))


def test_pixels_of_all_images_are_pooled() -> None:
    """IoU of summed counts, not the mean of image values."""
    metrics, open_metrics = ClosedSetMetrics(5), OpenIoU(5)
    maps = [random_maps(seed, 5) for seed in range(20)]
    for open_labels, target, labels in maps:
        metrics.update(labels, target)
        open_metrics.update(open_labels, target, labels)
    open_labels, target, labels = (np.concatenate([m[i].ravel() for m in maps]) for i in range(3))
    assert_same(metrics.compute(), closed_oracle(labels, target, 5))
    assert_same(open_metrics.compute(), open_oracle(open_labels, target, 5, labels))


# Small cases, by hand


def test_a_class_that_neither_occurs_nor_is_predicted_is_left_out_of_the_mean() -> None:
    values = closed(np.array([[0, 0, 1, 1]]), np.array([[0, 0, 0, 1]]), 3).compute()
    assert values["IoU"] == pytest.approx({0: 100 * 2 / 3, 1: 50, 2: np.nan}, nan_ok=True)
    assert values["mIoU"] == pytest.approx((200 / 3 + 50) / 2)
    assert values["pixel_accuracy"] == 75


def test_a_class_that_is_predicted_but_never_occurs_counts_as_0_unless_only_outside() -> None:
    assert closed(np.array([[0, 1]]), np.array([[0, 0]]), 2).compute()["mIoU"] == 25
    assert closed(np.array([[0, 1]]), np.array([[0, 255]]), 2).compute()["mIoU"] == 100


def test_anomalies_and_rejections_are_errors_of_known_classes() -> None:
    """Class 0: 2 found, 1 anomaly taken for it, 1 rejected; class 1: 1 found, another taken for class 0."""
    target = np.array([[0, 0, 0, 2, 2, 1, 1, 255]])
    open_labels = np.array([[0, 0, 2, 0, 2, 1, 0, 1]])
    labels = np.array([[0, 0, 0, 0, 0, 1, 0, 1]])
    values = opened(open_labels, target, 2, labels).compute()
    assert values["open_IoU"] == pytest.approx({0: 100 * 2 / 5, 1: 50})
    assert values["open_mIoU"] == pytest.approx(45)
    assert values["IoU"] == pytest.approx({0: 75, 1: 50})
    assert values["mIoU"] == pytest.approx(62.5)


def test_a_perfect_detector_brings_open_iou_up_to_the_closed_one() -> None:
    for seed in range(20):
        _, target, labels = random_maps(seed, 6)
        values = opened(np.where(target == 6, 6, labels), target, 6, labels).compute()
        assert values["open_IoU"] == pytest.approx(values["IoU"], nan_ok=True)


def test_finding_anomalies_earns_nothing_of_its_own() -> None:
    """The unknown is not among the classes of the mean."""
    target = np.array([[0, 1, 1, 1]])
    values = opened(target, target, 1).compute()
    assert values["open_IoU"] == {0: 100}
    rejected = opened(np.ones((1, 4), int), target, 1).compute()
    assert rejected["open_mIoU"] == 0


def test_the_closed_miou_is_undefined_without_labels_and_of_the_images_with_them() -> None:
    open_labels, target, labels = random_maps(1, 4)
    metrics = opened(open_labels, target, 4)
    assert np.isnan(metrics.compute()["mIoU"])
    assert np.isnan(list(metrics.compute()["IoU"].values())).all()
    metrics.update(open_labels, target, labels)
    assert metrics.compute()["mIoU"] == pytest.approx(closed_oracle(labels, target, 4)["mIoU"])


def test_nothing_counted_is_undefined() -> None:
    for target in (np.full((2, 3), 255), np.zeros((0, 3), int)):
        values = closed(np.full(target.shape, 99), target, 3).compute()
        assert np.isnan([values["mIoU"], values["pixel_accuracy"], *values["IoU"].values()]).all()
        assert np.isnan(opened(np.full(target.shape, 99), target, 3).compute()["open_mIoU"])


# Invariants

SEEDS = st.integers(0, 2**32 - 1)


@given(st.lists(SEEDS, min_size=3, max_size=5), st.permutations(range(3)))
@settings(max_examples=60, deadline=None)
def test_merging_in_any_order_equals_one_pass(seeds: list[int], order: list[int]) -> None:
    maps = [random_maps(seed, 5) for seed in seeds]
    one_pass, one_open_pass = ClosedSetMetrics(5), OpenIoU(5)
    for open_labels, target, labels in maps:
        one_pass.update(labels, target)
        one_open_pass.update(open_labels, target, labels)
    merged, open_merged = ClosedSetMetrics(5), OpenIoU(5)
    for i in [*order, *range(3, len(maps))]:
        open_labels, target, labels = maps[i]
        merged.merge(closed(labels, target, 5))
        open_merged.merge(opened(open_labels, target, 5, labels))
    np.testing.assert_equal(merged.compute(), one_pass.compute())
    np.testing.assert_equal(open_merged.compute(), one_open_pass.compute())


@given(SEEDS, st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_a_perfect_prediction_gives_100(seed: int, classes: int) -> None:
    _, target, _ = random_maps(seed, classes)
    known = (target >= 0) & (target < classes)
    values = closed(target, target, classes).compute()
    open_values = opened(target, target, classes, target).compute()
    found = {values["mIoU"], values["pixel_accuracy"], open_values["open_mIoU"], open_values["mIoU"]}
    assert found == {100} if known.any() else np.isnan(list(found)).all()


@given(SEEDS)
@settings(max_examples=60, deadline=None)
def test_flips_transposition_and_renamed_classes_change_nothing(seed: int) -> None:
    open_labels, target, labels = random_maps(seed, 5)
    expected = opened(open_labels, target, 5, labels).compute()
    for turn in (np.flipud, np.fliplr, np.transpose):
        turned = opened(turn(open_labels), turn(target), 5, turn(labels)).compute()
        np.testing.assert_equal(turned, expected)
    names = np.random.default_rng(seed).permutation(5)

    def renamed(ids: np.ndarray) -> np.ndarray:
        return np.where((ids >= 0) & (ids < 5), names[np.clip(ids, 0, 4)], ids)

    values = opened(renamed(open_labels), renamed(target), 5, renamed(labels)).compute()
    assert values["open_mIoU"] == pytest.approx(expected["open_mIoU"], rel=1e-14, nan_ok=True)  # summed in other order
    assert all(
        values["open_IoU"][int(names[k])] == pytest.approx(expected["open_IoU"][k], rel=0, abs=0, nan_ok=True)
        for k in range(5)
    )


# Use


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64, np.uint64])
def test_any_integer_type_and_tensors_are_the_same(dtype: type) -> None:
    open_labels, target, labels = random_maps(7, 5)
    target = np.where(target < 0, 255, target)
    expected = opened(open_labels, target, 5, labels).compute()
    same = opened(open_labels.astype(dtype), target.astype(dtype), 5, labels.astype(dtype))
    np.testing.assert_equal(same.compute(), expected)
    if dtype is not np.uint64:
        tensors = [torch.tensor(map_.astype(dtype)) for map_ in (open_labels, target, labels)]
        np.testing.assert_equal(opened(*tensors[:2], 5, tensors[2]).compute(), expected)


def test_merge_leaves_the_other_as_it_was() -> None:
    first, second = (opened(*random_maps(seed, 5)[:2], 5, random_maps(seed, 5)[2]) for seed in (8, 9))
    before = second.compute()
    first.merge(second)
    first.update(*random_maps(10, 5))
    np.testing.assert_equal(second.compute(), before)


def test_predicted_labels_out_of_range_are_refused_and_listed() -> None:
    target = np.array([[0, 1, 2, 255]])
    with pytest.raises(OutmaskError, match=r"from 0 to 2, got -1, 3, 255$"):
        closed(np.array([[3, 255, -1, 77]]), target, 3)
    with pytest.raises(OutmaskError, match=r"from 0 to 3, got 4$"):
        opened(np.array([[3, 4, 0, 0]]), target, 3)
    with pytest.raises(OutmaskError, match=r"got 100, 101, 102, 103, 104, 105, 106, 107, \.\.\.$"):
        closed(np.arange(100, 130), np.zeros(30, int), 3)


def test_a_refused_image_is_not_counted_at_all() -> None:
    """Closed-set labels may not be the unknown's id at a known pixel; at an anomaly they are not looked at."""
    target = np.array([[0, 1, 2, 3]])
    metrics = opened(target, target, 3, np.array([[0, 1, 2, 3]]))
    before = metrics.compute()
    with pytest.raises(OutmaskError, match="from 0 to 2, got 3"):
        metrics.update(np.zeros((1, 4), int), target, np.array([[3, 1, 2, 0]]))
    assert metrics.compute() == before


@pytest.mark.parametrize(
    ("labels", "target", "message"),
    [
        (np.zeros((2, 3), int), np.zeros((3, 2), int), "same shape"),
        (np.zeros(3), np.zeros(3, int), "integer labels"),
        (np.zeros(3, int), np.zeros(3, bool), "integer target"),
        (np.zeros(3, int), torch.zeros(3, dtype=torch.bfloat16), "integer target"),
    ],
)
def test_wrong_input_is_refused(labels: np.ndarray, target: np.ndarray, message: str) -> None:
    with pytest.raises(OutmaskError, match=message):
        closed(labels, target, 3)
    with pytest.raises(OutmaskError, match=message):
        opened(labels, target, 3)


def test_numbers_of_classes() -> None:
    """255 is outside of every evaluation, so no class and no unknown can have that id."""
    for count in (0, -1, 256):
        with pytest.raises(OutmaskError, match="from 1 to 255"):
            ClosedSetMetrics(count)
    for count in (0, 255):
        with pytest.raises(OutmaskError, match="from 1 to 254"):
            OpenIoU(count)
    with pytest.raises(OutmaskError, match="3 classes into metrics of 4"):
        ClosedSetMetrics(4).merge(ClosedSetMetrics(3))
    with pytest.raises(OutmaskError, match="3 classes into metrics of 4"):
        OpenIoU(4).merge(OpenIoU(3))
