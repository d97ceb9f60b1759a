"""What label values mean, and tensors or arrays as arrays: the door of every metric."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

KNOWN, ANOMALY, OUTSIDE = 0, 1, 255
"""Values of a label map of anomalies; ``OUTSIDE`` is also the class id of pixels that no metric counts."""

OUTSIDE_OBJECT = -1
"""Value of a map of objects where nothing is evaluated; 0 is no object."""


def as_array(values: NDArray[Any] | Tensor) -> NDArray[Any]:
    """Values of any shape as a NumPy array; bfloat16, which NumPy lacks, becomes float32."""
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        return np.asarray((values.float() if values.dtype == torch.bfloat16 else values).numpy())
    return np.asarray(values)
