"""The bootstrap over images, against drawing whole images and pooling their pixels."""

import numpy as np
import pytest

from outmask.metrics.bootstrap import INTERVALS, ImageCounts
from outmask.metrics.pixel import PixelMetrics


def images(count: int, seed: int = 0, pixels: int = 400) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        label = (rng.random(pixels) < 0.2).astype(np.uint8)
        made.append((rng.normal(label * rng.uniform(0, 3), 1.0).astype(np.float32), label))
    return made


def counted(parts: list[tuple[np.ndarray, np.ndarray]]) -> ImageCounts:
    counts = ImageCounts(len(parts))
    for index, (score, label) in enumerate(parts):
        metrics = PixelMetrics()
        metrics.update(score, label)
        counts.add(str(index), metrics)
    return counts


def test_intervals_are_those_of_drawing_whole_images() -> None:
    parts = images(8)
    intervals = counted(parts).intervals(200)
    random = np.random.default_rng(0)  # the same draws
    drawn = []
    for _ in range(200):
        pooled = PixelMetrics()
        for index, times in enumerate(random.multinomial(8, np.full(8, 1 / 8))):
            for _ in range(times):
                pooled.update(*parts[index])
        drawn.append(pooled.compute())
    for name in INTERVALS:
        low, high = np.percentile([values[name] for values in drawn], (2.5, 97.5))
        assert intervals[name] == pytest.approx((low, high), abs=1e-9)


def test_the_interval_narrows_with_the_root_of_the_images() -> None:
    widths = [np.diff(counted(images(count, seed=1)).intervals(400)["AUROC"])[0] for count in (10, 90)]
    assert 2 < widths[0] / widths[1] < 4.5  # 3, up to chance


def test_intervals_of_equal_images_have_no_width() -> None:
    low, high = counted(images(1) * 5).intervals(50)["AP"]
    assert low == pytest.approx(high)


def test_each_image_has_its_own_metrics() -> None:
    parts = images(3)
    values = counted(parts).per_image()
    for index, part in enumerate(parts):
        alone = PixelMetrics()
        alone.update(*part)
        assert values[str(index)] == pytest.approx(alone.compute())


def test_without_anomalies_the_intervals_are_undefined() -> None:
    for parts in ([], [(np.zeros(3, np.float32), np.zeros(3, np.uint8))]):
        assert np.isnan([value for pair in counted(parts).intervals(5).values() for value in pair]).all()
