"""Writing a model as ONNX or in OpenVINO's format, float32 or int8.

Both come from one TorchScript trace, which records sizes as operations of the graph: one file takes any batch, height
and width. ``torch.export`` would prove instead what it knows of symbolic sizes; for networks that halve odd sizes five
times it took minutes where it succeeded.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from outmask.checkpoints import ModelBundle
from outmask.errors import OutmaskError
from outmask.export.description import KEY, describe
from outmask.export.graph import ExportGraph
from outmask.export.int8 import LEFT_IN_FLOAT, quantized
from outmask.export.libraries import library
from outmask.models import Model
from outmask.models.backbones import TransformersBackbone
from outmask.models.semantic_segmentation import SemanticSegmentationModel

Format = Literal["onnx", "openvino"]
Runtime = Literal["onnxruntime", "openvino"]
Size = tuple[int, int]

FORMATS: dict[Format, str] = {"onnx": ".onnx", "openvino": ".xml"}
"""The suffix of each format's file; OpenVINO's has its weights beside it, in a ``.bin``."""
RUNTIMES: dict[Runtime, Format] = {"onnxruntime": "onnx", "openvino": "openvino"}

# The oldest ONNX operators that have GridSample and what the Resize of today means.
_OPSET = 18
# Odd, and no multiple of any stride: what a trace records of it holds for every size.
_EXAMPLE_SIZE = (75, 101)


def export(
    bundle: ModelBundle,
    path: Path,
    format_: Format,
    names: Sequence[str] = ("eam",),
    size: Size | None = None,
    calibration: Sequence[Tensor] = (),
) -> None:
    """Write a model with its scores, whole or not at all; the weights' licence and all else go into the file.

    Args:
        bundle: what to write, on the CPU.
        path: the file, with its format's suffix.
        format_: ``"onnx"`` or ``"openvino"``.
        names: scores of the graph.
        size: ``(height, width)`` of the pixels, batch 1; None for any batch and size.
        calibration: ``(1, 3, h, w)`` normalised pixels of images like those to come: the file computes in int8.

    Raises:
        OutmaskError: on another suffix, a score that the model does not have, a model that needs its size given, int8
            in ONNX, a missing library, or a file that can't be written.
    """
    check_path(path, format_)
    if calibration and format_ != "openvino":
        raise OutmaskError("int8 is made by OpenVINO's quantisation: export with --format openvino")
    if size is None and not any_size(bundle.model):
        raise OutmaskError(
            f"{bundle.name} has a network that decides by the image's size: give --size HEIGHTxWIDTH, and it is "
            "exported for images that are resized to it"
        )
    graph = ExportGraph(bundle.model, names).eval()
    made: dict[str, Any] = {
        "format": format_,
        "scores": list(names),
        "size": None if size is None else list(size),
        "precision": "int8" if calibration else "float32",
    }
    if calibration:
        made |= {"calibration_images": len(calibration), "left_in_float": LEFT_IN_FLOAT}
    description = describe(bundle, made)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.", suffix=".partial") as folder:
            beside = Path(folder) / "model.onnx"
            _write_onnx(graph, beside, size, description)
            if format_ == "onnx":
                beside.replace(path)
                return
            network = library("openvino").convert_model(beside)
            if calibration:
                network = quantized(network, calibration)
            network.set_rt_info(description, [KEY])
            beside = beside.with_suffix(".xml")
            library("openvino").save_model(network, beside, compress_to_fp16=False)
            beside.with_suffix(".bin").replace(path.with_suffix(".bin"))
            beside.replace(path)
    except OSError as error:
        raise OutmaskError(f"cannot write {path}: {error.strerror or error}") from error


def check_path(path: Path, format_: Format) -> None:
    """Refuse a name that is not the format's.

    Raises:
        OutmaskError: says which suffix it takes.
    """
    if path.suffix != FORMATS[format_]:
        raise OutmaskError(f"{path}: a file of --format {format_} ends in {FORMATS[format_]}")


def any_size(model: Model) -> bool:
    """Whether one trace of a model holds for every size.

    Swin pads, shifts and shrinks its windows by what it finds the size to be, in Python; other networks of
    transformers' may do alike.
    """
    if isinstance(model, SemanticSegmentationModel):
        return False
    backbone = model.backbone
    return not (isinstance(backbone, TransformersBackbone) and backbone.body.config.model_type == "swin")


def _write_onnx(graph: ExportGraph, path: Path, size: Size | None, description: str) -> None:
    onnx = library("onnx")
    example = torch.zeros(1 if size else 2, 3, *(size or _EXAMPLE_SIZE))
    free: dict[str, dict[int, str]] = {}
    if size is None:
        batch_of = {name: {0: "batch"} for name in graph.output_names}
        places = {name: {1: "height", 2: "width"} for name in (*graph.names, "labels")}
        maps = {name: {2: "map_height", 3: "map_width"} for name in ("mask_logits", "logits")}
        maps["outlier_logits"] = {1: "map_height", 2: "map_width"}
        free = {name: {**axes, **places.get(name, {}), **maps.get(name, {})} for name, axes in batch_of.items()}
        free["pixels"] = {0: "batch", 2: "height", 3: "width"}
    with warnings.catch_warnings():
        # Of the trace's own doubts whether another size would take another way, and of torch's wish for torch.export.
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(graph, (example,), check_trace=False)  # type: ignore[no-untyped-call]
        torch.onnx.export(
            traced,
            (example,),
            path,
            dynamo=False,
            opset_version=_OPSET,
            input_names=["pixels"],
            output_names=list(graph.output_names),
            dynamic_axes=free,
        )
    written = onnx.load(path)
    onnx.helper.set_model_props(written, {KEY: description})
    onnx.save(written, path)
