"""``outmask bench``: how two ways are compared, and that the peers are what they say."""

import json
from pathlib import Path

import numpy as np
import pytest

from outmask.app import bench
from outmask.app.cli import main
from outmask.metrics import ComponentMetrics


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


def test_a_training_step_has_transformers_losses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "_TRAIN_STEPS", 1)
    monkeypatch.setattr(bench, "_TRAIN_SIZE", 64)
    assert main(["bench", "train", "--json", str(tmp_path / "b.json")]) == 0
    (one,) = json.loads((tmp_path / "b.json").read_text())["comparisons"]
    assert one["difference"] < 1e-3
    assert one["peak_mb"] is None


def test_bad_usage_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "metrics", "--json", "/nowhere/b.json"]) == 2
    assert "its folder does not exist" in capsys.readouterr().err
    assert main(["bench", "everything"]) == 2
