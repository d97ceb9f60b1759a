"""Evaluation of score maps that are all known."""

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from outmask.data.taxonomies import CAMVID, CITYSCAPES, IDD_LITE, STREETHAZARDS
from outmask.errors import OutmaskError
from outmask.evaluation import Benchmark, Record, Settings, Threshold, evaluate
from outmask.evaluation.borders import border_band
from outmask.evaluation.evaluate import unknown_objects
from outmask.evaluation.maps import ImageMaps, Size
from outmask.metrics import ComponentMetrics, InstanceAP, OpenIoU, PixelMetrics
from outmask.output.files import write_json
from outmask.types import Taxonomy

SHAPE = (40, 60)
IMAGE = np.zeros((*SHAPE, 3), np.uint8)


class Given:
    """Scores and labels by the record's name."""

    name = "given"

    def __init__(self, scores: dict[str, NDArray[Any]], labels: dict[str, NDArray[Any]] | None = None) -> None:
        self.scores, self.labels = scores, labels or {}
        self.asked: list[str] = []

    def maps(self, record: Record, names: Sequence[str], size: Size | None) -> ImageMaps:
        self.asked.append(record.name)
        score = self.scores.get(record.name, np.zeros(SHAPE, np.float32))
        maps = {name: score if name == "s" else -np.abs(np.tanh(score)) for name in names}
        return ImageMaps(maps, self.labels.get(record.name))


def scene(seed: int, anomalies: bool = True) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """A blobby score and a label whose anomalies it partly finds."""
    rng = np.random.default_rng(seed)
    field = cv2.GaussianBlur(rng.normal(size=SHAPE), (0, 0), 3) * 10
    label = (field > 1.2).astype(np.uint8) * anomalies
    label[:, :3] = 255
    score = field + cv2.GaussianBlur(rng.normal(size=SHAPE), (0, 0), 1)
    return score.astype(np.float32), label


def anomaly_benchmark(count: int = 4, **options: Any) -> tuple[Given, Benchmark, list[NDArray[np.uint8]]]:
    scenes = [scene(seed, anomalies=seed > 0) for seed in range(count)]
    records = tuple(Record(str(i), IMAGE, label=lambda label=label: label) for i, (_, label) in enumerate(scenes))
    source = Given({str(i): score for i, (score, _) in enumerate(scenes)})
    return source, Benchmark("folder", "all", records, **options), [label for _, label in scenes]


def pooled(source: Given, labels: list[NDArray[np.uint8]]) -> tuple[NDArray[Any], NDArray[Any]]:
    score = np.concatenate([source.scores[str(i)].ravel() for i in range(len(labels))])
    label = np.concatenate([label.ravel() for label in labels])
    return score[label < 2], label[label < 2]


def test_pixels_are_pooled_over_all_images() -> None:
    source, benchmark, labels = anomaly_benchmark()
    report = evaluate(source, benchmark, ["s"])
    score, label = pooled(source, labels)
    metrics = report.scores["s"].metrics
    assert metrics["AP"] == pytest.approx(100 * average_precision_score(label, score))
    assert metrics["AUROC"] == pytest.approx(100 * roc_auc_score(label, score))
    assert report.anomaly_share == pytest.approx(100 * label.mean())
    assert (report.benchmark, report.split, report.model, report.images) == ("folder", "all", "given", 4)
    low, high = report.scores["s"].intervals["AP"]
    assert low < metrics["AP"] < high
    assert set(report.scores["s"].per_image) == {"0", "1", "2", "3"}
    assert math.isnan(report.scores["s"].per_image["0"]["AP"])  # the image without an anomaly


def test_without_thresholds_to_measure_each_image_is_asked_for_once() -> None:
    source, benchmark, _ = anomaly_benchmark()
    evaluate(source, benchmark, ["s"])
    assert source.asked == ["0", "1", "2", "3"]


