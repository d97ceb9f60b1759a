"""What tests of several packages need."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data; without it the test is skipped."""
    folder = os.environ.get("OUTMASK_DATA")
    if not folder:
        pytest.skip("set OUTMASK_DATA to the folder of real data")
    return Path(folder)
