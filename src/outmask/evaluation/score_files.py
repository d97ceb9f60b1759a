"""Score maps as files: what other projects write, and what SegmentMeIfYouCan's kit takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from outmask.errors import OutmaskError

_SUFFIXES = (".hdf5", ".npy")


def read_score(path: str | Path) -> NDArray[np.float32]:
    """A score map from a file: ``.hdf5`` (dataset ``value``, as SegmentMeIfYouCan's kit writes it) or ``.npy``.

    Returns:
        ``(H, W)`` float32, with whatever values the file holds.

    Raises:
        OutmaskError: where the file cannot be read or holds no ``(H, W)`` floating array, or an HDF5 file without h5py.
    """
    path = Path(path)
    if path.suffix not in _SUFFIXES:
        raise OutmaskError(f"{path}: a score file ends in {' or '.join(_SUFFIXES)}; convert it first")
    if not path.is_file():
        raise OutmaskError(f"{path}: no such file; check the path")
    if path.suffix == ".hdf5":
        score = read_hdf5(path)
    else:
        try:
            score = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise OutmaskError(f"{path} is no readable .npy file ({' '.join(str(error).split())})") from error
    if score.ndim != 2 or score.dtype.kind != "f":
        raise OutmaskError(f"{path} must hold a floating-point (H, W) score, got {score.shape} {score.dtype}")
    with np.errstate(over="ignore"):  # a float64 beyond float32's range is infinite
        return score.astype(np.float32)


def read_hdf5(path: Path) -> NDArray[Any]:
    """The array in the dataset ``value`` of an HDF5 file, of whatever shape and type.

    Raises:
        OutmaskError: where the file cannot be read or has no such dataset, or without h5py.
    """
    h5py = import_h5py()
    try:
        with h5py.File(path, "r") as file:
            stored = file.get("value")
            if not isinstance(stored, h5py.Dataset):
                raise OutmaskError(
                    f"{path} holds no dataset 'value'; expected a score as SegmentMeIfYouCan's kit saves it"
                )
            return np.asarray(stored[()])
    except OSError as error:
        raise OutmaskError(f"{path} is no readable HDF5 file ({' '.join(str(error).split())})") from error


def import_h5py() -> Any:
    """The module h5py, an optional library.

    Raises:
        OutmaskError: where it is not installed.
    """
    try:
        import h5py
    except ImportError as error:
        raise OutmaskError("HDF5 files need h5py, which is not installed: pip install outmask[submit]") from error
    return h5py
