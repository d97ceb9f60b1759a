"""Thresholds, open-IoU and unknown objects of one model, which sees the truth but for what is put wrong on purpose."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from outmask.ablation import Grid
from outmask.ablation.entries import BenchmarkEntry, PicturesEntry, Row, TableEntry, Way
from outmask.ablation.images import Images, open_images
from outmask.ablation.memory import Remembering
from outmask.ablation.numbers import Objects, Piece, Scores, Thresholds
from outmask.ablation.pictures import Pictures
from outmask.ablation.pieces import pieces
from outmask.ablation.runs import Run
from outmask.ablation.tables import numbers_of, table_section
from outmask.evaluation import Benchmark
from outmask.evaluation.evaluate import Progress
from outmask.training.recipe import DatasetRecipe, Recipe

from .conftest import SIZE, seer

ENTRY = BenchmarkEntry("World", "world", "", open_iou=True, calibration="validation")
WAYS = [
    Way("masks", "preferred_mask", ["eam", "unclaimed"], {"minimum_area": 100}),
    Way("mining", "mining", settings={"components": 9, "compare_entropy": False}),
]
ROW = Row("known", "a recipe", ["eam", "am"], ways=["masks", "mining"])
GRID = Grid([0], [ENTRY], [ROW], ways=WAYS, pictures=PicturesEntry("Scenes", ["known"], "World", ["masks"], scenes=1))
TPR, F1, SWAPPED = "TPR 95 on validation", "best pixel F1 on validation", "TPR 95 on the other town"


def walks(benchmark: Benchmark) -> Progress:
    return lambda records, what: records


def made(grid: Grid, out: Path, images: Images) -> list[Piece]:
    """The pieces of the grid's first row, whose model was trained."""
    row = grid.rows[0]
    run = Run(row, 0, out / row.name / "seed-0", Recipe("world", [DatasetRecipe("world", "", "train")]))
    run.model.mkdir(parents=True, exist_ok=True)
    (run.model / "config.json").write_text("{}")
    return pieces(run, grid, [images])


@pytest.fixture(scope="module")
def images(world: Path) -> Images:
    return open_images(ENTRY, world, segments=True)


@pytest.fixture(scope="module")
def segmenter(images: Images) -> Remembering:
    assert images.calibration is not None
    return Remembering.of(seer(images.benchmark, images.calibration))


@pytest.fixture(scope="module")
def measured(images: Images, segmenter: Remembering, tmp_path_factory: pytest.TempPathFactory) -> list[Piece]:
    """All of them, in their order."""
    found = made(GRID, tmp_path_factory.mktemp("measured"), images)
    for piece in found:
        assert piece.missing()
        piece.measure(segmenter, walks)
        assert not piece.missing()
    return found


def table(images: Images, measured: list[Piece], **entry: Any) -> list[list[str]]:
    """The lines of a table."""
    numbers = numbers_of([measured[0].run], GRID, [images])
    text = table_section(TableEntry("A table", ["known"], **entry), GRID, numbers)[-1]
    heading, _, *lines = [line.strip("| ").split(" | ") for line in text.splitlines()]
    return [heading, *lines]


def test_the_model_runs_once_for_each_image(measured: list[Piece], segmenter: Remembering) -> None:
    """Eight images of validation and four of the test, whatever is made of them."""
    assert segmenter.model.passes == 12


def test_thresholds_are_chosen_on_the_validation_by_both_rules(images: Images, measured: list[Piece]) -> None:
    thresholds = measured[0]
    assert isinstance(thresholds, Thresholds)
    kept = thresholds.kept()
    assert set(kept) == {"eam", "am", "unclaimed"}  # of the row, and of its ways
    for points in kept.values():
        assert points["TPR 95"]["TPR"] >= 95
        assert points["best pixel F1"]["F1"] >= points["TPR 95"]["F1"]
    # EAM is -0.99 where it is sure, -0.6 in the sky and 0 in nine tenths of the objects.
    assert -0.61 < kept["eam"]["best pixel F1"]["threshold"] < -0.1
    assert kept["eam"]["TPR 95"]["threshold"] < -0.9
    heading, *lines = table(images, measured, shows="thresholds", scores=["eam"])
    assert heading == ["row", "score", "threshold", "TPR", "FPR", "precision", "F1"]
    assert [line[:3] for line in lines] == [["known", "eam", TPR], ["known", "eam", F1]]
    # In the CSV file, too, each value is told by its rule.
    written = numbers_of([thresholds.run], GRID, [images])["thresholds"].single_lines()
    assert {line["threshold"]: line["value"] for line in written if line["score"] == "eam"} == {
        f"{rule} on validation": pytest.approx(points["threshold"], abs=1e-4) for rule, points in kept["eam"].items()
    }


