"""A miniature ablation: two rows, of which one fine-tunes the other's models, two seeds, one benchmark."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from outmask.app.cli import main
from outmask.data.images import read_image
from outmask.data.taxonomies import WORLD
from outmask.data.world import files
from outmask.data.world.samples import SPLITS, Split
from outmask.evaluation import Benchmark
from outmask.preprocessing import Preprocessing
from outmask.segmenter import Segmenter
from outmask.types import MaskPrediction

RECIPE: dict[str, Any] = {
    "taxonomy": "idd_lite",
    "train": [{"name": "camvid", "root": "camvid", "split": "train"}],
    "validation": [{"name": "camvid", "root": "camvid", "split": "val"}],
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
    "crop": [32, 48],
    "short_side": [32, 64],
    "inference_short_side": 64,
    "iterations": 2,
    "batch_size": 1,
    "chunk": 1,
    "validate_every": 9,
    "loss": {"num_points": 64},
}
GRID: dict[str, Any] = {
    "seeds": [0, 1],
    "benchmarks": [{"label": "Two scenes", "name": "folder", "root": "scenes"}],
    "rows": [
        {
            "name": "masked",
            "recipe": "masked.yaml",
            "scores": ["eam", "am"],
            "variants": [{"label": "refined", "refine": "stuff"}, {"label": "things", "refine": "things"}],
        },
        {"name": "tuned", "recipe": "tuned.yaml", "scores": ["eam"], "start_from": "masked"},
    ],
    "tables": [
        {"title": "Tuning", "rows": ["masked", "tuned"], "scores": ["eam"]},
        {"title": "Refinement", "rows": ["masked", "masked/refined", "masked/things"], "scores": ["am"]},
    ],
}


class Study:
    """A grid with its recipes, data and results, below one folder."""

    def __init__(self, folder: Path, data: Path) -> None:
        self.folder, self.data, self.out = folder, data, folder / "out"
        self.grid = copy.deepcopy(GRID)
        self.recipes = {"masked": copy.deepcopy(RECIPE), "tuned": {**copy.deepcopy(RECIPE), "learning_rate": 1e-5}}

    def write(self) -> Path:
        """The grid's file."""
        self.folder.mkdir(exist_ok=True)
        for name, recipe in self.recipes.items():
            (self.folder / f"{name}.yaml").write_text(yaml.safe_dump(recipe))
        path = self.folder / "grid.yaml"
        path.write_text(yaml.safe_dump(self.grid))
        return path

    def arguments(self, *more: str) -> list[str]:
        return ["--config", str(self.write()), "--data_root", str(self.data), "--out", str(self.out), *more]

    def run(self, *more: str) -> int:
        """``outmask ablate``; its exit code."""
        return main(["ablate", *self.arguments(*more)])


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CamVid tree of two images a split, and the benchmark."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    classes = np.repeat(np.array([0, 3, 4, 8], np.uint8), 16)[:, None].repeat(80, 1)

    def write(path: str, pixels: np.ndarray) -> None:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(root / path)

    for index in range(2):
        scene = np.clip(classes[..., None] * 25 + rng.integers(0, 30, (64, 80, 3)), 0, 255).astype(np.uint8)
        for split in ("train", "val"):
            write(f"camvid/{split}/{index}.png", scene)
            write(f"camvid/{split}annot/{index}.png", classes)
        write(f"scenes/images/{index}.png", scene)
        write(f"scenes/labels_masks/{index}.png", (rng.random((64, 80)) < 0.2).astype(np.uint8))
    return root


@pytest.fixture(scope="session")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Done, undisturbed; not to be changed."""
    study = Study(tmp_path_factory.mktemp("study"), data)
    assert study.run() == 0
    return study


@pytest.fixture
def study(finished: Study, tmp_path: Path) -> Study:
    """A copy of the finished one."""
    copied = Study(tmp_path / "study", finished.data)
    shutil.copytree(finished.folder, copied.folder)
    return copied


@pytest.fixture
def fresh(data: Path, tmp_path: Path) -> Study:
    """Nothing is done yet."""
    return Study(tmp_path / "fresh", data)


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """After a call of it, training or measuring anything is an error."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("this was done already")

    def forbid() -> None:
        monkeypatch.setattr("outmask.ablation.runs.train", refuse)
        monkeypatch.setattr("outmask.ablation.numbers.evaluate", refuse)

    return forbid


SIZE = (96, 192)
"""Of the small world's scenes."""


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The world's benchmark, two small scenes of each town."""
    root = tmp_path_factory.mktemp("world")
    short = {name: Split(split.towns, split.unknowns, split.first, 2) for name, split in SPLITS.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "SPLITS", short)
        for split in ("t5", "t6", "validation"):
            files.write_split(root, split, SIZE)
    return root


class Sight(torch.nn.Module):
    """Sees the truth of images that it knows: a mask for each segment. It is not sure of the sky, whatever it is.

    The lowest tenth of each unknown object looks like road, so that a threshold that finds 95 % of them lets the sky
    through.
    """

    def __init__(self, *benchmarks: Benchmark) -> None:
        super().__init__()
        self.passes = 0
        self.nothing = torch.nn.Parameter(torch.zeros(1))  # a model is where its weights are
        self._records = {read_image(record.image).tobytes(): record for benchmark in benchmarks for record in benchmark}

    def forward(self, pixels: torch.Tensor) -> MaskPrediction:
        self.passes += 1
        record = self._records[pixels[0].permute(1, 2, 0).byte().numpy().tobytes()]
        assert record.panoptic is not None
        ids, segments = record.panoptic()
        (road,) = (each["id"] for each in segments if each["category_id"] == WORLD.names.index("road"))
        classes = []
        for segment in segments:
            known = segment["category_id"] < WORLD.num_classes
            if not known:
                rows = np.nonzero(ids == segment["id"])[0]
                ids[(ids == segment["id"]) & (np.arange(len(ids))[:, None] > np.quantile(rows, 0.9))] = road
            probabilities = np.full(WORLD.num_classes + 1, 1e-4)
            sure = 0.6 if known and WORLD.names[segment["category_id"]] == "sky" else 0.99
            probabilities[segment["category_id"] if known else -1] = sure
            probabilities[-1] += 1 - probabilities.sum()
            classes.append(probabilities)
        masks = [np.where(ids == segment["id"], 20.0, -20.0) for segment in segments]
        return MaskPrediction(
            torch.tensor(np.array(classes), dtype=torch.float32).log()[None],
            torch.tensor(np.array(masks), dtype=torch.float32)[None],
        )


def seer(*benchmarks: Benchmark) -> Segmenter:
    """A segmenter of that sight, which takes images as they are."""
    as_it_is = Preprocessing(mean=(0, 0, 0), std=(1, 1, 1), short_side=None, long_side=None)
    return Segmenter(Sight(*benchmarks), WORLD, as_it_is, "seer")
