"""``outmask predict``: scores, pictures and ``results.json`` for any number of images."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from outmask.app import DONE, INTERRUPTED, SOME_FAILED
from outmask.app.arguments import open_model
from outmask.app.terminal import progress_bar, say, tell
from outmask.data.images import find_images, read_image
from outmask.errors import OutmaskError
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
    from outmask.types import Task, Unknown


def predict(
    paths: Sequence[str],
    model: str,
    task: Task,
    score: str,
    threshold: float | None,
    refine: bool,
    flip: bool,
    unknown: Unknown | None,
    out: str,
    resume: bool,
) -> int:
    """Predict every image behind ``paths`` into ``out``; returns the exit code.

    An input that cannot be read is told and noted in ``results.json``, and the others are done. What is wrong with the
    whole run (model, score, output folder) ends it before the first image.

    Raises:
        OutmaskError: where nothing can be done at all.
    """
    inference.check(score)
    if unknown is not None and task != "panoptic":
        raise OutmaskError(f"--unknown says how --task panoptic finds objects: --task {task} has none")
    if task == "panoptic" and unknown is None:
        unknown = "preferred_mask"
    folder = Path(out)
    bad: dict[str, OutmaskError] = {}
    images = [pair for pair in find_images(paths, bad.__setitem__) if not _is_own_output(pair[0], folder)]
    if not images:
        others = f"; the other {len(paths) - 1} inputs give no image either" if len(paths) > 1 else ""
        first = next(iter(bad.values()), "the inputs hold nothing but results of earlier runs")
        raise OutmaskError(f"{first}{others}")
    stems = output_stems([relative for _, relative in images])

    settings = {"model": model, "task": task, "score": score, "threshold": threshold, "refine": refine, "flip": flip}
    settings |= {} if unknown is None else {"unknown": unknown}
    run = RunFile(folder, settings, resume)
    segmenter = open_model(model)
    run.write()  # a folder that cannot be written is told now, not after the first image
    for name, error in bad.items():
        tell(str(error))
        run.failed(name, error)

    segmented: dict[str, Path] = {}
    done = skipped = 0
    started = time.monotonic()
    try:
        with progress_bar() as progress:
            for (path, relative), stem in zip(progress.track(images, description="predict"), stems, strict=True):
                if resume and all(output.exists() for output in output_paths(folder, stem)):
                    run.skipped(path)
                    segmented[stem] = relative
                    skipped += 1
                    continue
                try:
                    pixels = read_image(path)
                except OutmaskError as error:
                    tell(str(error))
                    run.failed(str(path), error)
                    bad[str(path)] = error
                    continue
                result = segmenter.predict(
                    pixels,
                    task=task,
                    score=score,
                    threshold=threshold,
                    refine=refine,
                    flip=flip,
                    unknown=unknown or "preferred_mask",
                )
                run.done(path, result, save_result(result, folder, stem, labels=task == "semantic"))
                segmented[stem] = relative
                done += 1
    except KeyboardInterrupt:
        tell(f"interrupted after {done + skipped} of {len(images)} images; the same command with --resume goes on")
        return INTERRUPTED
    finally:
        run.write()
        if task == "panoptic":
            write_listings(folder, segmented, segmenter.taxonomy)
    counts = [f"{done} done in {time.monotonic() - started:.0f} s"]
    counts += [f"{skipped} there already"] if skipped else []
    counts += [f"{len(bad)} failed"] if bad else []
    say(f"{', '.join(counts)}: {folder} (see {RESULTS})")
    return SOME_FAILED if bad else DONE


def _is_own_output(path: Path, folder: Path) -> bool:
    """Whether a picture is a result in the run's own folder, which may lie among its inputs."""
    own = os.path.realpath(folder)
    return is_output(path) and os.path.realpath(path).startswith(own + os.sep)
