"""``detectors.safetensors``: what detectors have learned from the training set, beside the weights they ask."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from outmask.errors import OutmaskError

STATISTICS = "detectors.safetensors"
_WEIGHTS_HASH = "weights_sha256"


def read_statistics(folder: Path, weights_hash: str) -> dict[str, dict[str, Tensor]]:
    """The statistics in a model folder, by detector and name; none where there is no such file.

    Args:
        folder: holds the file.
        weights_hash: sha256 of the weights beside it.

    Raises:
        OutmaskError: where the file is damaged or was made with other weights.
    """
    file = folder / STATISTICS
    statistics: dict[str, dict[str, Tensor]] = {}
    if not file.is_file():
        return statistics
    try:
        with safe_open(file, framework="pt") as stored:
            made_with = (stored.metadata() or {}).get(_WEIGHTS_HASH)
            for key in stored.keys():  # noqa: SIM118 (it is no mapping)
                detector, _, name = key.partition(".")
                statistics.setdefault(detector, {})[name] = stored.get_tensor(key)
    except (OSError, SafetensorError) as error:
        raise OutmaskError(f"{file}: no readable safetensors file ({error}): remove it, outmask fit makes it") from None
    if made_with != weights_hash:
        raise OutmaskError(f"{file}: made with other weights than those beside it: remove it, outmask fit makes it")
    return statistics


def write_statistics(folder: Path, statistics: Mapping[str, Mapping[str, Tensor]], weights_hash: str) -> None:
    """Write the file anew; written beside and renamed, so that it is there whole or as it was.

    Raises:
        OutmaskError: where it can't be written.
    """
    file = folder / STATISTICS
    beside = folder / f".{STATISTICS}.{os.getpid()}.partial"
    tensors = {f"{detector}.{name}": tensor for detector, own in statistics.items() for name, tensor in own.items()}
    try:
        beside.write_bytes(save(tensors, {_WEIGHTS_HASH: weights_hash}))
        beside.replace(file)
    except OSError as error:
        raise OutmaskError(f"{file}: can't be written ({error.strerror})") from None
    finally:
        beside.unlink(missing_ok=True)
