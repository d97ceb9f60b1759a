"""The optimiser's groups."""

from __future__ import annotations

from outmask.models import Mask2Former, Mask2FormerConfig
from outmask.training.module import parameter_groups
from outmask.training.recipe import DatasetRecipe, Recipe


def test_groups_hold_every_trainable_parameter_once_at_its_rate() -> None:
    resnet = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 8, 8, 8], "depths": [1, 1, 1, 1]}
    model = Mask2Former(Mask2FormerConfig(3, resnet, dim=32, num_heads=2, encoder_layers=1, decoder_layers=1))
    recipe = Recipe("idd_lite", [DatasetRecipe("camvid", ".", "train")], learning_rate=1.0, backbone_rate=0.1)
    groups = parameter_groups(model, recipe)
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
    resnet = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 8, 8, 8], "depths": [1, 1, 1, 1]}
    model = Mask2Former(Mask2FormerConfig(3, resnet, dim=32, num_heads=2, encoder_layers=1, decoder_layers=1))
    recipe = Recipe("idd_lite", [DatasetRecipe("camvid", ".", "train")])
    grouped = {id(parameter) for group in parameter_groups(model, recipe) for parameter in group["params"]}
    frozen = [parameter for name, parameter in model.named_parameters() if "normalization" in name]
    assert frozen
    assert not any(id(parameter) in grouped for parameter in frozen)
