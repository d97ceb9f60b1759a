"""Pixels counted per pair of ids: the one pass over two label maps that confusions and overlaps start from."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def contingency(first: NDArray[Any], second: NDArray[Any], shape: tuple[int, int]) -> NDArray[np.int64]:
    """How many pixels hold id ``i`` in ``first`` and id ``j`` in ``second``.

    Args:
        first: integer or bool ids from 0 to ``shape[0] - 1``, any shape.
        second: the same number of ids from 0 to ``shape[1] - 1``.
        shape: the table's shape.

    Returns:
        ``shape`` int64; ``table[i, j]`` counts the pairs ``(i, j)``.
    """
    pairs = first.ravel().astype(np.intp)  # bincount's own type: a narrower one would be copied there anyway
    pairs *= shape[1]
    pairs += second.ravel().astype(np.intp, copy=False)
    return np.bincount(pairs, minlength=shape[0] * shape[1]).reshape(shape)
