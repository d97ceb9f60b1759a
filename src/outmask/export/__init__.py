"""Models as files that other runtimes run alone: ONNX for onnxruntime, OpenVINO's own format, float32 or int8."""

from outmask.export.files import FORMATS, RUNTIMES, Format, Runtime, Size, export
from outmask.export.parity import TOLERANCE, Parity, compare
from outmask.export.runtime import ExportedModel, is_exported, open_exported

__all__ = [
    "FORMATS",
    "RUNTIMES",
    "TOLERANCE",
    "ExportedModel",
    "Format",
    "Parity",
    "Runtime",
    "Size",
    "compare",
    "export",
    "is_exported",
    "open_exported",
]
