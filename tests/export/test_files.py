"""Exported files: what they compute, what they say of themselves, and what is never half there."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.export.conftest import POINTS, SCORES, TAXONOMY, pixels

from outmask.checkpoints import ModelBundle
from outmask.errors import OutmaskError
from outmask.export import TOLERANCE, Format, compare, export, files, open_exported
from outmask.export.description import KEY

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")

Bundle = Callable[..., ModelBundle]
Exported = Callable[..., Path]


@pytest.mark.parametrize(
    ("format_", "backbone", "settings"),
    [
        ("onnx", "resnet", {}),
        ("onnx", "resnet", {"attention": "global"}),
        ("onnx", "mobilenet_v2", {"attention": "cross", "encoder_levels": 1}),
        ("onnx", "convnext", {"negative_class": True}),
        ("openvino", "resnet", {}),
    ],
)
def test_one_file_computes_what_the_model_does_at_any_size(
    bundle: Bundle, exported: Exported, format_: Format, backbone: str, settings: dict[str, Any]
) -> None:
    model, file = bundle(backbone, **settings).model, open_exported(exported(format_, SCORES, backbone, **settings))
    assert file.output_names == (*SCORES, "labels", "class_logits", "mask_logits")
    for shape in ((1, 75, 101), (2, 64, 96), (1, 130, 70)):
        parity = compare(model, file, pixels(*shape))
        assert [*parity.differences] == [*file.output_names]
        assert parity.worst <= TOLERANCE, parity.differences


def test_per_pixel_models_are_exported_too(bundle: Bundle, exported: Exported) -> None:
    kind = ("resnet", "per_pixel")
    names = ("entropy", "densehybrid")
    file = open_exported(exported("onnx", names, *kind, outlier_head=True))
    assert file.output_names == (*names, "labels", "logits", "outlier_logits")
    assert compare(bundle(*kind, outlier_head=True).model, file, pixels(2, 64, 96)).worst <= TOLERANCE


def test_networks_that_decide_by_the_size_are_exported_for_one(bundle: Bundle, tmp_path: Path) -> None:
    swin = bundle("swin")
    path = tmp_path / "swin.onnx"
    with pytest.raises(OutmaskError, match="give --size HEIGHTxWIDTH"):
        export(swin, path, "onnx")
    assert list(tmp_path.iterdir()) == []
    export(swin, path, "onnx", size=(64, 90))
    file = open_exported(path)
    assert compare(swin.model, file, pixels(1, 64, 90)).worst <= TOLERANCE
    with pytest.raises(OutmaskError, match="exported for one image of 64x90, and this input is 2 of 64x96"):
        file(pixels(2, 64, 96))


@pytest.mark.parametrize("format_", ["onnx", "openvino"])
def test_a_file_says_all_that_a_model_folder_says(bundle: Bundle, exported: Exported, format_: Format) -> None:
    description = open_exported(exported(format_, SCORES, "resnet")).description
    assert description.taxonomy == TAXONOMY
    assert description.preprocessing == bundle("resnet").preprocessing
    assert description.operating_points == POINTS
    assert description.negative_class is False
    assert {key: description.config[key] for key in ("name", "licence", "provenance", "export")} == {
        "name": "tiny",
        "licence": "none; for tests",
        "provenance": {"made": "here"},
        "export": {"format": format_, "scores": [*SCORES], "size": None, "precision": "float32"},
    }
    assert description.config["architecture"]["attention"] == "masked"


def test_onnx_carries_its_description_in_its_metadata(bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "new" / "tiny.onnx"
    export(bundle("resnet"), path, "onnx", size=(64, 64))
    written = onnx.load(path)
    onnx.checker.check_model(written)
    (entry,) = written.metadata_props
    assert entry.key == KEY
    assert json.loads(entry.value)["export"]["size"] == [64, 64]
    assert [path.name for path in path.parent.iterdir()] == ["tiny.onnx"]


@pytest.mark.parametrize(
    ("name", "format_", "options", "message"),
    [
        ("a.xml", "onnx", {}, "ends in .onnx"),
        ("a.onnx", "openvino", {}, "ends in .xml"),
        ("a.onnx", "onnx", {"calibration": [torch.zeros(1, 3, 64, 64)]}, "int8 is made by OpenVINO"),
        ("a.onnx", "onnx", {"names": ["msp"]}, "score 'msp'"),
    ],
)
def test_bad_requests_write_nothing(
    bundle: Bundle, tmp_path: Path, name: str, format_: Format, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(OutmaskError, match=message):
        export(bundle("resnet"), tmp_path / name, format_, **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("missing", ["onnx", "openvino"])
def test_a_missing_library_is_one_sentence(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(OutmaskError, match=rf"{missing} is not installed: pip install outmask\[export\]"):
        export(bundle("resnet"), tmp_path / "a.xml", "openvino")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_earlier_file(
    bundle: Bundle, tmp_path: Path, small_disk: Callable[[int], AbstractContextManager[None]]
) -> None:
    path = tmp_path / "tiny.onnx"
    path.write_text("earlier")
    with small_disk(10_000), pytest.raises(OutmaskError, match="cannot write"):
        export(bundle("resnet"), path, "onnx", size=(64, 64))
    assert path.read_text() == "earlier"
    assert list(tmp_path.iterdir()) == [path]


def test_the_dynamic_example_is_a_multiple_of_nothing() -> None:
    # Sizes that need no padding somewhere would leave it out of the trace.
    assert all(side % 2 == 1 and -side % 32 for side in files._EXAMPLE_SIZE)
