"""What a recipe's keys come to: negative sources, losses, and the recipes of the package."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForSemanticSegmentation

import outmask
from outmask.checkpoints import ModelBundle, save_folder
from outmask.data.flow import FlowConfig, PatchFlow
from outmask.data.labels import VOID
from outmask.data.taxonomies import taxonomy
from outmask.data.transforms import collate
from outmask.errors import OutmaskError
from outmask.losses import MaskContrastiveLoss, OutlierCrossEntropyLoss, RbALoss
from outmask.preprocessing import Preprocessing
from outmask.training.build import build_model, build_outlier_loss, build_training_set
from outmask.training.module import SegmentationTraining
from outmask.training.run import main, read_recipe


@pytest.mark.parametrize(
    "path", sorted((Path(outmask.__file__).parent / "recipes").glob("*.yaml")), ids=lambda p: p.stem
)
def test_every_recipe_of_the_package_is_one(path: Path) -> None:
    assert read_recipe(path, "elsewhere").data_root == "elsewhere"


@pytest.fixture
def sources(small_data: Path, tmp_path: Path) -> dict[str, dict[str, Any]]:
    """Each kind of negatives, with files for it."""
    rng = np.random.default_rng(1)
    for folder in ("images/training", "annotations/training"):
        (tmp_path / "ade" / folder).mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "ade/images/training/a.jpg"), rng.integers(0, 256, (40, 50, 3), dtype=np.uint8))
    cv2.imwrite(str(tmp_path / "ade/annotations/training/a.png"), np.kron([[3, 9], [0, 5]], np.ones((20, 25))))
    torch.manual_seed(0)
    PatchFlow(FlowConfig(levels=1, steps=1, width=4)).save(tmp_path / "flow")
    return {
        "folder": {"kind": "folder", "root": "objects"},
        "label_maps": {"kind": "label_maps", "root": str(tmp_path / "ade"), "longest_side": [10, 20]},
        "inlier_patches": {"kind": "inlier_patches", "side": [6, 12]},
        "flow": {"kind": "flow", "root": str(tmp_path / "flow"), "side": [8, 12]},
        "world": {"kind": "world", "side": [16, 32]},
    }


@pytest.mark.parametrize("kind", ["folder", "label_maps", "inlier_patches", "flow", "world"])
@pytest.mark.parametrize("relative_size", [None, [0.2, 0.4]])
def test_every_kind_of_negatives_is_pasted_as_void(
    write_recipe: Any, sources: dict[str, dict[str, Any]], kind: str, relative_size: list[float] | None
) -> None:
    negatives = {"sources": [sources[kind]], "probability": 1.0, "count": [1, 1], "relative_size": relative_size}
    draws = build_training_set(read_recipe(write_recipe(negatives=negatives, crop=[64, 80], short_side=[64, 64])))
    samples = [draws[index] for index in range(4)]
    for sample in samples:
        assert sample.outlier.any()
        assert (sample.labels[sample.outlier] == VOID).all()
    again = build_training_set(read_recipe(write_recipe(negatives=negatives, crop=[64, 80], short_side=[64, 64])))
    np.testing.assert_array_equal(again[3].image, samples[3].image)


@pytest.mark.parametrize(
    ("outlier", "expected", "term"),
    [
        ({"kind": "contrastive"}, MaskContrastiveLoss("margin", 0.75), "contrastive"),
        ({"kind": "contrastive", "released": True, "margin": 0.5}, MaskContrastiveLoss("released", 0.5), "contrastive"),
        ({"kind": "bce"}, OutlierCrossEntropyLoss("probability"), "outlier_bce"),
        ({"kind": "rba"}, RbALoss(), "rba"),
    ],
)
def test_the_outlier_loss_is_added_to_the_masks_in_every_layer(
    write_recipe: Any, outlier: dict[str, Any], expected: Any, term: str
) -> None:
    recipe = read_recipe(write_recipe(loss={"num_points": 64, "outlier": outlier}))
    assert build_outlier_loss(recipe) == expected
    training = SegmentationTraining(recipe, Preprocessing(short_side=64))
    draws = build_training_set(recipe)
    batch = replace(collate([draws[0], draws[1]], 7), draws=(0, 1))
    losses = training.losses(batch)
    plain = SegmentationTraining(read_recipe(write_recipe()), Preprocessing(short_side=64))
    expected_terms = {term, *(f"{term}_{layer}" for layer in range(2))}
    assert losses.keys() - plain.losses(batch).keys() == expected_terms
    assert all(losses[name].isfinite() for name in expected_terms)


def test_an_outlier_loss_without_outliers_is_refused(write_recipe: Any) -> None:
    with pytest.raises(OutmaskError, match="no 'negatives' to paste"):
        read_recipe(write_recipe(negatives=None, loss={"outlier": {"kind": "rba"}}))


RESNET = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [16, 24, 32, 40], "depths": [1, 1, 1, 1]}
SEGFORMER = {
    "model_type": "segformer",
    "hidden_sizes": [8, 8, 16, 16],
    "depths": [1, 1, 1, 1],
    "num_attention_heads": [1, 1, 1, 1],
    "decoder_hidden_size": 16,
}
OF_PIXELS: dict[str, dict[str, Any]] = {
    "per_pixel": {"kind": "per_pixel", "backbone": RESNET, "dim": 32, "num_heads": 2, "encoder_layers": 1},
    "deeplab_v3_plus": {"kind": "deeplab_v3_plus", "backbone": RESNET, "dim": 32},
    "semantic_segmentation": {"kind": "semantic_segmentation", "network": SEGFORMER},
}


@pytest.mark.parametrize("kind", OF_PIXELS)
@pytest.mark.parametrize(
    ("outlier", "score"),
    [
        (None, "msp"),
        ("void_classifier", "void"),
        ("outlier_head", "ood-head"),
        ("maximised_entropy", "entropy"),
        ("energy_margin", "energy"),
        ("densehybrid", "densehybrid"),
    ],
)
def test_every_per_pixel_model_learns_by_every_per_pixel_loss(
    write_recipe: Any, tmp_path: Path, kind: str, outlier: str | None, score: str
) -> None:
    loss = {} if outlier is None else {"outlier": {"kind": outlier}}
    settings = {"model": OF_PIXELS[kind], "iterations": 2, "batch_size": 1, "chunk": 2, "loss": loss}
    arguments = ["--config", str(write_recipe(**settings)), "--out", str(tmp_path / "run")]
    segmenter = outmask.load(main(arguments))
    assert segmenter.predict(np.zeros((40, 50, 3), np.uint8), score=score).score.shape == (40, 50)
    provenance = json.loads((tmp_path / "run/model/config.json").read_text())["provenance"]
    assert 0 <= provenance["validation"][f"AP_{score}"] <= 100


def test_the_negative_class_is_learned_scored_and_never_a_label(write_recipe: Any, tmp_path: Path) -> None:
    loss = {"num_points": 64, "outlier": {"kind": "negative_class"}}
    settings = {"iterations": 2, "chunk": 2, "loss": loss}
    segmenter = outmask.load(main(["--config", str(write_recipe(**settings)), "--out", str(tmp_path / "run")]))
    with torch.no_grad():  # make it certain that everything is negative
        segmenter.model.mask_decoder.class_embed.bias[7] = 50.0  # type: ignore[union-attr, index]
    result = segmenter.predict(np.zeros((40, 50, 3), np.uint8), score="uno")
    assert segmenter.taxonomy.num_classes == 7
    assert result.labels.max() < 7
    assert (result.score > 0).all()
    assert (segmenter.predict(np.zeros((40, 50, 3), np.uint8), score="eam").score > -1e-6).all()


@pytest.mark.parametrize(
    ("model", "outlier", "head"),
    [
        ({}, "negative_class", "mask_decoder.class_embed.bias"),
        (OF_PIXELS["per_pixel"], "densehybrid", "head.outlier.bias"),
        (OF_PIXELS["semantic_segmentation"], "void_classifier", "network.decode_head.classifier.bias"),
    ],
)
def test_fine_tuning_adds_the_head_that_its_loss_needs(
    write_recipe: Any, small_recipe: dict[str, Any], tmp_path: Path, model: Any, outlier: str, head: str
) -> None:
    model = model or small_recipe["model"]
    first = build_model(read_recipe(write_recipe(model=model)))
    bundle = ModelBundle(first, taxonomy("idd_lite"), Preprocessing(), "mine", {}, "first", {})
    save_folder(bundle, tmp_path / "first")
    settings = {"start_from": str(tmp_path / "first"), "loss": {"outlier": {"kind": outlier}}}
    for description in ({}, model):
        second = build_model(read_recipe(write_recipe(model=description, **settings))).state_dict()
        strange = {name for name, value in second.items() if not equal(value, first.state_dict().get(name))}
        assert head in strange
        assert all(name.startswith(head.rpartition(".")[0]) for name in strange)
        old = first.state_dict().get(head)
        if old is not None:
            torch.testing.assert_close(second[head][:7], old[:7])
            torch.testing.assert_close(second[head][8:], old[7:])
    other = {"network": {**SEGFORMER, "decoder_hidden_size": 32}} if "network" in model else {"dim": 64}
    with pytest.raises(OutmaskError, match="another architecture than the recipe's 'model'"):
        build_model(read_recipe(write_recipe(model={**model, **other}, **settings)))


def equal(value: torch.Tensor, other: torch.Tensor | None) -> bool:
    return other is not None and torch.equal(value, other)


@pytest.mark.parametrize(
    ("model", "outlier", "message"),
    [
        ({}, "densehybrid", "densehybrid is no loss of mask models: choose from contrastive, bce, rba, suppression"),
        (OF_PIXELS["per_pixel"], "contrastive", "contrastive is no loss of per-pixel models: choose from void_class"),
    ],
)
def test_a_loss_of_the_other_kind_of_model_is_refused(
    write_recipe: Any, small_recipe: dict[str, Any], model: dict[str, Any], outlier: str, message: str
) -> None:
    recipe = read_recipe(write_recipe(model=model or small_recipe["model"], loss={"outlier": {"kind": outlier}}))
    with pytest.raises(OutmaskError, match=message):
        SegmentationTraining(recipe, Preprocessing())


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ({"negative_class": True}, "model: negative_class follows from loss.outlier, where it is False, got True"),
        ({"num_classes": 5}, "model: num_classes follows from taxonomy, where it is 7, got 5: leave it out"),
    ],
)
def test_outputs_that_contradict_the_rest_of_the_recipe_are_refused(
    write_recipe: Any, small_recipe: dict[str, Any], field: dict[str, Any], message: str
) -> None:
    with pytest.raises(OutmaskError, match=message):
        build_model(read_recipe(write_recipe(model={**small_recipe["model"], **field})))


def test_a_second_stage_without_a_first_is_refused(write_recipe: Any) -> None:
    with pytest.raises(OutmaskError, match="give --start_from or --model"):
        build_model(read_recipe(write_recipe(model={})))


def test_a_head_that_the_loss_does_not_train_is_refused(
    write_recipe: Any, small_recipe: dict[str, Any], tmp_path: Path
) -> None:
    loss = {"outlier": {"kind": "negative_class"}}
    first = build_model(read_recipe(write_recipe(loss=loss)))
    save_folder(ModelBundle(first, taxonomy("idd_lite"), Preprocessing(), "mine", {}, "first", {}), tmp_path / "first")
    recipe = write_recipe(model={}, start_from=str(tmp_path / "first"), loss={"outlier": {"kind": "rba"}})
    with pytest.raises(OutmaskError, match="has the head negative_class, which .* does not train: set"):
        build_model(read_recipe(recipe))
    again = write_recipe(model={}, start_from=str(tmp_path / "first"), loss=loss)
    assert build_model(read_recipe(again)).config == first.config


def test_a_pretrained_network_brings_its_own_architecture(write_recipe: Any, tmp_path: Path) -> None:
    network = AutoModelForSemanticSegmentation.from_config(AutoConfig.for_model(**SEGFORMER, num_labels=3))
    network.save_pretrained(tmp_path / "segformer")
    settings = {"pretrained": str(tmp_path / "segformer"), "freeze_backbone": True}
    model = build_model(read_recipe(write_recipe(model={"kind": "semantic_segmentation"}, **settings)))
    assert model.config.num_classes == 7
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained
    assert all(name.startswith("network.decode_head.") for name in trained)
    with pytest.raises(OutmaskError, match="'network' is what 'pretrained' holds"):
        build_model(read_recipe(write_recipe(model=OF_PIXELS["semantic_segmentation"], **settings)))
