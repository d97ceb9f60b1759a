"""What tests of several packages need."""

import os
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data; without it the test is skipped."""
    folder = os.environ.get("OUTMASK_DATA")
    if not folder:
        pytest.skip("set OUTMASK_DATA to the folder of real data")
    return Path(folder)


@pytest.fixture
def small_disk() -> Callable[[int], AbstractContextManager[None]]:
    """Limits how large a file may grow; the system refuses what goes beyond, as it does on a full disk.

    Within a block only: the process's output may be a file, too.
    """

    @contextmanager
    def limited(limit: int) -> Iterator[None]:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, handler)

    return limited
