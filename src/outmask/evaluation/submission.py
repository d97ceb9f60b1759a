"""Submission files for tests whose labels are hidden: SegmentMeIfYouCan's HDF5 scores, Fishyscapes' container run.

SegmentMeIfYouCan takes float16, in which saturated scores lose their order: most known pixels of a mask-level score
lie within 1e-3 of -1, where float16 has steps of 5e-4. Its metrics only look at the order of the pixels of all images
together, so the scores go through one monotone map, fitted to all images of the submission, that puts float16's values
where the pixels are. Fishyscapes runs a container and takes float32 as it is.
"""

from __future__ import annotations

import io
import logging
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import outmask
from outmask import scores as score_engine
from outmask.data.images import IMAGE_SUFFIXES, read_image
from outmask.errors import OutmaskError
from outmask.metrics import PixelMetrics
from outmask.output.files import replacing, write_json

if TYPE_CHECKING:
    from outmask.evaluation.maps import Predictor

SMIYC_DATASETS = {
    "smiyc_anomaly21": "AnomalyTrack-all",
    "smiyc_obstacle21": "ObstacleTrack-all",
    "lost_and_found": "LostAndFound-test",
}
"""Benchmark -> the folder in which SegmentMeIfYouCan's kit looks for its frames, whichever split it evaluates."""

CITYSCAPES_CLASSES = 19
"""Fishyscapes measures the closed-set mIoU on Cityscapes, by train id."""

_ONE = 0x3C00
"""Bits of float16's 1.0; 0 to ``_ONE`` are the bits of all float16 values from 0 to 1, in their order."""

_FLOAT32_MAX = np.finfo(np.float32).max

_SCORE_SUFFIXES = (".hdf5", ".npy")

_log = logging.getLogger(__name__)


class ScoreSample:
    """The score distribution of any number of images, in bounded memory and the same for the same images.

    A uniform random sample of the pixels, and the highest scores exactly: precision is decided there, by few pixels.
    Both are all pixels while they fit.

    Args:
        size: the most pixels of the uniform sample, at 4 bytes each.
        top: how many of the highest scores are kept.
    """

    def __init__(self, size: int = 1 << 22, top: int = 1 << 20) -> None:
        self._size, self._top_size = size, top
        self._random = np.random.default_rng(0)
        self._rate = 1.0
        self._parts: list[NDArray[np.float32]] = []
        self._top = np.empty(0, np.float32)

    def add(self, score: NDArray[Any]) -> None:
        """Take in the pixels of one image.

        Raises:
            OutmaskError: where the score is not floating, or has a NaN.
        """
        scores = np.clip(_as_scores(score).ravel(), -_FLOAT32_MAX, _FLOAT32_MAX)  # JSON has no infinity for edges
        self._parts.append(self._thin(scores, self._rate))
        while sum(map(len, self._parts)) > self._size:
            self._rate /= 2
            self._parts = [self._thin(np.concatenate(self._parts), 0.5)]
        if len(self._top) == self._top_size:
            scores = scores[scores > self._top.min()]
        self._top = np.concatenate([self._top, scores])
        if len(self._top) > self._top_size:
            self._top = np.partition(self._top, -self._top_size)[-self._top_size :].copy()

    def values(self) -> NDArray[np.float32]:
        """``(n,)``, the uniform sample."""
        return np.concatenate([*self._parts, np.empty(0, np.float32)])

    def distribution(self) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """The distinct scores that were kept, ascending, and about how many pixels each of them stands for."""
        sampled, exact = self.values(), self._top[:0]
        if self._rate < 1:
            lowest = self._top.min()
            sampled, exact = sampled[sampled <= lowest], self._top[self._top > lowest]
        values, where = np.unique(np.concatenate([sampled, exact]), return_inverse=True)
        weights = np.repeat([1 / self._rate, 1.0], [len(sampled), len(exact)])
        return values, np.bincount(where, weights).astype(np.float64)

    def _thin(self, scores: NDArray[np.float32], rate: float) -> NDArray[np.float32]:
        return scores[self._random.random(len(scores), np.float32) < rate] if rate < 1 else scores


