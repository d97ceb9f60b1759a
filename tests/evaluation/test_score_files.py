"""Score maps as files."""

import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from outmask.errors import OutmaskError
from outmask.evaluation.score_files import read_score


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_scores_are_read_from_both_kinds_of_file(tmp_path: Path, dtype: type) -> None:
    score = np.random.default_rng(8).normal(size=(4, 5)).astype(dtype)
    np.save(tmp_path / "a.npy", score)
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file["value"] = score
    for path in (tmp_path / "a.npy", str(tmp_path / "a.hdf5")):
        read = read_score(path)
        assert read.dtype == np.float32
        np.testing.assert_array_equal(read, score.astype(np.float32))


def broken_files(folder: Path) -> dict[str, Callable[[Path], object]]:
    def hdf5(**content: object) -> Callable[[Path], object]:
        def write(path: Path) -> None:
            with h5py.File(path, "w") as file:
                for name, value in content.items():
                    if value is None:
                        file.create_group(name)
                    else:
                        file[name] = value

        return write

    return {
        "text.npy": lambda path: path.write_text("no array"),
        "empty.npy": lambda path: path.write_bytes(b""),
        "pickle.npy": lambda path: np.save(path, np.array([[None, {}]], object)),
        "cube.npy": lambda path: np.save(path, np.zeros((1, 2, 3))),
        "integers.npy": lambda path: np.save(path, np.zeros((2, 3), np.uint8)),
        "text.hdf5": lambda path: path.write_text("no HDF5"),
        "other.hdf5": hdf5(score=np.zeros((2, 3))),
        "group.hdf5": hdf5(value=None),
        "line.hdf5": hdf5(value=np.zeros(3)),
        "scalar.hdf5": hdf5(value=0.5),
        "heat.png": lambda path: Image.new("L", (2, 2)).save(path),
        "missing.npy": lambda path: None,
    }


@pytest.mark.parametrize("name", list(broken_files(Path())))
def test_what_is_no_score_file_is_refused_by_name(tmp_path: Path, name: str) -> None:
    broken_files(tmp_path)[name](tmp_path / name)
    with pytest.raises(OutmaskError, match=name) as raised:
        read_score(tmp_path / name)
    assert "\n" not in str(raised.value)


def test_without_h5py_only_hdf5_files_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file["value"] = np.zeros((1, 2))
    np.save(tmp_path / "a.npy", np.zeros((1, 2)))
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(OutmaskError, match="HDF5 files need h5py, which is not installed: pip install outmask.submit"):
        read_score(tmp_path / "a.hdf5")
    assert read_score(tmp_path / "a.npy").shape == (1, 2)
