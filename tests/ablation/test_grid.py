"""Grids: what they may say, and what is refused in one line."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from outmask.ablation import Grid, read_grid
from outmask.ablation.entries import Quick
from outmask.ablation.images import spread
from outmask.ablation.runs import plan
from outmask.errors import OutmaskError
from outmask.evaluation import Record

from .conftest import GRID, Study

HISTOGRAM = {"title": "Scores", "rows": ["masked"], "benchmark": "Two scenes", "score": "eam"}
MASKS = {"label": "masks", "way": "preferred_mask", "scores": ["eam"]}
PICTURES = {"title": "Scenes", "rows": ["masked"], "benchmark": "Two scenes", "ways": []}
NEGATIVE = {"label": "negative", "way": "negative_class"}
QUICK = {"seeds": 1, "images": 1, "iterations": 0.5}
CLASSES_ONLY = {"name": "camvid", "root": "camvid", "split": "val"}

GROUPS = [("a", 10), ("b", 2)]

Change = Callable[[dict[str, Any]], object]


def read(folder: Path, grid: object) -> Grid:
    path = folder / "grid.yaml"
    path.write_text(yaml.safe_dump(grid))
    return read_grid(path)


def test_recipes_lie_beside_the_grid_or_are_bundled(tmp_path: Path) -> None:
    (tmp_path / "masked.yaml").touch()
    grid = read(tmp_path, GRID)
    assert [row.recipe for row in grid.rows] == [str(tmp_path / "masked.yaml"), "tuned.yaml"]
    assert grid.benchmarks[0].slug == "two-scenes"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda grid: grid.update(sedes=[1]), "'sedes' is not accepted"),
        (lambda grid: grid["rows"][0].update(seed=1), "'seed' is not accepted"),
        (lambda grid: grid["rows"][0].pop("recipe"), "required: recipe"),
        (lambda grid: grid["rows"][0]["variants"][0].update(refine="road"), "refine"),
        (lambda grid: grid.update(seeds=[]), "seeds is empty"),
        (lambda grid: grid.update(seeds=[1, 1]), "seeds: 1 more than once"),
        (lambda grid: grid.update(seeds=["a"]), "seeds"),
        (lambda grid: grid["rows"][1].update(name="masked", start_from=None), "rows: masked more than once"),
        (lambda grid: grid["rows"][0].update(start_from="tuned"), "start_from 'tuned' is no row above it"),
        (lambda grid: grid["rows"][0].update(name="../x"), "can't name a folder"),
        (lambda grid: grid["rows"][0].update(scores=["em"]), "'em'"),
        (lambda grid: grid["rows"][0].update(scores=[]), "at least one score"),
        (lambda grid: grid["benchmarks"].append({**grid["benchmarks"][0], "label": "TWO scenes"}), "two-scenes"),
        (
            lambda grid: grid["tables"][0].update(rows=["masked", "other"]),
            "no row 'other' among masked, masked/refined",
        ),
        (lambda grid: grid["tables"][0].update(scores=["am"]), "row 'tuned' has none of its scores am"),
        (lambda grid: grid.update(histograms=[{**HISTOGRAM, "benchmark": "x"}]), "no benchmark 'x' among Two scenes"),
        (lambda grid: grid.update(histograms=[{**HISTOGRAM, "rows": ["x"]}]), "no row 'x' with score eam"),
        (lambda grid: grid.update(histograms=[{**HISTOGRAM, "score": "aem"}]), "no row 'masked' with score aem"),
        (lambda grid: grid.update(attention=["masked/refined"]), "attention: there is no row 'masked/refined'"),
        (lambda grid: grid.update(name="a/b"), "name 'a/b' can't name files"),
        (lambda grid: grid["benchmarks"][0].update(images=0), "images must be at least 1, got 0"),
        (lambda grid: grid.update(quick={**QUICK, "iterations": 1.5}), "a share of iterations up to 1"),
        (lambda grid: grid["rows"][0].update(ways=["masks"]), "row 'masked': there is no way 'masks' among"),
        (lambda grid: grid.update(ways=[MASKS, MASKS]), "ways' labels: masks more than once"),
        (lambda grid: grid.update(ways=[{**MASKS, "way": "guessing"}]), "guessing"),
        (lambda grid: grid.update(ways=[{**MASKS, "scores": ["em"]}]), "'em'"),
        (lambda grid: grid.update(ways=[{**MASKS, "scores": []}]), "way 'masks': name the scores"),
        (lambda grid: grid.update(ways=[{**MASKS, "way": "mining"}]), "mining needs no scores, leave eam out"),
        (lambda grid: grid.update(ways=[{**MASKS, "settings": {"area": 3}}]), "way 'masks': "),
        (lambda grid: grid.update(ways=[{**MASKS, "settings": {"minimum_area": "large"}}]), "minimum_area"),
        (lambda grid: grid.update(ways=[{**MASKS, "settings": {"minimum_area": 0}}]), "minimum_area 0"),
        (lambda grid: grid["tables"][0].update(shows="open_iou"), "no benchmark has open_iou"),
        (lambda grid: grid["tables"][0].update(shows="thresholds"), "no benchmark has a calibration split"),
        (lambda grid: grid["tables"][0].update(shows="known_segments"), "row 'masked' has no ways"),
        (
            lambda grid: grid.update(ways=[MASKS]) or grid["tables"][0].update(shows="unknown_objects", ways=["masks"]),
            "table 'Tuning': row 'masked' has none of its ways masks",
        ),
        (lambda grid: grid.update(pictures={**PICTURES, "scenes": 0}), "scenes must be at least 1, got 0"),
        (lambda grid: grid.update(pictures={**PICTURES, "rows": ["x"]}), "pictures: there is no row 'x'"),
        (lambda grid: grid.update(pictures={**PICTURES, "ways": ["x"]}), "pictures: there is no way 'x'"),
        (lambda grid: grid.update(pictures={**PICTURES, "benchmark": "x"}), "pictures: there is no benchmark 'x'"),
    ],
)
def test_bad_grids_are_refused_in_one_line(tmp_path: Path, change: Change, message: str) -> None:
    grid = copy.deepcopy(GRID)
    change(grid)
    with pytest.raises(OutmaskError) as caught:
        read(tmp_path, grid)
    assert message in str(caught.value)
    assert "grid.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_quickly_there_are_fewer_seeds_and_images_and_the_report_says_so(tmp_path: Path) -> None:
    grid = read(tmp_path, {**GRID, "quick": QUICK, "text": "What it is about."}).shortened()
    assert (grid.seeds, grid.benchmarks[0].images) == ([0], 1)
    assert "not what the methods can do" in grid.text
    assert grid.text.endswith("What it is about.")
    with pytest.raises(OutmaskError, match="can't be done quickly"):
        read(tmp_path, GRID).shortened()


def test_recipes_are_shortened_by_their_share(fresh: Study) -> None:
    fresh.recipes["masked"] |= {"iterations": 400, "warmup": 40, "chunk": 150}
    fresh.recipes["tuned"] |= {"iterations": 100, "validation_images": 2}
    quick = Quick(1, 3, 0.25)
    masked, _, tuned, _ = sorted(plan(read_grid(fresh.write()), fresh.data, fresh.out, quick), key=lambda run: run.name)
    kept = [(run.recipe.iterations, run.recipe.warmup, run.recipe.chunk) for run in (masked, tuned)]
    assert kept == [(100, 10, 100), (25, 0, 1)]
    assert (masked.recipe.validation_images, tuned.recipe.validation_images) == (3, 2)


def test_images_are_spread_evenly_over_each_group() -> None:
    image = np.zeros((1, 1, 3), np.uint8)
    records = [Record(f"{group}{index}", image, group=group) for group, count in GROUPS for index in range(count)]
    assert [record.name for record in spread(records, 3)] == ["a0", "a3", "a6", "b0", "b1"]


def per_pixel(study: Study, **row: Any) -> None:
    """Makes the row ``masked`` one of per-pixel models."""
    model = study.recipes["masked"]["model"]
    kept = {name: value for name, value in model.items() if "decoder" not in name and name != "num_queries"}
    study.recipes["masked"]["model"] = {"kind": "per_pixel", **kept}
    study.grid["rows"] = [{"name": "masked", "recipe": "masked.yaml", "scores": ["msp"], **row}]
    study.grid["tables"] = []


def with_way(study: Study, way: dict[str, Any]) -> None:
    """Gives the row ``masked`` a way to find unknown objects."""
    study.grid["ways"] = [way]
    study.grid["rows"][0]["ways"] = [way["label"]]


@pytest.mark.parametrize(
    ("arguments", "change", "message"),
    [
        (["--rows", "masked,other"], None, "--rows other: the grid has masked, tuned"),
        (["--seeds", "7"], None, "--seeds 7: the grid has 0, 1"),
        (["--seeds", "one"], None, "--seeds one: expected numbers"),
        ([], lambda study: study.grid["benchmarks"][0].update(root="nowhere"), "nowhere"),
        ([], lambda study: study.grid["benchmarks"][0].update(**CLASSES_ONLY), "has no labels of anomalies"),
        ([], lambda study: study.grid["benchmarks"][0].update(open_iou=True), "has no classes beside its anomalies"),
        ([], lambda study: study.grid["benchmarks"][0].update(calibration="all"), "split all shares images with all"),
        ([], lambda study: with_way(study, MASKS), "row 'masked' has ways to find objects, but no benchmark has"),
        ([], lambda study: with_way(study, NEGATIVE), "row 'masked': the way negative_class needs a model with that"),
        ([], lambda study: study.recipes["tuned"].update(start_from="street"), "what to start from"),
        ([], lambda study: study.recipes["tuned"].update(no_such_key=1), "row 'tuned': "),
        ([], lambda study: study.grid["rows"][1].update(scores=["eam", "msp"]), "msp can't be had of mask models"),
        ([], lambda study: with_way(study, {**MASKS, "scores": ["msp"]}), "msp can't be had of mask models"),
        ([], lambda study: per_pixel(study, scores=["msp", "eam"]), "eam can't be had of per-pixel models"),
        (
            [],
            lambda study: per_pixel(study, variants=GRID["rows"][0]["variants"]),
            "variants need a mask2former, got a per_pixel",
        ),
        (
            [],
            lambda study: [per_pixel(study), with_way(study, MASKS)],
            "ways need a mask2former, got a per_pixel",
        ),
        (
            [],
            lambda study: [per_pixel(study), study.grid.update(attention=["masked"])],
            "attention needs a mask2former",
        ),
    ],
)
def test_what_can_not_be_done_is_refused_before_anything_is_done(
    fresh: Study,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    change: Callable[[Study], object] | None,
    message: str,
) -> None:
    if change is not None:
        change(fresh)
    assert fresh.run(*arguments) == 2
    *warnings, error = capsys.readouterr().err.splitlines()
    assert message in error
    assert all("the published set has 101" in warning for warning in warnings)  # of the miniature CamVid
    assert not fresh.out.exists()
