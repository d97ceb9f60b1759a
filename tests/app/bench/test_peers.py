"""That what is timed is the same thing as its peer, on inputs of a thousandth: the ratios are no test's matter."""

from __future__ import annotations

import pytest
import torch

from outmask.app.bench import deformable, scores, speed
from outmask.models.backbones import PRESETS
from outmask.scores import evaluate
from outmask.types import MaskPrediction


def test_plain_scores_are_those_of_the_engine() -> None:
    torch.manual_seed(0)
    prediction = MaskPrediction(torch.randn(2, 9, 6), 4 * torch.randn(2, 9, 7, 11))
    plain = scores.plain_scores(prediction, (29, 40))
    ours = evaluate(prediction, ["eam", "aem"], (29, 40))
    for name in ("eam", "aem"):
        torch.testing.assert_close(plain[name], ours[name], atol=1e-5, rtol=1e-5)
    assert scores.label_shortfall(prediction, (29, 40)) < 1e-6
    assert (plain["labels"] != 0).any()


def test_a_wrong_label_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    prediction = MaskPrediction(torch.randn(1, 9, 6), 4 * torch.randn(1, 9, 7, 11))
    monkeypatch.setattr(scores, "evaluate", lambda *_: {"labels": torch.zeros(1, 29, 40, dtype=torch.int64)})
    assert scores.label_shortfall(prediction, (29, 40)) > 0.01


def test_scores_and_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scores, "_SIZE", (64, 128))
    monkeypatch.setattr(scores, "_MASK_SIZE", (16, 32))
    monkeypatch.setattr(scores, "_REPEATS", 1)
    report = scores.scores()
    random, trained, segments = report.values["comparisons"]
    assert random["difference"] < 1e-5
    assert trained["difference"] < 1e-5
    assert segments["difference"] is None
    assert "100 masks of the model street" in trained["name"]


def test_deformable_attention_and_its_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deformable, "_SIZE", (64, 128))
    monkeypatch.setattr(deformable, "_REPEATS", 1)
    comparisons = deformable.deformable().values["comparisons"]
    assert len(comparisons) == 4
    assert all(one["difference"] < 1e-4 for one in comparisons)


def test_the_whole_model_and_its_roofline(monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [16, 24, 32, 40], "depths": [1, 1, 1, 1]}
    monkeypatch.setitem(PRESETS, "resnet50", small)
    monkeypatch.setattr(speed, "_SIZE", (64, 96))
    monkeypatch.setattr(speed, "_REPEATS", {"resnet50": 1})
    report = speed.speed()
    forward, scored, *exported = report.values["comparisons"]
    assert forward["difference"] < 1e-4
    assert scored["difference"] is None  # transformers resizes to 384 x 384 first
    assert [one["peer"].split(",")[0] for one in exported] == ["onnxruntime", "openvino"]
    assert all(one["difference"] < 1e-4 for one in exported)
    assert 0 < report.values["roofline"]["resnet50"]["share"] < 1
    assert report.notes[0].startswith("roofline  resnet50")
