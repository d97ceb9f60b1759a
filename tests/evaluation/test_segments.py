"""Segments measured: whole scenes are 100, nothing is 0, and each way and score has its own row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from outmask import scores
from outmask.data.coco_classes import COCO_PANOPTIC
from outmask.errors import OutmaskError
from outmask.evaluation import Benchmark, Record, Threshold, open_benchmark
from outmask.evaluation.segments import measure_segments
from outmask.openset.unknown_objects import Components, Mining, PreferredMask
from outmask.types import MaskPrediction, Taxonomy

TAXONOMY = Taxonomy(("road", "car"), ((0, 0, 0), (1, 1, 1)), (False, True), evaluation_ids=(7, 26))
CATEGORIES: tuple[dict[str, Any], ...] = (
    {"id": 7, "name": "road", "isthing": 0},
    {"id": 26, "name": "car", "isthing": 1},
    {"id": 30, "name": "cow", "isthing": 1, "unknown": True},
)
IMAGE = np.zeros((20, 40, 3), np.uint8)
TRUTH = np.full((20, 40), 1, np.int32)
TRUTH[:, 10:20], TRUTH[:, 25:40] = 2, 3
"""Road, a car, and an unknown object of 300 pixels."""
AT = {"eam": Threshold(-0.5, "a test")}


class Fake:
    """Sees the truth: a mask for each of its segments, the unknown one of no class, but like a thing."""

    name = "fake"
    taxonomy = TAXONOMY

    def __init__(self, unknown: bool = True) -> None:
        self.unknown, self.calls = unknown, 0

    def masks_and_maps(
        self,
        image: NDArray[np.uint8],
        names: Sequence[str],
        size: tuple[int, int],
        refine_by: Taxonomy | None = None,
        flip: bool = False,
    ) -> tuple[MaskPrediction, dict[str, Tensor]]:
        self.calls += 1
        third = (0.0001, 0.01, 0.9899) if self.unknown else (0.9, 0.05, 0.05)
        probabilities = torch.tensor([[[0.99, 0.005, 0.005], [0.005, 0.99, 0.005], third]])
        held = torch.stack([torch.from_numpy(np.equal(TRUTH, number)) for number in (1, 2, 3)])[None]
        prediction = MaskPrediction(probabilities.log(), torch.where(held, 20.0, -20.0))
        return prediction, scores.evaluate(prediction, names, size)


def benchmark(*records: Record, categories: tuple[dict[str, Any], ...] = (), smallest: int = 0) -> Benchmark:
    return Benchmark("made-up", "all", records, categories=categories, smallest_object=smallest)


def with_segments(ids: NDArray[np.int32] = TRUTH) -> Record:
    segments = [{"id": id_, "category_id": (7, 26, 30)[id_ - 1]} for id_ in np.unique(ids).tolist()]
    return Record("a", IMAGE, panoptic=lambda: (ids, segments))


def with_objects(*columns: slice, outside: slice = slice(0)) -> Record:
    objects = np.zeros(TRUTH.shape, np.int32)
    for number, where in enumerate(columns, 1):
        objects[:, where] = number
    objects[:, outside] = -1
    return Record("a", IMAGE, instances=lambda: objects)


@pytest.mark.parametrize("way", ["preferred_mask", "mining", "components"])
def test_what_is_found_whole_is_100(way: Any) -> None:
    values = measure_segments(Fake(), benchmark(with_segments(), categories=CATEGORIES), [way], ["eam"], AT)
    assert (values["benchmark"], values["split"], values["model"], values["images"]) == ("made-up", "all", "fake", 1)
    (row,) = values["segments"]
    assert (row["unknown"], row["score"]) == (way, "eam")
    assert ("threshold" in row) == (way != "mining")
    for name in ("PQ", "PQ_known_things", "PQ_known_stuff", "PQ_unknown"):
        assert row["panoptic"][name] == 100

    (row,) = measure_segments(Fake(), benchmark(with_objects(slice(25, 40))), [way], ["eam"], AT)["segments"]
    assert row["instances"]["AP"] == row["instances"]["AP50"] == row["panoptic"]["PQ_unknown"] == 100
    assert set(row["panoptic"]) == {"PQ_unknown", "SQ_unknown", "RQ_unknown"}


def test_what_is_not_found_is_0() -> None:
    for record, categories in ((with_segments(), CATEGORIES), (with_objects(slice(25, 40)), ())):
        opened = benchmark(record, categories=categories)
        (row,) = measure_segments(Fake(unknown=False), opened, ["components"], ["eam"], AT)["segments"]
        assert row["panoptic"]["PQ_unknown"] == 0


def test_an_object_where_there_is_none_is_a_false_alarm_and_outside_it_is_not() -> None:
    def quality(record: Record) -> float:
        (row,) = measure_segments(Fake(), benchmark(record), ["components"], ["eam"], AT)["segments"]
        value: float = row["panoptic"]["RQ_unknown"]
        return value

    assert quality(with_objects(slice(0, 3))) == 0
    # Half of the object's pixels are an object of their own: IoU 8 / 15 is a match; the rest does not matter.
    assert quality(with_objects(slice(25, 33))) == 100
    assert quality(with_objects(slice(25, 32))) == 0
    assert np.isnan(quality(with_objects(outside=slice(20, 40))))


def test_objects_too_small_to_count_are_crowds() -> None:
    opened = benchmark(with_objects(slice(25, 40), slice(0, 2)), smallest=100)
    (row,) = measure_segments(Fake(), opened, ["components"], ["eam"], AT)["segments"]
    assert row["panoptic"]["PQ_unknown"] == row["instances"]["AP"] == 100


def test_all_rows_come_from_one_pass_and_only_images_with_objects_count() -> None:
    fake = Fake()
    opened = benchmark(with_objects(slice(25, 40)), Record("b", IMAGE))
    thresholds = {**AT, "am": Threshold(-0.6, "elsewhere")}
    ways = [PreferredMask(1), Mining(components=1), Components(301)]
    values = measure_segments(fake, opened, ways, ["eam", "am"], thresholds)
    assert fake.calls == values["images"] == 1
    assert [(row["unknown"], row["score"], row.get("threshold")) for row in values["segments"]] == [
        ("PreferredMask(minimum_area=1)", "eam", -0.5),
        ("PreferredMask(minimum_area=1)", "am", -0.6),
        ("Mining(background=0.5, components=1, overlap=0.1, compare_entropy=True)", "eam", None),
        ("Mining(background=0.5, components=1, overlap=0.1, compare_entropy=True)", "am", None),
        ("Components(minimum_area=301)", "eam", -0.5),
        ("Components(minimum_area=301)", "am", -0.6),
    ]
    # A mask holds all its pixels, however little it is wanted: nothing is anomalous by AM.
    assert [row["instances"]["AP"] for row in values["segments"]] == [100, 0, 100, 100, 0, 0]


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(OutmaskError, match="neither panoptic labels nor numbered unknown objects"):
        measure_segments(Fake(), benchmark(Record("a", IMAGE)), ["mining"], ["eam"], {})
    with pytest.raises(OutmaskError, match="no operating point for 'eam': give one with --threshold"):
        measure_segments(Fake(), benchmark(with_objects(slice(1))), ["mining", "components"], ["eam"], {})
    for index, change in ((1, {"name": "cars"}), (0, {"unknown": True})):
        categories = tuple({**each, **change} if i == index else each for i, each in enumerate(CATEGORIES))
        with pytest.raises(OutmaskError, match="is no known class of made-up"):
            measure_segments(Fake(), benchmark(with_segments(), categories=categories), ["mining"], ["eam"], {})
    more = (*CATEGORIES, {"id": 99, "name": "tram", "isthing": 1})
    with pytest.raises(OutmaskError, match="has the known class 'tram', which the model does not"):
        measure_segments(Fake(), benchmark(with_segments(), categories=more), ["mining"], ["eam"], {})


class Seer:
    """Masks of the real COCO images' segments, crowds among them, or none; people and what they wear are *negative*."""

    name = "seer"
    unknown = ("person", "skis", "backpack")

    def __init__(self, opened: Benchmark, blind: bool) -> None:
        rows = zip(COCO_PANOPTIC.names, COCO_PANOPTIC.things or (), COCO_PANOPTIC.evaluation_ids, strict=True)
        names, things, ids = zip(*(row for row in rows if row[0] not in self.unknown), strict=True)
        self.taxonomy = Taxonomy(names, ((0, 0, 0),) * len(names), things, evaluation_ids=ids)
        self._records, self._blind = iter(opened), blind

    def masks_and_maps(self, *arguments: Any) -> tuple[MaskPrediction, dict[str, Tensor]]:
        record, count = next(self._records), self.taxonomy.num_classes
        assert record.panoptic is not None
        ids, segments = record.panoptic()
        class_logits = torch.zeros(1, len(segments), count + 2)
        for query, segment in enumerate(segments):
            category, known = segment["category_id"], self.taxonomy.evaluation_ids
            class_logits[0, query, known.index(category) if category in known else count] = 20
            class_logits[0, query, -1] = 40 * self._blind
        held = torch.stack([torch.from_numpy(ids == segment["id"]) for segment in segments])[None]
        prediction = MaskPrediction(class_logits, torch.where(held, 20.0, -20.0), negative_class=True)
        return prediction, {"eam": torch.zeros(1, *ids.shape)}