def test_components_are_measured_at_the_oracle_and_at_the_threshold_chosen_elsewhere() -> None:
    source, benchmark, labels = anomaly_benchmark(track="obstacle")
    chosen = Settings({"s": Threshold(0.5, "TPR 95 on other images")})
    given, oracle = evaluate(source, benchmark, ["s"], chosen).scores["s"].thresholds
    assert (given.at.value, given.at.origin, given.at.oracle) == (0.5, "TPR 95 on other images", False)
    assert oracle.at.oracle
    assert oracle.at.origin == "best pixel F1 of this split"

    score, label = pooled(source, labels)
    f1 = {t: 2 * ((score > t) & (label == 1)).sum() / ((score > t).sum() + label.sum()) for t in np.unique(score)}
    assert isinstance(oracle.at.value, float)
    assert oracle.pixels is not None
    assert pytest.approx(100 * max(f1.values())) == oracle.pixels.F1
    assert f1[np.float32(oracle.at.value)] == max(f1.values())
    for part in (given, oracle):
        components = ComponentMetrics("obstacle")
        for index, one in enumerate(labels):
            components.update(source.scores[str(index)] > part.at.value, one)
        assert part.components == components.compute()
        assert part.components["gt_components"] > 3


def test_objects_are_the_components_of_unknown_pixels() -> None:
    source, benchmark, labels = anomaly_benchmark()
    objects = [cv2.connectedComponents((label == 1).astype(np.uint8))[1].astype(np.int32) for label in labels]
    records = tuple(
        Record(r.name, r.image, label=r.label, instances=(lambda o=o: o) if r.name != "1" else None)
        for r, o in zip(benchmark, objects, strict=True)
    )
    benchmark = Benchmark("oodis", "val", records)
    (oracle,) = evaluate(source, benchmark, ["s"]).scores["s"].thresholds
    ap = InstanceAP()
    for index, truth in enumerate(objects):
        if index != 1:  # not numbered
            score = source.scores[str(index)]
            ids, confidence = unknown_objects(score > oracle.at.value, score, benchmark)
            ap.update(ids, confidence, truth)
    assert oracle.instances == ap.compute()
    assert 0 < oracle.instances["AP50"] <= 100


def test_an_object_is_scored_by_its_mean() -> None:
    score = np.zeros((20, 20), np.float32)
    score[:10, :10] = np.arange(100).reshape(10, 10)
    score[15:, 15:] = 7
    ids, confidence = unknown_objects(score > 0, score, Benchmark("folder", "all", ()))
    assert confidence == pytest.approx([score[:10, :10][score[:10, :10] > 0].mean()])  # 25 pixels are too few
    assert (ids == 1).sum() == 99


def towns() -> tuple[Given, Benchmark, dict[str, NDArray[np.uint8]]]:
    """StreetHazards in small: two towns whose scores differ in level."""
    rng = np.random.default_rng(3)
    targets, scores, labels, records = {}, {}, {}, []
    for index in range(5):
        name, group = f"t{5 + (index > 2)}/{index}", f"t{5 + (index > 2)}"
        target = rng.integers(0, 3, SHAPE).astype(np.uint8)
        target[rng.random(SHAPE) < 0.1] = STREETHAZARDS.unknown_id
        target[rng.random(SHAPE) < 0.1] = 255
        scores[name] = (rng.normal(3.0 * (target == STREETHAZARDS.unknown_id), 1) + (index > 2)).astype(np.float32)
        labels[name] = np.where(rng.random(SHAPE) < 0.8, np.minimum(target, 2), rng.integers(0, 3, SHAPE)).astype(
            np.uint8
        )
        anomaly = np.where(target == 255, 255, target == STREETHAZARDS.unknown_id).astype(np.uint8)
        targets[name] = target
        records.append(Record(name, IMAGE, label=lambda a=anomaly: a, semantic=lambda t=target: t, group=group))
    benchmark = Benchmark("streethazards", "test", tuple(records), taxonomy=STREETHAZARDS)
    return Given(scores, labels), benchmark, targets


