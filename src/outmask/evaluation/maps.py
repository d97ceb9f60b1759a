"""Score maps of a benchmark's images, from a model or from files, at the size at which they are measured.

Measuring goes over the images more than once (a threshold is known only when all scores have been seen), so a model's
maps are kept on disk while a benchmark is evaluated; that is also what an interrupted evaluation resumes from.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal, Protocol
from zipfile import BadZipFile

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from outmask.data.datasets import read_ids
from outmask.data.images import read_image
from outmask.errors import OutmaskError
from outmask.evaluation.benchmarks import Record
from outmask.evaluation.score_files import read_score
from outmask.output.files import LABELS, SCORE, replacing, write_json

if TYPE_CHECKING:
    from torch import Tensor

    from outmask.types import Taxonomy

Size = tuple[int, int]

_LARGE = np.finfo(np.float32).max / 10


class Predictor(Protocol):
    """What evaluation needs of a segmenter, or of an ensemble."""

    name: str
    taxonomy: Taxonomy

    def maps(
        self,
        image: NDArray[np.uint8],
        names: Sequence[str],
        size: Size,
        refine_by: Taxonomy | None = None,
        flip: bool = False,
        remove: Literal["stuff", "things"] = "stuff",
    ) -> dict[str, Tensor]:
        """Scores and ``"labels"``, ``(1, *size)`` each; see :func:`outmask.openset.inference.score_maps`."""


@dataclass(frozen=True)
class ImageMaps:
    """What is measured of one image.

    Attributes:
        scores: a score's name -> ``(H, W)`` float32, larger = more anomalous.
        labels: ``(H, W)`` integer closed-set class ids; None where nobody gave them.
        resized_from: the size of the given scores where they had to be resized.
    """

    scores: dict[str, NDArray[np.float32]]
    labels: NDArray[Any] | None
    resized_from: Size | None = None


class MapSource(Protocol):
    """Where score maps come from."""

    @property
    def name(self) -> str:
        """The model or the folder of predictions, for reports."""

    def maps(self, record: Record, names: Sequence[str], size: Size | None) -> ImageMaps:
        """Scores and labels of a record's image.

        Args:
            record: the image.
            names: the scores that are wanted.
            size: ``(H, W)`` of the maps; None for the image's own.

        Raises:
            OutmaskError: where they cannot be had, or the image has another shape than ``size``.
        """


class ModelMaps:
    """Maps that a model makes when they are asked for: one pass per image, all scores from it.

    Args:
        segmenter: the model.
        refine_by, flip, remove: as of ``outmask.openset.inference.score_maps``; a mirrored image is a second pass.
    """

    def __init__(
        self,
        segmenter: Predictor,
        refine_by: Taxonomy | None = None,
        flip: bool = False,
        remove: Literal["stuff", "things"] = "stuff",
    ) -> None:
        self._segmenter, self._refine_by, self._flip, self._remove = segmenter, refine_by, flip, remove

    @property
    def name(self) -> str:
        """The model's."""
        return self._segmenter.name

    def maps(self, record: Record, names: Sequence[str], size: Size | None) -> ImageMaps:
        """See :class:`MapSource`; logits are resized to ``size``, before anything else."""
        image = read_image(record.image)
        own = (image.shape[0], image.shape[1])
        size = own if size is None else size
        _check_shape(record.name, "image", own, size)
        maps = self._segmenter.maps(image, names, size, self._refine_by, self._flip, self._remove)
        labels = maps.pop("labels")[0].cpu().numpy()
        # The ids take an eighth of the space this way, on disk and in memory.
        small = labels.astype(np.uint8 if labels.max(initial=0) < 256 else np.int32)
        return ImageMaps({name: maps[name][0].cpu().numpy() for name in names}, small)


