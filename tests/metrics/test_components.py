"""Component metrics against a slow loop over components, written from the rules."""

import tracemalloc
from collections.abc import Callable

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from outmask.errors import OutmaskError
from outmask.metrics.components import ComponentMetrics, connected_components

Maps = tuple[np.ndarray, np.ndarray]
SIZES = {"anomaly": (500, 100), "obstacle": (50, 10)}  # pixels of a predicted and of a ground-truth component
TAUS = np.linspace(0.25, 0.75, 11)
EXACT = 1e-9  # percent: sums of the same float64 terms in another order


def oracle_components(mask: np.ndarray) -> list[np.ndarray]:
    """The 8-connected components of a mask, each as a mask of its own."""
    labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
    return [labels == i for i in range(1, count + 1)]


def segment_oracle(mask: np.ndarray, label: np.ndarray, track: str) -> tuple[list[float], list[float]]:
    """sIoU of every ground-truth component and PPV of every predicted one, one component after the other."""
    minimum_prediction, minimum_ground_truth = SIZES[track]
    inside = (label == 0) | (label == 1)
    predicted = [c for c in oracle_components(mask & inside) if c.sum() >= minimum_prediction]
    ground_truth = []
    for component in oracle_components(label == 1):
        if component.sum() >= minimum_ground_truth:
            ground_truth.append(component)
        else:
            inside = inside & ~component
    predicted = [c & inside for c in predicted]
    anywhere = np.zeros_like(inside)
    for component in ground_truth:
        anywhere |= component
    siou = []
    for component in ground_truth:
        touching = np.zeros_like(inside)
        for other in predicted:
            if (other & component).any():
                touching |= other
        union = (component | touching) & ~(anywhere & ~component)
        siou.append((component & touching).sum() / union.sum())
    return siou, [(c & anywhere).sum() / c.sum() for c in predicted]


def oracle_metrics(images: list[Maps], track: str) -> dict[str, object]:
    """The percentages of a whole set."""
    measured = [segment_oracle(mask, label, track) for mask, label in images]
    siou = np.array([value for values, _ in measured for value in values])
    ppv = np.array([value for _, values in measured for value in values])
    f1 = {}
    for tau in TAUS:
        tp, fn, fp = (siou >= tau).sum(), (siou < tau).sum(), (ppv < tau).sum()
        f1[round(100 * tau)] = 100 * 2 * tp / (2 * tp + fn + fp) if tp + fn + fp else np.nan
    return {
        "sIoU": 100 * siou.mean() if len(siou) else np.nan,
        "PPV": 100 * ppv.mean() if len(ppv) else np.nan,
        "F1": np.mean(list(f1.values())),
        "F1_per_threshold": f1,
        "gt_components": len(siou),
        "predicted_components": len(ppv),
    }


def measured(*images: Maps, track: str = "anomaly") -> ComponentMetrics:
    metrics = ComponentMetrics(track)
    for mask, label in images:
        metrics.update(mask, label)
    return metrics


def assert_same(values: dict[str, object], expected: dict[str, object], tolerance: float = EXACT) -> None:
    assert values.keys() == expected.keys()
    for key, value in expected.items():
        assert values[key] == pytest.approx(value, rel=0, abs=tolerance, nan_ok=True), key


def blobs(rng: np.random.Generator, shape: tuple[int, int], size: float, share: float) -> np.ndarray:
    """Random regions of about the given size that cover the given share of the map."""
    noise = cv2.GaussianBlur(rng.normal(size=shape), (0, 0), size)
    return noise > np.quantile(noise, 1 - share)


