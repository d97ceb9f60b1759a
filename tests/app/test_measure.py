"""``outmask evaluate``: its tables, its JSON, its page, its refusals, and how it goes on after an interruption."""

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
    """Two images whose anomalies are bright."""
    rng = np.random.default_rng(0)
    root = tmp_path / "benchmark"
    for folder in ("images", "labels_masks"):
        (root / folder).mkdir(parents=True)
    for name in "ab":
        label = (rng.random((90, 120)) < 0.3).astype(np.uint8)
        grey = rng.integers(0, 180, label.shape) + 70 * label
        Image.fromarray(np.dstack([grey.astype(np.uint8)] * 3)).save(root / f"images/{name}.png")
        Image.fromarray(label).save(root / f"labels_masks/{name}.png")
    return root


def evaluate(root: Path, *arguments: str) -> int:
    return main(["evaluate", "--benchmark", "folder", "--root", str(root), *arguments])


def test_the_table_and_the_json_say_the_same(
    segmenter: Any, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(root, "--score", "am, eam", "--json", str(tmp_path / "r.json"), "--emulate", "float16") == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    report = json.loads((tmp_path / "r.json").read_text())
    assert (report["benchmark"], report["model"], report["images"]) == ("folder", "street", 2)
    assert list(report["scores"]) == ["am", "eam"]
    lines = captured.out.splitlines()
    for name, values in report["scores"].items():
        row, rounded = (next(line for line in lines if f"│ {start} " in line) for start in (name, f"{name} in float16"))
        for metric in ("AP", "FPR95", "FPR90", "AUROC", "best_F1"):
            assert f" {values[metric]:.2f} " in row
            assert f" {values['float16'][metric]:.2f} " in rounded
        low, high = values["intervals"]["AP"]
        assert f"[{low:.1f}, {high:.1f}]" in row
    assert f"{report['anomaly_share']:.2f}" in captured.out

    pairs = [(np.asarray(Image.open(root / f"images/{name}.png"))[..., 0].ravel(),
              np.asarray(Image.open(root / f"labels_masks/{name}.png")).ravel()) for name in "ab"]  # fmt: skip
    expected = average_precision_score(*(np.concatenate([pair[i] for pair in pairs]) for i in (1, 0)))
    # The last bit of a sigmoid depends on where its value stands in a vector, so that some ties are broken.
    assert report["scores"]["am"]["AP"] == pytest.approx(100 * expected, abs=0.1)


def test_the_models_threshold_and_the_oracle_are_told_apart(
    segmenter: Any, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    segmenter.operating_points = {"am": {"threshold": -0.5, "origin": "TPR 95 on camvid val"}}
    assert evaluate(root, "--score", "am", "--border", "2", "--json", str(tmp_path / "r.json")) == 0
    captured = capsys.readouterr()
    chosen, oracle = json.loads((tmp_path / "r.json").read_text())["scores"]["am"]["thresholds"]
    assert (chosen["threshold"], chosen["origin"], chosen["oracle"]) == (-0.5, "TPR 95 on camvid val", False)
    assert oracle["oracle"]
    (row,) = [line for line in captured.out.splitlines() if "TPR 95 on camvid val" in line]
    assert f" {chosen['pixels']['TPR']:.2f} " in row
    assert "best pixel F1 of this split (oracle)" in captured.out
    assert "false positives within 2 pixels" in captured.out
    assert evaluate(root, "--score", "am", "--threshold", "-0.25", "--json", str(tmp_path / "r.json")) == 0
    given = json.loads((tmp_path / "r.json").read_text())["scores"]["am"]["thresholds"][0]
    assert (given["threshold"], given["origin"]) == (-0.25, "given with --threshold")


def test_the_page_is_written(segmenter: Any, root: Path, tmp_path: Path) -> None:
    assert evaluate(root, "--score", "eam", "--html", str(tmp_path / "r.html")) == 0
    page = (tmp_path / "r.html").read_text()
    assert page.startswith("<!doctype html>")
    assert "data:image/jpeg;base64," in page


def test_score_files_of_anybody_give_the_same_numbers(
    segmenter: Any, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", str(root / "images"), "--out", str(tmp_path / "p"), "--score", "am"]) == 0
    for options, name in ((("--score", "am"), "am"), (("--predictions", str(tmp_path / "p")), "score")):
        assert evaluate(root, *options, "--json", str(tmp_path / f"{name}.json")) == 0
    by_model, by_files = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("am", "score"))
    assert by_files["scores"]["score"] == by_model["scores"]["am"]
    assert by_files["model"] == str(tmp_path / "p")


def test_an_undefined_metric_is_a_dash(segmenter: Any, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for label in (root / "labels_masks").iterdir():
        Image.new("L", (120, 90)).save(label)
    assert evaluate(root) == 0
    (row,) = [line for line in capsys.readouterr().out.splitlines() if " eam " in line]
    assert row.count(" - ") == 5


def test_an_interrupted_evaluation_resumes_and_gives_the_same(
    segmenter: Any, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, json_file = str(tmp_path / "run"), tmp_path / "r.json"
    assert evaluate(root, "--score", "am,eam", "--json", str(json_file)) == 0
    uninterrupted = json_file.read_text()
    predicted: list[float] = []
    own = segmenter.prediction

    def interrupted(image: Any) -> Any:
        if len(predicted) == 1:
            raise KeyboardInterrupt
        predicted.append(image.mean())
        return own(image)

    monkeypatch.setattr(segmenter, "prediction", interrupted)
    json_file.unlink()
    options = ("--score", "am,eam", "--out", out, "--json", str(json_file))
    assert evaluate(root, *options) == 130
    assert "--resume goes on from" in capsys.readouterr().err
    assert not json_file.exists()
    assert evaluate(root, *options) == 2  # not without saying so
    assert "--resume" in capsys.readouterr().err
    monkeypatch.setattr(segmenter, "prediction", lambda image: predicted.append(image.mean()) or own(image))
    assert evaluate(root, *options, "--resume") == 0
    assert len(predicted) == len(set(predicted)) == 2  # each image once
    assert json_file.read_text() == uninterrupted
    assert evaluate(root, "--score", "am", "--out", out, "--resume") == 2
    assert "with another scores" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"--benchmark": "kitti"}, "road_anomaly"),
        ({"--benchmark": "streethazards"}, "test/annotations/test"),
        ({"--root": "/nowhere"}, "/nowhere"),
        ({"--split": "night"}, "night"),
        ({"--score": "eam,best"}, "best"),
        ({"--score": ""}, "choose from"),
        ({"--model": "none"}, "none"),
        ({"--json": "/nowhere/r.json"}, "/nowhere"),
        ({"--html": "/nowhere/r.html"}, "--html /nowhere/r.html: its folder does not exist"),
        ({"--anomaly-id": "two"}, "two"),
        ({"--anomaly-id": "7"}, "labels_masks/a.png holds 1"),
        ({"--border": "0"}, "--border must be at least 1"),
        ({"--emulate": "float8"}, "float8"),
        ({"--score": "am,eam", "--threshold": "-1e-3"}, "--threshold is of one score"),
        ({"--predictions": "/nowhere"}, "--predictions /nowhere: no such folder"),
        ({"--predictions": ".", "--score": "a,b"}, "one score per image, but --score names 2"),
        ({"--predictions": ".", "--score": "a,"}, "empty name"),
        ({"--predictions": ".", "--out": "x"}, "are on disk already"),
        ({"--threshold": "1e300"}, "float32"),
        ({"--threshold": "-inf"}, "expected float, got -inf"),
        ({"--json": "/"}, "--json / is a folder"),
    ],
)
def test_what_cannot_be_evaluated_is_one_line(
    segmenter: Any, root: Path, capsys: pytest.CaptureFixture[str], change: dict[str, str], named: str
) -> None:
    options = {"--benchmark": "folder", "--root": str(root), **change}
    assert main(["evaluate", *(part for pair in options.items() for part in pair)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert named in line


def test_options_without_effect_are_refused(segmenter: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    Image.new("RGB", (12, 9)).save(tmp_path / "images/a.png")
    Image.new("L", (12, 9)).save(tmp_path / "labels/a.png")
    assert main(["evaluate", "--benchmark", "folder", "--root", ".", "--predictions", ".", "--flip"]) == 2
    assert "--predictions are scores already: --flip would have no effect" in capsys.readouterr().err
    camvid = ["evaluate", "--benchmark", "camvid", "--root", str(tmp_path)]
    assert main([*camvid, "--border", "3", "--emulate", "float16"]) == 2
    assert "camvid measures classes only: --emulate, --border would have no effect" in capsys.readouterr().err


def test_resuming_needs_the_folder(segmenter: Any, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate(root, "--resume") == 2
    assert "--resume goes with --out" in capsys.readouterr().err


def test_a_broken_image_ends_the_evaluation(segmenter: Any, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Numbers over the rest would not be the benchmark's."""
    (root / "images/b.png").write_text("no image")
    assert evaluate(root, "--json", str(root / "r.json"), "--html", str(root / "r.html")) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "b.png" in line
    assert not (root / "r.json").exists()
    assert not (root / "r.html").exists()