def test_real_coco_images_that_are_seen_whole_are_100_and_not_at_all_0(real_data: Path, tmp_path: Path) -> None:
    sample = real_data / "coco_panoptic_sample" / "sample_data"
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/panoptic_val2017.json").symlink_to(sample / "panoptic_examples.json")
    (tmp_path / "annotations/panoptic_val2017").symlink_to(sample / "panoptic_examples")
    (tmp_path / "val2017").symlink_to(sample / "input_images")
    opened = open_benchmark("coco_open_panoptic", tmp_path, "20")
    categories = tuple({**each, "unknown": each["name"] in Seer.unknown} for each in opened.categories)
    opened = replace(opened, categories=categories)
    for blind, expected in ((False, 100), (True, 0)):
        (row,) = measure_segments(Seer(opened, blind), opened, ["negative_class"], ["eam"], {})["segments"]
        assert row["unknown"] == "negative_class"
        for name in ("PQ", "SQ", "RQ", "PQ_known_things", "PQ_known_stuff", "PQ_unknown"):
            assert row["panoptic"][name] == expected, name
        # Void is nobody's, and the crowds that the model sees, of people, are forgiven.
        counts = [sum(each[count] for each in row["panoptic"]["per_class"].values()) for count in ("TP", "FP", "FN")]
        assert counts == ([0, 0, 47] if blind else [47, 0, 0])