def random_maps(seed: int, track: str = "anomaly") -> Maps:
    """A label with large, small, nested, touching and ignored regions, and a prediction that finds part of it.

    The regions' sizes scatter around the track's limits.
    """
    shape, scale, shift = {"anomaly": ((150, 190), 1.0, 6), "obstacle": ((70, 90), 0.35, 2)}[track]
    rng = np.random.default_rng(seed)
    anomaly = blobs(rng, shape, scale * rng.uniform(4, 10), rng.uniform(0.02, 0.3))
    anomaly |= blobs(rng, shape, scale * 2, 0.01)  # tiny ones
    label = anomaly.astype(np.uint8)
    for _ in range(rng.integers(0, 3)):  # a ring with an island in it, known or outside in between
        center = tuple(int(rng.integers(0, side)) for side in shape[::-1])
        radius = int(scale * rng.integers(15, 35))
        cv2.circle(label, center, radius, 1, -1)
        cv2.circle(label, center, int(0.8 * radius), int(rng.choice([0, 255])), -1)
        cv2.circle(label, center, int(0.5 * radius), 1, -1)
    if rng.random() < 0.8:
        label[blobs(rng, shape, scale * rng.uniform(2, 12), rng.uniform(0.02, 0.3))] = rng.choice([2, 254, 255])
    found = np.roll(label == 1, rng.integers(-shift, shift + 1, size=2), axis=(0, 1)) & ~blobs(
        rng, shape, scale * 8, 0.3
    )
    mask = found | blobs(rng, shape, scale * rng.uniform(4, 9), rng.uniform(0.02, 0.2))
    return mask, label


@pytest.mark.parametrize("track", SIZES)
def test_equals_the_loop_over_components_on_random_maps(track: str) -> None:
    images = [random_maps(seed, track) for seed in range(200)]
    for image in images:
        assert_same(measured(image, track=track).compute(), oracle_metrics([image], track))


@pytest.mark.parametrize("track", SIZES)
def test_pools_the_components_of_all_images(track: str) -> None:
    """Means over components, F1 from summed counts: no mean of image means."""
    images = [random_maps(seed, track) for seed in range(300, 320)]
    expected = oracle_metrics(images, track)
    assert_same(measured(*images, track=track).compute(), expected)
    image_means = [oracle_metrics([image], track)[key] for image in images for key in ("sIoU", "PPV", "F1")]
    for mean, key in zip(np.nanmean(np.reshape(image_means, (-1, 3)), axis=0), ("sIoU", "PPV", "F1"), strict=True):
        assert abs(mean - expected[key]) > 0.1


@pytest.mark.parametrize("track", SIZES)
def test_the_random_maps_hold_what_they_should(track: str) -> None:
    """Kept and dropped components on both sides, partly found ones, predictions across several, and borders."""
    minimum_prediction, minimum_ground_truth = SIZES[track]
    images = [random_maps(seed, track) for seed in range(100)]
    ground_truth = [component for _, label in images for component in oracle_components(label == 1)]
    predicted = [(c, label == 1) for mask, label in images for c in oracle_components(mask & (label <= 1))]
    areas = np.array([component.sum() for component, _ in predicted])
    truth_areas = np.array([component.sum() for component in ground_truth])
    for sizes, limit in ((truth_areas, minimum_ground_truth), (areas, minimum_prediction)):
        assert (sizes < limit).sum() > 100
        assert (sizes >= limit).sum() > 100
        assert (abs(sizes - limit) <= limit / 5).sum() > 10
    large = [(component, anomaly) for component, anomaly in predicted if component.sum() >= minimum_prediction]
    assert sum(len(oracle_components(component & anomaly)) > 1 for component, anomaly in large) > 20
    assert sum(bool(component[0].any() or component[:, -1].any()) for component in ground_truth) > 50
    rings = [c for c in ground_truth if c.sum() >= minimum_ground_truth and (ndimage.binary_fill_holes(c) & ~c).any()]
    assert len(rings) > 20
    siou = np.concatenate([segment_oracle(*image, track)[0] for image in images])
    assert ((siou > 0.05) & (siou < 0.95)).sum() > 100


def test_equals_the_loop_on_noise_of_many_components() -> None:
    rng = np.random.default_rng(1)
    label = blobs(rng, (240, 320), 1.2, 0.25).astype(np.uint8)
    mask = blobs(rng, (240, 320), 1.2, 0.35) | (rng.random(label.shape) < 0.02)
    values = measured((mask, label), track="obstacle").compute()
    assert values["gt_components"] > 200
    assert values["predicted_components"] > 50
    assert_same(values, oracle_metrics([(mask, label)], "obstacle"))


