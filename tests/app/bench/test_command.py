"""``outmask bench``: what it prints and writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from outmask.app.bench import metrics, train
from outmask.app.bench.comparison import Report
from outmask.app.cli import main
from outmask.training import bench as training_bench
from outmask.training import loading


def test_the_table_and_the_json_say_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On inputs of a thousandth: the machine's own figures are no test's matter."""
    monkeypatch.setattr(metrics, "_IMAGES", 2)
    monkeypatch.setattr(metrics, "_IMAGE_PIXELS", 50_000)
    monkeypatch.setattr(metrics, "_PANOPTIC_SIZE", (64, 128))
    monkeypatch.setattr(metrics, "_MAP_SIZE", (108, 192))
    assert main(["bench", "metrics", "--json", str(tmp_path / "b.json")]) == 0
    stored = json.loads((tmp_path / "b.json").read_text())
    output = capsys.readouterr().out
    assert len(stored["comparisons"]) == 4
    for one in stored["comparisons"]:
        assert one["name"] in output
        assert f" {one['ratio']:.2f} " in output
        assert one["difference"] < 1e-6
    assert stored["machine"] in output


def test_training_is_compared_in_both_precisions_and_with_its_loading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is measured is tests/training's matter."""
    full, half = torch.float32, torch.bfloat16
    found = [
        training_bench.TrainingComparison(full, full, (1.0, 2.0), (2.0, 6.0), {}, (100.0, 200.0), 1e-7, 0.0),
        training_bench.TrainingComparison(half, half, (1.0, 1.0), (1.0, 1.5), {}, (50.0, None), 2e-3, 0.0),
        training_bench.TrainingComparison(half, full, (1.0, 1.0), (4.0, 5.0), {}, (50.0, 200.0), 3e-3, 0.0),
    ]
    monkeypatch.setattr(train, "compare_training", lambda steps, size, peak_memory: found)
    monkeypatch.setattr(train, "synthetic_recipes", lambda root: {"small": 1, "large": 2})
    shares = {1: loading.LoadingShare(0.25, 0.125), 2: loading.LoadingShare(0.0625, 0.03125)}
    monkeypatch.setattr(train, "compare_loading", shares.__getitem__)
    assert main(["bench", "train", "--json", str(tmp_path / "b.json")]) == 0
    stored = json.loads((tmp_path / "b.json").read_text())
    assert set(stored) == {"machine", "comparisons", "loading"}
    precisions = [(one["name"].split(", ")[-1], one["peer"].split("; ")[0][-8:]) for one in stored["comparisons"]]
    assert precisions == [("float32", " float32"), ("bfloat16", "bfloat16"), ("bfloat16", " float32")]
    assert [(one["ratio"], one["spread"]) for one in stored["comparisons"]] == [
        (2.5, [2, 3]),
        (1.25, [1, 1.5]),
        (4.5, [4, 5]),
    ]
    peaks = [(one["peak_mb"], one["peer_peak_mb"]) for one in stored["comparisons"]]
    assert peaks == [(100, 200), (50, None), (50, 200)]
    assert stored["loading"] == [
        {"name": "small", "from_disk": 0.25, "from_memory": 0.125},
        {"name": "large", "from_disk": 0.0625, "from_memory": 0.03125},
    ]
    output = capsys.readouterr().out
    assert "loading  small: one process makes a batch in 25.0% of its training step's time, 12.5% where" in output


def test_a_document_gets_the_table_in_its_place_and_keeps_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Report("what it means", ("", "peer", "times faster"), [("a * b", "c", "2.00")], ["a note"], {})
    monkeypatch.setattr(metrics, "metrics", lambda: found)
    document = tmp_path / "p.md"
    document.write_text(
        "# Before\n<!-- bench metrics -->\nold\n<!-- end -->\nafter\n<!-- bench speed --><!-- end -->\n"
    )
    for _ in range(2):  # the second time replaces the first one's
        assert main(["bench", "metrics", "--markdown", str(document)]) == 0
    text = document.read_text()
    assert text.startswith("# Before\n<!-- bench metrics -->\n`outmask bench metrics`:\n")
    assert text.endswith("<!-- end -->\nafter\n<!-- bench speed --><!-- end -->\n")
    assert text.count("| a \\* b | c | 2.00 |") == 1
    assert "- a note\n- measured on " in text
    assert "old" not in text


def test_a_document_without_a_place_is_refused_before_anything_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = tmp_path / "p.md"
    document.write_text("nothing here")
    assert main(["bench", "growth", "--markdown", str(document)]) == 2
    assert "<!-- bench growth -->" in capsys.readouterr().err
    assert document.read_text() == "nothing here"


def test_bad_usage_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "metrics", "--json", "/nowhere/b.json"]) == 2
    assert "its folder does not exist" in capsys.readouterr().err
    assert main(["bench", "everything"]) == 2
