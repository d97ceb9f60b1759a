"""``outmask predict``: scores, pictures and ``results.json`` for any number of images."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from outmask.app import DONE, INTERRUPTED, SOME_FAILED
from outmask.app.arguments import image_size, open_model
from outmask.app.pipeline import Behind, ahead
from outmask.app.terminal import holding_back, progress_bar, say, tell
from outmask.data.images import find_images, read_image
from outmask.errors import ImageError, OutmaskError
from outmask.openset import inference
from outmask.output.files import (
    RESULTS,
    RunFile,
    is_output,
    output_paths,
    output_stems,
    save_result,
    write_listings,
)

if TYPE_CHECKING:
    from outmask.export import Runtime
    from outmask.types import OpenSetResult, Task, Unknown


def predict(
    paths: Sequence[str],
    model: str,
    task: Task,
    score: str,
    threshold: float | None,
    refine: bool,
    flip: bool,
    unknown: Unknown | None,
    window: str | None,
    runtime: Runtime | None,
    out: str,
    resume: bool,
) -> int:
    """Predict every image behind ``paths`` into ``out``; returns the exit code.

    Images are read ahead of the model and written behind it. An input that cannot be read, or that the panoptic task
    would see through windows, is told and noted in ``results.json``, and the others are done. What is wrong with the
    whole run (model, score, output folder) ends it before the first image.

    Raises:
        OutmaskError: where nothing can be done at all.
    """
    inference.check(score)
    if unknown is not None and task != "panoptic":
        raise OutmaskError(f"--unknown says how --task panoptic finds objects: --task {task} has none")
    if task == "panoptic" and unknown is None:
        unknown = "preferred_mask"
    sides = None if window is None else image_size("--window", window, square=True)
    folder = Path(out)
    bad: dict[str, OutmaskError] = {}
    images = [pair for pair in find_images(paths, bad.__setitem__) if not _is_own_output(pair[0], folder)]
    if not images:
        others = f"; the other {len(paths) - 1} inputs give no image either" if len(paths) > 1 else ""
        first = next(iter(bad.values()), "the inputs hold nothing but results of earlier runs")
        raise OutmaskError(f"{first}{others}")
    stems = output_stems([relative for _, relative in images])

    settings: dict[str, Any] = {"model": model, "task": task, "score": score, "threshold": threshold}
    settings |= {"refine": refine, "flip": flip, "window": None if sides is None else list(sides), "runtime": runtime}
    settings |= {} if unknown is None else {"unknown": unknown}
    run = RunFile(folder, settings, resume)
    segmenter = open_model(model, runtime)
    run.write()  # a folder that cannot be written is told now, not after the first image
    for name, error in bad.items():
        tell(str(error))
        run.failed(name, error)

    files = _Files(folder, run, resume, labels=task == "semantic")
    coming = ahead(files.read, zip(images, stems, strict=True))
    busy, started = 0.0, time.monotonic()
    try:
        with closing(coming), Behind(files.write, files.note) as finishing, progress_bar() as progress:
            for image in progress.track(coming, total=len(images), description="predict"):
                for line in image.told:
                    tell(line)
                if image.pixels is not None:
                    began = time.monotonic()
                    try:
                        image.result = segmenter.predict(
                            image.pixels,
                            task=task,
                            score=score,
                            threshold=threshold,
                            refine=refine,
                            flip=flip,
                            unknown=unknown or "preferred_mask",
                            window=sides,
                        )
                    except ImageError as error:
                        image.error = OutmaskError(f"{image.path}: {error}")
                        tell(str(image.error))
                    image.pixels = None  # the result has its own
                    busy += time.monotonic() - began
                finishing.give(image, 0 if image.result is None else image.result.score.size)
    except KeyboardInterrupt:
        tell(f"interrupted after {len(files.finished)} of {len(images)} images; the same command with --resume goes on")
        return INTERRUPTED
    finally:
        run.write()
        if task == "panoptic":
            write_listings(folder, files.finished, segmenter.taxonomy)
    elapsed = time.monotonic() - started
    share = f" (model busy {100 * busy / elapsed:.0f} %)" if files.done else ""
    skipped, failed = len(files.finished) - files.done, len(bad) + files.failed
    counts = [f"{files.done} done in {elapsed:.0f} s{share}"]
    counts += [f"{skipped} there already"] if skipped else []
    counts += [f"{failed} failed"] if failed else []
    say(f"{', '.join(counts)}: {folder} (see {RESULTS})")
    return SOME_FAILED if failed else DONE


@dataclass
class _Image:
    """One input on its way from file to files.

    Attributes:
        path: of the image.
        relative: the same, below what was searched through.
        stem: of its outputs.
        told: what reading it gave to tell.
        pixels: ``(H, W, 3)`` uint8 RGB, until it is predicted; None where it need not or cannot be.
        result: once it is predicted.
        error: where it cannot be.
    """

    path: Path
    relative: Path
    stem: str
    told: Sequence[str] = ()
    pixels: NDArray[np.uint8] | None = None
    result: OpenSetResult | None = None
    error: OutmaskError | None = None


class _Files:
    """What a run reads, writes and notes of its images.

    Args:
        folder: of the outputs.
        run: their record.
        resume: leave out images whose outputs are there.
        labels: also write closed-set labels.

    Attributes:
        finished: of the images whose outputs are on disk: stem -> path below what was searched through, in order.
        done: how many of them were made by this run.
        failed: images that could not be done.
    """

    def __init__(self, folder: Path, run: RunFile, resume: bool, labels: bool) -> None:
        self._folder, self._run, self._resume, self._labels = folder, run, resume, labels
        self.finished: dict[str, Path] = {}
        self.done = self.failed = 0

    def read(self, found: tuple[tuple[Path, Path], str]) -> _Image:
        """An image with its pixels, or with the reason why it has none."""
        (path, relative), stem = found
        image = _Image(path, relative, stem)
        if self._resume and all(output.exists() for output in output_paths(self._folder, stem)):
            return image
        with holding_back() as image.told:
            try:
                image.pixels = read_image(path)
            except OutmaskError as error:
                tell(str(error))
                image.error = error
        return image

    def write(self, image: _Image) -> list[Path]:
        """Write a result, if there is one."""
        return [] if image.result is None else save_result(image.result, self._folder, image.stem, self._labels)

    def note(self, image: _Image, outputs: list[Path]) -> None:
        """Record what became of an image."""
        if image.error is not None:
            self._run.failed(str(image.path), image.error)
            self.failed += 1
            return
        if image.result is None:
            self._run.skipped(image.path)
        else:
            self._run.done(image.path, image.result, outputs)
            self.done += 1
        self.finished[image.stem] = image.relative


def _is_own_output(path: Path, folder: Path) -> bool:
    """Whether a picture is a result in the run's own folder, which may lie among its inputs."""
    own = os.path.realpath(folder)
    return is_output(path) and os.path.realpath(path).startswith(own + os.sep)
