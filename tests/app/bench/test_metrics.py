"""The peer that is ours: the loop over components."""

from __future__ import annotations

import numpy as np
import pytest

from outmask.app.bench.metrics import component_loop
from outmask.metrics import ComponentMetrics


@pytest.mark.parametrize("seed", range(5))
def test_the_loop_over_components_gives_our_values(seed: int) -> None:
    rng = np.random.default_rng(seed)
    label = np.kron(rng.choice(np.array([0, 1, 255], np.uint8), (8, 10), p=[0.6, 0.3, 0.1]), np.ones((5, 5), np.uint8))
    mask = np.kron(rng.random((10, 8)) < 0.4, np.ones((4, 6))).astype(bool)[:40, :48]
    mask = np.pad(mask, ((0, 0), (0, 2)))
    metric = ComponentMetrics("obstacle")
    metric.update(mask, label)
    values = metric.compute()
    assert component_loop(mask, label, (50, 10)) == pytest.approx(
        {name: values[name] for name in ("sIoU", "PPV", "F1")}
    )
