"""How two ways to the same values are compared, and what a benchmark reports.

Ours and the peer take turns, so that a machine that slows down slows both; what is reported is a ratio, never a time.
"""

from __future__ import annotations

import ctypes
import gc
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import transformers
from torch import Tensor

from outmask.app.terminal import tell

T = TypeVar("T")
Values = Mapping[str, float | Tensor]
"""What a run gives, by name."""


@dataclass(frozen=True)
class Comparison:
    """One thing measured against a peer.

    Attributes:
        name: what is measured, on what.
        peer: against what.
        ratio: median over the repeats of the peer's time by ours.
        spread: the smallest and the largest of these ratios.
        peak_mb: the most memory that ours takes beyond what the process held before, in MB (10^6 bytes); None where the
            system does not say.
        peer_peak_mb: the same of the peer.
        difference: the largest difference of the outputs; None where they are not comparable.
    """

    name: str
    peer: str
    ratio: float
    spread: tuple[float, float]
    peak_mb: float | None
    peer_peak_mb: float | None
    difference: float | None


@dataclass(frozen=True)
class Report:
    """What a benchmark found.

    Attributes:
        caption: what the numbers mean.
        columns: of the table.
        rows: of the table, as text.
        notes: what else is to be said, a line each.
        values: the same as numbers, for JSON.
    """

    caption: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    notes: Sequence[str] = ()
    values: Mapping[str, Any] = field(default_factory=dict)


def compare(
    name: str,
    peer_name: str,
    ours: Callable[[], Values],
    peer: Callable[[], Values],
    repeats: int,
    ours_per_peer: int = 1,
) -> Comparison:
    """Time two ways to the same values, taking turns, after one run of each that is not timed.

    Args:
        name, peer_name: for the table.
        ours, peer: each called anew. Values of the same name are compared.
        repeats: how many turns.
        ours_per_peer: our runs in a turn, whose median counts: a short run is measured less exactly than a long one.
    """
    tell(f"bench: {name} against {peer_name}")
    difference = _difference(ours(), peer())
    peak, peer_peak = peak_memory(ours), peak_memory(peer)
    ratios = []
    for _ in range(repeats):
        mine = statistics.median(seconds(ours) for _ in range(ours_per_peer))
        ratios.append(seconds(peer) / mine)
    return Comparison(
        name, peer_name, statistics.median(ratios), (min(ratios), max(ratios)), peak, peer_peak, difference
    )


def comparison_report(comparisons: Sequence[Comparison], unit: str, notes: Sequence[str] = (), **values: Any) -> Report:
    """The table of some comparisons.

    Args:
        comparisons: its rows.
        unit: of the differences.
        notes: below the table.
        values: what else goes to JSON.
    """
    rows = [
        (
            one.name,
            one.peer,
            f"{one.ratio:.2f}",
            f"{one.spread[0]:.2f}-{one.spread[1]:.2f}",
            *("-" if peak is None else f"{peak:.0f}" for peak in (one.peak_mb, one.peer_peak_mb)),
            "-" if one.difference is None else f"{one.difference:.2g}",
        )
        for one in comparisons
    ]
    return Report(
        f"memory: beyond what the process held before; difference: the largest of any output, {unit}",
        ("", "peer", "times faster", "spread", "peak MB", "peer's MB", "difference"),
        rows,
        notes,
        {"comparisons": [asdict(one) for one in comparisons], **values},
    )


def seconds(run: Callable[[], object]) -> float:
    """What one run takes."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def peak_memory(run: Callable[[], object]) -> float | None:
    """The most resident memory of the process while running, beyond what it held before, in MB.

    Of a run that was warmed up: libraries keep what they set up at first. None where the system is not Linux.
    """
    gc.collect()
    with suppress(OSError, AttributeError):  # not glibc: freed memory that was kept is then reused unseen
        ctypes.CDLL(None).malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins anew
        before = _resident("VmRSS")
        run()
        return max(0.0, _resident("VmHWM") - before)
    except OSError:
        return None


def machine() -> str:
    """The processor, its threads and the libraries that were measured."""
    model = platform.processor() or platform.machine()
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), model)
    versions = (
        f"Python {platform.python_version()}, torch {torch.__version__}, transformers {transformers.__version__}, "
        f"NumPy {np.__version__}"
    )
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{model} ({platform.machine()}, {capability}), {torch.get_num_threads()} threads; {versions}"


def _resident(entry: str) -> float:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{entry}:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise OSError(f"no {entry} in /proc/self/status")


def _difference(values: Values, peer_values: Values) -> float | None:
    common = values.keys() & peer_values.keys()
    if not common:
        return None
    return max(
        float((torch.as_tensor(values[key]).double() - torch.as_tensor(peer_values[key]).double()).abs().max())
        for key in common
    )
