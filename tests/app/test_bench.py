"""``outmask bench``: how two ways are compared, and that the peers are what they say."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from outmask.app import bench
from outmask.app.cli import main
from outmask.metrics import ComponentMetrics
from outmask.training import bench as training_bench
from outmask.training import loading


def test_the_ratio_is_the_peers_time_by_ours_and_the_difference_that_of_the_outputs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def ours() -> bench.Values:
        block = np.zeros(250_000)  # 2 MB
        return {"AP": 50.0, "FPR95": float(block[0])}

    def peer() -> bench.Values:
        return {"AP": 50.25, "FPR95": 0.0}

    seconds = {ours: iter([2, 4, 9, 1, 1, 1, 3, 5, 4]), peer: iter([8, 8, 8])}
    monkeypatch.setattr(bench, "_seconds", lambda run: next(seconds[run]))
    one = bench.compare("x", "y", ours, peer, repeats=3, ours_per_peer=3)
    assert (one.ratio, one.spread) == (2, (2, 8))  # 8 by the medians 4, 1 and 4
    assert one.difference == 0.25
    assert one.peak_mb == pytest.approx(2, rel=0.05)
    assert one.peer_peak_mb is not None
    assert one.peer_peak_mb < 0.1


@pytest.mark.parametrize("seed", range(5))
def test_the_loop_over_components_gives_our_values(seed: int) -> None:
    rng = np.random.default_rng(seed)
    label = np.kron(rng.choice(np.array([0, 1, 255], np.uint8), (8, 10), p=[0.6, 0.3, 0.1]), np.ones((5, 5), np.uint8))
    mask = np.kron(rng.random((10, 8)) < 0.4, np.ones((4, 6))).astype(bool)[:40, :48]
    mask = np.pad(mask, ((0, 0), (0, 2)))
    metric = ComponentMetrics("obstacle")
    metric.update(mask, label)
    values = metric.compute()
    assert bench.component_loop(mask, label, (50, 10)) == pytest.approx(
        {name: values[name] for name in ("sIoU", "PPV", "F1")}
    )


def test_the_table_and_the_json_say_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On inputs of a thousandth: the machine's own figures are no test's matter."""
    monkeypatch.setattr(bench, "_IMAGES", 2)
    monkeypatch.setattr(bench, "_IMAGE_PIXELS", 50_000)
    monkeypatch.setattr(bench, "_PANOPTIC_SIZE", (64, 128))
    monkeypatch.setattr(bench, "_MAP_SIZE", (108, 192))
    assert main(["bench", "metrics", "--json", str(tmp_path / "b.json")]) == 0
    stored = json.loads((tmp_path / "b.json").read_text())
    output = capsys.readouterr().out
    assert len(stored["comparisons"]) == 4
    for one in stored["comparisons"]:
        assert one["name"] in output
        assert f" {one['ratio']:.1f} " in output
        assert one["difference"] < 0.1  # a thousandth
    assert stored["machine"] in output


def test_training_is_compared_in_both_precisions_and_with_its_loading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is measured is tests/training's matter."""
    full, half = torch.float32, torch.bfloat16
    found = [
        training_bench.TrainingComparison(full, full, (1.0, 2.0), (2.0, 6.0), {}, 1e-7, 0.0),
        training_bench.TrainingComparison(half, half, (1.0, 1.0), (1.0, 1.5), {}, 2e-3, 0.0),
        training_bench.TrainingComparison(half, full, (1.0, 1.0), (4.0, 5.0), {}, 3e-3, 0.0),
    ]
    monkeypatch.setattr(training_bench, "compare_training", lambda steps, size: found)
    monkeypatch.setattr(loading, "synthetic_recipes", lambda root: {"small": 1, "large": 2})
    shares = {1: loading.LoadingShare(0.25, 0.125), 2: loading.LoadingShare(0.0625, 0.03125)}
    monkeypatch.setattr(loading, "compare_loading", shares.__getitem__)
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
    assert stored["loading"] == [
        {"name": "small", "from_disk": 0.25, "from_memory": 0.125},
        {"name": "large", "from_disk": 0.0625, "from_memory": 0.03125},
    ]
    output = capsys.readouterr().out
    assert "loading  small: one process makes a batch in 25.0% of its training step's time, 12.5% where" in output


def test_bad_usage_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "metrics", "--json", "/nowhere/b.json"]) == 2
    assert "its folder does not exist" in capsys.readouterr().err
    assert main(["bench", "everything"]) == 2
