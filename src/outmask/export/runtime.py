"""Running exported files: a module that gives predictions, in the place of the PyTorch model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from outmask.errors import OutmaskError
from outmask.export.description import KEY, Description
from outmask.export.files import FORMATS, RUNTIMES, Runtime
from outmask.export.graph import MASK_LOGITS, PIXEL_LOGITS
from outmask.export.libraries import library
from outmask.types import MaskPrediction, PixelPrediction

_Part = Callable[[NDArray[np.float32]], list[NDArray[Any]]]


class ExportedModel(nn.Module):
    """An exported file as a model: ``(B, 3, H, W)`` normalised pixels -> its prediction, on the CPU.

    Only the logits are computed: scores are then the engine's, at any size, with refinement and all else. What the file
    itself says of them is had from :meth:`outputs`. One thread at a time may run it.

    Attributes:
        output_names: of the file.
        description: what the file says of itself.
    """

    def __init__(self, file: _File) -> None:
        super().__init__()
        self._file = file
        self.output_names = file.output_names
        self.description = file.description
        self._logits = [name for name in (*MASK_LOGITS, *PIXEL_LOGITS) if name in self.output_names]

    def outputs(self, pixels: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """Some of the file's outputs by name.

        Args:
            pixels: ``(B, 3, H, W)`` float32.
            names: from ``output_names``.

        Raises:
            OutmaskError: on pixels of another size than the file was exported for, or with gradients.
        """
        if pixels.requires_grad:
            raise OutmaskError("an exported model has no gradients: use the PyTorch model")
        shape, expected = tuple(pixels.shape), self.description.config["export"]["size"]
        if expected is not None and shape != (1, 3, *expected):
            raise OutmaskError(
                f"the model was exported for one image of {'x'.join(map(str, expected))}, and this input is "
                f"{shape[0]} of {'x'.join(map(str, shape[2:]))} after resizing: export with that --size"
            )
        values = self._file.run(pixels.detach().cpu().numpy(), names)
        return {name: torch.from_numpy(value) for name, value in zip(names, values, strict=True)}

    def forward(self, pixels: Tensor) -> MaskPrediction | PixelPrediction:
        """``(B, 3, H, W)`` -> masks or logits of pixels."""
        logits = self.outputs(pixels, self._logits)
        if self._logits == [*MASK_LOGITS]:
            negative_class = self.description.negative_class
            return MaskPrediction(logits["class_logits"], logits["mask_logits"], negative_class=negative_class)
        return PixelPrediction(logits["logits"], logits.get("outlier_logits"))


def is_exported(source: str | Path) -> bool:
    """Whether a model's name is that of an exported file."""
    return Path(source).suffix in FORMATS.values()


def open_exported(path: Path, runtime: Runtime | None = None) -> ExportedModel:
    """Open what :func:`outmask.export.export` wrote.

    Args:
        path: the file; OpenVINO's ``.xml`` has its ``.bin`` beside it.
        runtime: by default the one of the file's format.

    Raises:
        OutmaskError: where the file is missing, damaged or not of outmask, the runtime does not take it or is not
            installed.
    """
    own = next(one for one, format_ in RUNTIMES.items() if FORMATS[format_] == path.suffix)
    if runtime not in (None, own):
        raise OutmaskError(f"{path} is for {own}: for {runtime}, export with --format {RUNTIMES[runtime]}")
    if not path.is_file():
        raise OutmaskError(f"{path}: no such file; outmask export writes one")
    return ExportedModel(_FILES[own](path))


class _File(ABC):
    """An exported file in its runtime.

    Attributes:
        output_names: of its graph.
        description: what it says of itself.
    """

    output_names: tuple[str, ...]
    description: Description

    def __init__(self, path: Path) -> None:
        self._path = path
        self._parts: dict[tuple[str, ...], _Part] = {}

    def run(self, pixels: NDArray[np.float32], names: Sequence[str]) -> list[NDArray[Any]]:
        """The named outputs, and no more than they need is computed."""
        asked = tuple(names)
        if asked not in self._parts:
            self._parts[asked] = self._part(asked)
        return self._parts[asked](pixels)

    @abstractmethod
    def _part(self, names: tuple[str, ...]) -> _Part:
        """The graph that gives these outputs, ready to run."""


class _Onnx(_File):
    """By onnxruntime, which runs whole graphs: whatever the asked outputs do not need is cut away before."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        onnx, self._runtime = library("onnx"), library("onnxruntime")
        try:
            self._network = onnx.load(path)
        except Exception as error:  # of protobuf's, of onnx's, of the system's
            raise _unreadable(path, error) from None
        self.output_names = tuple(output.name for output in self._network.graph.output)
        texts = {entry.key: entry.value for entry in self._network.metadata_props}
        self.description = _described(texts.get(KEY), path)

    def _part(self, names: tuple[str, ...]) -> _Part:
        part = library("onnx.utils").Extractor(self._network).extract_model(["pixels"], list(names))
        try:
            session = self._runtime.InferenceSession(part.SerializeToString(), providers=["CPUExecutionProvider"])
        except Exception as error:  # of a dozen kinds, which the library does not name
            raise _unreadable(self._path, error) from None
        return lambda pixels: cast("list[NDArray[Any]]", session.run(list(names), {"pixels": pixels}))


class _OpenVino(_File):
    """By OpenVINO, on the CPU, in float32 but for what the file has in int8."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._runtime = library("openvino")
        try:
            self._network = _openvino_core().read_model(path)
        except RuntimeError as error:
            raise _unreadable(path, error) from None
        self.output_names = tuple(output.get_any_name() for output in self._network.outputs)
        text = self._network.get_rt_info([KEY]).astype(str) if self._network.has_rt_info([KEY]) else None
        self.description = _described(text, path)

    def _part(self, names: tuple[str, ...]) -> _Part:
        ends = [self._network.output(name).node.input_value(0) for name in names]
        part = self._runtime.Model(ends, self._network.get_parameters(), "part")
        # Without the hint, processors that can compute in bfloat16 would.
        compiled = _openvino_core().compile_model(part, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

        def run(pixels: NDArray[np.float32]) -> list[NDArray[Any]]:
            results = compiled(pixels)
            return [np.array(results[index]) for index in range(len(names))]

        return run


@lru_cache(maxsize=1)
def _openvino_core() -> Any:
    """One for the whole process.

    With its first model a core gives the thread another stack for the handlers of signals, and takes it back when it
    goes. Of two cores, the second remembers the stack of the first: it would set what the first has freed, and the next
    Ctrl-C, or the end of a child process, would be a segmentation fault.

    Raises:
        OutmaskError: where OpenVINO is not installed.
    """
    return library("openvino").Core()


_FILES: dict[Runtime, type[_Onnx] | type[_OpenVino]] = {"onnxruntime": _Onnx, "openvino": _OpenVino}


def _described(text: str | None, path: Path) -> Description:
    if text is None:
        raise OutmaskError(f"{path} was not written by outmask export: it does not say what its classes are")
    return Description(text, str(path))


def _unreadable(path: Path, error: Exception) -> OutmaskError:
    return OutmaskError(f"{path}: no readable file of its kind ({str(error).splitlines()[0]}); export it again")
