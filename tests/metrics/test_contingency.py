"""The contingency table against counting pair by pair."""

import numpy as np
import pytest

from outmask.metrics.contingency import contingency


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64])
def test_every_pair_is_counted(dtype: type) -> None:
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 3, (7, 9)).astype(dtype), rng.integers(0, 5, (7, 9)).astype(dtype)
    table = contingency(first, second, (4, 5))
    assert table.shape == (4, 5)
    for i, j in np.ndindex(4, 5):
        assert table[i, j] == sum((a, b) == (i, j) for a, b in zip(first.ravel(), second.ravel(), strict=True))


def test_small_id_types_do_not_wrap_around() -> None:
    table = contingency(np.array([250], np.uint8), np.array([200], np.uint8), (251, 201))
    assert table[250, 200] == table.sum() == 1


def test_masks_count_too() -> None:
    assert contingency(np.array([True, True]), np.array([False, True]), (2, 2)).tolist() == [[0, 0], [1, 1]]
