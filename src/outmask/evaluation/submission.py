"""SegmentMeIfYouCan's submission: a track's scores as the HDF5 files that its kit reads.

The kit takes float16, in which saturated scores lose their order; they go through a
:class:`~outmask.evaluation.float16.Float16Map`.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import outmask
from outmask.errors import OutmaskError
from outmask.evaluation.float16 import Float16Map, ScoreSample, tie_share
from outmask.evaluation.score_files import import_h5py, read_hdf5
from outmask.metrics import PixelMetrics
from outmask.output.files import replacing, write_json

SMIYC_DATASETS = {
    "smiyc_anomaly21": "AnomalyTrack-all",
    "smiyc_obstacle21": "ObstacleTrack-all",
    "lost_and_found": "LostAndFound-test",
}
"""Benchmark -> the folder in which SegmentMeIfYouCan's kit looks for its frames, whichever split it evaluates."""


@dataclass(frozen=True)
class Frame:
    """One image of a submission.

    Attributes:
        name: the frame's name in the benchmark: its image's file name without the suffix.
        score: reads the score, ``(H, W)`` floating; called twice.
        label: reads the ground truth where it is known, ``(H, W)``: 0 known, 1 anomaly, anything else outside.
    """

    name: str
    score: Callable[[], NDArray[Any]]
    label: Callable[[], NDArray[Any]] | None = None


@dataclass(frozen=True)
class Submission:
    """What was written, and what float16 cost.

    Attributes:
        method: the method's name in the submission.
        dataset: the dataset's name in the submission.
        files: one HDF5 file per frame.
        map: what the scores went through.
        tie_share: of the pixel pairs (of all frames) with different scores, the share that became ties; of a random
            sample where there are more than 4,194,304 pixels.
        labelled: how many frames had labels.
        before: ``AP``, ``FPR95`` and the others of ``PixelMetrics`` over the labelled frames, in percent, with the
            resolution of its default budget; empty without labels.
        after: the same of the written files, which have few enough values to be exact.
    """

    method: str
    dataset: str
    files: tuple[Path, ...]
    map: Float16Map
    tie_share: float
    labelled: int
    before: dict[str, float]
    after: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """The report as plain values; an undefined metric is NaN."""
        return {
            "method": self.method,
            "dataset": self.dataset,
            "frames": len(self.files),
            "tie_share": self.tie_share,
            "labelled": self.labelled,
            "before": self.before,
            "after": self.after,
            "map": self.map.to_json(),
            "outmask": outmask.__version__,
        }


def submit(
    frames: Sequence[Frame],
    folder: str | Path,
    method: str,
    dataset: str,
    progress: Callable[[Iterable[Frame]], Iterable[Frame]] = iter,
) -> Submission:
    """Write a whole SegmentMeIfYouCan submission: fit the map to all frames, write each of them, measure the cost.

    ``FOLDER/anomaly_p/METHOD/DATASET/NAME.hdf5`` for each frame, and ``FOLDER/METHOD_DATASET.json``, the report with
    the map.

    Args:
        frames: all frames of the dataset, labelled or not; read twice, one at a time.
        folder: created where it is missing.
        method: names the method; goes into the path.
        dataset: the kit's name, see ``SMIYC_DATASETS``.
        progress: wraps the frames of each of the two passes, for a progress bar.

    Raises:
        OutmaskError: without frames, on repeated names, on a score that is not ``(H, W)`` floating without NaN, on a
            label that does not fit, where a file cannot be written or reads back differently, or without h5py.
    """
    import_h5py()  # its absence is known before any work is done
    folder = Path(folder)
    if not frames:
        raise OutmaskError("a submission needs at least one frame, got none; check the benchmark's folder")
    name, count = Counter(frame.name for frame in frames).most_common(1)[0]
    if count > 1:
        raise OutmaskError(f"{count} frames of the submission are called {name!r}; each needs a name of its own")

    sample = ScoreSample()
    for frame in progress(frames):
        with _naming(frame):
            sample.add(frame.score())
    mapping = Float16Map.fit(sample)

    files: list[Path] = []
    before, after, labelled = PixelMetrics(), PixelMetrics(), 0
    for frame in progress(frames):
        with _naming(frame):
            score = frame.score()
            mapped = mapping(score)
            files.append(write_smiyc(folder, method, dataset, frame.name, mapped))
            if frame.label is not None:
                label = frame.label()
                before.update(score, label)
                after.update(mapped, label)
                labelled += 1
    values = sample.values()
    report = Submission(
        method,
        dataset,
        tuple(files),
        mapping,
        tie_share(values, mapping(values)),
        labelled,
        before.compute() if labelled else {},
        after.compute() if labelled else {},
    )
    write_json(folder / f"{method}_{dataset}.json", report.to_json())
    return report


def write_smiyc(folder: Path, method: str, dataset: str, name: str, values: NDArray[np.float16]) -> Path:
    """Write one frame as SegmentMeIfYouCan's kit reads it, and read it back before it takes its place.

    ``FOLDER/anomaly_p/METHOD/DATASET/NAME.hdf5`` with one dataset ``value``, float16, gzip 9.

    Args:
        folder: the kit's ``DIR_OUTPUTS``; created where it is missing.
        method, dataset, name: of the method, the kit's dataset and the frame.
        values: ``(H, W)`` float16, from 0 to 1, as :class:`Float16Map` gives them.

    Raises:
        OutmaskError: on other values or a name that is no file name, where the file cannot be written or reads back
            differently, or without h5py.
    """
    if values.ndim != 2 or values.dtype != np.float16:
        raise OutmaskError(f"a submission's frame must be (H, W) float16, got {values.shape} {values.dtype}")
    for part in (method, dataset, name):
        check_name(part)
    path = folder / "anomaly_p" / method / dataset / f"{name}.hdf5"
    with replacing(path) as file:
        file.write(_encode(values))
        file.flush()
        stored = read_hdf5(Path(file.name))
        if stored.dtype != np.float16 or stored.shape != values.shape or stored.tobytes() != values.tobytes():
            raise OutmaskError(f"{path} reads back differently from what was written; check the disk and h5py")
    return path


def check_name(part: str) -> None:
    """Refuse what can be no part of a path.

    Raises:
        OutmaskError: on slashes, dots alone, or nothing.
    """
    if part in ("", ".", "..") or "/" in part or "\\" in part:
        raise OutmaskError(f"{part!r} would be part of a submission's path; give a name without slashes")


def _encode(values: NDArray[np.float16]) -> bytes:
    """The HDF5 file that holds ``values`` as the kit writes it."""
    buffer = io.BytesIO()
    with import_h5py().File(buffer, "w") as file:
        file.create_dataset("value", data=values, compression="gzip", compression_opts=9)
    return buffer.getvalue()


@contextmanager
def _naming(frame: Frame) -> Iterator[None]:
    """Say of which frame an error speaks."""
    try:
        yield
    except OutmaskError as error:
        raise OutmaskError(f"frame {frame.name}: {error}") from error
