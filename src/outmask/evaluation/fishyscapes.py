"""Fishyscapes' submission: the run of a container, whose scores are compared as the float32 that they are."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from outmask.data.images import IMAGE_SUFFIXES, read_image
from outmask.errors import OutmaskError
from outmask.evaluation.maps import Predictor
from outmask.openset import inference
from outmask.output.files import replacing

CITYSCAPES_CLASSES = 19
"""Fishyscapes measures the closed-set mIoU on Cityscapes, by train id."""

_log = logging.getLogger(__name__)


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
        score: a name of ``outmask.openset.inference.available()``.
        progress: wraps the images, for a progress bar.

    Returns:
        the files written, two per image.

    Raises:
        OutmaskError: on an unknown score, without inputs, where two inputs share a number, or where a file cannot be
            read or written.
    """
    inference.check(score)
    inputs, output = _inputs(Path(input_folder)), Path(output_folder)
    files: list[Path] = []
    if segmenter.taxonomy.num_classes != CITYSCAPES_CLASSES:
        _log.warning(
            "the model has %d classes, Cityscapes has %d: the mIoU that Fishyscapes measures will mean nothing",
            segmenter.taxonomy.num_classes,
            CITYSCAPES_CLASSES,
        )
    for number, path in zip(inputs, progress(list(inputs.values())), strict=True):
        image = read_image(path)
        maps = segmenter.maps(image, [score], (image.shape[0], image.shape[1]))
        arrays = {
            "anomaly": maps[score][0].cpu().numpy(),
            "segmentation": maps["labels"][0].cpu().numpy().astype(np.int32),
        }
        for what, array in arrays.items():
            files.append(output / f"{number}_{what}.npy")
            with replacing(files[-1]) as file:
                np.save(file, array)
    return files


def _inputs(folder: Path) -> dict[str, Path]:
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
