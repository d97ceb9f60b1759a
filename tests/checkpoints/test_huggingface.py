"""Parity with transformers, and what becomes of its configuration."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.errors import EntryNotFoundError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Mask2FormerForUniversalSegmentation as Theirs

from outmask.checkpoints import huggingface, load_bundle
from outmask.checkpoints.huggingface import load_huggingface
from outmask.data.taxonomies import CITYSCAPES
from outmask.errors import OutmaskError
from outmask.preprocessing import Preprocessing

Build = Callable[..., Theirs]

SIZES = [(75, 101), (64, 96), (33, 130)]
SETTINGS: list[dict[str, Any]] = [
    {},
    # The published width and heads, three encoder layers, nine decoder layers.
    {"width": 256, "encoder_layers": 3, "decoder_layers": 10, "num_queries": 10, "num_labels": 19},
]


@pytest.mark.parametrize("backbone", ["resnet", "swin"])
@pytest.mark.parametrize("settings", SETTINGS, ids=["small", "wide"])
def test_logits_equal_those_of_transformers(
    build: Build, backbone: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    theirs = build(backbone, **settings)
    theirs.save_pretrained(tmp_path)
    bundle = load_bundle(str(tmp_path))
    assert not bundle.model.training
    for size in SIZES:
        pixels = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(2))
        with torch.no_grad():
            expected, prediction = theirs(pixels), bundle.model(pixels)
        assert expected.class_queries_logits.std() > 0.3  # weights that tell queries, classes and pixels apart
        assert 0.1 < (expected.masks_queries_logits > 0).float().mean() < 0.9
        torch.testing.assert_close(prediction.class_logits, expected.class_queries_logits, atol=1e-4, rtol=0)
        torch.testing.assert_close(prediction.mask_logits, expected.masks_queries_logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize("backbone", ["resnet", "swin"])
def test_every_weight_arrives_at_a_place_where_it_counts(build: Build, backbone: str, pixels: Tensor) -> None:
    """Parity could hide a weight that changes nothing; here each one, moved, moves the output on both sides alike."""
    theirs = build(backbone, num_queries=3, encoder_layers=1, decoder_layers=2)
    # What only a second level would use, what a key's bias adds to all of a softmax, and the classifier's final norm.
    idle = ("swin.layernorm.", "k_proj.bias", "num_batches_tracked", "criterion.")
    generator = torch.Generator().manual_seed(0)
    names = [name for name in theirs.state_dict() if not any(part in name for part in idle)]
    before = huggingface.convert(theirs, "before").eval()(pixels)
    for name in names[:: len(names) // 12]:
        original = theirs.state_dict()[name].clone()
        with torch.no_grad():
            theirs.state_dict()[name].add_(0.3 * torch.randn(original.shape, generator=generator).abs())
            expected, prediction = theirs(pixels), huggingface.convert(theirs, "after").eval()(pixels)
            theirs.state_dict()[name].copy_(original)
        assert (prediction.mask_logits - before.mask_logits).abs().max() > 1e-3, name
        torch.testing.assert_close(prediction.mask_logits, expected.masks_queries_logits, atol=1e-4, rtol=1e-4)


def test_the_configuration_is_translated(build: Build, tmp_path: Path) -> None:
    build("swin").save_pretrained(tmp_path)
    config = load_huggingface(str(tmp_path)).model.config
    assert (config.num_classes, config.num_queries, config.dim, config.num_heads) == (4, 7, 64, 2)
    assert (config.encoder_layers, config.encoder_ffn_dim, config.num_points) == (2, 48, 4)
    assert (config.decoder_layers, config.decoder_ffn_dim) == (4, 40)  # theirs says 5
    assert config.attention == "masked"
    assert not isinstance(config.backbone, str)
    assert config.backbone["model_type"] == "swin"
    assert config.backbone["window_size"] == 3
    assert config.backbone["drop_path_rate"] == 0.2
    json.dumps(config.to_json())  # goes into our own config.json


def test_classes_are_those_of_id2label(build: Build, tmp_path: Path) -> None:
    names = {0: "road", 1: "door", 2: "door", 3: "sky"}
    build("resnet", id2label=names).save_pretrained(tmp_path)
    taxonomy = load_huggingface(str(tmp_path)).taxonomy
    assert taxonomy.names == ("road", "door (1)", "door (2)", "sky")
    assert taxonomy.things is None
    assert len(set(taxonomy.colors)) == 4
    assert load_huggingface(str(tmp_path)).taxonomy == taxonomy  # the same colours every time


def test_the_19_classes_of_cityscapes_are_recognised(build: Build, tmp_path: Path) -> None:
    named = {index: name.replace(" ", "_").upper() for index, name in enumerate(CITYSCAPES.names)}
    build("resnet", id2label=named).save_pretrained(tmp_path / "named")
    build("resnet", num_labels=19).save_pretrained(tmp_path / "unnamed")
    other = {**named, 3: "curtain"}
    build("resnet", id2label=other).save_pretrained(tmp_path / "other")
    assert load_huggingface(str(tmp_path / "named")).taxonomy is CITYSCAPES
    assert load_huggingface(str(tmp_path / "unnamed")).taxonomy is CITYSCAPES
    assert load_huggingface(str(tmp_path / "other")).taxonomy.names[3] == "curtain"


def test_names_that_transformers_made_up_are_no_names(build: Build, tmp_path: Path) -> None:
    build("resnet").save_pretrained(tmp_path)
    assert load_huggingface(str(tmp_path)).taxonomy.names == ("class 0", "class 1", "class 2", "class 3")


PROCESSOR: dict[str, Any] = {
    "do_resize": True,
    "size": {"shortest_edge": 800, "longest_edge": 1333},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.2, 0.25, 0.3],
}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, Preprocessing((127.5, 102.0, 76.5), (51.0, 63.75, 76.5), 800, 1333)),
        ({"size": 640, "max_size": 2000}, Preprocessing((127.5, 102.0, 76.5), (51.0, 63.75, 76.5), 640, 2000)),
        ({"size": {"longest_edge": 900}}, Preprocessing((127.5, 102.0, 76.5), (51.0, 63.75, 76.5), None, 900)),
        # A fixed frame would distort the picture: its smaller side is taken, the aspect ratio kept.
        ({"size": {"height": 384, "width": 512}}, Preprocessing((127.5, 102.0, 76.5), (51.0, 63.75, 76.5), 384, None)),
        ({"do_resize": False}, Preprocessing((127.5, 102.0, 76.5), (51.0, 63.75, 76.5), None, None)),
        ({"do_rescale": False}, Preprocessing((0.5, 0.4, 0.3), (0.2, 0.25, 0.3), 800, 1333)),
        ({"do_normalize": False}, Preprocessing((0.0,) * 3, (255.0,) * 3, 800, 1333)),  # type: ignore[arg-type]
        (None, Preprocessing((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), 1024, 2048)),  # no file at all
    ],
)
def test_preprocessing_is_that_of_the_image_processor(
    build: Build, tmp_path: Path, changes: dict[str, Any] | None, expected: Preprocessing
) -> None:
    build("resnet").save_pretrained(tmp_path)
    if changes is not None:
        (tmp_path / "preprocessor_config.json").write_text(json.dumps({**PROCESSOR, **changes}))
    found = load_huggingface(str(tmp_path)).preprocessing
    assert found.mean == pytest.approx(expected.mean)
    assert found.std == pytest.approx(expected.std)
    assert (found.short_side, found.long_side) == (expected.short_side, expected.long_side)


def test_a_broken_image_processor_is_one_line(build: Build, tmp_path: Path) -> None:
    build("resnet").save_pretrained(tmp_path)
    for text in ("{", '{"size": {"height": 5}}', "[1]", '{"image_mean": ["a"], "image_std": [1, 1, 1]}'):
        (tmp_path / "preprocessor_config.json").write_text(text)
        with pytest.raises(OutmaskError, match="no readable image processor") as caught:
            load_huggingface(str(tmp_path))
        assert "\n" not in str(caught.value)


def edit(folder: Path, change: Callable[[dict[str, Tensor]], None]) -> None:
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def test_weights_that_do_not_fit_are_listed(build: Build, tmp_path: Path) -> None:
    build("swin").save_pretrained(tmp_path)

    def change(state: dict[str, Tensor]) -> None:
        del state["class_predictor.bias"]
        state["class_predictor.extra"] = torch.zeros(3)
        state["model.transformer_module.queries_features.weight"] = torch.zeros(8, 64)

    edit(tmp_path, change)
    with pytest.raises(OutmaskError) as caught:
        load_huggingface(str(tmp_path))
    message = str(caught.value)
    assert "missing: class_predictor.bias" in message
    assert "unexpected: class_predictor.extra" in message
    assert "model.transformer_module.queries_features.weight is 8x64, expected 7x64" in message
    assert "\n" not in message


def test_what_may_be_absent_or_present_is_no_complaint(build: Build, tmp_path: Path, pixels: Tensor) -> None:
    theirs = build("swin")
    theirs.save_pretrained(tmp_path / "swin")

    def change(state: dict[str, Tensor]) -> None:
        for part in ("encoder.swin.layernorm.weight", "encoder.swin.layernorm.bias"):
            del state[f"model.pixel_level_module.{part}"]
        del state["criterion.empty_weight"]
        table = "model.pixel_level_module.encoder.encoder.layers.0.blocks.0.attention.self.relative_position_index"
        state[table] = torch.zeros(9, 9, dtype=torch.long)

    edit(tmp_path / "swin", change)
    with torch.no_grad():
        expected = theirs(pixels).masks_queries_logits
        found = load_huggingface(str(tmp_path / "swin")).model(pixels).mask_logits
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)

    build("resnet").save_pretrained(tmp_path / "resnet")

    def drop_counters(state: dict[str, Tensor]) -> None:
        for name in [name for name in state if name.endswith("num_batches_tracked")]:
            del state[name]

    edit(tmp_path / "resnet", drop_counters)
    load_huggingface(str(tmp_path / "resnet"))


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"pre_norm": True}, "setting pre_norm = True isn't supported, expected False"),
        ({"mask_feature_size": 32}, "setting mask_feature_size = 32 isn't supported, expected 64"),
        ({"feature_strides": [8, 8, 16, 32]}, "setting feature_strides"),
    ],
)
def test_variants_of_the_configuration_are_refused(build: Build, settings: dict[str, Any], complaint: str) -> None:
    theirs = build("resnet")
    theirs.config.update(settings)
    with pytest.raises(OutmaskError, match=complaint):
        huggingface.translate_config(theirs.config, "model")


def test_another_backbone_is_refused(build: Build) -> None:
    theirs = build("resnet")
    theirs.config.backbone_config.model_type = "focalnet"
    with pytest.raises(OutmaskError, match="backbone 'focalnet', expected resnet or swin"):
        huggingface.translate_config(theirs.config, "model")


def test_a_folder_without_weights_is_one_line(build: Build, tmp_path: Path) -> None:
    build("resnet").save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(OutmaskError, match="transformers can't load it as Mask2Former") as caught:
        load_bundle(str(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("error", "complaint"),
    [
        (ConnectionError("Name or service not known"), "the hub can't be reached \\(ConnectionError\\)"),
        (EntryNotFoundError("404"), "the hub has no public model of that name"),
    ],
)
def test_a_hub_out_of_reach_is_one_line(monkeypatch: pytest.MonkeyPatch, error: Exception, complaint: str) -> None:
    def fail(url: str) -> None:
        assert url.startswith("http")
        raise error

    monkeypatch.setattr(huggingface, "get_hf_file_metadata", fail)
    with pytest.raises(OutmaskError, match=complaint) as caught:
        load_bundle("nobody/nothing-of-that-name")
    assert "\n" not in str(caught.value)
