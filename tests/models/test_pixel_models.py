"""One contract for every per-pixel classifier."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from outmask.models.deeplab import DeepLabV3Plus, DeepLabV3PlusConfig
from outmask.models.per_pixel import PerPixel, PerPixelConfig
from outmask.models.semantic_segmentation import SemanticSegmentationConfig, SemanticSegmentationModel
from outmask.types import PixelPrediction

RESNET = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [16, 24, 32, 40], "depths": [1, 2, 1, 1]}
SEGFORMER = {
    "model_type": "segformer",
    "depths": [1, 1, 1, 1],
    "hidden_sizes": [8, 16, 24, 32],
    "num_attention_heads": [1, 2, 2, 4],
    "decoder_hidden_size": 16,
}
UPERNET = {
    "model_type": "upernet",
    "hidden_size": 16,
    "backbone_config": {
        "model_type": "convnext",
        "hidden_sizes": [8, 16, 24, 32],
        "depths": [1, 1, 1, 1],
        "out_features": ["stage1", "stage2", "stage3", "stage4"],
    },
}
MOBILENET = {"model_type": "mobilenet_v2", "depth_multiplier": 0.25}
PER_PIXEL = {"dim": 32, "num_heads": 2, "encoder_layers": 2, "encoder_ffn_dim": 48, "num_points": 2}

Build = Callable[[bool], nn.Module]
# Name: (a model of 3 classes with or without an outlier head, its stride).
MODELS: dict[str, tuple[Build, int]] = {
    "per-pixel": (lambda outlier: PerPixel(PerPixelConfig(3, RESNET, outlier_head=outlier, **PER_PIXEL)), 4),
    "deeplab-16": (lambda outlier: DeepLabV3Plus(DeepLabV3PlusConfig(3, RESNET, 16, 32, outlier_head=outlier)), 4),
    "deeplab-8": (lambda outlier: DeepLabV3Plus(DeepLabV3PlusConfig(3, RESNET, 8, 32, outlier_head=outlier)), 4),
    "segformer": (lambda outlier: _adapter(SEGFORMER, outlier), 4),
    "upernet": (lambda outlier: _adapter(UPERNET, outlier), 1),
    "mobilenet_v2": (lambda outlier: _adapter(MOBILENET, outlier), 32),
}
EVERY_MODEL = pytest.mark.parametrize("name", MODELS)


def _adapter(network: dict[str, Any], outlier_head: bool) -> SemanticSegmentationModel:
    return SemanticSegmentationModel(SemanticSegmentationConfig(3, network, outlier_head))


def tiny(name: str, outlier_head: bool = True) -> nn.Module:
    """A small model in eval mode, always with the same weights."""
    torch.manual_seed(0)
    return MODELS[name][0](outlier_head).eval()


def images(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def maps(prediction: PixelPrediction) -> Tensor:
    """Class and outlier logits, ``(B, K + 1, h, w)``."""
    assert prediction.outlier_logits is not None
    return torch.cat([prediction.logits, prediction.outlier_logits[:, None]], 1)


@EVERY_MODEL
@pytest.mark.parametrize("outlier_head", [False, True])
@pytest.mark.parametrize(("height", "width"), [(64, 96), (75, 101), (33, 40), (1, 1), (1, 70)])
def test_any_size_gives_logits_at_the_stride(name: str, outlier_head: bool, height: int, width: int) -> None:
    stride = MODELS[name][1]
    with torch.no_grad():
        prediction = tiny(name, outlier_head)(images(2, 3, height, width))
    size = (-(-height // stride), -(-width // stride))
    assert prediction.logits.shape == (2, 3, *size)
    assert prediction.logits.isfinite().all()
    if outlier_head:
        assert prediction.outlier_logits.shape == (2, *size)
        assert prediction.outlier_logits.isfinite().all()
    else:
        assert prediction.outlier_logits is None


@EVERY_MODEL
def test_training_reaches_every_weight(name: str) -> None:
    model = tiny(name).train()
    maps(model(images(2, 3, 75, 101))).square().mean().backward()
    trained = {key: weight for key, weight in model.named_parameters() if weight.requires_grad}
    # transformers' MobileNetV2 has one more convolution and its norm than its segmentation head reads.
    missing = [key for key, weight in trained.items() if weight.grad is None and ".conv_1x1." not in key]
    assert missing == []
    assert all(weight.grad.isfinite().all() for weight in trained.values() if weight.grad is not None)


@EVERY_MODEL
def test_an_image_is_predicted_alike_alone_and_in_a_batch(name: str) -> None:
    pixels, model = images(3, 3, 75, 101), tiny(name)
    with torch.no_grad():
        together = maps(model(pixels))
        for index in range(3):
            alone = maps(model(pixels[index : index + 1]))
            torch.testing.assert_close(together[index], alone[0], atol=1e-4, rtol=1e-4)


@EVERY_MODEL
def test_bfloat16_stays_close_to_float32(name: str) -> None:
    pixels, model = images(1, 3, 75, 101), tiny(name)
    with torch.no_grad():
        full = maps(model(pixels))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            mixed = maps(model(pixels))
        half = maps(model.bfloat16()(pixels.bfloat16()))
        rounded = maps(model.float()(pixels.bfloat16().float()))
    assert half.dtype == torch.bfloat16

    def error(prediction: Tensor) -> float:
        return float((prediction.float() - full).abs().mean())

    # Rounding weights and input alone costs so much; rounding in between may add some times that, not another order.
    assert error(mixed) < 5 * error(rounded)
    assert error(half) < 5 * error(rounded)


@EVERY_MODEL
def test_saved_weights_give_the_same_predictions(name: str, tmp_path: object) -> None:
    pixels, model = images(1, 3, 64, 64), tiny(name)
    torch.save(model.state_dict(), f"{tmp_path}/weights.pt")
    architecture = json.loads(json.dumps(model.config.to_json()))
    config = type(model.config)(**architecture)
    assert config == model.config
    other = type(model)(config).eval()  # other random weights
    other.load_state_dict(torch.load(f"{tmp_path}/weights.pt", weights_only=True))
    with torch.no_grad():
        assert torch.equal(maps(other(pixels)), maps(model(pixels)))


@EVERY_MODEL
def test_frozen_batch_norm_neither_learns_nor_drifts(name: str) -> None:
    model = tiny(name).train()
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    before = [norm.running_mean.clone() for norm in norms]  # type: ignore[union-attr]
    model(images(2, 3, 64, 64) + 5)
    assert norms
    assert not any(weight.requires_grad for norm in norms for weight in norm.parameters())
    assert all(torch.equal(norm.running_mean, mean) for norm, mean in zip(norms, before, strict=True))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["per-pixel", "deeplab-16"])
def test_a_closed_set_model_becomes_outlier_aware_by_its_new_head_alone(name: str) -> None:
    closed, aware, pixels = tiny(name, outlier_head=False), tiny(name), images(1, 3, 64, 64)
    report = aware.load_state_dict(closed.state_dict(), strict=False)
    assert report.unexpected_keys == []
    assert report.missing_keys == ["head.outlier.weight", "head.outlier.bias"]
    with torch.no_grad():
        assert torch.equal(aware(pixels).logits, closed(pixels).logits)
        assert torch.equal(aware.head(aware.features(pixels)).logits, closed(pixels).logits)  # type: ignore[operator]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@EVERY_MODEL
def test_cuda_gives_what_the_cpu_gives(name: str) -> None:
    pixels, model = images(2, 3, 75, 101), tiny(name)
    with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        here = maps(model(pixels))
        there = maps(model.cuda()(pixels.cuda()))
    assert there.is_cuda
    torch.testing.assert_close(there.cpu(), here, atol=1e-3, rtol=1e-3)