@dataclass(frozen=True, eq=False)
class Float16Map:
    """A monotone map of scores onto float16 values from 0 to 1, for all images of a submission.

    A step function: the scores from one edge to the next become one float16 value, so that the order of two pixels is
    kept or becomes a tie, never reversed. The scores below the first edge, however low, become 0, those from the last
    edge on 1; infinity is a score like others.

    Attributes:
        edges: ``(n,)`` float32, strictly increasing, n at most 15,360: there are 15,361 float16 values from 0 to 1.
    """

    edges: NDArray[np.float32]

    @classmethod
    def fit(cls, sample: ScoreSample) -> Float16Map:
        """The map that serves average precision and the false-positive rate best without knowing the labels.

        The steps are equal in the mean of two quantities: the share t of pixels that score higher, which the
        false-positive rate follows, and ``log(1 + t / 1e-5)``, as precision follows relative ranks and only few pixels
        score as high as anomalies. No distinct score takes more than one step; what a frequent one (-1.0, where masks
        saturate) leaves over goes to the others. At most 15,361 distinct scores, all of them in the sample, are
        therefore kept apart.
        """
        values, weights = sample.distribution()
        if len(values) <= _ONE + 1:
            return cls(values[1:])
        share = np.cumsum(weights[::-1])[::-1] / weights.sum()
        position = share / 2 + np.log1p(share / 1e-5) / np.log1p(1 / 1e-5) / 2
        steps = _fill(-np.diff(position, append=0.0), _ONE)
        # A new value begins where the steps so far pass a whole number; rounding must not keep them just below it.
        starts = np.diff(np.floor(np.cumsum(steps[:-1]) + 1e-6), prepend=0.0) > 0
        return cls(values[1:][starts])

    def __call__(self, score: NDArray[Any]) -> NDArray[np.float16]:
        """Map scores of any shape, compared as float32.

        Raises:
            OutmaskError: where the score is not floating, or has a NaN.
        """
        bits = np.round(np.linspace(0, _ONE, len(self.edges) + 1)).astype(np.uint16)
        return bits.view(np.float16)[np.searchsorted(self.edges, _as_scores(score), side="right")]

    def to_json(self) -> dict[str, Any]:
        """The map as plain JSON values, and how to read them."""
        return {
            "rule": "of n edges, k at or below a score: the float16 whose bits are round(15360 k / n)",
            "edges": self.edges.tolist(),
        }