def test_each_towns_threshold_is_chosen_on_the_other() -> None:
    source, benchmark, targets = towns()
    swapped, oracle = evaluate(source, benchmark, ["s"]).scores["s"].thresholds
    assert isinstance(swapped.at.value, dict)
    assert not swapped.at.oracle
    metrics: dict[str, OpenIoU] = {}
    for town, other in (("t5", "t6"), ("t6", "t5")):
        names = [name for name in targets if name.startswith(other)]
        score = np.concatenate([source.scores[name][targets[name] != 255] for name in names])
        truth = np.concatenate([targets[name][targets[name] != 255] == STREETHAZARDS.unknown_id for name in names])
        found = np.mean(score[truth] > swapped.at.value[town])
        assert found >= 0.95 > found - 1 / truth.sum()
        metrics[town] = OpenIoU(STREETHAZARDS.num_classes)
        for name in (name for name in targets if name.startswith(town)):
            unknown = source.scores[name] > swapped.at.value[town]
            open_labels = np.where(unknown, STREETHAZARDS.unknown_id, source.labels[name].astype(int))
            metrics[town].update(open_labels, targets[name], source.labels[name])
    assert swapped.open_set is not None
    for name in ("open_mIoU", "mIoU"):
        parts = {town: metric.compute()[name] for town, metric in metrics.items()}
        assert swapped.open_set[name] == pytest.approx((3 * parts["t5"] + 2 * parts["t6"]) / 5)
        assert swapped.open_set["groups"]["t5"][name] == parts["t5"]
    assert swapped.open_set["groups"]["t6"]["IoU"].keys() == set(STREETHAZARDS.names)
    assert oracle.open_set is not None


def closed_benchmark(taxonomy: Taxonomy) -> tuple[Given, Benchmark, NDArray[np.uint8]]:
    target = np.random.default_rng(4).integers(0, taxonomy.num_classes, SHAPE).astype(np.uint8)
    target[0] = 255
    benchmark = Benchmark("camvid", "val", (Record("a", IMAGE, semantic=lambda: target),), taxonomy=taxonomy)
    return Given({}, {"a": target}), benchmark, target


def test_a_closed_set_benchmark_is_measured_by_its_classes() -> None:
    source, benchmark, target = closed_benchmark(CAMVID)
    labels = np.where(target == 255, 0, target)
    labels[5:10] = 0
    source.labels["a"] = labels
    report = evaluate(source, benchmark, ["s"], taxonomy=CAMVID)
    assert report.scores == {}
    assert report.closed_set is not None
    counted = target != 255
    assert report.closed_set["pixel_accuracy"] == pytest.approx(100 * (labels == target)[counted].mean())
    sky = ((labels == 0) & (target == 0) & counted).sum() / (((labels == 0) | (target == 0)) & counted).sum()
    assert report.closed_set["IoU"]["sky"] == pytest.approx(100 * sky)


def test_classes_are_mapped_to_the_models() -> None:
    """A model of IDD-Lite's coarse classes is measured on CamVid's labels."""
    source, benchmark, target = closed_benchmark(CAMVID)
    coarse = {"road": 0, "sidewalk": 1, "pedestrian": 2, "bicyclist": 2, "car": 3, "pole": 4, "sign": 4, "fence": 4,
              "building": 5, "tree": 5, "sky": 6}  # fmt: skip
    table = np.array([coarse[name] for name in CAMVID.names] + [0] * 245, np.uint8)
    source.labels["a"] = table[target]
    report = evaluate(source, benchmark, [], taxonomy=IDD_LITE)
    assert report.closed_set is not None
    assert report.closed_set["mIoU"] == 100
    assert set(report.closed_set["IoU"]) == set(IDD_LITE.names)


def test_a_model_of_other_classes_is_refused_where_nothing_else_can_be_measured() -> None:
    source, benchmark, _ = closed_benchmark(CAMVID)
    with pytest.raises(OutmaskError, match="nothing can be measured on camvid, split val: the model's classes are not"):
        evaluate(source, benchmark, ["s"], taxonomy=CITYSCAPES)
    source, benchmark, _ = towns()
    report = evaluate(source, benchmark, ["s"], taxonomy=CAMVID)
    assert report.closed_set is None
    assert "not the benchmark's" in report.notes[0]
    assert report.scores["s"].metrics["AP"] > 50


def test_predictions_without_labels_have_no_closed_set() -> None:
    source, benchmark, _ = closed_benchmark(CAMVID)
    source.labels = {}
    with pytest.raises(OutmaskError, match="^a: no predicted classes, but camvid measures nothing else"):
        evaluate(source, benchmark, ["s"])
    source, benchmark, _ = towns()
    source.labels.pop("t5/1")
    report = evaluate(source, benchmark, ["s"])
    assert report.closed_set is None
    assert all(one.open_set is None for one in report.scores["s"].thresholds)
    assert report.notes == ("no closed-set or open-set numbers: 1 of 5 images have no predicted classes",)