def test_memory_follows_the_pixels_not_the_pairs_of_components() -> None:
    """21,250 ground-truth and 14,125 predicted components on 1 Mpx: a table of all pairs would take 2.4 GB."""
    label = np.zeros((1024, 1024), np.uint8)
    for row in range(2):
        for column in range(5):
            label[row::8, column::6] = 1  # components of 10 pixels
    label = label[:1000, :1020]
    mask = np.zeros(label.shape, bool)
    for row in range(7):
        for column in range(8):
            mask[row::8, column::9] = True  # of 56 pixels
    tracemalloc.start()
    values = measured((mask, label), track="obstacle").compute()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert values["gt_components"] == 125 * 170
    assert values["predicted_components"] == 125 * 113
    assert peak < 100 * label.size


# Sizes and regions

FILL = {"row": lambda count: (slice(2, 3), slice(0, count)), "column": lambda count: (slice(0, count), slice(2, 3))}


@pytest.mark.parametrize("fill", FILL.values(), ids=FILL)
@pytest.mark.parametrize("track", SIZES)
def test_a_component_of_exactly_the_limit_is_kept_and_of_one_pixel_less_dropped(
    track: str, fill: Callable[[int], tuple[slice, slice]]
) -> None:
    minimum_prediction, minimum_ground_truth = SIZES[track]
    for missing in (0, 1):
        label, mask = np.zeros((600, 600), np.uint8), np.zeros((600, 600), bool)
        label[fill(minimum_ground_truth - missing)] = 1
        mask[fill(minimum_prediction - missing)] = True
        values = measured((mask, label), track=track).compute()
        assert values["gt_components"] == values["predicted_components"] == 1 - missing
        if not missing:
            assert values["sIoU"] == values["PPV"] == 100 * minimum_ground_truth / minimum_prediction


def test_diagonal_neighbours_are_connected() -> None:
    mask = np.eye(500, dtype=bool)
    assert measured((mask, mask.astype(np.uint8))).compute()["predicted_components"] == 1


def strip(*parts: tuple[int, int], height: int = 10) -> np.ndarray:
    """A map of 10 rows made of (value, width) parts, with known pixels all around."""
    row = np.concatenate([np.full(width, value) for value, width in parts])
    map_ = np.zeros((height + 40, len(row) + 40), np.uint8)
    map_[20 : 20 + height, 20:-20] = row
    return map_


def test_outside_pixels_are_removed_before_components_are_made() -> None:
    """They divide a prediction, and don't count for its size."""
    label = strip((0, 60), (255, 1), (0, 60))
    assert measured((strip((1, 121)) > 0, label)).compute()["predicted_components"] == 2
    assert measured((strip((1, 110), (0, 11)) > 0, label)).compute()["predicted_components"] == 1


@pytest.mark.parametrize("outside", [2, 254, 255, -1])
def test_every_other_value_is_outside(outside: int) -> None:
    label = strip((1, 50), (9, 50)).astype(np.int16)
    label[label == 9] = outside
    values = measured((strip((1, 100)) > 0, label)).compute()
    assert values["sIoU"] == values["PPV"] == values["F1"] == 100


def test_a_small_ground_truth_component_is_outside_but_counts_for_the_size_of_a_prediction() -> None:
    """9 x 10 anomaly pixels are dropped; the prediction of 500 pixels is kept, and judged by the other 410."""
    label = strip((0, 20), (1, 9), (0, 10), (1, 11))
    mask = strip((1, 50)) > 0
    values = measured((mask, label)).compute()
    assert (values["gt_components"], values["predicted_components"]) == (1, 1)
    assert values["PPV"] == values["sIoU"] == pytest.approx(100 * 110 / 410, rel=1e-15)


def test_a_small_prediction_is_dropped_and_finds_nothing() -> None:
    label = strip((1, 49))
    values = measured((label == 1, label)).compute()
    assert (values["gt_components"], values["predicted_components"]) == (1, 0)
    assert values["sIoU"] == values["F1"] == 0
    assert np.isnan(values["PPV"])


