"""``outmask reproduce``: a miniature of the world's grid from nothing to the report, and the bundled grid's recipes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from outmask.ablation import grid as grids
from outmask.ablation import read_grid
from outmask.ablation.runs import check_kinds, plan
from outmask.app.cli import main
from outmask.data.images import ImageSource
from outmask.data.world import files
from outmask.data.world.samples import SPLITS, Split
from outmask.scores import Prediction
from outmask.segmenter import Segmenter

RECIPE: dict[str, Any] = {
    "taxonomy": "world",
    "train": [{"name": "world", "root": ".", "split": "t1"}],
    "model": {
        "backbone": "mobilenet_v2",
        "dim": 32,
        "num_heads": 2,
        "encoder_layers": 1,
        "encoder_levels": 1,
        "encoder_ffn_dim": 32,
        "num_queries": 5,
        "decoder_layers": 1,
        "decoder_ffn_dim": 32,
    },
    "panoptic": True,
    "crop": [32, 64],
    "short_side": [32, 32],
    "inference_short_side": 64,
    "iterations": 4,
    "batch_size": 1,
    "chunk": 1,
    "loss": {"num_points": 64},
}
VOID_TRAIN = {
    **RECIPE,
    "train": [{"name": "world", "root": ".", "split": "train_negatives"}],
    "model": {},
    "void": "outlier",
    "loss": {"num_points": 64, "outlier": {"kind": "negative_class"}},
}
GRID: dict[str, Any] = {
    "name": "world",
    "title": "A small world",
    "seeds": [0, 1],
    "benchmarks": [
        {"label": "World", "name": "world", "root": "scenes", "open_iou": True, "calibration": "validation"}
    ],
    "ways": [
        {"label": "masks", "way": "preferred_mask", "scores": ["eam"]},
        {"label": "mining", "way": "mining"},
        {"label": "negative", "way": "negative_class"},
    ],
    "rows": [
        {"name": "masked", "recipe": "masked.yaml", "scores": ["eam"], "ways": ["masks", "mining"]},
        {
            "name": "void_train",
            "recipe": "void_train.yaml",
            "scores": ["eam", "uno"],
            "start_from": "masked",
            "ways": ["masks", "negative"],
        },
    ],
    "tables": [
        {
            "title": "Unknown",
            "rows": ["masked", "void_train"],
            "shows": "unknown_objects",
            "ways": ["masks", "negative"],
        }
    ],
    "pictures": {"title": "Scenes", "rows": ["masked"], "benchmark": "World", "ways": ["masks"], "scenes": 1},
    "quick": {"seeds": 1, "images": 1, "iterations": 0.25},
}


@pytest.fixture(autouse=True)
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The grid in place of the bundled one, and scenes to fit; run in an empty folder."""
    folder = tmp_path / "grids"
    folder.mkdir()
    for name, values in (("world", GRID), ("masked", RECIPE), ("void_train", VOID_TRAIN)):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(values))
    monkeypatch.setattr(grids, "BUNDLED", folder)
    short = {name: Split(split.towns, split.unknowns, split.first, 2) for name, split in SPLITS.items()}
    monkeypatch.setattr(files, "SPLITS", short)
    monkeypatch.setattr(files.write_split, "__defaults__", ((64, 128),))
    monkeypatch.chdir(tmp_path)


def test_from_nothing_to_a_report_and_nothing_is_done_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    passes: list[str] = []
    prediction = Segmenter.prediction

    def counted(self: Segmenter, image: ImageSource) -> Prediction:
        passes.append(self.name)
        return prediction(self, image)

    monkeypatch.setattr(Segmenter, "prediction", counted)
    assert main(["reproduce", "world", "--quick"]) == 0
    out = tmp_path / "runs/world_quick"
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("outmask: ")]
    pieces = ["", " on World (thresholds)", " on World", " on World (objects)", " on World (pictures)"]
    names = ["masked/seed-0" + piece for piece in pieces] + ["void_train/seed-0" + piece for piece in pieces[:-1]]
    done = ("is measured" if "World" in name else "is trained" for name in names)
    assert told[0] == "outmask: drawing the scenes below runs/world_quick/scenes, about a minute"
    assert told[-len(names) :] == [f"outmask: {name} {what}" for name, what in zip(names, done, strict=True)]
    assert len(passes) == 2 * (4 + 2)  # of each model: one image of four towns, and of two
    report = (out / "world.md").read_text()
    assert report.startswith("# A small world\n\n**Made with `--quick`")
    assert "2 of 2 models are trained" in report
    assert "| void_train | negative | - | - |" in report
    assert "![Segments by masked](figures/segments-masked.jpg)" in report
    assert (out / "figures/segments-masked.jpg").is_file()

    before = {path: path.read_bytes() for path in out.rglob("*.json")}
    assert main(["reproduce", "world", "--quick"]) == 0
    assert len(passes) == 2 * (4 + 2)
    assert {path: path.read_bytes() for path in out.rglob("*.json")} == before
    assert main(["reproduce", "world", "--out", str(out)]) == 2  # as it would be done at length
    assert "holds a run of another recipe, iterations" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["moon"], "'moon'"),
        (["world", "--rows", "other"], "--rows other: the grid has masked, void_train"),
        (["world", "--quick", "--seeds", "1"], "--seeds 1: the grid has 0"),
        (["world", "--seeds", "one"], "--seeds one: expected numbers"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["reproduce", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_the_bundled_grid_can_be_carried_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its recipes are there, and their models can give what it asks of them, quickly too."""
    monkeypatch.undo()
    grid = read_grid(Path("world"))
    assert len(grid.seeds) == 2
    assert grid.quick is not None
    for runs in (plan(grid, tmp_path, tmp_path), plan(grid.shortened(), tmp_path, tmp_path, grid.quick)):
        check_kinds(runs, grid)
    assert {row.name for row in grid.rows} == {path.stem for path in RECIPES.glob("*.yaml")}


RECIPES = Path(grids.__file__).parents[1] / "recipes/world"
