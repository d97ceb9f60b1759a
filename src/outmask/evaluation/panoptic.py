"""Panoptic quality of prediction files in COCO's panoptic format, open-set: unknown classes are pooled."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

import outmask
from outmask.data.coco import read_segment_ids
from outmask.errors import OutmaskError
from outmask.evaluation.benchmarks import Benchmark
from outmask.evaluation.evaluate import Progress
from outmask.metrics import PanopticQuality

LISTING = "panoptic.json"


def has_panoptic_predictions(folder: Path) -> bool:
    """Whether a folder holds ``panoptic.json``, rather than score maps."""
    return (folder / LISTING).is_file()


def measure_panoptic(
    benchmark: Benchmark, folder: Path, progress: Progress = lambda records, what: records
) -> dict[str, Any]:
    """PQ, SQ and RQ of predictions on a panoptic benchmark, by name; an undefined rate is NaN.

    Args:
        benchmark: one whose records have panoptic ground truth.
        folder: ``panoptic.json`` (COCO's: ``annotations`` with ``file_name`` and ``segments_info``) and its PNGs,
            beside it or in a folder there. An unknown segment carries the category id of any unknown class, or of one
            of the file's own ``categories`` that is marked by ``"unknown": true``. An annotation is of the image that
            the file's ``images`` call by its ``image_id``; where there are none, of that which its PNG is called after.
        progress: wraps the records.

    Raises:
        OutmaskError: where the benchmark has no panoptic labels, an image has no prediction, or a file is none.
    """
    if any(record.panoptic is None for record in benchmark):
        raise OutmaskError(
            f"{benchmark.name} has no panoptic labels, but {folder / LISTING} holds panoptic predictions"
        )
    listing = _listing(folder / LISTING, benchmark.categories)
    metric = PanopticQuality(benchmark.categories)
    for record in progress(benchmark, "evaluate"):
        if record.name not in listing:
            raise OutmaskError(f"{folder / LISTING} has no prediction of {record.name}: every image needs one")
        entry = listing[record.name]
        assert record.panoptic is not None
        truth, segments = record.panoptic()
        try:
            metric.update(_read_ids(folder, entry["file_name"]), entry["segments_info"], truth, segments)
        except OutmaskError as error:
            raise OutmaskError(f"{record.name}: {error}") from error
    return {
        "benchmark": benchmark.name,
        "split": benchmark.split,
        "model": str(folder),
        "images": len(benchmark),
        "panoptic": metric.compute(),
        "outmask": outmask.__version__,
    }


def _listing(path: Path, categories: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """An image's name -> its annotation, in the benchmark's categories."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        own = {category["id"] for category in values.get("categories", ()) if category.get("unknown")}
        unknown = next((category["id"] for category in categories if category.get("unknown")), None)
        names = {image["id"]: image["file_name"] for image in values.get("images", ())}
        return {
            PurePosixPath(names.get(entry.get("image_id"), entry["file_name"])).stem: {
                "file_name": entry["file_name"],
                "segments_info": [
                    {**segment, "category_id": unknown} if segment["category_id"] in own else segment
                    for segment in entry["segments_info"]
                ],
            }
            for entry in values["annotations"]
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise OutmaskError(
            f"{path} is no COCO panoptic listing ({type(error).__name__}: {error}); "
            "expected annotations with file_name and segments_info"
        ) from error


def _read_ids(folder: Path, file_name: str) -> NDArray[np.int32]:
    places = [folder / file_name, *sorted(folder.glob(f"*/{file_name}"))]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise OutmaskError(f"no {file_name} in {folder}, nor in a folder of it")
    return read_segment_ids(path)