class PredictionFiles:
    """Maps that anything else has written: ``NAME_score.npy`` (as ``outmask predict``), ``NAME.npy`` or ``NAME.hdf5``.

    ``NAME`` is the record's name, or its last parts where they mean no other record. Closed-set labels are taken from
    ``NAME_labels.png``, if there.

    Args:
        folder: holds the files.
        records: of the benchmark.

    Raises:
        OutmaskError: where the folder does not exist.
    """

    _ENDINGS = (SCORE, ".npy", ".hdf5")

    def __init__(self, folder: Path, records: Iterable[Record]) -> None:
        if not folder.is_dir():
            raise OutmaskError(f"--predictions {folder}: no such folder; expected one with NAME_score.npy or NAME.hdf5")
        self._folder = folder
        self._meanings = Counter(end for record in records for end in _ends(record.name))

    @property
    def name(self) -> str:
        """The folder."""
        return str(self._folder)

    def maps(self, record: Record, names: Sequence[str], size: Size | None) -> ImageMaps:
        """See :class:`MapSource`; a score of another resolution is resized bilinearly."""
        score, labels, resized_from = None, None, None
        if names:
            file = self._file(record.name, self._ENDINGS)
            if file is None:
                raise OutmaskError(
                    f"{self._folder} has no prediction of {record.name}: expected {record.name}{SCORE}, "
                    f"{record.name}.npy or {record.name}.hdf5"
                )
            score = read_score(file)
            own = (score.shape[0], score.shape[1])
            if size is not None and own != size:
                _check_shape(record.name, "score", own, size)
                # Between infinities a weighted mean is undefined; a tenth of the range leaves room for it.
                tensor = torch.from_numpy(np.clip(score, -_LARGE, _LARGE))[None, None]
                score = F.interpolate(tensor, size, mode="bilinear", align_corners=False)[0, 0].numpy()
                resized_from = own
        path = self._file(record.name, (LABELS,))
        if path is not None:
            labels = read_ids(path)
            if size is not None and labels.shape != size:
                raise OutmaskError(
                    f"{path}: labels of {labels.shape[1]}x{labels.shape[0]} pixels, expected {size[1]}x{size[0]}"
                )
        return ImageMaps({} if score is None else dict.fromkeys(names, score), labels, resized_from)

    def _file(self, name: str, endings: Sequence[str]) -> Path | None:
        """The file of a record, under its name or under an end of it that no other record shares."""
        for end in _ends(name):
            if end == name or self._meanings[end] == 1:
                for ending in endings:
                    if (path := self._folder / f"{end}{ending}").is_file():
                        return path
        return None


class CachedMaps:
    """Keeps another source's maps in a folder, so that each is made once, also across interruptions.

    Args:
        source: makes the maps.
        folder: ``maps/NAME.npz`` and ``run.json`` go here.
        settings: what determines the maps; a run of other settings is not resumed.
        resume: go on where an earlier evaluation in this folder stopped.

    Raises:
        OutmaskError: where the folder holds an evaluation and ``resume`` is not set, or one of other settings.
    """

    _RUN = "run.json"

    def __init__(self, source: MapSource, folder: Path, settings: dict[str, Any], resume: bool) -> None:
        self._source = source
        self._maps = folder / "maps"
        run = folder / self._RUN
        if run.exists():
            if not resume:
                raise OutmaskError(
                    f"{folder} already holds an evaluation: go on with --resume, or choose another --out"
                )
            try:
                earlier = json.loads(run.read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                raise OutmaskError(f"{run} is damaged: remove {folder} and start anew") from error
            differing = sorted(key for key in {*earlier, *settings} if earlier.get(key) != settings.get(key))
            if differing:
                raise OutmaskError(
                    f"{folder} holds an evaluation with another {', '.join(differing)}: resume with the same, "
                    "or choose another --out"
                )
        write_json(run, settings)

    @property
    def name(self) -> str:
        """The source's."""
        return self._source.name

    def maps(self, record: Record, names: Sequence[str], size: Size | None) -> ImageMaps:
        """See :class:`MapSource`."""
        path = self._maps / f"{record.name}.npz"
        kept = _read_kept(path, names, size)
        if kept is not None:
            return kept
        made = self._source.maps(record, names, size)
        arrays: dict[str, Any] = {f"score.{name}": score for name, score in made.scores.items()}
        if made.labels is not None:
            arrays["labels"] = made.labels
        if made.resized_from is not None:
            arrays["resized_from"] = np.array(made.resized_from)
        with replacing(path) as file:
            np.savez(file, **arrays)
        return made


def _read_kept(path: Path, names: Sequence[str], size: Size | None) -> ImageMaps | None:
    """Maps that were kept; None where there are none, they are damaged, or of another size than is wanted now."""
    try:
        with np.load(path) as stored:
            scores = {name: stored[f"score.{name}"] for name in names}
            labels = stored.get("labels")
            resized_from = stored["resized_from"].tolist() if "resized_from" in stored else None
    except (OSError, ValueError, EOFError, KeyError, BadZipFile):
        return None
    parts = [*scores.values(), *([] if labels is None else [labels])]
    if size is not None and any(part.shape != size for part in parts):
        return None
    return ImageMaps(scores, labels, None if resized_from is None else (resized_from[0], resized_from[1]))


@contextmanager
def naming(record: Record, score: str | None = None) -> Iterator[None]:
    """Within the block, what is wrong with an image's values names the image, and the score."""
    try:
        yield
    except OutmaskError as error:
        raise OutmaskError(f"{record.name}{'' if score is None else f', score {score}'}: {error}") from error


def _ends(name: str) -> Iterator[str]:
    """``a/b/c``, ``b/c``, ``c``: a folder of predictions may start anywhere below a benchmark's."""
    parts = PurePosixPath(name).parts
    for first in range(len(parts)):
        yield "/".join(parts[first:])


def _check_shape(name: str, what: str, own: Size, size: Size) -> None:
    """A label may be of another resolution than its image or score, never of another shape."""
    scale = size[1] / own[1]
    if abs(own[0] * scale - size[0]) > 1 + scale:  # each side was rounded to whole pixels
        raise OutmaskError(
            f"{name}: the label of {size[1]}x{size[0]} pixels does not fit the {what} of {own[1]}x{own[0]} pixels"
        )
