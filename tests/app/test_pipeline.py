"""What is fetched ahead of a loop and finished behind it: order, bounds, errors, and nothing lost or kept."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from weakref import WeakSet

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outmask.app.pipeline import Behind, ahead

PATIENCE = 100.0
"""Seconds that a test waits for what must come; only a defect takes so long."""


def counting(items: range, taken: list[int]) -> Iterator[int]:
    for item in items:
        taken.append(item)
        yield item


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 9), st.integers(1, 4))
def test_ahead_is_map_and_no_more_than_its_depth_ahead(count: int, depth: int) -> None:
    taken: list[int] = []
    for index, outcome in enumerate(ahead(lambda item: item * item, counting(range(count), taken), depth)):
        assert outcome == index * index
        assert len(taken) == min(count, index + 1 + depth)
    assert taken == list(range(count))


def test_the_next_outcome_is_made_while_the_consumer_has_the_last() -> None:
    made = [threading.Event() for _ in range(3)]
    for index in ahead(lambda item: made[item].set() or item, range(3), depth=1):
        assert made[min(index + 1, 2)].wait(PATIENCE)


def test_an_error_comes_at_its_turn() -> None:
    outcomes = ahead(lambda item: 6 // item, [3, 2, 0, 1])
    assert [next(outcomes), next(outcomes)] == [2, 3]
    with pytest.raises(ZeroDivisionError):
        next(outcomes)


def test_closed_early_it_makes_no_further_call_and_leaves_no_thread() -> None:
    calls: list[int] = []
    with closing(ahead(lambda item: calls.append(item), range(100), depth=3)) as outcomes:
        next(outcomes)
    made = len(calls)
    assert made <= 4
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ahead")]
    assert len(calls) == made


def test_what_finishes_early_is_noted_in_order() -> None:
    second = threading.Event()
    noted: list[tuple[int, str]] = []

    def finish(item: int) -> str:
        if item == 0:
            assert second.wait(PATIENCE)
        if item == 1:
            second.set()
        return "ab"[item]

    with Behind(finish, lambda item, outcome: noted.append((item, outcome)), workers=2) as behind:
        behind.give(0)
        behind.give(1)
    assert noted == [(0, "a"), (1, "b")]


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_notes_come_one_at_a_time_and_items_wait_for_room(workers: int) -> None:
    noted: list[int] = []
    busy = threading.Lock()

    def note(item: int, outcome: None) -> None:
        assert busy.acquire(blocking=False)
        noted.append(item)
        busy.release()

    with Behind(lambda item: time.sleep(0.002 * (item % 3)), note, workers) as behind:
        for item in range(30):
            behind.give(item)
            assert item + 1 - len(noted) <= workers
    assert noted == list(range(30))


def test_large_items_are_one_at_a_time() -> None:
    noted: list[int] = []
    with Behind(lambda item: time.sleep(0.002), lambda item, outcome: noted.append(item), workers=4) as behind:
        for item in range(8):
            behind.give(item, pixels=100_000_000)
            assert item - len(noted) <= 0


@pytest.mark.parametrize("stage", ["finish", "note"])
def test_an_error_ends_the_loop_and_the_others_are_noted(stage: str) -> None:
    noted: list[int] = []

    def fail(item: int) -> None:
        if item == 2:
            raise OSError("disk full")

    def finish(item: int) -> None:
        if stage == "finish":
            fail(item)

    def note(item: int, outcome: None) -> None:
        if stage == "note":
            fail(item)
        noted.append(item)

    given = 0
    with pytest.raises(OSError, match="disk full"), Behind(finish, note, workers=2) as behind:  # noqa: PT012
        for item in range(100):
            behind.give(item)
            given += 1
    assert given <= 2 + 2  # those before it, itself and the one that there was room for beside it
    assert noted == [item for item in range(given) if item != 2]


def test_an_error_of_the_last_item_is_raised_at_the_end() -> None:
    with pytest.raises(ZeroDivisionError), Behind(lambda item: 1 // item, lambda item, outcome: None) as behind:  # noqa: PT012
        behind.give(1)
        behind.give(0)


def test_an_interrupt_of_the_loop_finishes_and_notes_what_was_given() -> None:
    noted: list[int] = []

    def slow(item: int) -> None:
        time.sleep(0.01)

    with pytest.raises(KeyboardInterrupt), Behind(slow, lambda item, outcome: noted.append(item), 3) as behind:  # noqa: PT012
        for item in range(3):
            behind.give(item)
        raise KeyboardInterrupt
    assert noted == [0, 1, 2]


def test_an_interrupt_of_the_wait_at_the_end_still_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    noted: list[int] = []
    release = threading.Event()
    behind = Behind(lambda item: release.wait(PATIENCE), lambda item, outcome: noted.append(item), 1)
    shutdown, calls = behind._pool.shutdown, []

    def interrupted_once() -> None:
        calls.append(None)
        if len(calls) == 1:
            raise KeyboardInterrupt
        release.set()
        shutdown()

    monkeypatch.setattr(behind._pool, "shutdown", interrupted_once)
    with pytest.raises(KeyboardInterrupt), behind:
        behind.give(0)
    assert noted == [0]


def test_no_item_outlives_its_note() -> None:
    class Item:
        pass

    workers, most = 2, 0
    alive: WeakSet[Item] = WeakSet()
    with Behind(lambda item: Item(), lambda item, outcome: None, workers) as behind:
        for _ in range(200):
            item = Item()
            alive.add(item)
            behind.give(item)
            del item
            most = max(most, len(alive))
    gc.collect()
    assert not alive
    # What is unfinished, and what each worker has noted but is yet to let go.
    assert most <= 2 * workers
