"""What a recipe's keys come to: negative sources, losses, and the recipes of the package."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

import outmask
from outmask.data.flow import FlowConfig, PatchFlow
from outmask.data.labels import VOID
from outmask.data.transforms import collate
from outmask.errors import OutmaskError
from outmask.losses import MaskContrastiveLoss, OutlierCrossEntropyLoss, RbALoss
from outmask.preprocessing import Preprocessing
from outmask.training.module import SegmentationTraining
from outmask.training.recipe import build_outlier_loss, build_training_set
from outmask.training.run import read_recipe


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
    }


@pytest.mark.parametrize("kind", ["folder", "label_maps", "inlier_patches", "flow"])
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
    recipe = read_recipe(write_recipe(negatives=None, loss={"outlier": {"kind": "rba"}}))
    with pytest.raises(OutmaskError, match="no 'negatives' to paste"):
        build_outlier_loss(recipe)
