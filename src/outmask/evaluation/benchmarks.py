"""Benchmarks by name: where their images and labels lie, and what their label values mean.

A benchmark is opened, its layout checked at the door, and then gives one ``Record`` per image. Adding one means a class
with the ``Benchmark`` protocol and an entry in ``_BENCHMARKS``.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from outmask.data.images import IMAGE_SUFFIXES
from outmask.errors import OutmaskError

KNOWN, ANOMALY, OUTSIDE = 0, 1, 255
"""What every benchmark's labels come to, whatever values its files hold."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Record:
    """One image of a benchmark.

    Attributes:
        name: names the image in reports and errors.
        image: the image file; its suffix may lie about its format.
        label: reads the ground truth, ``(H, W)`` uint8 of 0 known, 1 anomaly, 255 outside; raises ``OutmaskError`` on
            a file that cannot be read or holds values outside of the benchmark's protocol.
    """

    name: str
    image: Path
    label: Callable[[], NDArray[np.uint8]]


class Benchmark(Protocol):
    """A named, sized, repeatable series of records."""

    @property
    def name(self) -> str:
        """The name under which ``open_benchmark`` knows it."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Record]: ...


@dataclass(frozen=True)
class _Records:
    """A benchmark whose records are listed when it is opened."""

    name: str
    records: tuple[Record, ...]

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)


def road_anomaly(root: Path) -> Benchmark:
    """Road Anomaly (Lis et al., ICCV 2019) in its original layout.

    ``frame_list.json`` lists the images ``frames/X.SUFFIX``; ``frames/X.labels/labels_semantic.png`` holds 0 = known
    and 2 = anomaly.
    """
    expected = "expected frame_list.json, frames/X.jpg and frames/X.labels/labels_semantic.png"
    frame_list = root / "frame_list.json"
    try:
        names = json.loads(frame_list.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OutmaskError(f"{root} is not the road_anomaly benchmark: no readable {frame_list}; {expected}") from error
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise OutmaskError(f"{frame_list} must be a list of image file names; {expected}")
    records = []
    for name in names:
        image = root / "frames" / name
        label = image.with_suffix(".labels") / "labels_semantic.png"
        for path in (image, label):
            if not path.is_file():
                raise OutmaskError(f"{root} is not the whole road_anomaly benchmark: {path} is missing; {expected}")
        records.append(Record(Path(name).stem, image, _label_reader(label, {0: KNOWN, 2: ANOMALY})))
    return _Records("road_anomaly", tuple(records))


def folder(root: Path, anomaly_id: int = 1) -> Benchmark:
    """Any ``images/*`` with ``labels_masks/SAME_STEM.png``: 0 known, ``anomaly_id`` anomaly, 255 outside.

    Images without a label are left out, with a warning in the log that counts them.
    """
    expected = "expected images/* with labels_masks/SAME_STEM.png"
    images, labels = root / "images", root / "labels_masks"
    if not images.is_dir() or not labels.is_dir():
        missing = images if not images.is_dir() else labels
        raise OutmaskError(f"{root} is not a folder benchmark: {missing} is missing; {expected}")
    if anomaly_id in (KNOWN, OUTSIDE):
        raise OutmaskError(f"anomaly id {anomaly_id} already means known (0) or outside (255); give another one")
    files = [path for path in sorted(images.iterdir()) if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()]
    by_stem: dict[str, Path] = {}
    for path in files:
        if path.stem in by_stem:
            raise OutmaskError(f"{by_stem[path.stem]} and {path} would share one label; remove one of them")
        by_stem[path.stem] = path
    values = {KNOWN: KNOWN, anomaly_id: ANOMALY, OUTSIDE: OUTSIDE}
    records = tuple(
        Record(stem, path, _label_reader(labels / f"{stem}.png", values, "; name another anomaly with --anomaly-id"))
        for stem, path in by_stem.items()
        if (labels / f"{stem}.png").is_file()
    )
    if not records:
        raise OutmaskError(f"{root} holds no image with a label: {expected}")
    if len(records) < len(files):
        left_out = len(files) - len(records)
        _log.warning("%d of %d images in %s have no label and are left out", left_out, len(files), images)
    return _Records("folder", records)


_BENCHMARKS: dict[str, Callable[..., Benchmark]] = {"road_anomaly": road_anomaly, "folder": folder}


def available() -> list[str]:
    """The names that :func:`open_benchmark` knows."""
    return list(_BENCHMARKS)


def describe(name: str) -> str:
    """What a benchmark is and how its files lie, in one line."""
    return (_BENCHMARKS[name].__doc__ or "").split("\n")[0].replace("``", "")


def open_benchmark(name: str, root: str | Path, anomaly_id: int | None = None) -> Benchmark:
    """The benchmark called ``name``, its files below ``root``.

    Args:
        name: one of :func:`available`.
        root: the folder that holds it.
        anomaly_id: the anomaly's label value, for ``folder`` only (default 1).

    Raises:
        OutmaskError: on an unknown name, or where ``root`` does not hold the benchmark's layout.
    """
    if name not in _BENCHMARKS:
        raise OutmaskError(f"unknown benchmark {name!r}; expected one of {', '.join(_BENCHMARKS)}")
    root = Path(root)
    if not root.is_dir():
        raise OutmaskError(f"{root}: no such folder; --root is the folder that holds the benchmark {name}")
    if anomaly_id is None:
        return _BENCHMARKS[name](root)
    if name != "folder":
        raise OutmaskError(f"--anomaly-id is for the benchmark folder; {name} defines its own label values")
    return folder(root, anomaly_id)


def _label_reader(path: Path, values: Mapping[int, int], hint: str = "") -> Callable[[], NDArray[np.uint8]]:
    """A function that reads a label file and maps its values, refusing all others."""

    def read() -> NDArray[np.uint8]:
        try:
            with Image.open(path) as image:
                stored = np.array(image)
        except (OSError, SyntaxError, ValueError) as error:
            raise OutmaskError(f"the label {path} cannot be read ({' '.join(str(error).split())})") from error
        if stored.ndim != 2:
            raise OutmaskError(f"the label {path} must have one channel of class values, got {stored.shape[2]}")
        if strangers := sorted(set(np.unique(stored).tolist()) - set(values)):
            shown = ", ".join(map(str, strangers[:8])) + (", ..." if len(strangers) > 8 else "")
            raise OutmaskError(f"the label {path} holds {shown}; expected only {', '.join(map(str, values))}{hint}")
        label = np.full(stored.shape, OUTSIDE, np.uint8)
        for value, meaning in values.items():
            label[stored == value] = meaning
        return label

    return read
