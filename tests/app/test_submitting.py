"""``outmask submit``: a whole track becomes files that read back in the order of the scores."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.stats import spearmanr

from outmask import scores
from outmask.app.cli import main
from outmask.evaluation.score_files import read_score


@pytest.fixture
def track(tmp_path: Path) -> Path:
    """The obstacle track in small: a validation frame, test frames, and snow that belongs to no split."""
    root = tmp_path / "dataset_ObstacleTrack"
    for folder in ("images", "labels_masks"):
        (root / folder).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ("validation_1", "gravel_1", "gravel_2.578", "snowstorm1_3"):
        image = np.repeat(rng.integers(0, 256, (24, 32, 1), dtype=np.uint8), 3, 2)
        Image.fromarray(image).save(root / f"images/{name}.webp", lossless=True)
    label = (rng.random((24, 32)) < 0.2).astype(np.uint8)
    Image.fromarray(label).save(root / "labels_masks/validation_1_labels_semantic.png")
    return root


def submit(track: Path, out: Path, *more: str) -> int:
    return main(["submit", "--benchmark", "smiyc_obstacle21", "--root", str(track), "--score", "eam",
                 "--method", "mine", "--out", str(out), *more])  # fmt: skip


def test_every_image_of_the_track_is_written_in_the_order_of_its_score(
    segmenter: Any, track: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "submission"
    assert submit(track, out) == 0
    files = sorted((out / "anomaly_p/mine/ObstacleTrack-all").iterdir())
    assert [path.name for path in files] == [
        f"{name}.hdf5" for name in ("gravel_1", "gravel_2.578", "snowstorm1_3", "validation_1")
    ]
    for path in files:
        image = np.asarray(Image.open(track / f"images/{path.stem}.webp"))
        expected = scores.score(segmenter.prediction(image), "eam", image.shape[:2])[0].numpy()
        assert spearmanr(read_score(path).ravel(), expected.ravel()).statistic == pytest.approx(1, abs=1e-6)
    report = json.loads((out / "mine_ObstacleTrack-all.json").read_text())
    assert (report["frames"], report["labelled"]) == (4, 1)
    captured = capsys.readouterr().out
    assert f"AP {report['before']['AP']:.2f} -> {report['after']['AP']:.2f}" in captured
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dataset_ObstacleTrack", "submission"]


def test_an_interrupted_submission_resumes(
    segmenter: Any, track: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, calls, own = tmp_path / "submission", [], segmenter.prediction

    def interrupted(image: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return own(image)

    monkeypatch.setattr(segmenter, "prediction", interrupted)
    assert submit(track, out) == 130
    assert "--resume goes on" in capsys.readouterr().err
    assert not out.exists()
    assert submit(track, out) == 2
    assert submit(track, out, "--resume") == 0
    assert len(calls) == 5  # two, the interrupted one, and the two that were left


def test_a_track_without_validation_frames_is_written_and_says_so(
    segmenter: Any, track: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (track / "images/validation_1.webp").unlink()
    shutil.rmtree(track / "labels_masks")
    assert submit(track, tmp_path / "o") == 0
    captured = capsys.readouterr()
    assert "the cost of float16 is not known" in captured.err
    assert "AP" not in captured.out
    assert "% of the pixel pairs became ties" in captured.out


def test_fishyscapes_gets_two_arrays_for_each_input(segmenter: Any, tmp_path: Path) -> None:
    (tmp_path / "input").mkdir()
    Image.new("RGB", (20, 10)).save(tmp_path / "input/0007_x_rgb.png")
    out = tmp_path / "output"
    assert main(["submit", "--benchmark", "fishyscapes", "--root", str(tmp_path / "input"), "--out", str(out)]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["0007_anomaly.npy", "0007_segmentation.npy"]
    assert np.load(out / "0007_anomaly.npy").shape == (10, 20)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"--benchmark": "camvid"}, "camvid takes no submissions; expected one of smiyc_anomaly21"),
        ({"--benchmark": "smiyc_anomaly21"}, "dataset_AnomalyTrack/images"),
        ({"--score": "best"}, "best"),
        ({"--root": "/nowhere"}, "/nowhere"),
        ({"--method": "a/b"}, "a/b"),
        ({"--out": "/"}, "--out / is no folder"),
        ({"--benchmark": "fishyscapes", "--method": "x"}, "fishyscapes takes no --method"),
    ],
)
def test_bad_usage_is_one_line(
    segmenter: Any, track: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, str], named: str
) -> None:
    options = {"--benchmark": "smiyc_obstacle21", "--root": str(track), "--out": str(tmp_path / "o"), **change}
    assert main(["submit", *(part for pair in options.items() for part in pair)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert named in lines[-1]
    assert not list(tmp_path.glob(".*"))  # no maps of a run that never began
