"""The graph's scores, in plain tensor operations, against the engine that walks tiles."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from outmask import scores
from outmask.checkpoints import ModelBundle
from outmask.errors import OutmaskError
from outmask.export.graph import ExportGraph, literal
from outmask.models.deformable import DeformableAttention
from outmask.types import MaskPrediction, PixelPrediction

SIZE = (37, 50)


def mask_prediction(negative_class: bool = False, certain: float = 1.0) -> MaskPrediction:
    torch.manual_seed(0)
    class_logits = certain * 4 * torch.randn(2, 7, 5 + negative_class)
    return MaskPrediction(class_logits, certain * 6 * torch.randn(2, 7, 9, 12), negative_class=negative_class)


@pytest.mark.parametrize(
    "prediction",
    [
        mask_prediction(),
        mask_prediction(negative_class=True),
        # Log-odds beyond float32's exponents: a product of probabilities would be 0, its logarithm infinite.
        mask_prediction(certain=40.0),
        PixelPrediction(4 * torch.randn(2, 5, 9, 12), 3 * torch.randn(2, 9, 12)),
        PixelPrediction(60 * torch.randn(2, 5, 9, 12)),
    ],
    ids=["masks", "negative class", "certain masks", "pixels", "certain pixels"],
)
def test_literal_scores_are_the_engines(prediction: MaskPrediction | PixelPrediction) -> None:
    names = scores.available(prediction)
    expected = scores.evaluate(prediction, names, SIZE)
    maps, class_scores = literal(prediction, names, SIZE)
    for name, found in zip(names, maps, strict=True):
        # The last place of the certain predictions' logits, which reach hundreds, is 3e-5: where a sigmoid turns, this
        # is the last place of a score that weights it by other such logits.
        torch.testing.assert_close(found, expected[name], atol=1e-5, rtol=1e-4, msg=lambda text, n=name: f"{n}: {text}")
    chosen = class_scores.gather(1, expected["labels"][:, None])[:, 0]
    torch.testing.assert_close(chosen, class_scores.amax(1), atol=1e-5, rtol=1e-5)


def test_outputs_are_named_in_order(bundle: Callable[..., ModelBundle]) -> None:
    graph = ExportGraph(bundle("resnet").model, ["am", "eam"])
    assert graph.output_names == ("am", "eam", "labels", "class_logits", "mask_logits")
    shapes = [tuple(output.shape) for output in graph(torch.zeros(2, 3, 40, 70))]
    assert shapes == [(2, 40, 70), (2, 40, 70), (2, 40, 70), (2, 6, 4), (2, 6, 10, 18)]
    assert ExportGraph(bundle("resnet", "per_pixel").model, []).output_names == ("labels", "logits")
    aware = bundle("resnet", "per_pixel", outlier_head=True).model
    assert ExportGraph(aware, ["void"]).output_names == ("void", "labels", "logits", "outlier_logits")


def test_the_model_itself_stays_as_it_is(bundle: Callable[..., ModelBundle]) -> None:
    model = bundle("resnet").model
    ExportGraph(model, [])
    attention = [module for module in model.modules() if isinstance(module, DeformableAttention)]
    assert attention
    assert not any(module.exportable for module in attention)


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("mask2former", "eaam", "did you mean 'eam'"),
        ("mask2former", "msp", "none of this model's predictions: choose from am"),
        ("per_pixel", "eam", "none of this model's predictions: choose from msp"),
        ("per_pixel", "void", "none of this model's predictions: choose from msp"),
        ("mask2former", "sml", "unknown score 'sml'"),
    ],
)
def test_scores_that_the_model_lacks_are_refused(
    bundle: Callable[..., ModelBundle], kind: str, name: str, message: str
) -> None:
    with pytest.raises(OutmaskError, match=message):
        ExportGraph(bundle("resnet", kind).model, [name])
