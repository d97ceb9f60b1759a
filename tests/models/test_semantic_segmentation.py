"""The adapter gives what transformers gives, with the same weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    SegformerConfig,
    SegformerForImageClassification,
    SegformerForSemanticSegmentation,
    UperNetConfig,
    UperNetForSemanticSegmentation,
)

from outmask.errors import OutmaskError
from outmask.models.semantic_segmentation import SemanticSegmentationConfig, SemanticSegmentationModel

SIZES: dict[str, Any] = {
    "depths": [1, 1, 1, 1],
    "hidden_sizes": [8, 16, 24, 32],
    "num_attention_heads": [1, 2, 2, 4],
    "decoder_hidden_size": 16,
}
PIXELS = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


def segformer(num_labels: int = 5) -> SegformerForSemanticSegmentation:
    torch.manual_seed(0)
    return SegformerForSemanticSegmentation(SegformerConfig(num_labels=num_labels, **SIZES)).eval()


def upernet() -> UperNetForSemanticSegmentation:
    torch.manual_seed(0)
    backbone = {"model_type": "convnext", "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
    stages = ["stage1", "stage2", "stage3", "stage4"]
    config = UperNetConfig(
        backbone_config=backbone | {"out_features": stages},
        hidden_size=16,
        num_labels=5,
        use_auxiliary_head=True,
        auxiliary_in_channels=24,
    )
    return UperNetForSemanticSegmentation(config).eval()


@pytest.mark.parametrize("make", [segformer, upernet])
def test_a_transformers_model_gives_the_same_logits(make: Any, tmp_path: Path) -> None:
    peer = make()
    peer.save_pretrained(tmp_path)
    model = SemanticSegmentationModel.from_pretrained(str(tmp_path))
    assert model.config.num_classes == 5
    assert not model.training
    assert not any("auxiliary" in name for name in model.state_dict())
    with torch.no_grad():
        prediction = model(PIXELS)
        assert torch.equal(prediction.logits, peer(PIXELS).logits)
    assert prediction.outlier_logits is None
    # The configuration names the architecture and nothing else, and builds it again.
    again = SemanticSegmentationModel(SemanticSegmentationConfig(**json.loads(json.dumps(model.config.to_json()))))
    again.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(again.eval()(PIXELS).logits, prediction.logits)


def test_an_outlier_logit_leaves_the_classes_as_they_are(tmp_path: Path) -> None:
    peer = segformer()
    peer.save_pretrained(tmp_path)
    model = SemanticSegmentationModel.from_pretrained(str(tmp_path), outlier_head=True)
    with torch.no_grad():
        prediction = model(PIXELS)
        expected = peer(PIXELS).logits
    assert prediction.outlier_logits is not None
    # A convolution of 6 outputs may add up in another order than one of 5.
    torch.testing.assert_close(prediction.logits, expected, rtol=1e-5, atol=1e-6)


def test_other_classes_keep_everything_but_the_classifier(tmp_path: Path) -> None:
    peer = segformer()
    peer.save_pretrained(tmp_path)
    model = SemanticSegmentationModel.from_pretrained(str(tmp_path), num_classes=7)
    own, given = model.network.state_dict(), peer.state_dict()
    other = {name for name in own if own[name].shape != given[name].shape}
    assert other == {"decode_head.classifier.weight", "decode_head.classifier.bias"}
    assert all(torch.equal(own[name], given[name]) for name in own.keys() - other)
    assert model(PIXELS).num_classes == 7


def test_a_classifiers_weights_are_a_start_for_training_only(tmp_path: Path) -> None:
    torch.manual_seed(0)
    donor = SegformerForImageClassification(SegformerConfig(num_labels=10, **SIZES))
    donor.save_pretrained(tmp_path)
    with pytest.raises(OutmaskError, match="lacks weights such as decode_head.*give num_classes to train them"):
        SemanticSegmentationModel.from_pretrained(str(tmp_path))
    model = SemanticSegmentationModel.from_pretrained(str(tmp_path), num_classes=4)
    own, given = model.network.segformer.state_dict(), donor.segformer.state_dict()
    assert own.keys() == given.keys()
    assert all(torch.equal(own[name], given[name]) for name in own)


@pytest.mark.parametrize("make", [segformer, upernet])
def test_the_backbone_is_told_from_the_head_by_its_names(make: Any, tmp_path: Path) -> None:
    make().save_pretrained(tmp_path)
    model = SemanticSegmentationModel.from_pretrained(str(tmp_path))
    heads = {name.split(".")[1] for name, _ in model.named_parameters() if not name.startswith(model.backbone_prefix)}
    assert heads == {"decode_head"}


@pytest.mark.parametrize(
    ("network", "complaint"),
    [
        ({}, "'model_type'"),
        ({"model_type": "dpt"}, "dpt takes square images of one size only"),
        ({"model_type": "bert"}, "no semantic segmentation model 'bert'"),
        ({"model_type": "nonsense"}, "no semantic segmentation model 'nonsense'"),
    ],
)
def test_what_transformers_cannot_segment_with_is_refused(network: dict[str, str], complaint: str) -> None:
    with pytest.raises(OutmaskError, match=complaint) as refusal:
        SemanticSegmentationModel(SemanticSegmentationConfig(3, network))
    assert "\n" not in str(refusal.value)


def test_no_classes_are_refused() -> None:
    with pytest.raises(OutmaskError, match="num_classes must be at least 1"):
        SemanticSegmentationConfig(0, {"model_type": "segformer"})


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutmaskError, match="no semantic segmentation model at") as refusal:
        SemanticSegmentationModel.from_pretrained(str(tmp_path))
    assert "\n" not in str(refusal.value)
