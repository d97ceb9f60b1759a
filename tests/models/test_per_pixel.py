"""PerPixel is Mask2Former without its mask decoder."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.nn import functional as F

from outmask.errors import OutmaskError
from outmask.models import Mask2Former, Mask2FormerConfig
from outmask.models.per_pixel import PerPixel, PerPixelConfig


def test_logits_are_a_1x1_classifier_of_mask2formers_pixel_embeddings(tiny: Callable[..., Mask2Former]) -> None:
    donor = tiny("resnet")
    settings = {"dim": 32, "num_heads": 2, "encoder_layers": 2, "encoder_ffn_dim": 48, "num_points": 2}
    model = PerPixel(PerPixelConfig(3, donor.config.backbone, **settings)).eval()
    report = model.load_state_dict(donor.state_dict(), strict=False)
    assert report.missing_keys == ["head.classes.weight", "head.classes.bias"]
    assert all(name.startswith("mask_decoder.") for name in report.unexpected_keys)
    pixels = torch.randn(2, 3, 75, 101)
    with torch.no_grad():
        finest, _ = donor.pixel_decoder(donor.backbone(pixels))
        embedding = donor.pixel_decoder.mask_features(finest)
        expected = F.conv2d(embedding, model.head.classes.weight, model.head.classes.bias)
        assert torch.equal(model(pixels).logits, expected)


def test_its_parameters_are_mask2formers_but_for_the_decoder() -> None:
    with torch.device("meta"):
        model = PerPixel(PerPixelConfig(19, outlier_head=True))
        donor = Mask2Former(Mask2FormerConfig(19))
    shared = sum(weight.numel() for part in (donor.backbone, donor.pixel_decoder) for weight in part.parameters())
    assert sum(weight.numel() for weight in model.parameters()) == shared + 20 * 257


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"dim": 48}, "dim must be a multiple of 32"),
        ({"dim": 64, "num_heads": 3}, "and of num_heads"),
        ({"encoder_levels": 5}, "encoder_levels must be 1 to 4, got 5"),
        ({"num_points": 0}, "num_points must be at least 1"),
        ({"num_classes": 0}, "num_classes must be at least 1"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, int], complaint: str) -> None:
    with pytest.raises(OutmaskError, match=complaint):
        PerPixelConfig(**{"num_classes": 3, **settings})
