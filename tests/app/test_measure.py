"""``outmask evaluate``: its table, its JSON, its refusals."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import average_precision_score

from outmask.app.cli import main


@pytest.fixture
def root(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for folder in ("images", "labels_masks"):
        (tmp_path / folder).mkdir()
    for name in "ab":
        label = (rng.random((9, 12)) < 0.3).astype(np.uint8)
        grey = rng.integers(0, 180, label.shape) + 70 * label
        Image.fromarray(np.dstack([grey.astype(np.uint8)] * 3)).save(tmp_path / f"images/{name}.png")
        Image.fromarray(label).save(tmp_path / f"labels_masks/{name}.png")
    return tmp_path


def test_the_table_and_the_json_say_the_same(
    segmenter: Any, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--benchmark", "folder", "--root", str(root), "--score", "am, eam", "--json", str(tmp_path / "r.json")]
    assert main(["evaluate", *arguments]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    report = json.loads((tmp_path / "r.json").read_text())
    assert (report["benchmark"], report["model"], report["images"]) == ("folder", "street", 2)
    assert list(report["scores"]) == ["am", "eam"]
    rows = [line for line in captured.out.splitlines() if any(f" {name} " in line for name in report["scores"])]
    for row, values in zip(rows, report["scores"].values(), strict=True):
        for metric in ("AP", "FPR95", "FPR90", "AUROC"):
            assert f"{values[metric]:.2f}" in row
    assert f"{report['anomaly_share']:.2f}" in captured.out

    pairs = [(np.asarray(Image.open(root / f"images/{name}.png"))[..., 0].ravel(),
              np.asarray(Image.open(root / f"labels_masks/{name}.png")).ravel()) for name in "ab"]  # fmt: skip
    expected = average_precision_score(*(np.concatenate([pair[i] for pair in pairs]) for i in (1, 0)))
    assert report["scores"]["am"]["AP"] == pytest.approx(100 * expected, abs=0.1)  # ties, see test_evaluate


def test_an_undefined_metric_is_a_dash(segmenter: Any, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for label in (root / "labels_masks").iterdir():
        Image.new("L", (12, 9)).save(label)
    assert main(["evaluate", "--benchmark", "folder", "--root", str(root)]) == 0
    (row,) = [line for line in capsys.readouterr().out.splitlines() if " eam " in line]
    assert row.count(" - ") == 4


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"--benchmark": "kitti"}, "road_anomaly, folder"),
        ({"--benchmark": "road_anomaly"}, "frame_list.json"),
        ({"--root": "/nowhere"}, "/nowhere"),
        ({"--score": "eam,best"}, "best"),
        ({"--score": ""}, "choose from"),
        ({"--model": "none"}, "none"),
        ({"--json": "/nowhere/r.json"}, "/nowhere"),
        ({"--anomaly-id": "two"}, "two"),
        ({"--anomaly-id": "7"}, "labels_masks/a.png holds 1"),
    ],
)
def test_what_cannot_be_evaluated_is_one_line(
    segmenter: Any, root: Path, capsys: pytest.CaptureFixture[str], change: dict[str, str], named: str
) -> None:
    options = {"--benchmark": "folder", "--root": str(root), **change}
    assert main(["evaluate", *(part for pair in options.items() for part in pair)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert named in line


def test_a_broken_image_ends_the_evaluation(segmenter: Any, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Numbers over the rest would not be the benchmark's."""
    (root / "images/b.png").write_text("no image")
    assert main(["evaluate", "--benchmark", "folder", "--root", str(root), "--json", str(root / "r.json")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "b.png" in line
    assert not (root / "r.json").exists()
