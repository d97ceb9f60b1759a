"""One contract for every backbone and every attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

import pytest
import torch
from torch import Tensor

from outmask.errors import OutmaskError
from outmask.models import Mask2Former, Mask2FormerConfig
from outmask.models.mask_decoder import AttentionKind
from outmask.types import MaskPrediction

Build = Callable[..., Mask2Former]
EVERY_BACKBONE = pytest.mark.parametrize("backbone", ["resnet", "swin", "convnext", "mobilenet_v2"])
EVERY_ATTENTION = pytest.mark.parametrize("attention", get_args(AttentionKind))
# All 4 coarse maps in the encoder, as the bundled model has them; one only, as RbA; fewer maps for the mask decoder.
EVERY_LEVELS = pytest.mark.parametrize(("encoder_levels", "decoder_levels"), [(3, 3), (4, 3), (1, 3), (1, 1), (2, 4)])


def images(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@EVERY_BACKBONE
@pytest.mark.parametrize(("height", "width"), [(64, 96), (75, 101), (33, 40), (1, 1), (1, 70)])
def test_any_size_gives_masks_at_a_quarter(tiny: Build, backbone: str, height: int, width: int) -> None:
    with torch.no_grad():
        prediction = tiny(backbone)(images(2, 3, height, width))
    assert prediction.class_logits.shape == (2, 6, 4)
    assert prediction.mask_logits.shape == (2, 6, -(-height // 4), -(-width // 4))
    assert prediction.class_logits.isfinite().all()
    assert prediction.mask_logits.isfinite().all()


@EVERY_BACKBONE
@EVERY_ATTENTION
def test_training_reaches_every_weight(tiny: Build, backbone: str, attention: AttentionKind) -> None:
    model = tiny(backbone, attention=attention).train()
    prediction = model(images(2, 3, 75, 101))
    everything = [prediction, *prediction.auxiliary]
    sum(part.class_logits.square().mean() + part.mask_logits.square().mean() for part in everything).backward()
    # Swin's last norm belongs to its classifier: no map passes through it.
    missing = [
        name
        for name, weight in model.named_parameters()
        if weight.requires_grad and weight.grad is None and ".swin.layernorm." not in name
    ]
    assert missing == []
    assert all(weight.grad.isfinite().all() for weight in model.parameters() if weight.grad is not None)


@EVERY_ATTENTION
def test_auxiliary_predictions_are_those_of_the_inner_layers(tiny: Build, attention: AttentionKind) -> None:
    pixels = images(2, 3, 75, 101)
    model = tiny(attention=attention)
    with torch.no_grad():
        assert model(pixels).auxiliary == ()
        auxiliary = model.train()(pixels).auxiliary
        assert len(auxiliary) == 4
        # What layer i predicts is what a model of i layers would give.
        for count in (1, 3):
            shorter = tiny(attention=attention, decoder_layers=count)
            shorter.load_state_dict(model.state_dict(), strict=False)
            last = shorter(pixels)
            torch.testing.assert_close(auxiliary[count].mask_logits, last.mask_logits)
            torch.testing.assert_close(auxiliary[count].class_logits, last.class_logits)


@EVERY_BACKBONE
def test_an_image_is_predicted_alike_alone_and_in_a_batch(tiny: Build, backbone: str) -> None:
    pixels, model = images(3, 3, 75, 101), tiny(backbone)
    with torch.no_grad():
        together = model(pixels)
        for index in range(3):
            alone = model(pixels[index : index + 1])
            torch.testing.assert_close(together.class_logits[index], alone.class_logits[0], atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(together.mask_logits[index], alone.mask_logits[0], atol=1e-4, rtol=1e-4)


@EVERY_LEVELS
def test_any_choice_of_levels_runs_and_trains(tiny: Build, encoder_levels: int, decoder_levels: int) -> None:
    model = tiny(encoder_levels=encoder_levels, decoder_levels=decoder_levels).train()
    prediction = model(images(1, 3, 75, 101))
    assert prediction.mask_logits.shape == (1, 6, 19, 26)
    (prediction.mask_logits.square().mean() + prediction.class_logits.square().mean()).backward()
    assert all(weight.grad is not None for weight in model.pixel_decoder.parameters())


@EVERY_BACKBONE
@EVERY_ATTENTION
def test_bfloat16_stays_close_to_float32(tiny: Build, backbone: str, attention: AttentionKind) -> None:
    pixels = images(1, 3, 75, 101)
    # One decoder layer: further ones amplify pixels whose mask flips at 0.5.
    model = tiny(backbone, attention=attention, decoder_layers=1)
    with torch.no_grad():
        full = model(pixels)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            mixed = model(pixels)
        half = model.bfloat16()(pixels.bfloat16())
        rounded = model.float()(pixels.bfloat16().float())
    assert half.mask_logits.dtype == torch.bfloat16

    def error(prediction: MaskPrediction) -> float:
        return float((prediction.mask_logits.float() - full.mask_logits).abs().mean())

    # Rounding weights and input alone costs so much; rounding in between may add some times that, not another order.
    assert error(mixed) < 5 * error(rounded)
    assert error(half) < 5 * error(rounded)


@EVERY_BACKBONE
def test_saved_weights_give_the_same_predictions(tiny: Build, backbone: str, tmp_path: object) -> None:
    pixels, model = images(1, 3, 64, 64), tiny(backbone)
    torch.save(model.state_dict(), f"{tmp_path}/weights.pt")
    other = Mask2Former(Mask2FormerConfig(**model.config.to_json())).eval()  # other random weights
    other.load_state_dict(torch.load(f"{tmp_path}/weights.pt", weights_only=True))
    with torch.no_grad():
        assert torch.equal(other(pixels).mask_logits, model(pixels).mask_logits)


def test_frozen_batch_norm_neither_learns_nor_drifts(tiny: Build) -> None:
    model = tiny("resnet").train()
    norms = [module for module in model.backbone.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    before = [norm.running_mean.clone() for norm in norms]  # type: ignore[union-attr]
    model(images(2, 3, 64, 64) + 5)
    assert norms
    assert not any(weight.requires_grad for norm in norms for weight in norm.parameters())
    assert all(torch.equal(norm.running_mean, mean) for norm, mean in zip(norms, before, strict=True))  # type: ignore[arg-type]


def test_global_attention_adds_263_thousand_weights_a_layer_at_width_256() -> None:
    # Mask2Anomaly's table X: 9 layers x 263k = 2.4 M.
    with torch.device("meta"):
        masked, double = (
            Mask2Former(Mask2FormerConfig(num_classes=19, backbone="mobilenet_v2", attention=kind))  # type: ignore[arg-type]
            for kind in ("masked", "global")
        )
    extra = sum(w.numel() for w in double.parameters()) - sum(w.numel() for w in masked.parameters())
    assert extra == 9 * 4 * (256 * 256 + 256) == 9 * 263_168


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@EVERY_BACKBONE
def test_cuda_gives_what_the_cpu_gives(tiny: Build, backbone: str) -> None:
    pixels, model = images(2, 3, 75, 101), tiny(backbone)
    with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        here = model(pixels)
        there = model.cuda()(pixels.cuda())
    assert there.mask_logits.is_cuda
    torch.testing.assert_close(there.mask_logits.cpu(), here.mask_logits, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"dim": 48}, "dim must be a multiple of 32"),
        ({"dim": 64, "num_heads": 3}, "and of num_heads"),
        ({"encoder_levels": 5}, "must be 1 to 4"),
        ({"decoder_levels": 0}, "must be 1 to 4"),
        ({"num_queries": 0}, "num_queries must be at least 1"),
        ({"num_classes": 0}, "num_classes must be at least 1"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, int], complaint: str) -> None:
    with pytest.raises(OutmaskError, match=complaint):
        Mask2FormerConfig(**{"num_classes": 3, **settings})


def test_an_unknown_attention_is_refused(tiny: Build) -> None:
    with pytest.raises(OutmaskError, match="one of masked, global, cross"):
        tiny(attention="local")
