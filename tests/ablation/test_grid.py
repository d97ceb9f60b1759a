"""Grids: what they may say, and what is refused in one line."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from outmask.ablation import Grid, read_grid
from outmask.errors import OutmaskError

from .conftest import GRID, Study

HISTOGRAM = {"title": "Scores", "rows": ["masked"], "benchmark": "Two scenes", "score": "eam"}
CLASSES_ONLY = {"name": "camvid", "root": "camvid", "split": "val"}

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


def per_pixel(study: Study, **row: Any) -> None:
    """Makes the row ``masked`` one of per-pixel models."""
    model = study.recipes["masked"]["model"]
    kept = {name: value for name, value in model.items() if "decoder" not in name and name != "num_queries"}
    study.recipes["masked"]["model"] = {"kind": "per_pixel", **kept}
    study.grid["rows"] = [{"name": "masked", "recipe": "masked.yaml", "scores": ["msp"], **row}]
    study.grid["tables"] = []


@pytest.mark.parametrize(
    ("arguments", "change", "message"),
    [
        (["--rows", "masked,other"], None, "--rows other: the grid has masked, tuned"),
        (["--seeds", "7"], None, "--seeds 7: the grid has 0, 1"),
        (["--seeds", "one"], None, "--seeds one: expected numbers"),
        ([], lambda study: study.grid["benchmarks"][0].update(root="nowhere"), "nowhere"),
        ([], lambda study: study.grid["benchmarks"][0].update(**CLASSES_ONLY), "has no labels of anomalies"),
        ([], lambda study: study.recipes["tuned"].update(start_from="street"), "what to start from"),
        ([], lambda study: study.recipes["tuned"].update(no_such_key=1), "row 'tuned': "),
        ([], lambda study: study.grid["rows"][1].update(scores=["eam", "msp"]), "msp can't be had of mask models"),
        ([], lambda study: per_pixel(study, scores=["msp", "eam"]), "eam can't be had of per-pixel models"),
        (
            [],
            lambda study: per_pixel(study, variants=GRID["rows"][0]["variants"]),
            "variants need a mask2former, got a per_pixel",
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
