"""Exported files in the place of the model: every task, and refusals."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.export.conftest import SCORES, pixels

import outmask
from outmask.checkpoints import ModelBundle, save_folder
from outmask.errors import OutmaskError
from outmask.export import open_exported

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")

Bundle = Callable[..., ModelBundle]


@pytest.fixture(scope="module")
def folder(bundle: Bundle, exported: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model as a folder, and both its exported files."""
    path = tmp_path_factory.mktemp("model")
    save_folder(bundle("resnet"), path / "tiny")
    openvino = exported("openvino", SCORES, "resnet")
    for file in (exported("onnx", SCORES, "resnet"), openvino, openvino.with_suffix(".bin")):
        shutil.copy(file, path / file.name)
    return path


def image(height: int = 66, width: int = 91) -> np.ndarray:
    return np.asarray(
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((width, height))
    )


@pytest.mark.parametrize("name", ["tiny.onnx", "tiny.xml"])
def test_every_task_gives_what_the_model_gives(folder: Path, name: str) -> None:
    eager, exported = outmask.load(folder / "tiny", device="cpu"), outmask.load(folder / name)
    assert exported.name == name
    assert exported.device == torch.device("cpu")
    assert exported.operating_points == eager.operating_points
    for options in (
        {"score": "rba"},  # which is not in the file
        {"score": "eam", "task": "panoptic", "refine": True},
        {"score": "unclaimed", "flip": True},
    ):
        expected, found = eager.predict(image(), **options), exported.predict(image(), **options)  # type: ignore[call-overload]
        np.testing.assert_allclose(found.score, expected.score, atol=1e-4)
        assert (found.labels != expected.labels).mean() < 1e-3  # classes that tie
        assert found.threshold == expected.threshold
        assert (found.segments is None) == (expected.segments is None)


def test_a_model_is_exported_for_the_runtime(folder: Path) -> None:
    segmenter = outmask.load(folder / "tiny", runtime="openvino")
    assert segmenter.name == "tiny"
    expected = outmask.load(folder / "tiny", device="cpu").predict(image()).score
    np.testing.assert_allclose(segmenter.predict(image()).score, expected, atol=1e-4)


def test_exported_files_are_members_of_ensembles(folder: Path) -> None:
    ensemble = outmask.load([folder / "tiny", folder / "tiny.onnx"], device="cpu")
    single = outmask.load(folder / "tiny", device="cpu")
    np.testing.assert_allclose(ensemble.predict(image()).score, single.predict(image()).score, atol=1e-4)


def test_no_more_is_computed_than_is_asked_for(folder: Path, tmp_path: Path) -> None:
    """The logits alone can be had of a file whose score would fail."""
    written = onnx.load(folder / "tiny.onnx")
    (producer,) = [node for node in written.graph.node if "eam" in node.output]
    written.graph.initializer.append(onnx.numpy_helper.from_array(np.array([7, 7, 7]), "impossible"))
    broken = onnx.helper.make_node("Reshape", [producer.input[0], "impossible"], ["eam"])
    producer.CopyFrom(broken)
    onnx.save(written, tmp_path / "broken.onnx")
    file = open_exported(tmp_path / "broken.onnx")
    assert file(pixels(1, 64, 96)).class_logits.shape == (1, 6, 4)  # type: ignore[union-attr]
    with pytest.raises(Exception, match="cannot be reshaped"):
        file.outputs(pixels(1, 64, 96), ["eam"])


_MODELS_THAT_COME_AND_GO = """
import gc, os, signal, sys
import torch
from outmask.export import open_exported
from pathlib import Path

signal.signal(signal.SIGUSR1, lambda number, frame: print("handled", flush=True))
first, second = (open_exported(Path(sys.argv[1])) for _ in range(2))
for model in (first, second):
    model(torch.zeros(1, 3, 64, 64))
del model, first  # the one that came first goes first
gc.collect()
del second
gc.collect()
os.kill(os.getpid(), signal.SIGUSR1)
"""


def test_signals_can_be_handled_after_models_came_and_went(folder: Path) -> None:
    command = [sys.executable, "-c", _MODELS_THAT_COME_AND_GO, str(folder / "tiny.xml")]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (0, "handled\n"), run.stderr


def test_gradients_are_refused(folder: Path) -> None:
    with pytest.raises(OutmaskError, match="no gradients: use the PyTorch model"):
        outmask.load(folder / "tiny.onnx").predict(image(), score="odin")


def test_the_wrong_runtime_or_device_is_refused(folder: Path) -> None:
    with pytest.raises(
        OutmaskError, match=r"tiny.onnx is for onnxruntime: for openvino, export with --format openvino"
    ):
        outmask.load(folder / "tiny.onnx", runtime="openvino")
    with pytest.raises(OutmaskError, match="run on the CPU, not on cuda"):
        outmask.load(folder / "tiny.onnx", device="cuda")


def test_a_runtime_that_is_not_installed_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(OutmaskError, match=r"onnxruntime is not installed: pip install outmask\[export\]"):
        outmask.load(folder / "tiny.onnx")


def test_files_that_are_none_of_ours_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(OutmaskError, match=r"missing.xml: no such file; outmask export writes one"):
        outmask.load(tmp_path / "missing.xml")
    for name in ("damaged.onnx", "damaged.xml"):
        (tmp_path / name).write_text("nothing of the kind")
        with pytest.raises(OutmaskError, match=f"{name}: no readable file of its kind"):
            outmask.load(tmp_path / name)
    shutil.copy(folder / "tiny.xml", tmp_path / "alone.xml")  # its weights are not beside it
    with pytest.raises(OutmaskError, match="alone.xml: no readable file of its kind"):
        outmask.load(tmp_path / "alone.xml")


@pytest.mark.parametrize(
    ("description", "message"),
    [
        (None, "was not written by outmask export"),
        ("{", "its description of the model is damaged"),
        ('{"outmask_format": 1}', "its description of the model is damaged"),
        ('{"outmask_format": 2}', "a newer outmask may read it"),
    ],
)
def test_descriptions_that_are_none_are_refused(
    folder: Path, tmp_path: Path, description: str | None, message: str
) -> None:
    written = onnx.load(folder / "tiny.onnx")
    del written.metadata_props[:]
    if description is not None:
        onnx.helper.set_model_props(written, {"outmask": description})
    onnx.save(written, tmp_path / "other.onnx")
    with pytest.raises(OutmaskError, match=message):
        outmask.load(tmp_path / "other.onnx")
