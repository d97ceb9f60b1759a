from __future__ import annotations

import os
import pickle
import pickletools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from outmask.checkpoints import load_bundle
from outmask.checkpoints.pickles import read_weights
from outmask.errors import OutmaskError

ARRAYS = {
    "weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "half": np.ones(2, np.float16),
    "count": np.array(7, np.int64),
    "column": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
}


def check(weights: dict[str, torch.Tensor]) -> None:
    assert set(weights) == set(ARRAYS)
    for name, array in ARRAYS.items():
        assert np.array_equal(weights[name].numpy(), array)
        assert weights[name].numpy().dtype == array.dtype


@pytest.mark.parametrize("protocol", [3, 4])
def test_the_zoos_pickled_arrays_are_read(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "zoo.pkl"
    path.write_bytes(pickle.dumps({"model": ARRAYS, "__author__": "someone"}, protocol))
    check(read_weights(path))


@pytest.mark.parametrize("module", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_arrays_of_numpy_1_and_2_are_read(tmp_path: Path, module: bytes) -> None:
    here = np.empty(0).__reduce__()[0].__module__.encode()  # type: ignore[union-attr]
    text = pickle.dumps({"model": ARRAYS}, 3)  # protocol 3 writes names as lines
    assert here + b"\n_reconstruct" in text
    path = tmp_path / "zoo.pkl"
    path.write_bytes(text.replace(here + b"\n_reconstruct", module + b"\n_reconstruct"))
    check(read_weights(path))


def test_arrays_that_python_2_wrote_are_read(tmp_path: Path) -> None:
    data = bytearray(pickle.dumps({"model": ARRAYS}, 3))
    for opcode, _, position in pickletools.genops(bytes(data)):
        if opcode.name in ("BINBYTES", "SHORT_BINBYTES"):  # what is bytes in Python 3 was a string in Python 2
            assert position is not None
            data[position : position + 1] = {"BINBYTES": b"T", "SHORT_BINBYTES": b"U"}[opcode.name]
    path = tmp_path / "zoo.pkl"
    path.write_bytes(bytes(data))
    check(read_weights(path))


@pytest.mark.parametrize("suffix", ["pth", "pt", "pkl"])
@pytest.mark.parametrize("key", ["model", "state_dict", None])
def test_what_torch_saves_is_read(tmp_path: Path, suffix: str, key: str | None) -> None:
    tensors = {name: torch.from_numpy(np.array(array)) for name, array in ARRAYS.items()}
    path = tmp_path / f"weights.{suffix}"
    torch.save(tensors if key is None else {key: tensors, "iteration": 3, "optimizer": {"state": {}}}, path)
    check(read_weights(path))


class Command:
    """Unpickled without care, it runs a command."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.marker}'",)


class Evaluation(Command):
    def __reduce__(self) -> tuple[Any, ...]:
        return eval, (f"open({str(self.marker)!r}, 'w')",)


@pytest.mark.parametrize("kind", [Command, Evaluation])
@pytest.mark.parametrize(
    ("suffix", "zipped"), [("pkl", False), ("pth", False), ("pth", True), ("pkl", True), ("pt", True)]
)
def test_a_malicious_pickle_is_refused_and_runs_nothing(
    tmp_path: Path, kind: type[Command], suffix: str, zipped: bool
) -> None:
    marker, path = tmp_path / "ran", tmp_path / f"weights.{suffix}"
    payload = {"model": {"weight": kind(marker)}}
    if zipped:
        torch.save(payload, path)
    else:
        path.write_bytes(pickle.dumps(payload))
    # A bare pickle named .pth isn't even read as one: torch expects its own header.
    with pytest.raises(OutmaskError, match="refused" if zipped or suffix == "pkl" else "no checkpoint") as caught:
        load_bundle(str(path))
    assert not marker.exists()
    assert "\n" not in str(caught.value)
    pickle.loads(pickle.dumps(kind(marker)))  # the payload does what it is feared for
    assert marker.exists()


@pytest.mark.parametrize(
    ("module", "name"),
    [("numpy", "load"), ("numpy", "ndarray.tofile"), ("numpy.core.multiarray", "scalar"), ("builtins", "getattr")],
)
def test_no_fourth_name_is_admitted(tmp_path: Path, module: str, name: str) -> None:
    path = tmp_path / "zoo.pkl"
    path.write_bytes(
        b"\x80\x04\x8c"
        + bytes([len(module)])
        + module.encode()
        + b"\x8c"
        + bytes([len(name)])
        + name.encode()
        + b"\x93."
    )
    with pytest.raises(OutmaskError, match=f"it names {module}.{name}"):
        read_weights(path)


@pytest.mark.parametrize("suffix", ["pkl", "pth", "pt"])
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"just a text\n" * 20,
        pickle.dumps({"model": ARRAYS}, 4)[:-40],
        pickle.dumps([1, 2, 3], 4),
        pickle.dumps({"model": {}}, 4),
        pickle.dumps({"model": {"weight": "words"}}, 4),
        pickle.dumps({1: np.zeros(3, np.float32)}, 4),
        b"PK\x03\x04 no archive",
    ],
    ids=["empty", "text", "truncated", "list", "no weights", "words", "numbered", "no archive"],
)
def test_a_file_that_is_no_checkpoint_is_one_line(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"weights.{suffix}"
    path.write_bytes(content)
    with pytest.raises(OutmaskError) as caught:
        load_bundle(str(path))
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_truncated_archive_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"model": {"weight": torch.zeros(1000)}}, path)
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(OutmaskError) as caught:
        read_weights(path)
    assert "\n" not in str(caught.value)


def test_an_array_of_objects_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "zoo.pkl"
    path.write_bytes(pickle.dumps({"model": {"weight": np.array([{}, "x"], dtype=object)}}, 4))
    with pytest.raises(OutmaskError, match="no checkpoint; 'weight'"):
        read_weights(path)
