"""The same function in every way to run it: prepared, in parts, compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from outmask.models import Mask2Former, pixel_decoder
from outmask.models.inference import prepare_for_inference
from outmask.types import MaskPrediction

Build = Callable[..., Mask2Former]
# A prediction's logits are of order 1: 1e-5 is what the order of float32 sums leaves over two dozen layers.
CLOSE: dict[str, Any] = {"atol": 1e-5, "rtol": 1e-5}


def images(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def assert_same(one: MaskPrediction, other: MaskPrediction) -> None:
    torch.testing.assert_close(one.class_logits, other.class_logits, **CLOSE)
    torch.testing.assert_close(one.mask_logits, other.mask_logits, **CLOSE)


def with_statistics(model: Mask2Former) -> Mask2Former:
    """BatchNorm that does something: fresh, it is the identity."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.running_mean, module.bias):
                nn.init.normal_(values, std=0.1, generator=generator)  # type: ignore[arg-type]
            for values in (module.running_var, module.weight):
                nn.init.uniform_(values, 0.5, 2.0, generator=generator)  # type: ignore[arg-type]
    return model


@pytest.mark.parametrize("backbone", ["resnet", "swin", "convnext", "mobilenet_v2"])
@pytest.mark.parametrize("shape", [(1, 3, 75, 101), (2, 3, 64, 96)])
@torch.no_grad()
def test_a_prepared_model_computes_the_same(tiny: Build, backbone: str, shape: tuple[int, ...]) -> None:
    model, pixels = with_statistics(tiny(backbone)), images(*shape)
    before = model(pixels)
    assert before.mask_logits.abs().mean() > 0.01
    prepared = prepare_for_inference(model.train())
    assert prepared is model
    assert not prepared.training
    assert not any(weight.requires_grad for weight in prepared.parameters())
    assert_same(prepared(pixels), before)


@torch.no_grad()
def test_no_batch_norm_is_left_and_the_image_is_not_overwritten(tiny: Build) -> None:
    model, pixels = prepare_for_inference(tiny("resnet")), images(1, 3, 64, 96)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    again = pixels.clone()
    first = model(pixels)
    assert torch.equal(pixels, again)
    assert torch.equal(model(pixels).mask_logits, first.mask_logits)


@torch.no_grad()
def test_preparing_twice_changes_nothing_more(tiny: Build) -> None:
    pixels = images(1, 3, 64, 96)
    once = prepare_for_inference(with_statistics(tiny("resnet")))
    first = once(pixels)
    assert torch.equal(prepare_for_inference(once)(pixels).mask_logits, first.mask_logits)


@pytest.mark.parametrize("count", [1, 7, 48, 10_000])
@torch.no_grad()
def test_tokens_may_be_taken_any_number_at_a_time(tiny: Build, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    model, pixels = tiny(), images(2, 3, 75, 101)
    with torch.enable_grad():  # all at once
        expected = model(pixels)
    monkeypatch.setattr(pixel_decoder, "_CPU_TOKENS", count)
    assert_same(model(pixels), expected)


@pytest.mark.parametrize(
    ("backbone", "attention"), [("resnet", "masked"), ("swin", "global"), ("mobilenet_v2", "cross")]
)
@torch.no_grad()
def test_the_whole_model_compiles_to_one_graph(tiny: Build, backbone: str, attention: str) -> None:
    model, pixels = prepare_for_inference(tiny(backbone, attention=attention)), images(1, 3, 75, 101)
    torch._dynamo.reset()
    # Traced, decomposed and run without a C++ compiler; a graph break is an error.
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert_same(compiled(pixels), model(pixels))