def test_less_that_is_no_anomaly_than_the_smallest_component_is_outside() -> None:
    """The kit's loop over components starts at the background: 99 known pixels are dropped, 100 are not."""
    for known, siou in ((99, 100), (100, 100 * 900 / 1000)):
        label = np.ones((25, 40), np.uint8)
        label.flat[:known] = 0
        assert measured((np.ones((25, 40), bool), label)).compute()["sIoU"] == siou


# The two measures

AT = [(0.5, 50, True), (0.25, 25, True), (0.75, 75, True), (0.6, 60, False), (0.49, 50, False), (0.48, 45, True)]


@pytest.mark.parametrize(("share", "tau", "found"), AT)
def test_at_a_threshold(share: float, tau: int, found: bool) -> None:
    """At tau is found, as in the kit; its 60 % is the float after 0.6, so that exactly 3/5 is not."""
    label = strip((1, round(100 * share)), (0, round(100 * (1 - share))))
    values = measured((strip((1, 100)) > 0, label)).compute()  # sIoU = PPV = share
    assert values["sIoU"] == values["PPV"] == 100 * share
    assert values["F1_per_threshold"][tau] == (100 if found else 0)


def test_a_prediction_across_two_anomalies_is_no_error_of_either() -> None:
    label = strip((1, 30), (0, 20), (1, 50))
    values = measured((strip((1, 100)) > 0, label)).compute()
    assert values["sIoU"] == pytest.approx(100 * (30 / 50 + 50 / 70) / 2, rel=1e-15)
    assert values["PPV"] == 80


def test_several_predictions_on_one_anomaly_are_one() -> None:
    label = strip((1, 120))
    values = measured((strip((1, 50), (0, 20), (1, 50)) > 0, label)).compute()
    assert values["sIoU"] == pytest.approx(100 * 100 / 120, rel=1e-15)
    assert (values["PPV"], values["predicted_components"]) == (100, 2)


def test_f1_counts_ground_truth_by_siou_and_predictions_by_ppv() -> None:
    """Of three anomalies one is found; one of two predictions is false: F1 = 2 / (2 + 2 + 1)."""
    label = strip((1, 50), (0, 50), (1, 50), (0, 50), (1, 50), (0, 50))
    mask = strip((1, 50), (0, 50), (0, 50), (0, 50), (0, 50), (1, 50)) > 0
    values = measured((mask, label)).compute()
    assert values["F1"] == pytest.approx(40, rel=1e-15)
    assert list(values["F1_per_threshold"]) == list(range(25, 80, 5))
    assert set(values["F1_per_threshold"].values()) == {40}


def test_without_any_component_nothing_is_defined() -> None:
    for metrics in (ComponentMetrics(), measured((np.zeros((9, 9), bool), np.zeros((9, 9), np.uint8)))):
        values = metrics.compute()
        assert np.isnan([values["sIoU"], values["PPV"], values["F1"], *values["F1_per_threshold"].values()]).all()
        assert values["gt_components"] == values["predicted_components"] == 0


def test_only_false_predictions() -> None:
    values = measured((strip((1, 60)) > 0, strip((0, 60)))).compute()
    assert np.isnan(values["sIoU"])
    assert values["PPV"] == values["F1"] == 0


# Invariants

SEEDS = st.integers(0, 2**32 - 1)


@given(st.lists(SEEDS, min_size=3, max_size=5), st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None)
def test_merging_in_any_order_equals_one_pass(seeds: list[int], random: object) -> None:
    images = [random_maps(seed, "obstacle") for seed in seeds]
    expected = measured(*images, track="obstacle").compute()
    parts = [measured(image, track="obstacle") for image in images]
    random.shuffle(parts)  # type: ignore[attr-defined]
    while len(parts) > 1:
        parts[0].merge(parts.pop())
    assert_same(parts[0].compute(), expected)


@given(SEEDS)
@settings(max_examples=50, deadline=None)
def test_a_perfect_prediction_gives_100_and_an_empty_one_0(seed: int) -> None:
    """Perfect where every anomaly is large enough to be predicted."""
    _, label = random_maps(seed, "obstacle")
    empty = measured((np.zeros(label.shape, bool), label), track="obstacle").compute()
    for component in oracle_components(label == 1):
        if 10 <= component.sum() < 50:
            label[component] = 0
    perfect = measured((label == 1, label), track="obstacle").compute()
    if perfect["gt_components"]:
        assert [perfect["sIoU"], perfect["PPV"], perfect["F1"]] == [100, 100, 100]
        assert [empty["sIoU"], empty["F1"], empty["predicted_components"]] == [0, 0, 0]
        assert np.isnan(empty["PPV"])


