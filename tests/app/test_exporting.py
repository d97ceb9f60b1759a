"""``outmask export``, and ``outmask predict --runtime``."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.export.conftest import make_bundle
from torch import Tensor

from outmask.app import exporting
from outmask.app.cli import main
from outmask.checkpoints import save_folder
from outmask.export import Parity

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny"
    save_folder(make_bundle("resnet", decoder_layers=1), path)
    return path


@pytest.fixture(autouse=True)
def small_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "_INPUTS", ((64, 96), (75, 101)))


def images(folder: Path) -> Path:
    folder.mkdir()
    for index, size in enumerate([(97, 70), (64, 90)]):
        pixels = np.random.default_rng(index).integers(0, 256, (5, 7, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize(size).save(folder / f"{index}.png")
    return folder


def test_the_file_runs_alone_and_predicts_what_the_model_does(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, pictures = tmp_path / "tiny.onnx", images(tmp_path / "in")
    assert main(["export", str(file), "--model", str(model), "--format", "onnx", "--score", "am,eam"]) == 0
    out, err = capsys.readouterr()
    rows = out.splitlines()
    assert [row.split()[0] for row in rows[:-1]] == ["am", "eam", "labels", "class_logits", "mask_logits"]
    assert all(float(row.split()[-1]) <= 1e-4 for row in rows[:-1])
    assert rows[-1] == f"{file}: float32, any batch, height and width"
    assert err.splitlines()[1] == f"outmask: exporting {model} to {file}"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "tiny.onnx"]

    for name, options in (
        ("eager", ["--model", str(model)]),
        ("file", ["--model", str(file)]),
        ("runtime", ["--model", str(model), "--runtime", "onnxruntime"]),
    ):
        assert main(["predict", str(pictures), *options, "--out", str(tmp_path / name)]) == 0
        err = capsys.readouterr().err
        assert ("to a temporary file" in err) == (name == "runtime")
    for stem in ("0", "1"):
        eager, file_, runtime = (
            np.load(tmp_path / name / f"{stem}_score.npy") for name in ("eager", "file", "runtime")
        )
        np.testing.assert_allclose(file_, eager, atol=1e-4)
        np.testing.assert_allclose(runtime, eager, atol=1e-4)
    assert json.loads((tmp_path / "runtime/results.json").read_text())["runtime"] == "onnxruntime"


def test_int8_is_calibrated_with_a_folder(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("nncf")
    file, pictures = tmp_path / "tiny.xml", images(tmp_path / "in")
    assert main(["export", str(file), "--model", str(model), "--format", "openvino", "--int8", str(pictures)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"{file}: int8, any batch, height and width"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "tiny.bin", "tiny.xml"]
    graph = file.read_text()
    assert 'type="FakeQuantize"' in graph
    assert "calibration_images" in graph


def test_a_graph_that_computes_something_else_is_not_written(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "compare", lambda *arguments: Parity({"eam": 2e-4, "labels": 0.0}))
    file = tmp_path / "tiny.onnx"
    file.write_text("earlier")
    assert main(["export", str(file), "--model", str(model), "--format", "onnx", "--size", "64x96"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "outmask: the exported model computes something else: eam differs by 2.0e-04, more than 1e-04; nothing was "
        "written"
    )
    assert file.read_text() == "earlier"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("size", [[], ["--size", "64x96"]])
def test_every_try_sees_another_scene(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: list[str]
) -> None:
    seen: list[Tensor] = []

    def compare(model: object, exported: object, pixels: Tensor) -> Parity:
        seen.append(pixels)
        return Parity({"eam": 2e-4})

    monkeypatch.setattr(exporting, "compare", compare)
    monkeypatch.setattr(exporting, "_INPUTS", ((64, 96), (64, 96), (64, 96)))
    assert main(["export", str(tmp_path / "a.onnx"), "--model", str(model), "--format", "onnx", *size]) == 2
    assert [tuple(pixels.shape) for pixels in seen] == [(1, 3, 64, 96)] * 3
    for one, other in itertools.combinations(seen, 2):
        assert (one != other).float().mean() > 0.5


def test_one_unlucky_input_is_no_failure(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = iter([Parity({"eam": 2e-4}), Parity({"eam": 3e-6})])
    monkeypatch.setattr(exporting, "compare", lambda *arguments: next(found))
    assert main(["export", str(tmp_path / "a.onnx"), "--model", str(model), "--format", "onnx"]) == 0
    assert capsys.readouterr().out.startswith("eam                  largest difference 3.0e-06\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.onnx"], "--format"),
        (["a.xml", "--format", "onnx"], "a file of --format onnx ends in .onnx"),
        (["a.onnx", "--format", "onnx", "--size", "64"], "expected HEIGHTxWIDTH"),
        (["a.onnx", "--format", "onnx", "--size", "0x64"], "expected HEIGHTxWIDTH"),
        (["a.onnx", "--format", "onnx", "--score", "emm"], "unknown score 'emm'"),
        (["no/such/folder/a.onnx", "--format", "onnx"], "its folder does not exist"),
        (["b.onnx", "--format", "onnx", "--model", "a.onnx"], "an exported file already"),
        (["a.onnx", "--format", "onnx", "--model", "nothing"], "unknown model 'nothing'"),
        (["a.xml", "--format", "openvino", "--int8", "nowhere"], "nowhere"),
    ],
)
def test_bad_usage_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", *arguments]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert message in lines[-1]
    assert lines[-1].startswith("outmask: ")
    assert list(tmp_path.iterdir()) == []
