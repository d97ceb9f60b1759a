"""What several commands make of their arguments."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, cast

import outmask
from outmask.app.terminal import tell
from outmask.checkpoints import local_folder
from outmask.checkpoints.folder import read_config
from outmask.checkpoints.statistics import STATISTICS
from outmask.errors import OutmaskError
from outmask.export import is_exported
from outmask.openset import inference
from outmask.openset.unknown_objects import finder

if TYPE_CHECKING:
    from outmask.export import Runtime
    from outmask.segmenter import Ensemble, Segmenter
    from outmask.types import Unknown


def score_names(text: str, known: bool = True) -> list[str]:
    """The names in ``a,b,c``, each once.

    Args:
        text: as the user wrote it.
        known: refuse what is no score of ours; other people's score files may be called anything.

    Raises:
        OutmaskError: on an unknown or an empty name.
    """
    names = list(dict.fromkeys(name.strip() for name in text.split(",")))
    if known:
        for name in names:
            inference.check(name)
    elif not all(names):
        raise OutmaskError(f"--score {text!r} holds an empty name")
    return names


def unknown_ways(text: str) -> list[Unknown]:
    """The ways to find unknown objects in ``a,b,c``, each once.

    Raises:
        OutmaskError: on an unknown one.
    """
    names = list(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        finder(name)  # type: ignore[arg-type]
    return cast("list[Unknown]", names)


def image_size(option: str, text: str, square: bool = False) -> tuple[int, int]:
    """``(height, width)`` of ``HEIGHTxWIDTH`` in pixels.

    Args:
        option: whose value it is.
        text: as the user wrote it.
        square: also take one number, the side of a square.

    Raises:
        OutmaskError: on anything else, or a side of 0.
    """
    found = re.fullmatch(r"([1-9]\d*)(?:x([1-9]\d*))?", text)
    if found is None or (found[2] is None and not square):
        expected = "pixels, such as 1024, or HEIGHTxWIDTH" if square else "HEIGHTxWIDTH in pixels"
        raise OutmaskError(f"{option} {text!r}: expected {expected}, such as 512x1024")
    return int(found[1]), int(found[2] or found[1])


def check_file(option: str, file: str | None) -> None:
    """Refuse a file that could not be written, before an hour of work rather than after it.

    Raises:
        OutmaskError: where its folder does not exist, or it is a folder itself.
    """
    if file is not None and not Path(file).absolute().parent.is_dir():
        raise OutmaskError(f"{option} {file}: its folder does not exist; create it first")
    if file is not None and Path(file).is_dir():
        raise OutmaskError(f"{option} {file} is a folder; name a file in it")


def model_names(text: str) -> list[str]:
    """The models in ``a,b``, the members of an ensemble; a path that exists is one model, whatever commas it has."""
    return [text] if Path(text).exists() else [name.strip() for name in text.split(",")]


def open_model(text: str, runtime: Runtime | None = None) -> Segmenter | Ensemble:
    """The model that ``--model`` names, or the ensemble of several, in PyTorch or the runtime that is asked for.

    Raises:
        OutmaskError: where one of them can't be loaded, or they are no ensemble.
    """
    names = model_names(text)
    for name in names:
        if runtime is not None and not is_exported(name):
            tell(f"exporting {name} for {runtime}, to a temporary file")
    return outmask.load(names[0], runtime=runtime) if len(names) == 1 else outmask.load(names, runtime=runtime)


def model_identity(text: str) -> str:
    """What tells a model from another one of the same name: hashes of its weights and of its detectors' statistics.

    Of an ensemble, those of its members; of an exported file, the hash of its bytes; of any other, its name alone.
    """
    parts = []
    for name in model_names(text):
        parts.append(name)
        if is_exported(name):
            files = [Path(name), Path(name).with_suffix(".bin")]
            parts += [hashlib.sha256(file.read_bytes()).hexdigest() for file in files if file.is_file()]
        folder = local_folder(name)
        if folder is not None:
            parts += map(str, read_config(folder).get("hashes", {}).values())
            if (statistics := folder / STATISTICS).is_file():
                parts.append(hashlib.sha256(statistics.read_bytes()).hexdigest())
    return " ".join(parts)
