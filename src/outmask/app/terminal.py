"""What the commands say: results go to standard output, progress, notes and failures to standard error."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from outmask.evaluation import Benchmark, Record
    from outmask.evaluation.evaluate import Progress as Walks

stderr = Console(stderr=True)
stdout = Console()
if not stdout.is_terminal:
    stdout.width = 160  # rich's 80 columns would break the tables of a log

_held_back: ContextVar[list[str] | None] = ContextVar("held_back", default=None)


def say(line: str) -> None:
    """One line on standard output, never wrapped, so that a path in it can be copied."""
    stdout.print(line, soft_wrap=True, markup=False, highlight=False, emoji=False)


def tell(line: str) -> None:
    """One line on standard error, above a progress bar if there is one, never wrapped or coloured."""
    held_back = _held_back.get()
    if held_back is not None:
        held_back.append(line)
        return
    stderr.print(f"outmask: {line}", soft_wrap=True, markup=False, highlight=False, emoji=False)


@contextmanager
def holding_back() -> Iterator[list[str]]:
    """Within the block, what this thread would tell is collected instead, so that it can be told when its turn comes.

    Yields:
        the lines so far.
    """
    lines: list[str] = []
    token = _held_back.set(lines)
    try:
        yield lines
    finally:
        _held_back.reset(token)


def progress_bar() -> Progress:
    """A progress bar on standard error; nothing where that is no terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=stderr,
        disable=not stderr.is_terminal,
        transient=True,
    )


def walks(bar: Progress, benchmark: Benchmark) -> Walks:
    """A progress bar for each walk over a benchmark."""

    def walk(records: Iterable[Record], what: str) -> Iterable[Record]:
        return bar.track(records, total=len(benchmark), description=f"{what} {benchmark.name}")

    return walk


@contextmanager
def log_on_stderr() -> Iterator[None]:
    """Within the block, outmask's own warnings are told as single lines; what is said of every image alike, once."""
    handler = _Teller(logging.WARNING)
    logger = logging.getLogger("outmask")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


class _Teller(logging.Handler):
    def __init__(self, level: int) -> None:
        super().__init__(level)
        self._told: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        line = record.getMessage()
        if line not in self._told:
            self._told.add(line)
            tell(line)