def test_hidden_labels_are_refused_with_what_to_do() -> None:
    benchmark = Benchmark("smiyc_anomaly21", "test", (Record("a", IMAGE),))
    with pytest.raises(OutmaskError, match="its labels are hidden; outmask submit writes"):
        evaluate(Given({}), benchmark, ["s"])


def test_float16_is_measured_beside_the_score() -> None:
    source, benchmark, labels = anomaly_benchmark()
    source.scores = {name: (-1 + 1e-4 * np.tanh(score)).astype(np.float32) for name, score in source.scores.items()}
    one = evaluate(source, benchmark, ["s"], Settings(emulate="float16")).scores["s"]
    assert one.float16 is not None
    score, label = pooled(source, labels)
    assert one.metrics["AP"] == pytest.approx(100 * average_precision_score(label, score))
    assert one.float16["AP"] == pytest.approx(100 * average_precision_score(label, score.astype(np.float16)))
    assert one.float16["AP"] < one.metrics["AP"]
    assert set(one.float16) == set(one.metrics)


@pytest.mark.parametrize("width", [1, 3])
def test_borders_are_where_two_known_classes_meet(width: int) -> None:
    ids = np.zeros((15, 24), np.uint8)
    ids[:, 10:] = 1
    label = np.zeros(ids.shape, np.uint8)
    label[12:, :] = 1  # an anomaly: its own edge is no border of classes
    label[:3, 8:13] = 255
    band = border_band(ids, label, width)
    assert band[7].nonzero()[0].tolist() == list(range(10 - width, 10 + width))
    assert not band[:, : 9 - width].any()
    assert not band[0].any()


@pytest.mark.parametrize("width", [1, 2, 3, 7, 100_000])
def test_a_band_is_what_lies_within_its_width_in_every_direction(width: int) -> None:
    ids = np.zeros((12, 17), np.uint8)
    ids[3:6, 4:9] = 1
    label = np.zeros(ids.shape, np.uint8)
    band = border_band(ids, label, width)
    at_border = np.argwhere(border_band(ids, label, 1))
    places = np.argwhere(np.ones(ids.shape, bool))
    distance = np.sqrt(((places[:, None] - at_border[None]) ** 2).sum(2)).min(1).reshape(ids.shape)
    np.testing.assert_array_equal(band, distance <= width - 1)
    np.testing.assert_array_equal(border_band(ids.T, label.T, width), band.T)
    assert not border_band(np.zeros_like(ids), label, width).any()


def test_false_positives_near_borders_are_those_above_the_threshold_of_all_pixels() -> None:
    source, benchmark, targets = towns()
    one = evaluate(source, benchmark, ["s"], Settings(border=2)).scores["s"].border
    assert one is not None
    score = np.concatenate([source.scores[name].ravel() for name in targets])
    target = np.concatenate([targets[name].ravel() for name in targets])
    anomaly = np.where(target == 255, 255, target == STREETHAZARDS.unknown_id).astype(np.uint8)
    band = np.concatenate([border_band(t, np.where(t == 255, 255, t == 12).astype(np.uint8), 2).ravel()
                           for t in targets.values()])  # fmt: skip
    counted = anomaly < 2
    _, tpr, thresholds = roc_curve(anomaly[counted], score[counted], drop_intermediate=False)
    threshold = thresholds[np.argmax(tpr >= 0.95)]
    known = anomaly == 0
    assert pytest.approx(100 * (score >= threshold)[known & band].mean()) == one.FPR95
    assert one.FPR95_elsewhere == pytest.approx(100 * (score >= threshold)[known & ~band].mean())
    assert one.known_share == pytest.approx(100 * band[known].mean())
    assert (one.width, one.borders_of) == (2, "labels")


def test_borders_without_classes_are_those_of_the_prediction() -> None:
    source, benchmark, labels = anomaly_benchmark()
    with pytest.raises(OutmaskError, match="^0: --border needs classes"):
        evaluate(source, benchmark, ["s"], Settings(border=1))
    source.labels = {str(i): (np.indices(SHAPE)[1] > 20).astype(np.uint8) for i in range(4)}
    border = evaluate(source, benchmark, ["s"], Settings(border=1)).scores["s"].border
    assert border is not None
    assert border.borders_of == "prediction"
    known = sum((label == 0).sum() for label in labels)
    both_known = sum(((label[:, 20] == 0) & (label[:, 21] == 0)).sum() for label in labels)
    assert border.known_share == pytest.approx(200 * both_known / known)


