"""What the commands say: results go to standard output, progress, notes and failures to standard error."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
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


def say(line: str) -> None:
    """One line on standard output, never wrapped, so that a path in it can be copied."""
    stdout.print(line, soft_wrap=True, markup=False, highlight=False, emoji=False)


def tell(line: str) -> None:
    """One line on standard error, above a progress bar if there is one, never wrapped or coloured."""
    stderr.print(f"outmask: {line}", soft_wrap=True, markup=False, highlight=False, emoji=False)


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
    """Within the block, outmask's own warnings are told as single lines."""
    handler = _Teller(logging.WARNING)
    logger = logging.getLogger("outmask")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


class _Teller(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        tell(record.getMessage())