def test_open_iou_of_each_town_at_both_thresholds(images: Images, measured: list[Piece]) -> None:
    heading, *lines = table(images, measured, shows="open_iou", scores=["eam"])
    assert heading[3:] == ["closed mIoU", "open-IoU t5", "open-IoU t6", "open-IoU"]
    assert [line[2] for line in lines] == [SWAPPED, F1]
    for line in lines:
        t5, t6, both = map(float, line[4:])
        assert both == pytest.approx((t5 + t6) / 2, abs=0.01)  # as many images of both; two decimals
    # All is unknown where 95 % of the other town's objects are found; where the sky is known, all is right but tenths.
    assert float(lines[0][6]) < 10
    assert float(lines[1][6]) > 90


def test_unknown_objects_by_each_way_score_and_threshold(images: Images, measured: list[Piece]) -> None:
    heading, *lines = table(images, measured, shows="unknown_objects", ways=["mining", "masks"])
    assert heading == ["row", "way", "score", "threshold", "PQ unknown", "SQ unknown", "RQ unknown"]
    assert [line[1:4] for line in lines] == [
        ["mining", "-", "-"],
        *(["masks", score, rule] for rule in (TPR, F1) for score in ("eam", "unclaimed")),
    ]
    assert 90 <= float(lines[3][5]) < 95  # up to a tenth of each is missing
    objects = measured[2].kept()["masks"]["found"]
    counts = {(one["score"], one["origin"]): one["panoptic"]["per_class"]["unknown"] for one in objects}
    assert counts["eam", F1]["FP"] == 0
    assert counts["eam", TPR]["FP"] == 4  # the sky of each scene
    assert counts["eam", TPR]["TP"] == counts["eam", F1]["TP"] > 0


def test_known_segments_are_all_found_but_for_the_sky(images: Images, measured: list[Piece]) -> None:
    heading, (row, things, *_, stuff, _, _) = table(images, measured, shows="known_segments")
    assert heading == ["row", *(f"{rate} {kind}" for kind in ("things", "stuff") for rate in ("PQ", "SQ", "RQ"))]
    assert (row, float(things)) == ("known", 100)
    assert 80 < float(stuff) < 100


def test_objects_are_measured_again_where_a_way_has_changed(
    images: Images, measured: list[Piece], segmenter: Remembering
) -> None:
    grid = replace(GRID, ways=[replace(WAYS[0], settings={"minimum_area": 1}), WAYS[1]])
    thresholds, scores, objects, pictures = made(grid, measured[0].run.folder.parents[1], images)
    assert [piece.missing() for piece in (thresholds, scores, objects)] == [[], [], ["masks"]]
    assert pictures.missing() == ["segments-known.jpg"]


def test_other_images_leave_nothing_of_the_numbers(world: Path, measured: list[Piece]) -> None:
    fewer = open_images(replace(ENTRY, images=1), world, segments=True)
    assert len(fewer.benchmark) == 2
    assert fewer.calibration is not None
    assert len(fewer.calibration) == 4
    assert [bool(piece.kept()) for piece in made(GRID, measured[0].run.folder.parents[1], fewer)] == [False] * 4


def test_of_pixels_only_what_the_grid_asks_for_is_measured(world: Path, tmp_path: Path) -> None:
    grid = replace(GRID, benchmarks=[BenchmarkEntry("World", "world", "")], pictures=None)
    images = open_images(grid.benchmarks[0], world)
    (scores,) = made(grid, tmp_path, images)
    assert isinstance(scores, Scores)
    segmenter = seer(images.benchmark)
    scores.measure(segmenter, walks)
    assert segmenter.model.passes == 4  # one walk
    assert all(not any("open_set" in one for one in score["thresholds"]) for score in scores.kept().values())
    assert "open_iou" not in json.loads(scores.path.read_text())["depends_on"]


def test_a_picture_of_a_scene_of_each_town_with_its_truth(measured: list[Piece]) -> None:
    from PIL import Image

    pictures = measured[-1]
    assert isinstance(pictures, Pictures)
    assert pictures.figure == measured[0].run.folder.parents[1] / "figures/segments-known.jpg"
    with Image.open(pictures.figure) as picture:
        width, height = picture.size
    # Three columns, photo, truth and one way, of two lines.
    assert width / height == pytest.approx(3 * SIZE[1] / (2 * SIZE[0]), rel=0.2)
    pictures.figure.unlink()
    assert pictures.missing()
    assert isinstance(measured[-2], Objects)
    assert not measured[-2].missing()
