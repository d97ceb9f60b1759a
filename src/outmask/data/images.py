"""Images as users have them, made into one thing: ``(H, W, 3)`` uint8 RGB, upright.

What a user obviously wants is done without a word (grey, CMYK, 16-bit, palette, alpha, EXIF rotation, a suffix that
lies about the format); a file that cannot be decoded whole is refused with one line that names it.
"""

from __future__ import annotations

import glob
import logging
import os
import re
import struct
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from outmask.errors import OutmaskError

ImageSource = str | os.PathLike[str] | Image.Image | NDArray[np.uint8]

MAX_PIXELS = 178_956_970
"""Pillow's own limit against decompression bombs, twice its ``MAX_IMAGE_PIXELS``: 13,377 x 13,377."""

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".mpo", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"}
    | {".ppm", ".pgm", ".pnm", ".jp2", ".avif"}
)
"""What counts as an image when a folder or a glob is searched; a file named outright is opened whatever its suffix."""

# Pillow's other readers are left out: some start programs (EPS, WMF), none holds photographs.
_FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000", "AVIF")
_FULL_16_BITS = 65535

_log = logging.getLogger(__name__)


def read_image(source: ImageSource) -> NDArray[np.uint8]:
    """The image as ``(H, W, 3)`` uint8 RGB, upright, in memory of its own.

    Grey and palette images become RGB; 16-bit values are scaled from 0-65535 to 0-255; CMYK is converted without its
    colour profile; transparency is laid over white, as image viewers show it; EXIF rotation is applied. Of an
    animation or a multi-page file the first picture is taken, with a warning in the log. Arrays are taken as they are.

    Args:
        source: a file, a PIL image, or an ``(H, W, 3)`` uint8 RGB array.

    Raises:
        OutmaskError: where there is no such file, it is no image, cannot be decoded whole or has more than
            ``MAX_PIXELS`` pixels, or an array is of another shape or type.
    """
    if isinstance(source, np.ndarray):
        if source.ndim != 3 or source.shape[2] != 3 or source.dtype != np.uint8 or source.size == 0:
            raise OutmaskError(
                f"an image array must be (H, W, 3) uint8 RGB, got {source.shape} {source.dtype}; convert it first"
            )
        return np.array(source, order="C")
    if isinstance(source, Image.Image):
        with _decoding("the PIL image"):
            return _decode(source, "the PIL image")
    if not isinstance(source, (str, os.PathLike)):
        raise OutmaskError(f"an image must be a path, a PIL image or an array, got {type(source).__name__}")

    path = Path(source)
    with _opened(path) as image:
        return _decode(image, str(path))


def read_values(path: Path, what: str) -> NDArray[Any]:
    """The values that a picture of ids stores, without any conversion: of a palette the indices, not the colours.

    Args:
        path: a PNG, or another image without losses.
        what: what the picture holds, for messages: ``"labels"``.

    Returns:
        ``(H, W)``, or ``(H, W, C)`` of several channels, in the file's own type: bool, uint8, uint16, ...

    Raises:
        OutmaskError: where there is no such file, it is no image, or it cannot be decoded whole.
    """
    try:
        with _opened(path) as picture:
            return np.array(picture)
    except OutmaskError as error:
        raise OutmaskError(f"can't read {what}: {error}") from error


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """An image file as Pillow opens it; what goes wrong then or while it is decoded is one line that names it."""
    if path.is_dir():
        raise OutmaskError(f"{path} is a folder, expected an image file")
    if not path.is_file():
        raise OutmaskError(f"{path}: no such file; check the path")
    Image.init()
    with _decoding(str(path)), Image.open(path, formats=[name for name in _FORMATS if name in Image.OPEN]) as image:
        yield image


@contextmanager
def _decoding(name: str) -> Iterator[None]:
    """Turns whatever Pillow raises on a bad image into one line that names it."""
    try:
        with warnings.catch_warnings():
            # Large pictures are allowed up to MAX_PIXELS, where Pillow raises.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            yield
    except OutmaskError:
        raise
    except UnidentifiedImageError as error:
        raise OutmaskError(f"{name} is not an image that can be read; expected JPEG, PNG, WebP, TIFF or BMP") from error
    except Image.DecompressionBombError as error:
        raise OutmaskError(_too_large(name)) from error
    except PermissionError as error:
        raise OutmaskError(f"{name} cannot be opened: permission denied") from error
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error) as error:
        # What Pillow raises on damaged files depends on the format.
        reason = " ".join(str(error).split())
        raise OutmaskError(f"{name} cannot be decoded whole ({reason}); the file is damaged, get it anew") from error


