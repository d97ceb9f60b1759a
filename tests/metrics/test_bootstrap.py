"""The bootstrap over images, against drawing whole images and pooling their pixels."""

import numpy as np
import pytest

from outmask.metrics.bootstrap import INTERVALS, ImageCounts
from outmask.metrics.pixel import PixelMetrics


def images(count: int, seed: int = 0, pixels: int = 100) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        label = (rng.random(pixels) < 0.2).astype(np.uint8)
        made.append((rng.normal(label * rng.uniform(0, 3), 1.0).astype(np.float32), label))
    return made


def pooled(parts: list[tuple[np.ndarray, np.ndarray]]) -> PixelMetrics:
    metrics = PixelMetrics()
    for part in parts:
        metrics.update(*part)
    return metrics


def counted(parts: list[tuple[np.ndarray, np.ndarray]]) -> ImageCounts:
    counts = ImageCounts()
    for index, part in enumerate(parts):
        counts.add(str(index), pooled([part]))
    return counts


def test_intervals_are_those_of_drawing_whole_images() -> None:
    parts = images(8)
    intervals = counted(parts).intervals(pooled(parts), 200)
    random = np.random.default_rng(0)  # the same draws
    drawn: list[dict[str, float]] = []
    for _ in range(4):
        drawn += [
            pooled([parts[i] for i, count in enumerate(times) for _ in range(count)]).compute()
            for times in random.multinomial(8, np.full(8, 1 / 8), 50)
        ]
    for name in INTERVALS:
        expected = np.percentile([values[name] for values in drawn], (2.5, 97.5))
        assert intervals[name] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("count", [40, 1500])
def test_intervals_hold_the_estimate_and_narrow_with_the_root_of_the_images(count: int) -> None:
    parts = images(count, seed=1)
    whole = pooled(parts)
    intervals = counted(parts).intervals(whole, 100)
    for name, value in whole.compute().items():
        if name in INTERVALS:
            low, high = intervals[name]
            assert low < value < high
    low, high = intervals["AUROC"]
    # Levels of separability, uniform from 0 to 3, spread the images' AUROC by about 13 points.
    assert 0.3 < (high - low) / (4 * 13 / np.sqrt(count)) < 3


def test_intervals_of_equal_images_have_no_width() -> None:
    parts = images(1) * 5
    low, high = counted(parts).intervals(pooled(parts), 50)["AP"]
    assert low == pytest.approx(high)


def test_each_image_has_its_own_metrics() -> None:
    parts = images(3, pixels=5000)
    values = counted(parts).per_image
    for index, part in enumerate(parts):
        assert values[str(index)] == pooled([part]).compute()


def test_without_anomalies_the_intervals_are_undefined() -> None:
    for parts in ([], [(np.zeros(3, np.float32), np.zeros(3, np.uint8))]):
        assert np.isnan([v for pair in counted(parts).intervals(pooled(parts), 5).values() for v in pair]).all()
