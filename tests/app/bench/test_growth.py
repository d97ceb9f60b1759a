"""The cost table on small images, and its straight lines."""

from __future__ import annotations

import pytest

from outmask.app.bench import growth
from outmask.models import Mask2Former, Mask2FormerConfig


def test_a_line_is_found_whatever_the_scale_of_its_points() -> None:
    x = [0.25, 1.0, 8.0]
    assert growth.line(x, [3 + 2 * value for value in x]) == pytest.approx((3, 2, 0))
    _, _, residual = growth.line(x, [value**2 for value in x])
    assert residual > 0.3


def test_every_series_has_its_rows_and_its_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    def small(masks: int) -> Mask2Former:
        config = Mask2FormerConfig(
            3, "mobilenet_v2", dim=32, num_heads=2, encoder_layers=1, num_queries=masks, decoder_layers=1
        )
        return Mask2Former(config).eval()

    monkeypatch.setattr(growth, "_model", small)
    monkeypatch.setattr(growth, "_SIZES", ((32, 64), (64, 64)))
    monkeypatch.setattr(growth, "_MASKS", (2, 5))
    monkeypatch.setattr(growth, "_BATCHES", (1, 2, 4))
    report = growth.growth()
    assert [row[0].split()[1] for row in report.rows] == ["Mpx"] * 2 + ["images"] * 3 + ["masks"] * 2
    assert [row[1] for row in report.rows] == ["1.00", "2.00", "1.00", "2.00", "4.00", "1.00", "2.50"]
    assert set(report.values["fits"]) == {"Mpx", "images", "masks"}
    assert len(report.notes) == 3
