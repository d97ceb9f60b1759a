import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from outmask.data.taxonomies import WORLD
from outmask.data.world import World, files
from outmask.data.world.samples import SPLITS, Split
from outmask.errors import OutmaskError
from outmask.evaluation.benchmarks import open_benchmark
from outmask.metrics import PanopticQuality

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
