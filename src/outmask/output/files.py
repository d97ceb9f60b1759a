"""What a run leaves on disk. Every file is written beside its place and then renamed: none is ever half there."""

from __future__ import annotations

import json
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import get_ident
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from outmask.data.coco import ids_to_rgb
from outmask.errors import OutmaskError
from outmask.output.objects import Segmented, coco_listings, describe_segments
from outmask.output.pictures import heat_map, overlay, segment_map
from outmask.types import OpenSetResult, Taxonomy

SCORE, HEAT_MAP, OVERLAY = "_score.npy", "_score.png", "_overlay.jpg"
LABELS, OPEN_LABELS = "_labels.png", "_open_labels.png"
PANOPTIC, SEGMENTS, SEGMENT_MAP = "_panoptic.png", "_segments.json", "_segments.jpg"
RESULTS = "results.json"
PANOPTIC_LISTING, OBJECTS_LISTING = "panoptic.json", "instances.json"

_JPEG_SIDE = 65_500
"""The longest side that libjpeg writes."""


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A binary file that becomes ``path`` when the block ends, and nothing at all where it raises.

    Raises:
        OutmaskError: where the file cannot be written.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}-{get_ident()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with beside.open("wb") as file:
                yield file
            beside.replace(path)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise OutmaskError(f"cannot write {path}: {error.strerror or error}") from error


def write_json(path: Path, values: Any, indent: int | None = 2) -> None:
    """Write plain values as JSON, whole or not at all; what JSON has no number for (NaN, infinity) becomes null.

    Args:
        path: the file.
        values: what it shall hold.
        indent: of nested values; None for one line.

    Raises:
        OutmaskError: where the file cannot be written.
    """
    text = json.dumps(_without_nan(values), indent=indent, ensure_ascii=False, allow_nan=False)
    with replacing(path) as file:
        file.write(f"{text}\n".encode())


def write_image(path: Path, pixels: NDArray[Any] | Image.Image) -> None:
    """Write a PNG, or a JPEG where ``path`` ends in ``.jpg``, whole or not at all.

    A picture beyond JPEG's longest side is scaled down to it; PNG keeps every pixel.

    Raises:
        OutmaskError: where the file cannot be written.
    """
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    with replacing(path) as file:
        if path.suffix != ".jpg":
            image.save(file, "PNG", compress_level=3)  # a third of the default's time for an eighth more bytes
            return
        if max(image.size) > _JPEG_SIDE:
            scale = _JPEG_SIDE / max(image.size)
            image = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
        image.save(file, "JPEG", quality=92)


def output_stems(images: Sequence[Path]) -> list[str]:
    """A stem for the outputs of each image, without its suffix unless two of them would then write the same files.

    Args:
        images: paths relative to a common folder, all different.
    """
    stems = [(path.parent / path.stem).as_posix() for path in images]
    names = [path.as_posix() for path in images]
    claims = Counter(name.lower() for name in stems + names)  # some file systems ignore case
    return [stem if claims[stem.lower()] == 1 else name for stem, name in zip(stems, names, strict=True)]


def output_paths(folder: Path, stem: str | Path) -> list[Path]:
    """The three files that every result has; a result is complete where all of them exist."""
    return [folder / f"{stem}{ending}" for ending in (SCORE, HEAT_MAP, OVERLAY)]


def is_output(path: Path) -> bool:
    """Whether a picture's name says that it was written by :func:`save_result`."""
    return path.name.endswith((HEAT_MAP, OVERLAY, LABELS, OPEN_LABELS, PANOPTIC, SEGMENT_MAP))


def save_result(
    result: OpenSetResult, folder: Path, stem: str | Path | None = None, labels: bool = False
) -> list[Path]:
    """Write a result's files.

    ``STEM_score.npy`` (float32: float16 loses the order of saturated scores), ``STEM_score.png`` (heat map),
    ``STEM_overlay.jpg``, ``STEM_open_labels.png`` where the result has open labels, ``STEM_labels.png`` (closed set)
    on request. Label pictures hold the class ids, as 8 bits where they fit, else 16. Where the result has segments,
    ``STEM_panoptic.png`` holds their ids as COCO does (``R + 256 G + 256^2 B``), ``STEM_segments.json`` says what they
    are, and ``STEM_segments.jpg`` shows them.

    Args:
        result: what to write.
        folder: created where it is missing.
        stem: name of the files, possibly below further folders; by default the source file's, or ``image``.
        labels: also write the closed-set labels.

    Returns:
        the files written.

    Raises:
        OutmaskError: where a file cannot be written; those already written stay, each whole.
    """
    if stem is None:
        stem = result.source.stem if result.source else "image"
    writers: list[tuple[str, Callable[[Path], None]]] = [
        (SCORE, lambda path: _write_array(path, result.score)),
        (HEAT_MAP, lambda path: write_image(path, heat_map(result.score, result.display_range))),
        (OVERLAY, lambda path: write_image(path, overlay(result))),
    ]
    open_labels = result.open_labels
    if labels:
        writers.insert(0, (LABELS, lambda path: write_image(path, _as_id_picture(result.labels))))
    if open_labels is not None:
        writers.insert(0, (OPEN_LABELS, lambda path: write_image(path, _as_id_picture(open_labels))))
    panoptic = result.panoptic
    if panoptic is not None:
        writers = [
            (PANOPTIC, lambda path: write_image(path, ids_to_rgb(panoptic))),
            (SEGMENTS, lambda path: write_json(path, describe_segments(result), indent=None)),
            (SEGMENT_MAP, lambda path: write_image(path, segment_map(result))),
            *writers,
        ]
    paths = []
    # The three files that make a result complete come last, so that a resumed run misses none.
    for ending, write in writers:
        path = folder / f"{stem}{ending}"
        write(path)
        paths.append(path)
    return paths


def write_listings(folder: Path, images: Mapping[str, Path], taxonomy: Taxonomy) -> None:
    """Write a run's ``panoptic.json`` and ``instances.json``, of the images whose segments are on disk.

    Args:
        folder: of the run.
        images: a stem -> the image's path, relative to what was searched through.
        taxonomy: the model's.

    Raises:
        OutmaskError: where an image's segments cannot be read, or a file cannot be written.
    """
    segmented = [
        Segmented(stem, image.as_posix(), f"{stem}{PANOPTIC}", folder / f"{stem}{SEGMENTS}")
        for stem, image in images.items()
    ]
    panoptic, objects = coco_listings(segmented, taxonomy)
    write_json(folder / PANOPTIC_LISTING, panoptic, indent=None)
    write_json(folder / OBJECTS_LISTING, objects, indent=None)


class RunFile:
    """``results.json`` of a run: its settings and one entry per input, rewritten whole every few seconds.

    Args:
        folder: the run's output folder.
        settings: what determines the outputs (model, score ...); goes to the head of the file.
        resume: keep the entries that the file already has.

    Raises:
        OutmaskError: on resuming a run that had other settings, whose results would be mixed.
    """

    _SECONDS_BETWEEN_WRITES = 10.0

    def __init__(self, folder: Path, settings: dict[str, Any], resume: bool = False) -> None:
        self.path = folder / RESULTS
        self._settings = settings
        self._entries: dict[str, dict[str, Any]] = {}
        self._written = time.monotonic()
        if resume and self.path.exists():
            self._load()

    def _load(self) -> None:
        try:
            values = json.loads(self.path.read_text(encoding="utf-8"))
            entries = {entry["file"]: entry for entry in values["images"]}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise OutmaskError(f"{self.path} is no results file of a run; remove it or choose another --out") from error
        differing = [f"{key} {values.get(key)!r}" for key, value in self._settings.items() if values.get(key) != value]
        if differing:
            raise OutmaskError(
                f"{self.path} is of a run with {', '.join(differing)}: resume with the same or choose another --out"
            )
        self._entries = entries

    def done(self, file: Path, result: OpenSetResult, outputs: list[Path]) -> None:
        """Note a finished image."""
        height, width = result.score.shape
        entry = {
            "status": "done",
            "width": width,
            "height": height,
            "score_max": float(result.score.max()),
            "score_mean": float(result.score.mean(dtype=np.float64)),
            "outputs": [path.relative_to(self.path.parent).as_posix() for path in outputs],
        }
        if result.segments is not None:
            entry["segments"] = len(result.segments)
            entry["unknown_objects"] = sum(segment.is_unknown for segment in result.segments)
        if result.threshold is not None:
            entry["threshold"] = result.threshold
            entry["unknown_share"] = float((result.score > result.threshold).mean())
        self._note(str(file), entry)

    def skipped(self, file: Path) -> None:
        """Note an image whose outputs were there already; what is known of it from its own run is kept."""
        if self._entries.get(str(file), {}).get("status") != "done":
            self._note(str(file), {"status": "done"})

    def failed(self, file: str, error: OutmaskError) -> None:
        """Note an input that could not be done."""
        self._note(file, {"status": "failed", "error": str(error)})

    def write(self) -> None:
        """Write the file now.

        Raises:
            OutmaskError: where it cannot be written.
        """
        write_json(self.path, {**self._settings, "images": list(self._entries.values())})
        self._written = time.monotonic()

    def _note(self, file: str, entry: dict[str, Any]) -> None:
        self._entries[file] = {"file": file, **entry}
        if time.monotonic() - self._written > self._SECONDS_BETWEEN_WRITES:
            self.write()


def _write_array(path: Path, array: NDArray[Any]) -> None:
    array = np.ascontiguousarray(array)
    with replacing(path) as file:
        # As np.save does, which says of a full disk how many bytes it took, not that it is full.
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        file.write(array.data)


def _as_id_picture(ids: NDArray[np.int32]) -> NDArray[np.uint8] | NDArray[np.uint16]:
    return ids.astype(np.uint8) if ids.max() <= np.iinfo(np.uint8).max else ids.astype(np.uint16)


def _without_nan(value: Any) -> Any:
    """Nested plain values with None for every number that is not finite."""
    if isinstance(value, Mapping):
        return {str(key): _without_nan(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