def test_the_largest_mask_probability_is_counted_on_request() -> None:
    source, benchmark, labels = anomaly_benchmark()
    histogram = evaluate(source, benchmark, ["s"], Settings(mask_histogram=True)).mask_histogram
    assert histogram is not None
    score, label = pooled(source, labels)
    for value, shares in ((0, histogram.known), (1, histogram.anomaly)):
        expected = np.histogram(np.abs(np.tanh(score[label == value])), histogram.edges)[0] / (label == value).sum()
        np.testing.assert_allclose(shares, expected, atol=2e-4)  # a pixel at an edge may fall to either side


def test_images_without_anomaly_without_known_pixels_and_without_any_are_counted() -> None:
    source, _, _ = anomaly_benchmark(3)
    labels = [np.zeros(SHAPE, np.uint8), np.ones(SHAPE, np.uint8), np.full(SHAPE, 255, np.uint8)]
    records = tuple(Record(str(i), IMAGE, label=lambda label=label: label) for i, label in enumerate(labels))
    benchmark = Benchmark("folder", "all", records, track="anomaly")
    report = evaluate(source, benchmark, ["s"])
    metrics = PixelMetrics()
    for index in (0, 1):
        metrics.update(source.scores[str(index)], labels[index])
    assert report.scores["s"].metrics["AP"] == pytest.approx(metrics.compute()["AP"])
    assert report.anomaly_share == 50


def test_a_benchmark_without_anomalies_is_undefined_not_an_error(tmp_path: Path) -> None:
    source, benchmark, _ = anomaly_benchmark(1, track="anomaly")
    report = evaluate(source, benchmark, ["s"])
    assert math.isnan(report.scores["s"].metrics["AP"])
    assert report.scores["s"].thresholds == ()
    write_json(tmp_path / "r.json", report.to_json())
    plain = json.loads((tmp_path / "r.json").read_text())
    assert plain["scores"]["s"]["AP"] is None
    assert plain["scores"]["s"]["intervals"]["AP"] == [None, None]


def test_nan_names_image_and_score() -> None:
    source, benchmark, _ = anomaly_benchmark()
    source.scores["2"] = source.scores["2"] * np.float32(np.nan)
    with pytest.raises(OutmaskError, match=r"^2, score s: .*NaN"):
        evaluate(source, benchmark, ["s"])


def test_no_score_is_refused_before_anything_is_asked_for() -> None:
    source, benchmark, _ = anomaly_benchmark()
    with pytest.raises(OutmaskError, match="no score given"):
        evaluate(source, benchmark, [])
    assert source.asked == []


def test_progress_sees_every_record_of_each_walk() -> None:
    source, benchmark, _ = anomaly_benchmark(track="anomaly")
    seen: list[tuple[str, str]] = []

    def progress(records: Iterable[Record], what: str) -> Iterable[Record]:
        for record in records:
            seen.append((what, record.name))
            yield record

    evaluate(source, benchmark, ["s"], progress=progress)
    assert seen == [(what, str(i)) for what in ("evaluate", "thresholds") for i in range(4)]


def test_the_json_holds_what_was_measured_and_nothing_else(tmp_path: Path) -> None:
    source, benchmark, _ = anomaly_benchmark(track="obstacle")
    write_json(tmp_path / "r.json", evaluate(source, benchmark, ["s"]).to_json())
    plain = json.loads((tmp_path / "r.json").read_text())
    assert set(plain) == {
        "benchmark", "split", "model", "images", "anomaly_share", "scores", "notes", "outmask"
    }  # fmt: skip
    assert set(plain["scores"]["s"]) == {"AP", "AUROC", "FPR95", "FPR90", "best_F1", "intervals", "thresholds"}
    (oracle,) = plain["scores"]["s"]["thresholds"]
    assert set(oracle) == {"threshold", "origin", "oracle", "pixels", "components"}
    assert set(oracle["components"]["F1_per_threshold"]) == {str(tau) for tau in range(25, 80, 5)}


def test_a_threshold_may_be_a_whole_number() -> None:
    source, benchmark, _ = anomaly_benchmark(track="obstacle")
    given = evaluate(source, benchmark, ["s"], Settings({"s": Threshold(0, "by hand")})).scores["s"].thresholds[0]
    assert given.pixels is not None
    assert given.components is not None
    assert str(given.at) == "0.0"
