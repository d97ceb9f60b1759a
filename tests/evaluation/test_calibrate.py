"""Thresholds chosen on validation data."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from outmask.data.labels import IGNORE, VOID, Sample
from outmask.errors import OutmaskError
from outmask.evaluation import Benchmark, Record
from outmask.evaluation.calibrate import Rule, calibrate, pasted_benchmark, thresholds_of
from outmask.evaluation.maps import ImageMaps, Size

IMAGE = np.zeros((30, 40, 3), np.uint8)
RNG = np.random.default_rng(0)
LABELS = [RNG.choice(np.array([0, 1, 255], np.uint8), (30, 40), p=[0.7, 0.2, 0.1]) for _ in range(3)]
SCORES = [RNG.normal(2.0 * (label == 1)).astype(np.float32) for label in LABELS]


class Given:
    name = "given"

    def maps(self, record: Record, names: Sequence[str], size: Size | None) -> ImageMaps:
        assert size == (30, 40)
        score = SCORES[int(record.name)]
        return ImageMaps({name: score if name == "eam" else 10 * score for name in names}, None)


BENCHMARK = Benchmark(
    "folder", "all", tuple(Record(str(i), IMAGE, label=lambda label=label: label) for i, label in enumerate(LABELS))
)


@pytest.mark.parametrize("rule", ["tpr95", "tpr80.5", "fpr5", "f1"])
def test_the_threshold_does_what_its_rule_says(rule: str) -> None:
    (points,) = calibrate(Given(), BENCHMARK, ["eam", "am"], [Rule.parse(rule)])
    score, label = np.concatenate(SCORES).ravel(), np.concatenate(LABELS).ravel()
    for name, factor in (("eam", 1), ("am", 10)):
        point = points[name]
        unknown = score * np.float32(factor) > np.float32(point["threshold"])
        tpr, fpr = 100 * unknown[label == 1].mean(), 100 * unknown[label == 0].mean()
        assert point["TPR"] == pytest.approx(tpr, abs=0.006)  # rounded to two places
        assert point["FPR"] == pytest.approx(fpr, abs=0.006)
        if rule.startswith("tpr"):
            assert tpr >= float(rule[3:]) > tpr - 100 / (label == 1).sum()
        elif rule == "fpr5":
            assert fpr <= 5 < fpr + 100 / (label == 0).sum()
        else:
            hits = (unknown & (label == 1)).sum()
            f1 = 200 * hits / ((unknown & (label < 2)).sum() + (label == 1).sum())
            assert point["F1"] == pytest.approx(f1, abs=0.006)
        assert (point["benchmark"], point["split"], point["images"]) == ("folder", "all", 3)
        assert point["origin"].endswith(" on folder all (3 images)")


@pytest.mark.parametrize("text", ["tpr", "tpr0", "tpr101", "fpr-5", "f2", "95", "TPR95", ""])
def test_other_rules_are_refused(text: str) -> None:
    with pytest.raises(OutmaskError, match="unknown rule .* expected f1, tpr95"):
        Rule.parse(text)


def test_without_anomalies_no_rule_has_a_threshold() -> None:
    record = Record("0", IMAGE, label=lambda: np.zeros((30, 40), np.uint8))
    with pytest.raises(OutmaskError, match="no threshold gives TPR 95: 0 anomaly and 1200 known pixels"):
        calibrate(Given(), Benchmark("folder", "all", (record,)), ["eam"], [Rule.parse("tpr95")])


def test_hidden_labels_are_refused() -> None:
    with pytest.raises(OutmaskError, match="smiyc_anomaly21, split test, has no labels"):
        calibrate(Given(), Benchmark("smiyc_anomaly21", "test", (Record("0", IMAGE),)), ["eam"], [Rule.parse("f1")])


def test_a_point_chosen_on_any_of_the_evaluated_images_is_an_oracle(tmp_path: Path) -> None:
    (points,) = calibrate(Given(), BENCHMARK, ["eam"], [Rule.parse("f1")])
    other = np.full((30, 40, 3), 7, np.uint8)
    for image, oracle in ((IMAGE, True), (other, False)):
        # The same image is the same whatever it and its benchmark are called, and whether it lies in a file.
        path = tmp_path / f"{oracle}.ppm"
        path.write_bytes(image.tobytes())
        for record in (Record("new", image), Record("new", path)):
            chosen = thresholds_of(points, Benchmark("road_anomaly", "test", (Record("9", other[:5]), record)))["eam"]
            assert chosen.oracle is oracle
            assert chosen.value == points["eam"]["threshold"]
            assert chosen.origin == "best pixel F1 on folder all (3 images)"
    # What was written before points said where they come from counts as chosen elsewhere.
    assert not thresholds_of({"eam": {"threshold": 0, "origin": "by hand"}}, BENCHMARK)["eam"].oracle


def test_a_point_without_a_number_is_refused() -> None:
    with pytest.raises(OutmaskError, match="operating point of eam has the threshold None, expected a number"):
        thresholds_of({"eam": {"threshold": None}}, BENCHMARK)


def test_an_undefined_rate_is_stored_as_none() -> None:
    record = Record("0", IMAGE, label=lambda: np.ones((30, 40), np.uint8))
    point = calibrate(Given(), Benchmark("folder", "all", (record,)), ["eam"], [Rule.parse("tpr95")])[0]["eam"]
    assert point["FPR"] is None


def test_pasted_pixels_are_anomalies_and_unlabelled_ones_outside() -> None:
    labels = np.array([[0, 6, 7, VOID, IGNORE]], np.uint8)
    outlier = np.array([[False, True, False, True, False]])
    sample = Sample(np.zeros((1, 5, 3), np.uint8), labels, outlier, "x")
    (record,) = pasted_benchmark("camvid val", [sample], num_classes=7)
    assert record.label is not None
    assert record.label().tolist() == [[0, 1, 255, 1, 255]]
