"""The optional libraries of this package."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from outmask.errors import OutmaskError


def library(name: str) -> Any:
    """An optional module.

    Raises:
        OutmaskError: where it is not installed; names the extra that brings it.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError:
        raise OutmaskError(f"{name} is not installed: pip install outmask[export]") from None
