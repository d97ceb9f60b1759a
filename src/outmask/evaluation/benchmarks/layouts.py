"""What the layouts share: looking for files, and the plain form that every benchmark accepts."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from outmask.data.images import IMAGE_SUFFIXES
from outmask.errors import OutmaskError

_log = logging.getLogger(__name__)


class WrongLayout(Exception):
    """A root that does not hold a benchmark: says what is wrong; ``open_benchmark`` adds what was expected."""


def images_in(folder: Path, pattern: str = "*") -> list[Path]:
    """The image files below ``folder`` that fit the pattern, sorted.

    Raises:
        WrongLayout: where there is no such folder.
    """
    if not folder.is_dir():
        raise WrongLayout(f"{folder} is missing")
    # A leading dot marks what operating systems leave behind ("._x.png").
    return sorted(
        path
        for path in folder.glob(pattern)
        if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file() and not path.name.startswith(".")
    )


def demand(files: Sequence[Path]) -> None:
    """Refuse a benchmark of which files are missing, with their count and the first.

    Raises:
        WrongLayout: where there are none, or some do not exist.
    """
    if missing := [path for path in files if not path.is_file()]:
        raise WrongLayout(f"{len(missing)} of {len(files)} files are missing, the first {missing[0]}")


def lost_and_found_frames(folder: Path, names: Sequence[str]) -> list[Path]:
    """The images of frames of Lost and Found, ``FOLDER/SPLIT/NN_Scene/NAME_leftImg8bit.png``.

    Raises:
        WrongLayout: where some are missing.
    """
    suffix = "_leftImg8bit"
    frames = {image.stem.removesuffix(suffix): image for image in images_in(folder, f"*/*/*{suffix}.*")}
    if missing := [name for name in names if name not in frames]:
        raise WrongLayout(
            f"{len(missing)} of {len(names)} frames are missing in {folder}, the first {missing[0]}{suffix}.png"
        )
    return [frames[name] for name in names]


def plain_pairs(root: Path, folder: str) -> list[tuple[str, Path, Path]]:
    """Stem, image and label of each ``images/*`` with ``FOLDER/SAME_STEM.png``.

    Images without a label are left out, with a warning in the log that counts them.

    Raises:
        WrongLayout: where a folder is missing or no image has a label.
        OutmaskError: where two images would share a label.
    """
    labels = root / folder
    images = images_in(root / "images")
    if not labels.is_dir():
        raise WrongLayout(f"{labels} is missing")
    by_stem: dict[str, Path] = {}
    for image in images:
        if image.stem in by_stem:
            raise OutmaskError(f"{by_stem[image.stem]} and {image} would share one label; remove one of them")
        by_stem[image.stem] = image
    pairs = [(stem, image, labels / f"{stem}.png") for stem, image in by_stem.items()]
    labelled = [pair for pair in pairs if pair[2].is_file()]
    if not labelled:
        raise WrongLayout("no image has a label")
    if len(labelled) < len(pairs):
        left_out = len(pairs) - len(labelled)
        _log.warning("%d of %d images in %s have no label and are left out", left_out, len(pairs), root / "images")
    return labelled
