"""``outmask fit``, and what becomes possible by it: detectors named like scores in every command."""

from __future__ import annotations

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
from outmask.checkpoints import ModelBundle, load_folder, save_folder
from outmask.data.taxonomies import taxonomy
from outmask.models import DeepLabV3Plus, DeepLabV3PlusConfig, Mask2Former, Mask2FormerConfig
from outmask.preprocessing import Preprocessing

RESNET = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [16, 24, 32, 40], "depths": [1, 1, 1, 1]}
ALL = "sml,odin,mahalanobis,mcdropout,react"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    network = DeepLabV3Plus(DeepLabV3PlusConfig(11, RESNET, dim=32))
    bundle = ModelBundle(network, taxonomy("camvid"), Preprocessing(short_side=32), "none", {}, "tiny")
    save_folder(bundle, tmp_path / "tiny")
    return tmp_path / "tiny"


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """Of three training images; what is pasted while training has no part in statistics."""
    rng = np.random.default_rng(0)
    for folder in ("train", "trainannot"):
        (tmp_path / "data/camvid" / folder).mkdir(parents=True)
    for name in "abc":
        labels = rng.integers(0, 11, (4, 6), dtype=np.uint8).repeat(12, 0).repeat(12, 1)
        image = np.clip(20 * labels[..., None] + rng.integers(0, 60, (48, 72, 3)), 0, 255).astype(np.uint8)
        cv2.imwrite(str(tmp_path / f"data/camvid/train/{name}.png"), image)
        cv2.imwrite(str(tmp_path / f"data/camvid/trainannot/{name}.png"), labels)
    settings = {"taxonomy": "camvid", "train": [{"name": "camvid", "root": "camvid", "split": "train"}],
                "data_root": "elsewhere"}  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(settings))
    return tmp_path / "recipe.yaml"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    rng = np.random.default_rng(1)
    for folder in ("images", "labels_masks"):
        (tmp_path / "b" / folder).mkdir(parents=True)
    for name in "ab":
        Image.fromarray(rng.integers(0, 256, (40, 56, 3), dtype=np.uint8)).save(tmp_path / f"b/images/{name}.png")
        Image.fromarray((rng.random((40, 56)) < 0.3).astype(np.uint8)).save(tmp_path / f"b/labels_masks/{name}.png")
    return tmp_path / "b"


def fit(model: Path, recipe: Path, *more: str) -> int:
    return main(
        ["fit", "--model", str(model), "--config", str(recipe), "--data_root", str(recipe.parent / "data"), *more]
    )


