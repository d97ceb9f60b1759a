"""``outmask ablate``: a grid of recipes and seeds, trained and measured; killed, it goes on where it was."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from outmask.ablation import Ablation, read_grid
from outmask.app import DONE, SOME_FAILED
from outmask.app.scene import draw_scene
from outmask.app.terminal import progress_bar, say, tell, walks
from outmask.errors import OutmaskError
from outmask.evaluation import Benchmark, Record
from outmask.evaluation.evaluate import Progress as Walks


def ablate(config: str, data_root: str, out: str, rows: str | None, seeds: str | None) -> int:
    """Do what is missing of a grid in ``out``, rows and seeds given as ``a,b,c``; returns the exit code.

    Raises:
        OutmaskError: on a bad grid or recipe, missing benchmarks, or an ``out`` of something else.
    """
    grid = read_grid(Path(config))
    return carry_out(Ablation(grid, Path(data_root), Path(out), row_names(rows), seed_numbers(seeds)))


def carry_out(ablation: Ablation) -> int:
    """Do what is missing, and say where the report is; returns the exit code."""
    try:
        done = ablation.work(tell, _walks)
        ablation.draw_attention(draw_scene().image)
    except KeyboardInterrupt:
        tell("interrupted; the same command goes on from here")
        raise
    say(f"report: {ablation.report}")
    return DONE if done else SOME_FAILED


def row_names(text: str | None) -> list[str] | None:
    """What ``--rows a,b,c`` names; None for all."""
    return None if text is None else [name.strip() for name in text.split(",")]


def seed_numbers(text: str | None) -> list[int] | None:
    """What ``--seeds 0,1,2`` names; None for all.

    Raises:
        OutmaskError: on anything but numbers.
    """
    try:
        return None if text is None else [int(number) for number in text.split(",")]
    except ValueError:
        raise OutmaskError(f"--seeds {text}: expected numbers such as 0,1,2") from None


def _walks(benchmark: Benchmark) -> Walks:
    """A bar that is there while a benchmark is walked over: training shows its own."""

    def walk(records: Iterable[Record], what: str) -> Iterable[Record]:
        with progress_bar() as bar:
            yield from walks(bar, benchmark)(records, what)

    return walk
