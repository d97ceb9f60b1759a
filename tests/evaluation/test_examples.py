"""Which images a report shows, and what is drawn of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from outmask.evaluation import Benchmark, Record, Report, Settings, Threshold, evaluate
from outmask.evaluation.examples import examples, own_range
from outmask.evaluation.maps import ImageMaps, Size
from outmask.metrics import PixelMetrics
from outmask.metrics.pixel import Curve
from outmask.types import Taxonomy

TAXONOMY = Taxonomy(("road", "sky"), ((128, 64, 128), (70, 130, 180)))
SIZE = (30, 50)


def record(name: str, swapped: int, anomaly: bool = True, size: tuple[int, int] = SIZE) -> Record:
    """``swapped`` known pixels in 30 score as high as anomalies: the more, the lower the AP."""
    label = np.zeros(SIZE, np.uint8)
    label[10:20, 20:40] = anomaly
    label[:, 45:] = 255
    image = np.full((*size, 3), 200, np.uint8)
    image[0, 0, 0] = swapped  # where the source below finds it
    return Record(name, image, lambda: label)


class Source:
    name = "source"
    labels = True

    def maps(self, record: Record, names: Sequence[str], size: Size | None) -> ImageMaps:
        assert size == SIZE
        assert record.label is not None
        assert isinstance(record.image, np.ndarray)
        score = np.where(record.label() == 1, 1.0, 0.0).astype(np.float32)
        score[: record.image[0, 0, 0], :5] = 1.0
        return ImageMaps(dict.fromkeys(names, score), np.ones(SIZE, np.uint8) if self.labels else None)


def measured(*records: Record, threshold: float = 0.5) -> tuple[Report, Benchmark]:
    benchmark = Benchmark("folder", "val", records)
    settings = Settings({"eam": Threshold(threshold, "given")})
    return evaluate(Source(), benchmark, ["eam", "am"], settings), benchmark


def names(report: Report, benchmark: Benchmark) -> dict[str, list[str]]:
    return {group.title: [one.name for one in group.members] for group in examples(report, benchmark, Source())}


def test_the_worst_four_and_the_best_four() -> None:
    swapped = [3, 9, 1, 7, 5, 11, 2, 8, 4, 10]
    chosen = names(*measured(*(record(f"{count}", count) for count in swapped)))
    assert chosen == {
        "The 4 worst images by AP of eam": ["11", "10", "9", "8"],
        "The 4 best images by AP of eam": ["1", "2", "3", "4"],
    }


@pytest.mark.parametrize("count", [1, 8])
def test_of_few_images_each_comes_once(count: int) -> None:
    chosen = names(*measured(*(record(f"{i}", i) for i in range(count))))
    assert chosen == {
        "All images with anomalies, the worst by AP of eam first": [f"{i}" for i in reversed(range(count))]
    }


def test_of_images_without_anomalies_the_one_with_the_most_false_positives() -> None:
    report, benchmark = measured(record("a", 1), record("b", 2, False), record("c", 6, False), record("d", 4, False))
    chosen = examples(report, benchmark, Source())
    assert [one.name for one in chosen[-1].members] == ["c"]
    (example,) = chosen[-1].members
    np.testing.assert_allclose(example.FPR, 100 * 6 * 5 / (30 * 45))
    assert np.isnan(example.metrics["AP"])


def test_thresholds_of_groups_are_those_of_the_images_group() -> None:
    records = [replace(record(f"{group}/{i}", i), group=group) for i, group in enumerate(("t5", "t6"))]
    benchmark = Benchmark("streethazards", "test", tuple(records))
    settings = Settings({"eam": Threshold({"t5": 2.0, "t6": 0.5}, "given")})
    report = evaluate(Source(), benchmark, ["eam"], settings)
    (group,) = examples(report, benchmark, Source())
    assert {one.name: one.FPR for one in group.members} == {
        "t5/0": 0.0,
        "t6/1": pytest.approx(100 * 5 / (30 * 45 - 200)),
    }


def test_panels_show_truth_score_and_what_is_selected() -> None:
    report, benchmark = measured(record("a", 0))
    ((example,),) = (group.members for group in examples(report, benchmark, Source(), TAXONOMY, lambda _: (0.0, 1.0)))
    truth, heat, selected = (np.asarray(panel.picture).astype(int) for panel in example.panels)
    np.testing.assert_array_equal(truth[15, 30], (200, 200, 200))  # inside of the anomaly the photo is left alone
    assert (truth[10, 30] == 255).all()  # its outline
    np.testing.assert_array_equal(truth[:, 48], np.full((30, 3), 70))  # darkened outside
    assert heat[15, 30].min() > 150
    assert heat[5, 5].max() < 5
    np.testing.assert_allclose(selected[5, 10], 0.4 * 200 + 0.6 * np.array(TAXONOMY.colors[1]), atol=0.5)
    assert selected[15, 30].min() > selected[5, 10].min()
    assert (selected[10, 30] == 255).all()
    assert example.class_ids == {1, 2}


def test_without_labels_the_photo_shows_what_is_selected() -> None:
    class Unlabelled(Source):
        labels = False

    report, benchmark = measured(record("a", 0))
    ((example,),) = (group.members for group in examples(report, benchmark, Unlabelled(), TAXONOMY))
    selected = np.asarray(example.panels[2].picture)
    np.testing.assert_array_equal(selected[15, 30], (200, 200, 200))
    assert (selected[10, 30] == 255).all()
    assert example.class_ids == frozenset()


def test_an_image_of_another_resolution_is_drawn_at_the_labels() -> None:
    report, benchmark = measured(record("a", 0, size=(60, 100)))
    ((example,),) = (group.members for group in examples(report, benchmark, Source()))
    assert {panel.picture.size for panel in example.panels} == {(50, 30)}


def test_panels_are_scaled_down_to_640_pixels() -> None:
    class Large(Source):
        def maps(self, record: Record, names: Sequence[str], size: Size | None) -> ImageMaps:
            assert size is not None
            return ImageMaps(dict.fromkeys(names, np.eye(*size, dtype=np.float32)), None)

    label = np.eye(720, 1280, dtype=np.uint8)
    benchmark = Benchmark("folder", "val", (Record("a", np.zeros((720, 1280, 3), np.uint8), lambda: label),))
    report = evaluate(Large(), benchmark, ["eam"])
    ((example,),) = (group.members for group in examples(report, benchmark, Large()))
    assert {panel.picture.size for panel in example.panels} == {(640, 360)}


def curve(known: list[float], anomaly: list[float]) -> Curve:
    metrics = PixelMetrics()
    label = np.repeat([0, 1], [len(known), len(anomaly)])
    metrics.update(np.array(known + anomaly, np.float32), label)
    return metrics.curve()


@pytest.mark.parametrize(
    ("known", "anomaly", "expected"),
    [
        ([0, 1, 2], [4, 5, 6], (1, 5)),  # the medians
        ([-np.inf, 1, 2], [4, 5, np.inf], (1, 5)),
        ([5, 6], [1, 2], (1, 6)),  # upside down: everything there is
        ([0, 3], [], (0, 3)),
        ([7, 7], [7], (7, 8)),
        ([np.inf], [-np.inf], (0, 1)),
        ([], [], (0, 1)),
    ],
)
def test_own_range(known: list[float], anomaly: list[float], expected: tuple[float, float]) -> None:
    assert own_range(curve(known, anomaly)) == expected
