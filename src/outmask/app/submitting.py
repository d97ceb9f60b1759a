"""``outmask submit``: the files that a test with hidden labels takes."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import outmask
from outmask.app import DONE
from outmask.app.arguments import model_identity, open_model
from outmask.app.terminal import progress_bar, say, tell
from outmask.errors import OutmaskError
from outmask.evaluation import CachedMaps, ModelMaps, Record, open_benchmark
from outmask.evaluation.benchmarks.layouts import images_in
from outmask.evaluation.fishyscapes import write_fishyscapes
from outmask.evaluation.submission import SMIYC_DATASETS, Frame, Submission, check_name, submit
from outmask.openset import inference

FISHYSCAPES = "fishyscapes"


def submitting(benchmark: str, root: str, model: str, score: str, method: str | None, out: str, resume: bool) -> int:
    """Score all images of a track and write its submission; returns the exit code.

    Raises:
        OutmaskError: on a benchmark that takes no submissions, images that cannot be read, or what cannot be written.
    """
    inference.check(score)
    if benchmark == FISHYSCAPES:
        if method is not None or resume:
            raise OutmaskError("fishyscapes takes no --method and no --resume: its container is run once, nameless")
        segmenter = open_model(model)
        with progress_bar() as bar:

            def shown(images: Iterable[Path]) -> Iterable[Path]:
                return bar.track(list(images), description="fishyscapes")

            files = write_fishyscapes(root, out, segmenter, score, shown)
        say(f"{len(files)} files: {out}")
        return DONE
    if benchmark not in SMIYC_DATASETS:
        raise OutmaskError(
            f"{benchmark} takes no submissions; expected one of {', '.join([*SMIYC_DATASETS, FISHYSCAPES])}"
        )
    records = _all_images(benchmark, root)
    folder = Path(out).resolve()
    if not folder.name:
        raise OutmaskError(f"--out {out} is no folder for a submission: name one below it")
    method = method or "outmask"
    check_name(method)
    run = {
        "benchmark": benchmark,
        "root": str(Path(root).resolve()),
        "model": model_identity(model),
        "score": score,
        "outmask": outmask.__version__,
    }
    # Beside the submission, not in it: the kit's folders hold nothing but its files.
    work = folder.with_name(f".{folder.name}.maps")
    with _removed_when_done(work), progress_bar() as bar:
        source = CachedMaps(ModelMaps(open_model(model)), work, run, resume)

        def read(record: Record) -> NDArray[np.float32]:
            return source.maps(record, [score], None).scores[score]

        def walk(frames: Iterable[Frame]) -> Iterable[Frame]:
            return bar.track(frames, total=len(records), description=f"submit {benchmark}")

        frames = [Frame(record.name, partial(read, record), record.label) for record in records]
        submission = submit(frames, folder, method, SMIYC_DATASETS[benchmark], walk)
    for line in _summary(submission):
        say(line)
    say(f"{len(submission.files)} files: {folder}")
    return DONE


def _all_images(benchmark: str, root: str) -> list[Record]:
    """Every image of a track: the kit wants snow and night scored with the rest, and finds the splits itself."""
    tests = open_benchmark(benchmark, root, "test")
    if benchmark == "lost_and_found":
        return list(tests)
    try:
        labelled = list(open_benchmark(benchmark, root, "validation"))
    except OutmaskError as error:
        tell(f"no validation frames, so that the cost of float16 is not known in AP: {error}")
        labelled = []
    records = {record.image: record for record in (*labelled, *tests) if isinstance(record.image, Path)}
    for folder in {image.parent for image in records}:
        for path in images_in(folder):
            records.setdefault(path, Record(path.stem, path))
    return sorted(records.values(), key=lambda record: record.name)


def _summary(submission: Submission) -> Iterator[str]:
    yield f"map      fitted to all frames; {100 * submission.tie_share:.2g} % of the pixel pairs became ties in float16"
    if submission.labelled:
        costs = (f"{name} {submission.before[name]:.2f} -> {submission.after[name]:.2f}" for name in ("AP", "FPR95"))
        yield f"cost     {', '.join(costs)} on {submission.labelled} labelled frames"


@contextmanager
def _removed_when_done(folder: Path) -> Iterator[None]:
    """Score maps are kept while a submission may have to be resumed."""
    try:
        yield
    except KeyboardInterrupt:
        tell("interrupted; the same command with --resume goes on")
        raise
    shutil.rmtree(folder)
