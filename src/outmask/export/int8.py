"""Int8 by OpenVINO's post-training quantisation (NNCF): ranges of values are taken from images, nothing is trained."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from outmask.export.libraries import library

LEFT_IN_FLOAT = "everything but the convolutions of the backbone and the pixel decoder"
"""Masks, attention, sampling places and scores: differences of rounding decide there where a query looks."""

_FLOAT_NODES = r"(?!/model/(backbone|pixel_decoder)/).*"


def quantized(network: Any, calibration: Sequence[Tensor]) -> Any:
    """An ``openvino.Model`` in int8.

    Args:
        network: of :func:`outmask.export.export`, in float32.
        calibration: ``(1, 3, h, w)`` normalised pixels.

    Raises:
        OutmaskError: where NNCF is missing.
    """
    nncf = library("nncf")
    logging.getLogger("nncf").setLevel(logging.ERROR)
    return nncf.quantize(
        network,
        nncf.Dataset([pixels.numpy() for pixels in calibration]),
        subset_size=len(calibration),
        preset=nncf.QuantizationPreset.MIXED,  # activations of networks without ReLU are not symmetric
        ignored_scope=nncf.IgnoredScope(patterns=[_FLOAT_NODES]),
    )