def test_fitted_detectors_are_scores_of_every_command(
    model: Path, recipe: Path, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit(model, recipe) == 0
    assert f"sml, mahalanobis, react fitted to 3 training images: stored in {model}" in capsys.readouterr().out
    base = ["--model", str(model), "--out"]
    images = str(root / "images")
    assert main(["predict", images, *base, str(tmp_path / "p"), "--score", "mahalanobis", "--flip"]) == 0
    score = np.load(tmp_path / "p/a_score.npy")
    assert score.shape == (40, 56)
    direct = outmask.load(model).predict(str(root / "images/a.png"), score="mahalanobis", flip=True)
    np.testing.assert_allclose(score, direct.score, rtol=1e-5)

    arguments = ["evaluate", "--benchmark", "folder", "--root", str(root), "--model", str(model)]
    files = ["--json", str(tmp_path / "r.json"), "--html", str(tmp_path / "r.html")]
    assert main([*arguments, "--score", f"{ALL},entropy", *files]) == 0
    report = json.loads((tmp_path / "r.json").read_text())
    assert list(report["scores"]) == [*ALL.split(","), "entropy"]
    assert all(0 <= report["scores"][name]["AUROC"] <= 100 for name in report["scores"])
    assert main(["calibrate", *arguments[1:], "--score", "odin"]) == 0
    assert outmask.load(model).predict(str(root / "images/a.png"), score="odin").threshold is not None


def test_an_evaluation_is_not_resumed_with_other_statistics(
    model: Path, recipe: Path, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit(model, recipe, "--detector", "react") == 0
    arguments = ["evaluate", "--benchmark", "folder", "--root", str(root), "--model", str(model), "--score", "react"]
    assert main([*arguments, "--out", str(tmp_path / "kept")]) == 0
    assert main([*arguments, "--out", str(tmp_path / "kept"), "--resume"]) == 0
    assert fit(model, recipe, "--detector", "react", "--images", "1") == 0
    capsys.readouterr()
    assert main([*arguments, "--out", str(tmp_path / "kept"), "--resume"]) == 2
    assert "another model" in capsys.readouterr().err


def test_so_many_images_as_asked_for_and_the_same_ones_each_time(
    model: Path, recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = []
    for images in ("1", "1", "2", "99"):
        assert fit(model, recipe, "--detector", "sml", "--images", images) == 0
        found.append(load_folder(model).statistics["sml"]["mean"])
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" fitted to ")[1].split(" training")[0] for line in lines] == ["1", "1", "2", "3"]


def test_several_models_are_an_ensemble(model: Path, root: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    bundle = load_folder(model)
    other = ModelBundle(
        DeepLabV3Plus(DeepLabV3PlusConfig(11, RESNET, dim=32)), bundle.taxonomy, bundle.preprocessing, "", {}, ""
    )
    save_folder(other, tmp_path / "second")
    both = f"{model},{tmp_path / 'second'}"
    images = str(root / "images")
    assert main(["predict", images, "--model", both, "--score", "energy", "--out", str(tmp_path / "p")]) == 0
    single = [
        outmask.load(folder).predict(str(root / "images/a.png"), score="energy").score
        for folder in (model, tmp_path / "second")
    ]
    np.testing.assert_allclose(np.load(tmp_path / "p/a_score.npy"), (single[0] + single[1]) / 2, rtol=1e-5)
    arguments = ["evaluate", "--benchmark", "folder", "--root", str(root), "--model", both]
    assert main([*arguments, "--score", "entropy,energy", "--json", str(tmp_path / "r.json")]) == 0
    assert json.loads((tmp_path / "r.json").read_text())["model"] == "tiny + second"


def test_a_folder_whose_name_has_a_comma_is_one_model(model: Path, root: Path, tmp_path: Path) -> None:
    model.rename(tmp_path / "a,b")
    arguments = ["--model", str(tmp_path / "a,b"), "--score", "msp", "--out", str(tmp_path / "p")]
    assert main(["predict", str(root / "images"), *arguments]) == 0


def test_what_cannot_be_fitted_is_said_in_one_line(
    model: Path, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*more: str, folder: Path | str = model) -> str:
        assert fit(Path(folder), recipe, *more) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    assert "'odin' is no detector with statistics to fit" in refused("--detector", "sml,odin")
    assert "--images must be at least 1" in refused("--images", "0")
    assert "street belongs to the installation" in refused(folder="street")
    assert "is no model folder of outmask's" in refused(folder=tmp_path / "nowhere")
    torch.manual_seed(0)
    settings = {"dim": 32, "num_heads": 2, "encoder_layers": 1, "decoder_layers": 1, "num_queries": 4}
    masks = Mask2Former(Mask2FormerConfig(11, RESNET, **settings))  # type: ignore[arg-type]
    save_folder(ModelBundle(masks, taxonomy("camvid"), Preprocessing(short_side=32), "", {}, ""), tmp_path / "masks")
    assert "needs class logits of every pixel" in refused("--detector", "sml", folder=tmp_path / "masks")
    assert "is a Mask2Former" in refused(folder=tmp_path / "masks")
    recipe.write_text(recipe.read_text().replace("taxonomy: camvid", "taxonomy: idd_lite"))
    assert "has other classes than the model" in refused()
    assert not (model / "detectors.safetensors").exists()


def test_detectors_are_listed_with_the_scores(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "scores"]) == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert names[-5:] == ALL.split(",")
    assert "eam" in names
