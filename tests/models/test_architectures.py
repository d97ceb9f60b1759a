"""Architectures by name, there and back."""

from __future__ import annotations

import json
from typing import Any

import pytest

from outmask.errors import OutmaskError
from outmask.models import build_architecture, describe_architecture

RESNET = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [16, 24, 32, 40], "depths": [1, 1, 1, 1]}
SMALL: dict[str, dict[str, Any]] = {
    "mask2former": {"backbone": RESNET, "dim": 32, "num_heads": 2, "encoder_layers": 1, "decoder_layers": 1},
    "per_pixel": {"backbone": RESNET, "dim": 32, "num_heads": 2, "encoder_layers": 1, "outlier_head": True},
    "deeplab_v3_plus": {"backbone": RESNET, "dim": 32},
    "semantic_segmentation": {
        "network": {"model_type": "segformer", "hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1],
                    "num_attention_heads": [1, 1, 1, 1], "decoder_hidden_size": 16}
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", SMALL)
def test_a_description_gives_the_same_model_again(kind: str) -> None:
    model = build_architecture({"kind": kind, "num_classes": 5, **SMALL[kind]})
    description = json.loads(json.dumps(describe_architecture(model)))
    again = build_architecture(description)
    assert type(again) is type(model)
    assert describe_architecture(again) == describe_architecture(model)
    assert {n: t.shape for n, t in again.state_dict().items()} == {n: t.shape for n, t in model.state_dict().items()}


def test_without_a_kind_it_is_a_mask2former() -> None:
    model = build_architecture({"num_classes": 5, **SMALL["mask2former"]})
    assert describe_architecture(model)["kind"] == "mask2former"


@pytest.mark.parametrize(
    ("change", "message"),
    [({"kind": "unet"}, "unknown architecture 'unet'.*per_pixel"), ({"queries": 5}, "mask2former: .*'queries'")],
)
def test_what_there_is_not_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(OutmaskError, match=message):
        build_architecture({"num_classes": 5, **change})
