"""The optimiser's groups, what is frozen, and single steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor

from outmask.checkpoints import ModelBundle, save_folder
from outmask.data.taxonomies import taxonomy
from outmask.errors import OutmaskError
from outmask.models import Mask2Former, Mask2FormerConfig
from outmask.preprocessing import Preprocessing
from outmask.training.build import build_model
from outmask.training.data import Batches, RecipeData
from outmask.training.module import (
    SegmentationTraining,
    count_parameters,
    parameter_groups,
    undecayed_parameters,
)
from outmask.training.recipe import DatasetRecipe, Recipe
from outmask.training.run import read_recipe

RecipeWriter = Callable[..., Path]
RESNET: dict[str, Any] = {
    "model_type": "resnet",
    "embedding_size": 8,
    "hidden_sizes": [8, 8, 8, 8],
    "depths": [1, 1, 1, 1],
}
SMALL = {"dim": 32, "num_heads": 2, "encoder_layers": 1, "decoder_layers": 1}


def test_groups_hold_every_trainable_parameter_once_at_its_rate() -> None:
    model = Mask2Former(Mask2FormerConfig(3, RESNET, **SMALL))
    recipe = Recipe("idd_lite", [DatasetRecipe("camvid", ".", "train")], learning_rate=1.0, backbone_rate=0.1)
    groups = parameter_groups(model, recipe, undecayed_parameters(model))
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    trainable = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == trainable
    backbone = {id(parameter) for parameter in model.backbone.parameters()}
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for group in groups:
        for parameter in group["params"]:
            assert group["lr"] == (0.1 if id(parameter) in backbone else 1.0)
            name = names[id(parameter)]
            if parameter.ndim == 1 or name.endswith(("query_feat", "query_embed", "level_embed")):
                assert group["weight_decay"] == 0, name
            else:
                assert group["weight_decay"] == recipe.weight_decay, name


def test_frozen_batch_norm_is_not_trained() -> None:
    model = Mask2Former(Mask2FormerConfig(3, RESNET, **SMALL))
    recipe = Recipe("idd_lite", [DatasetRecipe("camvid", ".", "train")])
    groups = parameter_groups(model, recipe, undecayed_parameters(model))
    grouped = {id(parameter) for group in groups for parameter in group["params"]}
    frozen = [parameter for name, parameter in model.named_parameters() if "normalization" in name]
    assert frozen
    assert not any(id(parameter) in grouped for parameter in frozen)


def test_a_frozen_backbone_has_no_graph_no_rate_and_no_chance() -> None:
    swin = {"model_type": "swin", "embed_dim": 12, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 2, 4], "window_size": 3}
    recipe = Recipe(
        "idd_lite",
        [DatasetRecipe("camvid", ".", "train")],
        model={"backbone": {**swin, "drop_path_rate": 0.9}, **SMALL},
        freeze_backbone=True,
    )
    module = SegmentationTraining(recipe, Preprocessing())
    module.eval()
    module.train()
    pixels = torch.randn(2, 3, 64, 64)
    features = module.model.backbone(pixels)
    assert all(feature.grad_fn is None for feature in features)
    assert all(torch.equal(*pair) for pair in zip(features, module.model.backbone(pixels), strict=True))
    assert module.model.mask_decoder.training
    module.model(pixels).mask_logits.sum().backward()
    groups = parameter_groups(module.model, recipe, module.undecayed)
    assert {group["lr"] for group in groups} == {recipe.learning_rate}
    counts = count_parameters(module.model)
    assert counts["all"] - counts["trainable"] == sum(weight.numel() for weight in module.model.backbone.parameters())


def test_a_model_in_training_is_in_train_mode_from_the_start(write_recipe: RecipeWriter) -> None:
    # Lightning leaves the modes as it finds them, and a model from a checkpoint comes in eval mode.
    recipe = read_recipe(write_recipe(start_from="street", model={}))
    module = SegmentationTraining(recipe, Preprocessing())
    assert module.model.training
    assert len(module.model(torch.randn(1, 3, 32, 32)).auxiliary) == module.model.config.decoder_layers


def test_fine_tuning_takes_weights_and_architecture_of_any_checkpoint(
    write_recipe: RecipeWriter, small_recipe: dict[str, Any], tmp_path: Path
) -> None:
    first = build_model(read_recipe(write_recipe()))
    bundle = ModelBundle(
        first, taxonomy("idd_lite"), Preprocessing(), operating_points={}, licence="none", provenance={}, name="first"
    )
    save_folder(bundle, tmp_path / "first")
    recipes = [write_recipe(start_from=str(tmp_path / "first"), model=model) for model in ({}, small_recipe["model"])]
    for recipe in recipes:
        second = build_model(read_recipe(recipe))
        assert second.config == first.config
        for name, weight in second.state_dict().items():
            assert torch.equal(weight, first.state_dict()[name])


def test_fine_tuning_another_architecture_or_other_classes_is_refused(write_recipe: RecipeWriter) -> None:
    with pytest.raises(OutmaskError, match="another architecture"):
        build_model(read_recipe(write_recipe(start_from="street")))
    with pytest.raises(OutmaskError, match="street knows 7 classes, taxonomy cityscapes has 19"):
        build_model(read_recipe(write_recipe(start_from="street", model={}, taxonomy="cityscapes")))


def one_iteration(recipe: Recipe, tmp_path: Path) -> tuple[dict[str, Tensor], float, list[tuple[int, ...]]]:
    """Gradients, mean loss and draws of the first iteration."""
    module = SegmentationTraining(recipe, Preprocessing())
    gradients: dict[str, Tensor] = {}
    losses: list[float] = []
    draws: list[tuple[int, ...]] = []

    class Recorder(L.Callback):
        def on_train_batch_end(
            self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
        ) -> None:
            losses.append(float(outputs["loss"]) * recipe.accumulate)
            draws.append(batch.draws)

        def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
            for name, parameter in module.model.named_parameters():
                if parameter.grad is not None:
                    gradients[name] = parameter.grad.clone()

    trainer = L.Trainer(
        max_steps=1,
        accelerator="cpu",
        precision=recipe.precision,  # type: ignore[arg-type]
        accumulate_grad_batches=recipe.accumulate,
        default_root_dir=tmp_path,
        callbacks=[Recorder()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, RecipeData(recipe))
    return gradients, sum(losses) / len(losses), draws


def test_accumulated_steps_share_the_draws_and_average_their_gradients(
    write_recipe: RecipeWriter, tmp_path: Path
) -> None:
    recipe = read_recipe(write_recipe(validation=[], batch_size=4, accumulate=2))
    gradients, _, draws = one_iteration(recipe, tmp_path)
    assert draws == [(0, 1), (2, 3)]
    module, batches = SegmentationTraining(recipe, Preprocessing()), Batches(RecipeData(recipe).training, 7)
    for step in draws:
        torch.autograd.backward(torch.stack(list(module.losses(batches[step]).values())).sum() / 2)
    for name, parameter in module.model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-4, atol=1e-6, msg=name)


def test_bfloat16_is_finite_and_close_to_float32(write_recipe: RecipeWriter, tmp_path: Path) -> None:
    exact, exact_loss, _ = one_iteration(read_recipe(write_recipe(validation=[])), tmp_path)
    gradients, loss, _ = one_iteration(read_recipe(write_recipe(validation=[], precision="bf16-mixed")), tmp_path)
    assert all(gradient.isfinite().all() and gradient.dtype == torch.float32 for gradient in gradients.values())
    assert loss == pytest.approx(exact_loss, rel=0.05)
    assert gradients.keys() == exact.keys()
    joint, joint_exact = (torch.cat([part[name].flatten() for name in exact]) for part in (gradients, exact))
    assert torch.cosine_similarity(joint, joint_exact, dim=0) > 0.95
