"""What several commands make of their arguments."""

from __future__ import annotations

from pathlib import Path

from outmask import scores
from outmask.checkpoints import local_folder
from outmask.checkpoints.folder import read_config
from outmask.errors import OutmaskError


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
            scores.check(name)
    elif not all(names):
        raise OutmaskError(f"--score {text!r} holds an empty name")
    return names


def check_file(option: str, file: str | None) -> None:
    """Refuse a file that could not be written, before an hour of work rather than after it.

    Raises:
        OutmaskError: where its folder does not exist, or it is a folder itself.
    """
    if file is not None and not Path(file).absolute().parent.is_dir():
        raise OutmaskError(f"{option} {file}: its folder does not exist; create it first")
    if file is not None and Path(file).is_dir():
        raise OutmaskError(f"{option} {file} is a folder; name a file in it")


def model_identity(model: str) -> str:
    """What tells a model from another one of the same name: the hash of its weights where it is a folder of ours."""
    folder = local_folder(model)
    hashes = {} if folder is None else read_config(folder).get("hashes", {})
    return " ".join([model, *map(str, hashes.values())])
