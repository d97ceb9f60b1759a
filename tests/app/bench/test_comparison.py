"""How two ways are compared, on ways that the test makes."""

from __future__ import annotations

import pytest
import torch

from outmask.app.bench import comparison
from outmask.app.bench.comparison import Values, compare, comparison_report, peak_memory


def test_the_ratio_is_the_peers_time_by_ours_and_the_difference_that_of_the_outputs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def ours() -> Values:
        return {"AP": 50.0, "map": torch.tensor([1.0, 2.0]), "only ours": 7.0}

    def peer() -> Values:
        return {"AP": 50.25, "map": torch.tensor([1.5, 2.0])}

    taken = {ours: iter([2, 4, 9, 1, 1, 1, 3, 5, 4]), peer: iter([8, 8, 8])}
    monkeypatch.setattr(comparison, "seconds", lambda run: next(taken[run]))
    one = compare("x", "y", ours, peer, repeats=3, ours_per_peer=3)
    assert (one.ratio, one.spread) == (2, (2, 8))  # 8 by the medians 4, 1 and 4
    assert one.difference == 0.5


def test_outputs_that_have_nothing_in_common_have_no_difference() -> None:
    one = compare("x", "y", lambda: {"a": 1.0}, lambda: {"b": 2.0}, repeats=1)
    assert one.difference is None
    assert comparison_report([one], "in metres").rows[0][-1] == "-"


def test_the_peak_is_what_a_run_holds_at_most_beyond_what_was_held_before() -> None:
    kept = torch.ones(16_000_000)  # 64 MB that don't count

    def run() -> object:
        largest = torch.ones(8_000_000)  # 32 MB
        del largest
        return torch.ones(2_000_000)

    peak = peak_memory(run)
    if peak is None:
        pytest.skip("the system does not say what memory a process holds")
    assert peak == pytest.approx(32, rel=0.15)
    assert kept.sum() == len(kept)