def tie_share(scores: NDArray[np.float32], mapped: NDArray[np.float16]) -> float:
    """Of the pixel pairs with different scores, the share that a map has made equal.

    Args:
        scores: ``(n,)`` scores.
        mapped: ``(n,)``, what each of them became.

    Returns:
        0 to 1; 0 where no two scores differ.
    """
    pixels = len(scores)
    tied_before, tied_after = _tied_pairs(scores), _tied_pairs(mapped)
    different = pixels * (pixels - 1) // 2 - tied_before
    return (tied_after - tied_before) / different if different else 0.0


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
        """The report as plain JSON values; an undefined metric is None."""
        return {
            "method": self.method,
            "dataset": self.dataset,
            "frames": len(self.files),
            "tie_share": self.tie_share,
            "labelled": self.labelled,
            "before": {name: _plain(value) for name, value in self.before.items()},
            "after": {name: _plain(value) for name, value in self.after.items()},
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
    _h5py()  # its absence is known before any work is done
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
        if part in ("", ".", "..") or "/" in part or "\\" in part:
            raise OutmaskError(f"{part!r} would be part of a submission's path; give a name without slashes")
    path = folder / "anomaly_p" / method / dataset / f"{name}.hdf5"
    with replacing(path) as file:
        file.write(_encode(values))
        file.flush()
        stored = _read_hdf5(Path(file.name))
        if stored.dtype != np.float16 or stored.shape != values.shape or stored.tobytes() != values.tobytes():
            raise OutmaskError(f"{path} reads back differently from what was written; check the disk and h5py")
    return path


def read_score(path: str | Path) -> NDArray[np.float32]:
    """A score map from a file: ``.hdf5`` (dataset ``value``, as SegmentMeIfYouCan's kit writes it) or ``.npy``.

    Returns:
        ``(H, W)`` float32, with whatever values the file holds.

    Raises:
        OutmaskError: where the file cannot be read or holds no ``(H, W)`` floating array, or an HDF5 file without h5py.
    """
    path = Path(path)
    if path.suffix not in _SCORE_SUFFIXES:
        raise OutmaskError(f"{path}: a score file ends in {' or '.join(_SCORE_SUFFIXES)}; convert it first")
    if not path.is_file():
        raise OutmaskError(f"{path}: no such file; check the path")
    if path.suffix == ".hdf5":
        score = _read_hdf5(path)
    else:
        try:
            score = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise OutmaskError(f"{path} is no readable .npy file ({' '.join(str(error).split())})") from error
    if score.ndim != 2 or score.dtype.kind != "f":
        raise OutmaskError(f"{path} must hold a floating-point (H, W) score, got {score.shape} {score.dtype}")
    with np.errstate(over="ignore"):  # a float64 beyond float32's range is infinite
        return score.astype(np.float32)


def write_fishyscapes(
    input_folder: str | Path,
    output_folder: str | Path,
    segmenter: Predictor,
    score: str = "eam",
    progress: Callable[[Iterable[Path]], Iterable[Path]] = iter,
) -> list[Path]:
    """What a Fishyscapes container does when it is started: every image of a folder becomes two arrays.

    An input is an image ``DDDD_*`` (``DDDD`` a number; ``*_labels.png`` and files of other names are left out). It
    becomes ``DDDD_anomaly.npy``, ``(H, W)`` float32, larger = more anomalous, and ``DDDD_segmentation.npy``, ``(H, W)``
    int32 class ids, both of the image's size.

    Args:
        input_folder: ``/input`` in the container.
        output_folder: ``/output`` in the container; created where it is missing.
        segmenter: a model, as ``outmask.load`` gives it; of Cityscapes' 19 classes in the order of their train ids if
            the mIoU that Fishyscapes measures is to mean anything (else a warning in the log).
        score: a name of ``outmask.scores.available()``.
        progress: wraps the images, for a progress bar.

    Returns:
        the files written, two per image.

    Raises:
        OutmaskError: on an unknown score, without inputs, where two inputs share a number, or where a file cannot be
            read or written.
    """
    score_engine.check(score)
    inputs, output = _fishyscapes_inputs(Path(input_folder)), Path(output_folder)
    files: list[Path] = []
    for number, path in zip(inputs, progress(list(inputs.values())), strict=True):
        image = read_image(path)
        prediction = segmenter.prediction(image)
        if not files and prediction.num_classes != CITYSCAPES_CLASSES:
            _log.warning(
                "the model has %d classes, Cityscapes has %d: the mIoU that Fishyscapes measures will mean nothing",
                prediction.num_classes,
                CITYSCAPES_CLASSES,
            )
        maps = score_engine.evaluate(prediction, [score], image.shape[:2])
        arrays = {
            "anomaly": maps[score][0].cpu().numpy(),
            "segmentation": maps["labels"][0].cpu().numpy().astype(np.int32),
        }
        for what, array in arrays.items():
            files.append(output / f"{number}_{what}.npy")
            with replacing(files[-1]) as file:
                np.save(file, array)
    return files


def _fishyscapes_inputs(folder: Path) -> dict[str, Path]:
    """Number -> image, in the order of the numbers."""
    expected = "expected images called NUMBER_*, such as 0000_04_Maurener_Weg_8_000000_000030_rgb.png"
    if not folder.is_dir():
        raise OutmaskError(f"{folder}: no such folder; {expected}")
    inputs: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        number = re.match(r"(\d+)_", path.name)
        if not number or path.suffix.lower() not in IMAGE_SUFFIXES or path.stem.endswith("_labels"):
            continue
        if number[1] in inputs:
            raise OutmaskError(f"{inputs[number[1]]} and {path} share a number, and would share their outputs")
        inputs[number[1]] = path
    if not inputs:
        raise OutmaskError(f"{folder} holds no input; {expected}")
    return dict(sorted(inputs.items(), key=lambda item: int(item[0])))


def _as_scores(score: NDArray[Any]) -> NDArray[np.float32]:
    scores = np.asarray(score)
    if scores.dtype.kind != "f":
        raise OutmaskError(f"expected a floating-point score, got {scores.dtype}")
    with np.errstate(over="ignore"):  # a float64 beyond float32's range is infinite
        scores = scores.astype(np.float32)
    if missing := int(np.isnan(scores).sum()):
        raise OutmaskError(f"the score has NaN at {missing} pixels; every pixel of a submission needs a score")
    return scores


def _fill(weights: NDArray[np.float64], total: int) -> NDArray[np.float64]:
    """Divide ``total`` in proportion to the weights, but at most 1 to each; there are more than ``total`` weights."""
    full = np.zeros(len(weights), bool)
    while True:
        parts = np.where(full, 1.0, weights * ((total - full.sum()) / weights[~full].sum()))
        if not (parts > 1).any():
            return parts
        full |= parts > 1


def _tied_pairs(values: NDArray[Any]) -> int:
    counts = np.unique(values, return_counts=True)[1].astype(np.int64)
    return int((counts * (counts - 1) // 2).sum())


def _encode(values: NDArray[np.float16]) -> bytes:
    """The HDF5 file that holds ``values`` as the kit writes it."""
    buffer = io.BytesIO()
    with _h5py().File(buffer, "w") as file:
        file.create_dataset("value", data=values, compression="gzip", compression_opts=9)
    return buffer.getvalue()


def _read_hdf5(path: Path) -> NDArray[Any]:
    h5py = _h5py()
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


def _h5py() -> Any:
    try:
        import h5py
    except ImportError as error:
        raise OutmaskError("HDF5 files need h5py, which is not installed: pip install outmask[submit]") from error
    return h5py


@contextmanager
def _naming(frame: Frame) -> Iterator[None]:
    """Say of which frame an error speaks."""
    try:
        yield
    except OutmaskError as error:
        raise OutmaskError(f"frame {frame.name}: {error}") from error


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else value
