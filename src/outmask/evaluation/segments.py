"""Segments that a model finds, measured: panoptic quality, and unknown objects as instances."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

import outmask
from outmask.data.images import read_image
from outmask.errors import OutmaskError
from outmask.evaluation.benchmarks import Benchmark, Record
from outmask.evaluation.evaluate import Progress
from outmask.evaluation.maps import Size, naming
from outmask.evaluation.report import Threshold
from outmask.metrics import InstanceAP, PanopticQuality
from outmask.openset.panoptic import KnownSegments, known_segments, open_set_panoptic
from outmask.openset.unknown_objects import Finder, finder
from outmask.types import MaskPrediction, Taxonomy, Unknown

_BACKGROUND = {"id": 0, "name": "no object", "isthing": 0}
_OBJECT = {"id": 1, "name": "object", "isthing": 1, "unknown": True}
_OF_OBJECTS = ("PQ_unknown", "SQ_unknown", "RQ_unknown")


class MaskPredictor(Protocol):
    """What is needed of a segmenter."""

    name: str
    taxonomy: Taxonomy

    def masks_and_maps(
        self,
        image: NDArray[np.uint8],
        names: Sequence[str],
        size: Size,
        refine_by: Taxonomy | None = None,
        flip: bool = False,
    ) -> tuple[MaskPrediction, dict[str, Tensor]]:
        """See :func:`outmask.openset.inference.masks_and_maps`."""


def measure_segments(
    segmenter: MaskPredictor,
    benchmark: Benchmark,
    ways: Sequence[Unknown | Finder],
    scores: Sequence[str],
    thresholds: Mapping[str, Threshold],
    refine: bool = False,
    flip: bool = False,
    progress: Progress = lambda records, what: records,
) -> dict[str, Any]:
    """Measure what each way to find unknown objects makes of each score, from one pass of the model.

    Args:
        segmenter: a mask classifier.
        benchmark: one with panoptic labels, of the model's classes and of unknown ones; or with unknown objects, where
            the images count that have them numbered.
        ways: to find unknown objects, with the papers' settings or with their own.
        scores: by which objects are found, and ranked; mining only ranks by them.
        thresholds: of the scores, for the ways that need one.
        refine, flip: as of ``Segmenter.predict``.
        progress: wraps the records.

    Returns:
        ``benchmark``, ``split``, ``model``, ``images`` (a count), and ``segments``, a list with a row for each way and
        score: ``unknown``, ``score``, the ``threshold`` and its ``origin`` where the way needs one, and what was
        measured: ``panoptic``, ``PanopticQuality``'s values, or where there are only unknown objects ``PQ_unknown``,
        ``SQ_unknown`` and ``RQ_unknown``; then also ``instances``, ``InstanceAP``'s values.

    Raises:
        OutmaskError: where the benchmark has neither kind of labels, or its classes are not the model's; where a
            threshold is missing; as ``Segmenter.predict``.
    """
    panoptic = bool(benchmark.categories)
    records = [record for record in benchmark if (record.panoptic if panoptic else record.instances) is not None]
    if not records:
        raise OutmaskError(
            f"{benchmark.name}, split {benchmark.split}, has neither panoptic labels nor numbered unknown objects: "
            "segments can't be measured there"
        )
    if panoptic:
        _check_classes(segmenter.taxonomy, benchmark)
    rows = [
        _Row(benchmark, segmenter.taxonomy, way, score, thresholds.get(score)) for way, score in product(ways, scores)
    ]
    refine_by = segmenter.taxonomy if refine else None
    for record in progress(records, "segments"):
        truth = _truth(record, benchmark.smallest_object)
        size = (truth.ids.shape[0], truth.ids.shape[1])
        masks, maps = segmenter.masks_and_maps(read_image(record.image), list(scores), size, refine_by, flip)
        known = known_segments(masks, segmenter.taxonomy, size)
        for row in rows:
            with naming(record, row.score):
                row.add(masks, known, maps[row.score][0].cpu().numpy(), truth, record.group)
    return {
        "benchmark": benchmark.name,
        "split": benchmark.split,
        "model": segmenter.name,
        "images": len(records),
        "segments": [row.to_json() for row in rows],
        "outmask": outmask.__version__,
    }


class _Truth(NamedTuple):
    """Ground truth of one image: ids and their COCO dicts; ``objects`` where only these are known."""

    ids: NDArray[np.int32]
    segments: list[dict[str, Any]]
    objects: NDArray[np.int32] | None


def _truth(record: Record, smallest_object: int) -> _Truth:
    if record.panoptic is not None:
        return _Truth(*record.panoptic(), None)
    assert record.instances is not None
    objects = record.instances()
    # Void is what lies outside; all that is no object is one segment, and objects too small to count are crowds.
    ids = (objects + 1).astype(np.int32)
    areas = np.bincount(ids.ravel())
    segments = [
        {"id": id_, "category_id": int(id_ > 1), "iscrowd": int(id_ > 1 and areas[id_] < smallest_object)}
        for id_ in range(1, len(areas))
        if areas[id_]
    ]
    return _Truth(ids, segments, objects)


class _Row:
    """One way to find unknown objects, by one score.

    Raises:
        OutmaskError: on an unknown way, or one that lacks its threshold.
    """

    def __init__(
        self, benchmark: Benchmark, taxonomy: Taxonomy, way: Unknown | Finder, score: str, threshold: Threshold | None
    ) -> None:
        self.score = score
        self._name, self._find = way if isinstance(way, str) else repr(way), finder(way)
        self._taxonomy = taxonomy
        self._threshold = threshold if self._find.needs_threshold else None
        if self._find.needs_threshold and threshold is None:
            raise OutmaskError(
                f"{self._name} finds unknown objects above a threshold, and the model has no operating point for "
                f"{score!r}: give one with --threshold"
            )
        self._panoptic = PanopticQuality(benchmark.categories or (_BACKGROUND, _OBJECT))
        self._instances = None if benchmark.categories else InstanceAP(benchmark.smallest_object)

    def add(
        self, masks: MaskPrediction, known: KnownSegments, score: NDArray[np.float32], truth: _Truth, group: str
    ) -> None:
        threshold = None if self._threshold is None else self._threshold.of(group)
        ids, segments = open_set_panoptic(masks, self._taxonomy, score, threshold, self._find, known)
        categories = self._taxonomy.evaluation_ids
        if self._instances is not None:
            assert truth.objects is not None
            count = len(known.classes)
            segments = segments[count:]
            ids = np.where(ids > count, ids, 0)
            confidence = [segment.score for segment in segments]
            self._instances.update(np.maximum(ids - count, 0), confidence, truth.objects)
        named = [each if each.is_unknown else replace(each, class_id=categories[each.class_id]) for each in segments]
        self._panoptic.update(ids, named, truth.ids, truth.segments)

    def to_json(self) -> dict[str, Any]:
        values: dict[str, Any] = {"unknown": self._name, "score": self.score}
        if self._threshold is not None:
            values |= {"threshold": self._threshold.value, "origin": self._threshold.origin}
        panoptic = self._panoptic.compute()
        if self._instances is None:
            return {**values, "panoptic": panoptic}
        of_objects = {name: panoptic[name] for name in _OF_OBJECTS}
        return {**values, "panoptic": of_objects, "instances": self._instances.compute()}


def _check_classes(taxonomy: Taxonomy, benchmark: Benchmark) -> None:
    """Refuse a model whose classes are not the benchmark's known ones."""
    known = {each["id"]: each["name"] for each in benchmark.categories if not each.get("unknown")}
    for id_, name in zip(taxonomy.evaluation_ids, taxonomy.names, strict=True):
        if known.get(id_) != name:
            raise OutmaskError(
                f"the model's class {name!r}, category {id_}, is no known class of {benchmark.name}, split "
                f"{benchmark.split}: its panoptic quality can't be measured there"
            )
    if missing := [name for name in known.values() if name not in taxonomy.names]:
        raise OutmaskError(
            f"{benchmark.name}, split {benchmark.split}, has the known class {missing[0]!r}, which the model does not: "
            "take the split whose known classes are the model's"
        )