def _decode(image: Image.Image, name: str) -> NDArray[np.uint8]:
    """Upright RGB of the first frame of an opened image; damaged data raise what Pillow raises."""
    if image.width == 0 or image.height == 0:
        raise OutmaskError(f"{name} has no pixels")
    if image.width * image.height > MAX_PIXELS:
        raise OutmaskError(_too_large(name))
    frames = getattr(image, "n_frames", 1)
    # MPO is the JPEG of phones and stereo cameras: its further pictures are previews of the same view.
    if frames > 1 and image.format != "MPO":
        _log.warning("%s holds %d pictures: only the first is used", name, frames)
        image.seek(0)
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        deep = np.asarray(image)
        if deep.min() < 0 or deep.max() > _FULL_16_BITS:
            raise OutmaskError(f"{name} holds 32-bit values; expected at most 16 bits: convert it to 8 or 16 bits")
        to_8_bits = np.round(np.arange(_FULL_16_BITS + 1) * (255 / _FULL_16_BITS)).astype(np.uint8)
        return np.repeat(to_8_bits[deep][:, :, None], 3, axis=2)
    if image.mode == "F":
        raise OutmaskError(f"{name} holds floating-point values of unknown range; convert it to 8 or 16 bits")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return np.array(image.convert("RGB"))


def _too_large(name: str) -> str:
    return f"{name} has more than {MAX_PIXELS:,} pixels, the most that is read; scale it down or cut it first"


def find_images(
    inputs: Sequence[str | os.PathLike[str]],
    on_error: Callable[[str, OutmaskError], None] | None = None,
) -> list[tuple[Path, Path]]:
    """The image files behind files, folders (searched through) and globs (``**`` crosses folders).

    Inputs keep their order; what a folder or glob gives is in natural order (2 before 10). Hidden files are passed
    over, and a file that several inputs name comes once.

    Args:
        inputs: what the user named. A file named outright is taken whatever its suffix.
        on_error: called with the input and its error instead of raising, so that the other inputs are still found.

    Returns:
        Pairs of the file and its path below the deepest folder that holds all inputs, under which its outputs go:
        ``find_images(["a"])`` gives ``x.jpg``, ``find_images(["a", "b"])`` gives ``a/x.jpg`` and ``b/x.jpg``.

    Raises:
        OutmaskError: on a missing file, a folder without images, a glob without a match (without ``on_error``).
    """
    found: dict[Path, Path] = {}  # absolute path -> path as the user wrote it
    roots: set[Path] = set()
    for given in [os.fspath(path) for path in inputs]:
        try:
            files, root = _expand(given)
        except OutmaskError as error:
            if on_error is None:
                raise
            on_error(given, error)
            continue
        roots.add(_absolute(root))
        for path in files:
            absolute = _absolute(path)
            roots.add(absolute.parent)  # a pattern with ".." may lead out of its own root
            found.setdefault(absolute, path)
    if not found:
        return []
    base = os.path.commonpath(roots)
    return [(path, absolute.relative_to(base)) for absolute, path in found.items()]


def _absolute(path: Path) -> Path:
    """Absolute, without ``..``, links kept: a folder of links is a folder of images."""
    return Path(os.path.abspath(path))  # noqa: PTH100


def _expand(given: str) -> tuple[list[Path], Path]:
    """The files that one input stands for, and the folder below which they lie."""
    path = Path(given)
    if path.is_dir():
        files = sorted(_walk(path), key=_natural)
        if not files:
            raise OutmaskError(f"{given}: no images in this folder; expected files such as .jpg or .png")
        return files, path
    if path.exists():
        return [path], path.parent
    if not glob.has_magic(given):
        raise OutmaskError(f"{given}: no such file or folder; check the path")
    files = []
    for match in map(Path, glob.iglob(given, recursive=True)):  # noqa: PTH207 - Path.glob takes no absolute pattern
        if match.is_dir():
            files.extend(_walk(match))
        elif match.suffix.lower() in IMAGE_SUFFIXES:
            files.append(match)
    if not files:
        raise OutmaskError(f"{given}: no image matches this pattern")
    # The parts before the first wildcard stay the same in every match.
    fixed = Path(*_until_magic(path.parent.parts))
    return sorted(files, key=_natural), fixed


def _until_magic(parts: Iterable[str]) -> Iterable[str]:
    for part in parts:
        if glob.has_magic(part):
            return
        yield part


def _walk(folder: Path) -> Iterable[Path]:
    """The images below a folder, linked folders included, each folder once even where links form a circle."""
    seen = {os.path.realpath(folder)}
    for parent, folders, files in os.walk(folder, followlinks=True):
        for name in list(folders):
            real = os.path.realpath(Path(parent, name))
            if name.startswith(".") or real in seen:
                folders.remove(name)
            seen.add(real)
        for name in files:
            path = Path(parent, name)
            if not name.startswith(".") and path.suffix.lower() in IMAGE_SUFFIXES:
                yield path


def _natural(path: Path) -> list[tuple[bool, int, str]]:
    """Sorting key under which ``frame2`` comes before ``frame10``."""
    parts = re.split(r"(\d+)", str(path))
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]
