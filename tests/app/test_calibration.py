"""``outmask calibrate``: what it stores, what it prints, what it refuses."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import outmask
from outmask.app.cli import main
from outmask.checkpoints import ModelBundle, save_folder
from outmask.data.taxonomies import IDD_LITE
from outmask.models import Mask2Former, Mask2FormerConfig
from outmask.preprocessing import Preprocessing

CONFIG = Mask2FormerConfig(
    7, "mobilenet_v2", dim=64, num_heads=2, encoder_layers=1, encoder_levels=1, num_queries=4, decoder_layers=1
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "tiny"
    bundle = ModelBundle(Mask2Former(CONFIG), IDD_LITE, Preprocessing(short_side=32), "none", {}, "tiny")
    save_folder(bundle, folder)
    return folder


@pytest.fixture
def model(trained: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    save_folder(outmask.checkpoints.load_folder(trained), tmp_path / "tiny")
    return tmp_path / "tiny"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for folder in ("images", "labels_masks"):
        (tmp_path / "b" / folder).mkdir(parents=True)
    for name in "ab":
        Image.fromarray(rng.integers(0, 256, (32, 48, 3), dtype=np.uint8)).save(tmp_path / f"b/images/{name}.png")
        label = (rng.random((32, 48)) < 0.3).astype(np.uint8)
        Image.fromarray(label).save(tmp_path / f"b/labels_masks/{name}.png")
    return tmp_path / "b"


def points(folder: Path) -> dict[str, dict[str, object]]:
    stored: dict[str, dict[str, object]] = json.loads((folder / "config.json").read_text())["operating_points"]
    return stored


def test_thresholds_are_stored_with_where_they_came_from(
    model: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = ["calibrate", "--model", str(model), "--benchmark", "folder", "--root", str(root)]
    assert main([*base, "--score", "eam,unclaimed"]) == 0
    assert set(points(model)) == {"eam", "unclaimed"}
    first = points(model)["eam"]
    assert first["TPR"] == pytest.approx(95, abs=0.2)
    assert first["origin"] == "TPR 95 on folder all (2 images)"
    assert f"stored in {model}" in capsys.readouterr().out
    assert main([*base, "--score", "eam", "--rule", "fpr5"]) == 0
    assert points(model)["eam"]["rule"] == "FPR 5"
    assert set(points(model)) == {"eam", "unclaimed"}

    segmenter = outmask.load(model)
    result = segmenter.predict(str(root / "images/a.png"), task="semantic", score="eam")
    assert result.threshold == points(model)["eam"]["threshold"]
    assert result.open_labels is not None


def test_with_out_the_model_itself_stays_as_it_was(model: Path, root: Path, tmp_path: Path) -> None:
    before = (model / "config.json").read_bytes()
    out = tmp_path / "new" / "calibrated"
    arguments = ["calibrate", "--model", str(model), "--benchmark", "folder", "--root", str(root), "--out", str(out)]
    assert main(arguments) == 0
    assert (model / "config.json").read_bytes() == before
    assert set(points(out)) == {"eam"}
    assert outmask.load(out).operating_points == points(out)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["calibrated"]
    assert main(arguments) == 2  # it is there now


def test_a_recipes_validation_images_with_pasted_objects_serve(model: Path, tmp_path: Path) -> None:
    for split in ("train", "val"):
        for folder in (split, split + "annot"):
            (tmp_path / "camvid" / folder).mkdir(parents=True)
        labels = np.repeat(np.array([0, 3, 4, 8], np.uint8), 16)[:, None].repeat(80, 1)
        cv2.imwrite(str(tmp_path / "camvid" / split / "0.jpg"), labels * 25)
        cv2.imwrite(str(tmp_path / "camvid" / (split + "annot") / "0.png"), labels)
    for folder in ("images", "masks"):
        (tmp_path / "objects" / folder).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / f"objects/{folder}/cube_0.png"), np.full((20, 20, 3), 255, np.uint8))
    values = {
        "taxonomy": "idd_lite",
        "train": [{"name": "camvid", "root": "camvid", "split": "train"}],
        "validation": [{"name": "camvid", "root": "camvid", "split": "val"}],
        "validation_negatives": {"sources": [{"kind": "folder", "root": "objects"}]},
    }
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(yaml.safe_dump(values))
    arguments = ["calibrate", "--model", str(model), "--config", str(recipe), "--data_root", str(tmp_path)]
    assert main([*arguments, "--rule", "tpr80"]) == 0
    assert points(model)["eam"]["origin"] == "TPR 80 on camvid val, pasted objects of mine.yaml validation (1 images)"
    recipe.write_text(yaml.safe_dump({**values, "validation_negatives": None}))
    assert main(arguments) == 2


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"--rule": "tpr0"}, "unknown rule 'tpr0'"),
        ({"--score": "best"}, "best"),
        ({"--config": "recipe.yaml"}, "either a benchmark"),
        ({"--benchmark": None, "--root": None}, "either a benchmark"),
        ({"--root": None}, "--benchmark needs --root"),
        ({"--model": "street"}, "street belongs to the installation"),
        ({"--model": "owner/name"}, "owner/name is no model folder of outmask's"),
        ({"--split": "night"}, "night"),
    ],
)
def test_bad_usage_is_one_line(
    model: Path, root: Path, capsys: pytest.CaptureFixture[str], change: dict[str, str | None], named: str
) -> None:
    options = {"--model": str(model), "--benchmark": "folder", "--root": str(root), **change}
    assert main(["calibrate", *(part for pair in options.items() if pair[1] for part in pair if part)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert named in line
    assert points(model) == {}