@given(SEEDS)
@settings(max_examples=50, deadline=None)
def test_flips_and_transposition_change_nothing(seed: int) -> None:
    mask, label = random_maps(seed, "obstacle")
    expected = measured((mask, label), track="obstacle").compute()
    for turned in ((mask[::-1], label[::-1]), (mask[:, ::-1], label[:, ::-1]), (mask.T, label.T)):
        np.testing.assert_equal(measured(turned, track="obstacle").compute(), expected)


@given(SEEDS, st.integers(0, 60))
@settings(max_examples=50, deadline=None)
def test_connected_components_are_those_of_scipy(seed: int, minimum_area: int) -> None:
    mask, _ = random_maps(seed, "obstacle")
    ids, areas = connected_components(mask, minimum_area)
    assert (ids.dtype, areas.dtype) == (np.int32, np.int64)
    kept = [c for c in oracle_components(mask) if c.sum() >= minimum_area]
    assert len(areas) == len(kept)
    assert {c.tobytes() for c in kept} == {(ids == i).tobytes() for i in range(1, len(areas) + 1)}
    np.testing.assert_array_equal(areas, np.bincount(ids.ravel(), minlength=len(areas) + 1)[1:])


# Use


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (5, 0), (1, 1), (1, 700), (700, 1)])
def test_thin_and_empty_images(shape: tuple[int, int]) -> None:
    values = measured((np.ones(shape, bool), np.ones(shape, np.uint8))).compute()
    assert values["gt_components"] == values["predicted_components"] == int(shape[0] * shape[1] == 700)


def test_tensors_and_arrays_are_the_same() -> None:
    mask, label = random_maps(3)
    expected = measured((mask, label)).compute()
    for dtype in (torch.uint8, torch.int64):
        tensors = ComponentMetrics()
        tensors.update(torch.tensor(mask), torch.tensor(label).to(dtype))
        assert tensors.compute() == expected
    assert expected["gt_components"] > 1


def test_the_input_is_left_as_it_was() -> None:
    mask, label = random_maps(4)
    before = mask.copy(), label.copy()
    measured((mask, label))
    np.testing.assert_array_equal(mask, before[0])
    np.testing.assert_array_equal(label, before[1])


def test_merge_leaves_the_other_as_it_was() -> None:
    a, b = measured(random_maps(6)), measured(random_maps(7))
    before = b.compute()
    a.merge(b)
    a.update(*random_maps(8))
    np.testing.assert_equal(b.compute(), before)


def test_another_track_is_refused() -> None:
    with pytest.raises(OutmaskError, match="unknown track 'road'; expected one of anomaly, obstacle"):
        ComponentMetrics("road")  # type: ignore[arg-type]
    with pytest.raises(OutmaskError, match="cannot merge the obstacle track"):
        ComponentMetrics().merge(ComponentMetrics("obstacle"))


@pytest.mark.parametrize(
    ("mask", "label", "message"),
    [
        (np.zeros((2, 3), bool), np.zeros((3, 2), int), "must both be"),
        (np.zeros(3, bool), np.zeros(3, int), "must both be"),
        (np.zeros((1, 2, 3), bool), np.zeros((1, 2, 3), int), "must both be"),
        (np.zeros((2, 3)), np.zeros((2, 3), int), "bool mask .* score > threshold"),
        (np.zeros((2, 3), bool), np.zeros((2, 3)), "integer label"),
        (np.zeros((2, 3), bool), torch.zeros((2, 3), dtype=torch.bfloat16), "integer label"),
    ],
)
def test_wrong_input_is_refused(mask: np.ndarray, label: np.ndarray, message: str) -> None:
    metrics = ComponentMetrics()
    with pytest.raises(OutmaskError, match=message):
        metrics.update(mask, label)
    assert metrics.compute()["gt_components"] == 0
