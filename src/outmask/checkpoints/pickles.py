"""Reading pickled weights without running what they may contain."""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from outmask.errors import OutmaskError

_reconstruct = np.empty(0).__reduce__()[0]  # what numpy's own pickles call, under whichever module this numpy keeps it

# The three names that a pickled array needs; numpy 2 moved the first one's module.
_ADMITTED = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


class ArrayUnpickler(pickle.Unpickler):
    """Unpickles containers, numbers, strings and numpy arrays; nothing else can be named, so nothing else can run."""

    def find_class(self, module: str, name: str) -> Any:
        """The three names of a pickled array.

        Raises:
            OutmaskError: on any other name.
        """
        if (module, name) not in _ADMITTED:
            raise OutmaskError(f"it names {module}.{name}, and weights need no such thing")
        return _ADMITTED[module, name]


def read_weights(path: Path) -> dict[str, Tensor]:
    """The state dict of a pickled checkpoint.

    Args:
        path: what ``torch.save`` wrote, or a pickled dict of numpy arrays (the original model zoo's ``.pkl``); with the
            weights under ``model`` or ``state_dict``, or alone.

    Raises:
        OutmaskError: where the file can't be read, is no checkpoint, or names anything beside tensors and arrays.
    """
    try:
        if path.suffix.lower() == ".pkl" and not zipfile.is_zipfile(path):
            with path.open("rb") as file:
                # Python 2 wrote some of the zoo's files; latin1 keeps the bytes of their arrays.
                payload = ArrayUnpickler(file, encoding="latin1").load()
        else:
            with warnings.catch_warnings(action="ignore"):  # it warns of files that it then refuses
                payload = torch.load(path, map_location="cpu", weights_only=True)
    except OutmaskError as error:
        raise OutmaskError(f"{path}: refused, {error}") from None
    except Exception as error:  # bytes that are no pickle can raise anything
        if named := re.search(r"GLOBAL (\S+)", str(error)):  # torch refused it
            raise OutmaskError(f"{path}: refused, it names {named[1]}, and weights need no such thing") from None
        raise OutmaskError(f"{path}: no checkpoint, or a damaged one ({type(error).__name__}); get it again") from None
    weights = payload
    for key in ("model", "state_dict"):
        if isinstance(payload, Mapping) and isinstance(payload.get(key), Mapping):
            weights = payload[key]
            break
    if not isinstance(weights, Mapping) or not weights or not all(isinstance(name, str) for name in weights):
        raise OutmaskError(f"{path}: no checkpoint; expected a dict of weights, alone or under 'model'")
    return {name: _tensor(value, name, path) for name, value in weights.items()}


def _tensor(value: object, name: str, path: Path) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
        return torch.from_numpy(np.array(value))  # a copy: unpickled arrays may be read-only
    raise OutmaskError(
        f"{path}: no checkpoint; {name!r} is {type(value).__name__}, expected a tensor or a numeric array"
    )
