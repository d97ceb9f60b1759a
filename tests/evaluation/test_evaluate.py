"""Evaluation of a segmenter whose every mask is known."""

import json
import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.metrics import average_precision_score, roc_auc_score

from outmask.errors import OutmaskError
from outmask.evaluation import Record, Report, evaluate, open_benchmark
from outmask.types import MaskPrediction


class RedIsKnown:
    """One mask, of class 0, whose logit at a pixel is ``(red - 128) / 32``: AM is ``-sigmoid`` of that."""

    name = "red is known"

    def __init__(self) -> None:
        self.passes = 0

    def prediction(self, image: NDArray[np.uint8]) -> MaskPrediction:
        self.passes += 1
        logits = (torch.from_numpy(image[..., 0]).float() - 128) / 32
        return MaskPrediction(torch.tensor([[[4.0, 0.0, 0.0]]]), logits[None, None])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three images with labels; the last one without an anomaly."""
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    (tmp_path / "labels_masks").mkdir()
    for index, shares in enumerate(([0.7, 0.2, 0.1], [0.5, 0.4, 0.1], [1, 0, 0])):
        label = rng.choice(np.array([0, 1, 255], np.uint8), (12, 20), p=shares)
        red = np.where(label == 1, rng.integers(0, 180, label.shape), rng.integers(60, 256, label.shape))
        Image.fromarray(np.dstack([red.astype(np.uint8)] * 3)).save(tmp_path / f"images/{index}.png")
        Image.fromarray(label).save(tmp_path / f"labels_masks/{index}.png")
    return tmp_path


def test_scores_are_pooled_over_all_images_in_one_pass_each(root: Path) -> None:
    segmenter = RedIsKnown()
    report = evaluate(segmenter, open_benchmark("folder", root), ["am", "eam"])
    assert segmenter.passes == 3
    assert (report.benchmark, report.model, report.images) == ("folder", "red is known", 3)

    reds = [np.asarray(Image.open(root / f"images/{index}.png"))[..., 0].ravel() for index in range(3)]
    labels = np.concatenate([np.asarray(Image.open(root / f"labels_masks/{index}.png")).ravel() for index in range(3)])
    score = -np.concatenate(reds).astype(float)[labels < 2]
    labels = labels[labels < 2]
    # With a single mask, EAM is AM scaled. The last bit of a sigmoid depends on where its value stands in a vector, so
    # that a few of the ties between equal reds are broken: no more than a hundredth of a percent.
    for name in ("am", "eam"):
        assert report.scores[name]["AP"] == pytest.approx(100 * average_precision_score(labels, score), abs=0.01)
        assert report.scores[name]["AUROC"] == pytest.approx(100 * roc_auc_score(labels, score), abs=0.01)
        assert set(report.scores[name]) == {"AP", "AUROC", "FPR95", "FPR90"}
    assert report.anomaly_share == pytest.approx(100 * labels.mean())


def test_scores_are_evaluated_at_the_labels_size(root: Path) -> None:
    """Labels of twice the image's resolution are compared at their own."""
    for path in (root / "labels_masks").iterdir():
        label = Image.open(path)
        label.resize((40, 24), Image.Resampling.NEAREST).save(path)
    report = evaluate(RedIsKnown(), open_benchmark("folder", root), ["am"])
    assert 0 < report.scores["am"]["AP"] < 100


def test_a_label_of_another_shape_is_refused(root: Path) -> None:
    Image.new("L", (12, 20)).save(root / "labels_masks/1.png")
    with pytest.raises(OutmaskError, match=r"^1: the label of 12x20 pixels does not fit .* of 20x12 pixels$"):
        evaluate(RedIsKnown(), open_benchmark("folder", root), ["am"])


def test_nan_names_image_and_score(root: Path) -> None:
    class Broken(RedIsKnown):
        def prediction(self, image: NDArray[np.uint8]) -> MaskPrediction:
            good = super().prediction(image)
            return MaskPrediction(good.class_logits, good.mask_logits * float("nan" if self.passes == 2 else 1))

    with pytest.raises(OutmaskError, match=r"^1, score am: .*NaN"):
        evaluate(Broken(), open_benchmark("folder", root), ["am"])


@pytest.mark.parametrize(("names", "message"), [([], "no score.*eam"), (["am", "best"], "'best'.*eam")])
def test_unknown_scores_are_refused_before_any_pass(root: Path, names: list[str], message: str) -> None:
    segmenter = RedIsKnown()
    with pytest.raises(OutmaskError, match=message):
        evaluate(segmenter, open_benchmark("folder", root), names)
    assert segmenter.passes == 0


def test_progress_sees_every_record(root: Path) -> None:
    seen: list[str] = []

    def progress(records: Iterable[Record]) -> Iterable[Record]:
        for record in records:
            seen.append(record.name)
            yield record

    evaluate(RedIsKnown(), open_benchmark("folder", root), ["am"], progress)
    assert seen == ["0", "1", "2"]


def test_report_is_plain_json_with_null_for_undefined() -> None:
    values = {"AP": 50.0, "AUROC": math.nan, "FPR95": math.nan, "FPR90": math.nan}
    report = Report("folder", "street", 3, 100.0, {"eam": values})
    plain = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert plain["scores"]["eam"] == {"AP": 50.0, "AUROC": None, "FPR95": None, "FPR90": None}
    assert (plain["benchmark"], plain["model"], plain["images"]) == ("folder", "street", 3)
