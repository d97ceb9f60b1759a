"""Training on objects, what void means in it, and backbones of bundled models."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from outmask.checkpoints import load_bundle
from outmask.data.labels import IGNORE, VOID, Target
from outmask.data.transforms import collate
from outmask.errors import OutmaskError
from outmask.metrics import PanopticQuality
from outmask.preprocessing import Preprocessing
from outmask.segmenter import Segmenter
from outmask.training.build import backbone_of, build_model, build_training_set, build_validation
from outmask.training.module import SegmentationTraining
from outmask.training.run import main, read_recipe
from outmask.types import MaskPrediction

WORLD = {
    "taxonomy": "world",
    "train": [{"name": "world", "root": ".", "split": "train_negatives"}],
    "validation": [{"name": "world", "root": ".", "split": "validation"}],
    "validation_images": 2,
    "negatives": None,
    "validation_negatives": None,
    "panoptic": True,
    "crop": [96, 192],
    "short_side": [96, 96],
}


@pytest.mark.parametrize("panoptic", [False, True])
def test_a_panoptic_run_has_a_mask_for_each_object(write_recipe: Any, panoptic: bool) -> None:
    draws = build_training_set(read_recipe(write_recipe(**{**WORLD, "panoptic": panoptic})))
    batch = collate([draws[0], draws[1]], 16)
    for target in batch.targets:
        counts = torch.bincount(target.class_ids, minlength=16)
        assert (counts[:11] <= 1).all(), "a class of stuff is one mask"
        assert (target.masks.sum(0) <= 1).all()
    most = max(int(torch.bincount(target.class_ids).max()) for target in batch.targets)
    assert (most > 1) is panoptic


def test_a_validation_measures_panoptic_quality_where_objects_are_told_apart(
    write_recipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = build_validation(read_recipe(write_recipe(**WORLD)))
    found: dict[bytes, MaskPrediction] = {}
    for sample, kept in zip(samples, (1.0, 0.5), strict=True):
        target = Target.from_labels(sample.labels, sample.outlier, 16, sample.instances)
        count = round(kept * len(target.class_ids))
        logits = torch.full((1, count, 17), -20.0)
        logits[0, torch.arange(count), target.class_ids[:count]] = 20.0
        masks = torch.where(target.masks[None, :count], 20.0, -20.0)
        found[sample.image.tobytes()] = MaskPrediction(logits, masks)
    monkeypatch.setattr(Segmenter, "prediction", lambda self, image: found[image.tobytes()])
    for panoptic in (True, False):
        module = SegmentationTraining(read_recipe(write_recipe(**{**WORLD, "panoptic": panoptic})), Preprocessing())
        trainer = L.Trainer(logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu")
        perfect, half = (
            trainer.validate(module, DataLoader([sample], batch_size=None, collate_fn=lambda one: one), verbose=False)[
                0
            ]
            for sample in samples
        )
        if panoptic:
            assert perfect["val/PQ"] == perfect["val/PQ_things"] == perfect["val/PQ_stuff"] == 100
            assert 0 < half["val/PQ"] < 100
        else:
            assert "val/PQ" not in perfect


def test_what_a_validation_does_not_define_is_null_in_the_model(
    write_recipe: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    quality = {"PQ": 50.0, "PQ_things": math.nan, "PQ_stuff": 50.0}  # images without any thing
    monkeypatch.setattr(PanopticQuality, "compute", lambda self: quality)
    recipe = write_recipe(**{**WORLD, "validation_images": 1})
    model = main(["--config", str(recipe), "--out", str(tmp_path / "run"), "--iterations", "1"])
    found = json.loads((model / "config.json").read_text())["provenance"]["validation"]
    assert (found["PQ"], found["PQ_things"]) == (50, None)


def test_a_per_pixel_model_tells_no_objects_apart(write_recipe: Any) -> None:
    model = {"kind": "per_pixel", "backbone": "mobilenet_v2", "dim": 32, "num_heads": 2, "encoder_layers": 1}
    with pytest.raises(OutmaskError, match="panoptic: per-pixel models tell no objects apart"):
        build_model(read_recipe(write_recipe(**{**WORLD, "model": model})))


# What pixels of the world's unknown objects, which are void in it, mean to the losses.
TREATMENTS: dict[str, dict[str, Any]] = {
    "background": {},
    "ignorance": {"void": "ignore"},
    "suppression": {"void": "outlier", "loss": {"num_points": 64, "outlier": {"kind": "suppression"}}},
    "train": {"void": "outlier", "loss": {"num_points": 64, "outlier": {"kind": "negative_class"}}},
}


@pytest.mark.parametrize("name", TREATMENTS)
def test_every_treatment_of_void_trains(write_recipe: Any, tmp_path: Path, name: str) -> None:
    recipe = write_recipe(**{**WORLD, "loss": {"num_points": 64}, "validation": [], **TREATMENTS[name]})
    model = main(["--config", str(recipe), "--out", str(tmp_path / "run"), "--iterations", "2"])
    architecture = json.loads((model / "config.json").read_text())["architecture"]
    assert architecture.get("negative_class", False) is (name == "train")


def test_void_is_ignored_or_an_outlier_where_the_recipe_says_so(write_recipe: Any) -> None:
    # Of a model that must not know them, the world's trucks, buses and cyclists are void but were never pasted.
    scene = {
        **WORLD,
        "taxonomy": "world_open20",
        "train": [{"name": "world", "root": ".", "split": "t1"}],
        "iterations": 30,
    }
    samples = {
        name: build_training_set(read_recipe(write_recipe(**{**scene, **TREATMENTS[name]}))) for name in TREATMENTS
    }
    number = next(index for index in range(60) if (samples["background"][index].labels == VOID).sum() > 1000)
    as_it_is = samples["background"][number]
    void = as_it_is.labels == VOID
    assert not as_it_is.outlier.any()
    ignored = samples["ignorance"][number]
    assert np.array_equal(ignored.labels == IGNORE, void | (as_it_is.labels == IGNORE))
    for name in ("suppression", "train"):
        outlier = samples[name][number].outlier
        assert outlier.any()
        assert not (outlier & ~void).any()


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"void": "outlier"}, "'void: outlier' is for a loss.outlier to learn from"),
        ({"loss": {"outlier": {"kind": "suppression"}}}, "no 'negatives' to paste, nor 'void: outlier'"),
    ],
)
def test_void_and_loss_that_do_not_go_together_are_refused(
    write_recipe: Any, values: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(OutmaskError, match=complaint):
        read_recipe(write_recipe(**{**WORLD, **values}))


def test_a_run_may_start_from_the_backbone_of_a_bundled_model(write_recipe: Any) -> None:
    model = build_model(read_recipe(write_recipe(pretrained="street")))
    donor = backbone_of(load_bundle("street").model).state_dict()
    taken = backbone_of(model).state_dict()
    assert taken.keys() == donor.keys()
    assert all(torch.equal(taken[name], donor[name]) for name in donor)


def test_a_bundled_model_with_another_backbone_is_refused(write_recipe: Any) -> None:
    resnet = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 8, 8, 8], "depths": [1, 1, 1, 1]}
    with pytest.raises(OutmaskError, match="the model street has another backbone than this recipe's 'model'"):
        build_model(read_recipe(write_recipe(pretrained="street", model={"backbone": resnet, "dim": 32})))
