"""``outmask flow``: what it leaves in its folder, how it goes on, what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from PIL import Image

import outmask.app.flow as command
from outmask.app.cli import main
from outmask.data.flow import FlowConfig, PatchFlow, train_flow
from outmask.data.negatives import FlowSamples
from outmask.training.build import build_training_set
from outmask.training.run import read_recipe


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flow that a test can afford, with a checkpoint every three iterations."""

    def train(images: Any, **options: Any) -> PatchFlow:
        return train_flow(images, FlowConfig(levels=2, steps=1, width=4), batch_size=4, checkpoint_every=3, **options)

    monkeypatch.setattr(command, "train_flow", train)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """Dark images whose lower half, bright, has no class; pasted is what a flow makes that isn't there yet."""
    for folder in ("train", "trainannot"):
        (tmp_path / "data/camvid" / folder).mkdir(parents=True)
    for index in range(3):
        labels = np.full((48, 64), 3, np.uint8)
        labels[24:] = 11
        image = np.where(labels[..., None] == 11, 255, np.random.default_rng(index).integers(0, 60, (48, 64, 3)))
        cv2.imwrite(str(tmp_path / f"data/camvid/train/{index}.png"), image.astype(np.uint8))
        cv2.imwrite(str(tmp_path / f"data/camvid/trainannot/{index}.png"), labels)
    values = {
        "taxonomy": "idd_lite",
        "train": [{"name": "camvid", "root": "camvid", "split": "train"}],
        "negatives": {"sources": [{"kind": "flow", "root": "flow", "side": [8, 16]}]},
        "crop": [32, 32],
        "short_side": [32, 48],
        "iterations": 2,
        "batch_size": 2,
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def arguments(recipe: Path, *more: str) -> list[str]:
    data = recipe.parent / "data"
    return [
        "flow",
        "--config",
        str(recipe),
        "--data_root",
        str(data),
        "--out",
        str(data / "flow"),
        "--patch",
        "8",
        *more,
    ]


def test_the_folder_is_what_a_recipe_pastes_from(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = recipe.parent / "data/flow"
    assert main(arguments(recipe, "--iterations", "4")) == 0
    assert sorted(path.name for path in out.iterdir()) == ["flow.ckpt", "flow.json", "flow.safetensors", "samples.png"]
    assert str(out) in capsys.readouterr().out
    draws = build_training_set(read_recipe(recipe, recipe.parent / "data"))
    assert draws[0].outlier.any()
    assert FlowSamples(PatchFlow.load(out), (8, 16)).sample(np.random.default_rng(0), ())


def test_the_picture_shows_known_patches_beside_made_ones(recipe: Path) -> None:
    assert main(arguments(recipe, "--iterations", "1")) == 0
    with Image.open(recipe.parent / "data/flow/samples.png") as image:
        picture = np.asarray(image)
    # Six by six patches of 8 pixels with a frame of one, twice, and half a patch between the halves.
    assert picture.shape == (60, 60 + 4 + 60, 3)
    inner = picture[:, :60].reshape(6, 10, 6, 10, 3)[:, 1:-1, :, 1:-1]
    assert inner.max() < 60, "the bright pixels have no class"
    assert (picture[:, 60:64] == 255).all()
    assert picture[:, 64:].min() == 0, "a flow that has learnt one batch still makes any colour"


def test_a_stopped_training_goes_on_to_the_same_flow(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = recipe.parent / "data/flow"
    assert main(arguments(recipe, "--iterations", "7")) == 0
    whole = {path.name: path.read_bytes() for path in out.iterdir() if path.name != "flow.ckpt"}
    for path in out.iterdir():
        path.unlink()

    seen: list[int] = []
    train = command.train_flow

    def interrupted(images: Any, **options: Any) -> PatchFlow:
        progress = options.pop("progress")

        def report(done: int, bits: float) -> None:
            progress(done, bits)
            seen.append(done)
            if seen == [1, 2, 3, 4, 5]:
                raise KeyboardInterrupt

        return train(images, progress=report, **options)

    monkeypatch.setattr(command, "train_flow", interrupted)
    assert main(arguments(recipe, "--iterations", "7")) == 130
    assert [path.name for path in out.iterdir()] == ["flow.ckpt"]
    assert main(arguments(recipe, "--iterations", "7", "--resume")) == 0
    assert seen == [1, 2, 3, 4, 5, 4, 5, 6, 7]
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.name != "flow.ckpt"} == whole


def test_bad_usage_is_one_line_and_leaves_a_flow_alone(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = recipe.parent / "data/flow"

    def refused(named: str, given: list[str]) -> None:
        assert main(given) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert named in line

    refused("required: --config", ["flow", "--out", "x"])
    refused("no/such.yaml", ["flow", "--config", "no/such.yaml", "--out", str(out)])
    refused("/nowhere", [*arguments(recipe), "--data_root", "/nowhere"])
    refused("--iterations: expected int, got many", arguments(recipe, "--iterations", "many"))
    refused("can't be written", [*arguments(recipe), "--out", str(recipe / "flow")])
    assert not out.exists()
    refused("multiple of 4 pixels, got 9", arguments(recipe, "--patch", "9"))
    refused("don't fit the image of 64x48", arguments(recipe, "--patch", "52"))
    refused("no 32x32 pixels that are all of known classes", arguments(recipe, "--patch", "32"))
    assert main(arguments(recipe, "--iterations", "1")) == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    capsys.readouterr()
    refused("already holds a flow: continue its training with --resume", arguments(recipe))
    refused("patch differ", arguments(recipe, "--patch", "12", "--resume"))
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_the_command_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["flow", "--help"])
    assert stop.value.code == 0
    assert "--data_root" in capsys.readouterr().out


def test_a_flow_without_its_checkpoint_is_not_trained_over(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = recipe.parent / "data/flow/flow.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(b"of days of training")
    assert main(arguments(recipe, "--resume")) == 2
    assert "no flow.ckpt to go on from" in capsys.readouterr().err
    assert weights.read_bytes() == b"of days of training"
