import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from outmask import scores
from outmask.data.taxonomies import WORLD, taxonomy
from outmask.data.world import World, files
from outmask.data.world.samples import SPLITS, Split
from outmask.errors import OutmaskError
from outmask.evaluation import Benchmark, Threshold
from outmask.evaluation.benchmarks import open_benchmark
from outmask.evaluation.segments import measure_segments
from outmask.evaluation.truth import Classes
from outmask.metrics import PanopticQuality
from outmask.openset.unknown_objects import PreferredMask
from outmask.types import MaskPrediction, Taxonomy

SMALL = (128, 256)


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two small scenes a town."""
    short = {name: Split(split.towns, split.unknowns, split.first, 2) for name, split in SPLITS.items()}
    monkeypatch.setattr(files, "SPLITS", short)
    monkeypatch.setattr(files.write_split, "__defaults__", (SMALL,))


def test_the_test_set_is_both_towns_drawn_where_nothing_was(tmp_path: Path) -> None:
    benchmark = open_benchmark("world", tmp_path / "scenes")
    assert [record.name for record in benchmark] == ["t5_000000", "t5_000001", "t6_000000", "t6_000001"]
    assert [record.group for record in benchmark] == ["t5", "t5", "t6", "t6"]
    assert sorted(path.name for path in (tmp_path / "scenes").iterdir()) == ["t5", "t6"]
    record, scene = pickle.loads(pickle.dumps(benchmark.records[2])), World("t6", "test").scene(0, SMALL)
    assert record.label is not None
    assert record.semantic is not None
    assert record.instances is not None
    np.testing.assert_array_equal(record.label(), scene.unknown)
    np.testing.assert_array_equal(record.semantic(), np.where(scene.unknown, WORLD.unknown_id, scene.labels))
    unknown = [segment for segment in scene.segments if segment.is_unknown]
    objects = record.instances()
    assert [int((objects == number).sum()) for number in range(1, len(unknown) + 1)] == [each.area for each in unknown]
    assert set(np.unique(objects)) == set(range(len(unknown) + 1))


def test_its_panoptic_truth_is_perfect_but_for_things_too_small_to_count(tmp_path: Path) -> None:
    benchmark = open_benchmark("world", tmp_path, "t5")
    metric = PanopticQuality(benchmark.categories)
    dropped = 0
    for record, index in zip(benchmark, (0, 1), strict=True):
        scene = World("t5", "test").scene(index, SMALL)
        assert record.panoptic is not None
        panoptic, segments = record.panoptic()
        small = [each for each in scene.segments if each.area < 64 and (each.is_unknown or WORLD.things[each.class_id])]  # type: ignore[index]
        assert [each["id"] for each in segments] == [each.id for each in scene.segments if each not in small]
        assert (panoptic == 0).sum() == sum(each.area for each in small)
        dropped += len(small)
        metric.update(scene.panoptic, scene.segments, panoptic, segments)
    assert dropped
    values = metric.compute()
    assert (values["PQ"], values["PQ_unknown"]) == (100, 100)


@pytest.mark.parametrize(("same", "prefix"), [("test", ""), ("validation", "validation_")])
@pytest.mark.parametrize(
    ("percent", "hidden"), [(5, ["truck"]), (10, ["truck", "bus"]), (20, ["cyclist", "truck", "bus"])]
)
def test_open_splits_are_the_same_scenes_with_classes_hidden_among_the_unknown(
    tmp_path: Path, percent: int, hidden: list[str], same: str, prefix: str
) -> None:
    whole, opened = (open_benchmark("world", tmp_path, split) for split in (same, f"{prefix}open{percent}"))
    # Drawn once.
    assert sorted(path.name for path in tmp_path.iterdir()) == (["t5", "t6"] if same == "test" else ["validation"])
    classes = taxonomy(f"world_open{percent}")
    assert opened.taxonomy == classes
    assert [each["name"] for each in opened.categories if each.get("unknown")] == [*hidden, "unknown object"]
    assert [{**each, "unknown": False} for each in opened.categories] == [
        {**each, "unknown": False} for each in whole.categories
    ]
    ids, to_class = [WORLD.names.index(name) for name in hidden], np.zeros(WORLD.num_classes + 1, int)
    to_class[[WORLD.names.index(name) for name in classes.names]] = range(classes.num_classes)
    to_class[[*ids, WORLD.unknown_id]] = classes.unknown_id
    shown = 0
    for one, other in zip(whole, opened, strict=True):
        assert (one.name, one.image, one.group) == (other.name, other.image, other.group)
        before, after = one.semantic(), other.semantic()  # type: ignore[misc]
        np.testing.assert_array_equal(after, to_class[before])
        np.testing.assert_array_equal(other.label(), np.isin(before, [*ids, WORLD.unknown_id]))  # type: ignore[misc]
        (panoptic, segments), (same, same_segments) = one.panoptic(), other.panoptic()  # type: ignore[misc]
        np.testing.assert_array_equal(panoptic, same)
        assert segments == same_segments
        # Every object is a segment of its own in the panoptic truth, where it is large enough.
        objects = other.instances()  # type: ignore[misc]
        np.testing.assert_array_equal(objects > 0, after == classes.unknown_id)
        for segment in segments:
            if segment["category_id"] in (*ids, WORLD.unknown_id):
                (number,) = np.unique(objects[panoptic == segment["id"]])
                assert (objects == number).sum() == segment["area"]
        shown += np.isin(before, ids).any()
    assert shown


def test_a_model_that_was_not_taught_the_hidden_classes_is_measured_there(tmp_path: Path) -> None:
    """One that sees the truth, and hides what it was not taught, is perfect; one of all classes is refused."""
    opened = open_benchmark("world", tmp_path, "open20")
    model = _Seer(opened, taxonomy("world_open20"))
    at = {"eam": Threshold(-0.5, "a test")}
    (row,) = measure_segments(model, opened, [PreferredMask(1)], ["eam"], at)["segments"]
    for name in ("PQ", "PQ_known_things", "PQ_known_stuff", "PQ_unknown"):
        assert row["panoptic"][name] == 100
    assert set(row["panoptic"]["per_class"]) == {*taxonomy("world_open20").names, "unknown"}
    with pytest.raises(OutmaskError, match="class 'cyclist', category 12, is no known class of world, split open20"):
        measure_segments(_Seer(opened, WORLD), opened, ["mining"], ["eam"], {})
    # Classes by pixel, too: open-IoU of perfect labels.
    classes = Classes.of(opened, model.taxonomy)
    assert classes is not None
    assert classes.table[:14].tolist() == list(range(14))
    assert Classes.of(opened, WORLD) is None


class _Seer:
    """A mask for each segment of the truth; those of unknown ones are of no class."""

    name = "seer"

    def __init__(self, opened: Benchmark, classes: Taxonomy) -> None:
        self.taxonomy, self._records = classes, iter(opened)

    def masks_and_maps(self, *arguments: Any) -> tuple[MaskPrediction, dict[str, Tensor]]:
        record = next(self._records)
        assert record.panoptic is not None
        _, names, size, *_ = arguments
        ids, segments = record.panoptic()
        count = self.taxonomy.num_classes
        class_logits = torch.zeros(1, len(segments), count + 1)
        for query, segment in enumerate(segments):
            category, known = segment["category_id"], self.taxonomy.evaluation_ids
            class_logits[0, query, known.index(category) if category in known else count] = 20
        held = torch.stack([torch.from_numpy(ids == segment["id"]) for segment in segments])[None]
        prediction = MaskPrediction(class_logits, torch.where(held, 20.0, -20.0))
        return prediction, scores.evaluate(prediction, names, size)


def test_validation_has_objects_of_its_own_in_streets_that_training_does_not_show(tmp_path: Path) -> None:
    benchmark = open_benchmark("world", tmp_path, "validation")
    assert {record.group for record in benchmark} == {"t1", "t2", "t3", "t4"}
    listing = json.loads((tmp_path / "validation/panoptic.json").read_text())
    found = {each["family"] for entry in listing["annotations"] for each in entry["segments_info"] if "family" in each}
    assert found <= {"snowman", "table", "goal"}
    assert found


def test_missing_files_are_counted(tmp_path: Path) -> None:
    open_benchmark("world", tmp_path, "t6")
    (tmp_path / "t6/images/t6_000001.jpg").unlink()
    with pytest.raises(OutmaskError, match="1 of 4 files are missing, the first .*t6_000001.jpg"):
        open_benchmark("world", tmp_path, "t6")
    (tmp_path / "t6/panoptic.json").write_text("{")
    with pytest.raises(OutmaskError, match="panoptic.json can't be read"):
        open_benchmark("world", tmp_path, "t6")
