"""Two halves of a pipeline around a loop: what is fetched ahead of it, and what is finished behind it, both in order.

The loop itself stays in the thread that it is in, so that an interrupt ends it at once. Threads are enough: decoding,
encoding and arithmetic on arrays let go of Python's lock.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import Generic, Self, TypeVar

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")

_WORKERS = min(4, os.cpu_count() or 1)
"""Threads that finish. One keeps up with a model on a CPU; on a GPU, encoding a picture takes longer than the model."""
_MOST_PIXELS = 32 << 20
"""Of the images behind the loop: pictures of 100 megapixels wait for each other rather than for memory."""


def ahead(function: Callable[[Item], Outcome], items: Iterable[Item], depth: int = 2) -> Generator[Outcome, None, None]:
    """``map(function, items)``, computed in a thread of its own before it is asked for.

    Args:
        function: raises nothing that the consumer shall survive.
        items: taken in the consumer's thread.
        depth: the most calls that are made, or under way, beyond the one whose outcome the consumer has.

    Yields:
        the outcomes, in order. An iterator that is closed early waits for the call in progress and makes no further.
    """
    pool = ThreadPoolExecutor(1, thread_name_prefix="ahead")
    coming: deque[Future[Outcome]] = deque()
    try:
        for item in items:
            coming.append(pool.submit(function, item))
            if len(coming) > depth:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


class Behind(Generic[Item, Outcome]):
    """Finishes items in threads of its own, and notes their outcomes one at a time, in the order of the items.

    Used as a context: its end waits for all items, also where the block was interrupted. So every item that
    :meth:`give` took is finished and noted, and no other: an item whose own :meth:`give` raises, an earlier one's error
    or an interrupt, is not taken.

    Args:
        finish: ``item -> outcome``, called in several threads at once.
        note: ``(item, outcome)``, never called twice at once.
        workers: threads; also the most items that are unfinished when :meth:`give` returns.

    Raises:
        whatever ``finish`` or ``note`` raise, at a later :meth:`give` or at the end; what raised is not noted. Where
        the block itself raises (an interrupt), that error goes on instead, and theirs are lost.
    """

    def __init__(
        self, finish: Callable[[Item], Outcome], note: Callable[[Item, Outcome], None], workers: int = _WORKERS
    ) -> None:
        self._finish, self._note, self._workers = finish, note, workers
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="behind")
        self._unfinished: deque[tuple[Future[None], int]] = deque()
        self._last: Future[None] | None = None

    def give(self, item: Item, pixels: int = 0) -> None:
        """Finish an item, as soon as there is room for it.

        Args:
            item: not to be changed any more.
            pixels: how large it is: large ones are fewer at a time.
        """
        while self._unfinished and (
            self._unfinished[0][0].done()
            or len(self._unfinished) >= self._workers
            or sum(size for _, size in self._unfinished) + pixels > _MOST_PIXELS
        ):
            self._unfinished.popleft()[0].result()
        self._last = self._pool.submit(self._run, item, self._last)
        self._unfinished.append((self._last, pixels))

    def _run(self, item: Item, before: Future[None] | None) -> None:
        outcome = self._finish(item)
        if before is not None:
            wait([before])  # it began earlier, so this ends
        self._note(item, outcome)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._pool.shutdown()
        finally:
            self._pool.shutdown()  # interrupted while it waited, it still waits
        if kind is None:
            for future, _ in self._unfinished:
                future.result()
