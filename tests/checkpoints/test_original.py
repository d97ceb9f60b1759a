"""The original layout: state dicts made by renaming a transformers model's, which has the outputs to be equal to."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import Mask2FormerConfig, ResNetConfig, SwinConfig
from transformers import Mask2FormerForUniversalSegmentation as Theirs

from outmask.checkpoints import load_bundle
from outmask.checkpoints.original import convert, infer_config
from outmask.data.taxonomies import CITYSCAPES
from outmask.errors import OutmaskError
from outmask.models.backbones import PRESETS, STAGES
from outmask.preprocessing import Preprocessing

Build = Callable[..., Theirs]
State = dict[str, Tensor]

PIXEL, QUERY = "sem_seg_head.pixel_decoder", "sem_seg_head.predictor"
CROSS = f"{QUERY}.transformer_cross_attention_layers"

# transformers' live names -> the original's, one after the other.
RENAMING = [
    # ResNet
    (r"model\.pixel_level_module\.encoder\.embedder\.embedder\.", r"backbone.stem.conv1."),
    (r"model\.pixel_level_module\.encoder\.encoder\.stages\.0\.layers\.", r"backbone.res2."),
    (r"model\.pixel_level_module\.encoder\.encoder\.stages\.1\.layers\.", r"backbone.res3."),
    (r"model\.pixel_level_module\.encoder\.encoder\.stages\.2\.layers\.", r"backbone.res4."),
    (r"model\.pixel_level_module\.encoder\.encoder\.stages\.3\.layers\.", r"backbone.res5."),
    (r"(res\d\.\d+)\.layer\.0\.", r"\1.conv1."),
    (r"(res\d\.\d+)\.layer\.1\.", r"\1.conv2."),
    (r"(res\d\.\d+)\.layer\.2\.", r"\1.conv3."),
    (r"^(backbone.*)\.convolution\.weight", r"\1.weight"),
    (r"^(backbone.*)\.normalization\.", r"\1.norm."),
    # Swin
    (r"model\.pixel_level_module\.encoder\.swin\.layernorm\.", r"backbone.norm."),
    (
        r"model\.pixel_level_module\.encoder\.swin\.embeddings\.patch_embeddings\.projection",
        r"backbone.patch_embed.proj",
    ),
    (r"model\.pixel_level_module\.encoder\.swin\.embeddings\.norm", r"backbone.patch_embed.norm"),
    (r"model\.pixel_level_module\.encoder\.swin\.encoder\.layers", r"backbone.layers"),
    (r"attention\.(q|k|v)_proj\.", r"attn.\1."),
    (r"attention\.o_proj", r"attn.proj"),
    (r"attention\.relative_position_bias\.relative_position_bias_table", r"attn.relative_position_bias_table"),
    (r"layernorm_before", r"norm1"),
    (r"layernorm_after", r"norm2"),
    (r"model\.pixel_level_module\.encoder\.hidden_states_norms\.stage1", r"backbone.norm0"),
    (r"model\.pixel_level_module\.encoder\.hidden_states_norms\.stage2", r"backbone.norm1"),
    (r"model\.pixel_level_module\.encoder\.hidden_states_norms\.stage3", r"backbone.norm2"),
    (r"model\.pixel_level_module\.encoder\.hidden_states_norms\.stage4", r"backbone.norm3"),
    # pixel decoder
    (r"model\.pixel_level_module\.decoder\.", rf"{PIXEL}."),
    (rf"{PIXEL}\.input_projections", rf"{PIXEL}.input_proj"),
    (rf"{PIXEL}\.level_embed", rf"{PIXEL}.transformer.level_embed"),
    (rf"{PIXEL}\.encoder\.layers", rf"{PIXEL}.transformer.encoder.layers"),
    (r"(transformer\.encoder\.layers\.\d+)\.self_attn_layer_norm", r"\1.norm1"),
    (r"(transformer\.encoder\.layers\.\d+)\.final_layer_norm", r"\1.norm2"),
    (r"(transformer\.encoder\.layers\.\d+)\.fc1", r"\1.linear1"),
    (r"(transformer\.encoder\.layers\.\d+)\.fc2", r"\1.linear2"),
    (r"((?:adapter|layer)_\d)\.0\.weight", r"\1.weight"),
    (r"((?:adapter|layer)_\d)\.1\.", r"\1.norm."),
    (r"mask_projection", r"mask_features"),
    # mask decoder
    (r"model\.transformer_module\.decoder\.layers\.(\d+)\.cross_attn\.", rf"{CROSS}.\1.multihead_attn."),
    (r"model\.transformer_module\.decoder\.layers\.(\d+)\.cross_attn_layer_norm", rf"{CROSS}.\1.norm"),
    (
        r"model\.transformer_module\.decoder\.layers\.(\d+)\.self_attn\.(q|k|v|out)_proj",
        rf"{QUERY}.transformer_self_attention_layers.\1.self_attn.\2",
    ),
    (r"(self_attention_layers\.\d+\.self_attn\.)out\.", r"\1out_proj."),
    (
        r"model\.transformer_module\.decoder\.layers\.(\d+)\.self_attn_layer_norm",
        rf"{QUERY}.transformer_self_attention_layers.\1.norm",
    ),
    (r"model\.transformer_module\.decoder\.layers\.(\d+)\.fc1", rf"{QUERY}.transformer_ffn_layers.\1.linear1"),
    (r"model\.transformer_module\.decoder\.layers\.(\d+)\.fc2", rf"{QUERY}.transformer_ffn_layers.\1.linear2"),
    (
        r"model\.transformer_module\.decoder\.layers\.(\d+)\.final_layer_norm",
        rf"{QUERY}.transformer_ffn_layers.\1.norm",
    ),
    (r"model\.transformer_module\.decoder\.layernorm", rf"{QUERY}.decoder_norm"),
    (r"model\.transformer_module\.decoder\.mask_predictor\.mask_embedder\.(\d)\.0", rf"{QUERY}.mask_embed.layers.\1"),
    (r"model\.transformer_module\.queries_embedder", rf"{QUERY}.query_embed"),
    (r"model\.transformer_module\.queries_features", rf"{QUERY}.query_feat"),
    (r"model\.transformer_module\.level_embed", rf"{QUERY}.level_embed"),
    (r"class_predictor", rf"{QUERY}.class_embed"),
]


def original(model: Theirs) -> State:
    """The state dict that the original project would have written for this model."""
    state: State = {}
    for name, tensor in model.state_dict().items():
        for pattern, replacement in RENAMING:
            name = re.sub(pattern, replacement, name)
        state[name] = tensor.clone()
    for name in [name for name in state if name.endswith((".q.weight", ".q.bias"))]:
        stem, part = name.rsplit(".q.", 1)
        packed = f"{stem}.qkv.{part}" if stem.startswith("backbone") else f"{stem}.in_proj_{part}"
        state[packed] = torch.cat([state.pop(f"{stem}.{which}.{part}") for which in "qkv"])
    return state


def assert_equal_outputs(state: State, theirs: Theirs, pixels: Tensor) -> None:
    model = convert(state, "file.pkl").eval()
    with torch.no_grad():
        expected, prediction = theirs(pixels), model(pixels)
    torch.testing.assert_close(prediction.class_logits, expected.class_queries_logits, atol=1e-4, rtol=0)
    torch.testing.assert_close(prediction.mask_logits, expected.masks_queries_logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize("backbone", ["resnet", "swin"])
@pytest.mark.parametrize(
    "settings", [{}, {"width": 256, "encoder_layers": 3, "decoder_layers": 10, "num_queries": 10, "num_labels": 19}]
)
def test_the_outputs_are_those_of_transformers(
    build: Build, pixels: Tensor, backbone: str, settings: dict[str, Any]
) -> None:
    theirs = build(backbone, **settings)
    assert_equal_outputs(original(theirs), theirs, pixels)


def test_the_names_are_those_of_the_released_files(build: Build) -> None:
    """A look at the renaming itself: names read in released checkpoints."""
    resnet, swin = original(build("resnet")), original(build("swin"))
    assert {
        "backbone.stem.conv1.weight",
        "backbone.stem.conv1.norm.running_var",
        "backbone.res2.0.shortcut.norm.weight",
        "backbone.res4.1.conv3.weight",
        f"{PIXEL}.input_proj.0.0.weight",
        f"{PIXEL}.transformer.encoder.layers.0.self_attn.sampling_offsets.bias",
        f"{PIXEL}.adapter_1.norm.weight",
        f"{PIXEL}.layer_1.weight",
        f"{QUERY}.transformer_self_attention_layers.0.self_attn.in_proj_weight",
        f"{QUERY}.transformer_cross_attention_layers.3.multihead_attn.out_proj.bias",
        f"{QUERY}.transformer_ffn_layers.2.norm.weight",
        f"{QUERY}.mask_embed.layers.2.bias",
        f"{QUERY}.query_feat.weight",
        "criterion.empty_weight",
    } <= set(resnet)
    assert {
        "backbone.patch_embed.proj.weight",
        "backbone.layers.1.blocks.1.attn.qkv.bias",
        "backbone.layers.0.blocks.0.attn.relative_position_bias_table",
        "backbone.layers.2.downsample.reduction.weight",
        "backbone.layers.0.blocks.0.mlp.fc1.weight",
        "backbone.norm3.bias",
    } <= set(swin)
    assert not any(name.startswith(("model.", "class_predictor")) for name in {**resnet, **swin})


@pytest.mark.parametrize("backbone", ["resnet", "swin"])
def test_what_is_no_weight_may_be_absent_or_present(build: Build, pixels: Tensor, backbone: str) -> None:
    theirs = build(backbone)
    state = original(theirs)
    for name in ("criterion.empty_weight", "backbone.norm.weight", "backbone.norm.bias"):
        state.pop(name, None)
    bare = {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
    assert_equal_outputs(bare, theirs, pixels)
    if backbone == "swin":
        tables = [name for name in state if name.endswith("relative_position_bias_table")]
        indices = {name.replace("bias_table", "index"): torch.zeros(9, 9, dtype=torch.long) for name in tables}
        assert len(indices) == 5
        assert_equal_outputs({**state, **indices}, theirs, pixels)


def test_half_precision_files_become_float32(build: Build, pixels: Tensor) -> None:
    state = {
        name: tensor.half() if tensor.is_floating_point() else tensor
        for name, tensor in original(build("swin")).items()
    }
    model = convert(state, "file.pkl")
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}


HEAD = "sem_seg_head."


def without_prefix(name: str) -> str:
    return name.replace(f"{PIXEL}.", HEAD)


def with_doubled_prefix(name: str) -> str:
    return name.replace(f"{PIXEL}.", f"{PIXEL}.pixel_decoder.")


def with_static_query(name: str) -> str:
    return name.replace("query_feat", "static_query")


@pytest.mark.parametrize("respell", [without_prefix, with_doubled_prefix, with_static_query])
def test_older_spellings_load_alike(build: Build, pixels: Tensor, respell: Callable[[str], str]) -> None:
    theirs = build("resnet")
    state = original(theirs)
    older = {respell(name): tensor for name, tensor in state.items()}
    assert set(older) != set(state)
    assert_equal_outputs(older, theirs, pixels)


def global_attention(state: State, dim: int) -> State:
    """As Mask2Anomaly writes it: two attentions a layer, and a layer that is never called."""
    torch.manual_seed(0)
    result = {name.replace(".multihead_attn.", ".multihead_attn_foreground."): tensor for name, tensor in state.items()}
    for name, tensor in state.items():
        if ".multihead_attn." in name:
            result[name.replace(".multihead_attn.", ".multihead_attn_background.")] = torch.randn_like(tensor)
    for layer in range(4):
        result[f"{CROSS}.{layer}.fusion_layer.weight"] = torch.randn(dim, 2 * dim)
        result[f"{CROSS}.{layer}.fusion_layer.bias"] = torch.randn(dim)
    return result


def test_a_background_term_of_zero_leaves_masked_attention(build: Build, pixels: Tensor) -> None:
    theirs = build("resnet")
    state = global_attention(original(theirs), 64)
    for name in state:
        if ".multihead_attn_background.out_proj." in name:
            state[name] = torch.zeros_like(state[name])
    assert_equal_outputs(state, theirs, pixels)


def test_both_terms_of_global_attention_keep_their_own_weights(build: Build) -> None:
    state = global_attention(original(build("resnet")), 64)
    model = convert(state, "file.pkl")
    assert model.config.attention == "global"
    for layer in range(4):
        ours = model.mask_decoder.layers[layer]
        for theirs, term in (("foreground", ours.cross_attn), ("background", ours.background_attn)):
            stem = f"{CROSS}.{layer}.multihead_attn_{theirs}"
            packed = torch.cat([term.q_proj.weight, term.k_proj.weight, term.v_proj.weight])
            assert torch.equal(packed, state[f"{stem}.in_proj_weight"])
            packed = torch.cat([term.q_proj.bias, term.k_proj.bias, term.v_proj.bias])
            assert torch.equal(packed, state[f"{stem}.in_proj_bias"])
            assert torch.equal(term.out_proj.weight, state[f"{stem}.out_proj.weight"])


@pytest.mark.parametrize("levels", [1, 3])
def test_rba_has_one_decoder_layer_and_encodes_the_coarsest_map_only(build: Build, pixels: Tensor, levels: int) -> None:
    state = original(build("resnet", decoder_layers=2))
    dim, points, heads = 64, 4, 2
    for name in list(state):
        if re.match(rf"{PIXEL}\.input_proj\.[12]\.", name):
            del state[name]
        elif "sampling_offsets" in name:
            state[name] = torch.randn(heads * points * 2, *state[name].shape[1:])
        elif "attention_weights" in name:
            state[name] = torch.randn(heads * points, *state[name].shape[1:])
    state[f"{PIXEL}.transformer.level_embed"] = torch.randn(1, dim)
    state[f"{QUERY}.level_embed.weight"] = torch.randn(levels, dim)
    for number, channels in ((1, 16), (2, 24), (3, 32)):  # res2, res3, res4
        state[f"{PIXEL}.adapter_{number}.weight"] = torch.randn(dim, channels, 1, 1)
        state[f"{PIXEL}.layer_{number}.weight"] = torch.randn(dim, dim, 3, 3)
        for part in ("adapter", "layer"):
            for affine in ("weight", "bias"):
                state[f"{PIXEL}.{part}_{number}.norm.{affine}"] = torch.randn(dim)

    model = convert(state, "rba.pth").eval()
    config = model.config
    assert (config.decoder_layers, config.encoder_levels, config.decoder_levels, config.num_points) == (1, 1, levels, 4)
    for index, number in enumerate((3, 2, 1)):  # ours go from coarse to fine
        assert torch.equal(model.pixel_decoder.output[index][0].weight, state[f"{PIXEL}.layer_{number}.weight"])
        assert torch.equal(model.pixel_decoder.lateral[index][1].bias, state[f"{PIXEL}.adapter_{number}.norm.bias"])
    with torch.no_grad():
        assert model(pixels).mask_logits.shape == (2, 7, 19, 26)


@pytest.mark.parametrize(
    ("backbone", "queries", "classes"),
    [
        ("resnet50", 100, 19),
        ("resnet101", 100, 133),
        ("swin-tiny", 100, 8),
        ("swin-base", 100, 19),
        ("swin-large", 200, 65),
    ],
)
def test_the_architecture_of_published_models_is_read_off_their_shapes(
    backbone: str, queries: int, classes: int
) -> None:
    preset = dict(PRESETS[backbone])
    kind = {"resnet": ResNetConfig, "swin": SwinConfig}[preset["model_type"]]
    config = Mask2FormerConfig(
        backbone_config=kind(**preset, out_features=STAGES), num_queries=queries, num_labels=classes
    )
    with torch.device("meta"):
        state = original(Theirs(config))
    found = infer_config(state, "file.pkl")
    assert (found.num_queries, found.num_classes, found.dim, found.num_heads) == (queries, classes, 256, 8)
    assert (found.encoder_layers, found.encoder_ffn_dim, found.num_points, found.encoder_levels) == (6, 1024, 4, 3)
    assert (found.decoder_layers, found.decoder_ffn_dim, found.decoder_levels) == (9, 2048, 3)
    assert found.attention == "masked"
    assert not isinstance(found.backbone, str)
    assert {name: found.backbone[name] for name in preset} == preset
    if preset["model_type"] == "resnet":
        assert found.backbone["hidden_sizes"] == [256, 512, 1024, 2048]
        assert found.backbone["layer_type"] == "bottleneck"


def test_basic_blocks_are_told_from_bottlenecks(build: Build, pixels: Tensor) -> None:
    torch.manual_seed(0)
    backbone = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16, 24, 32], depths=[1, 2, 1, 1], layer_type="basic", out_features=STAGES
    )
    small = build("resnet").config.to_dict() | {"backbone_config": backbone}
    theirs = Theirs(Mask2FormerConfig(**small)).eval()
    assert_equal_outputs(original(theirs), theirs, pixels)


def complaint(state: State) -> str:
    with pytest.raises(OutmaskError) as caught:
        convert(state, "weights.pth")
    message = str(caught.value)
    assert message.startswith("weights.pth: ")
    assert "\n" not in message
    return message


def test_missing_unexpected_and_misshaped_weights_are_all_listed(build: Build) -> None:
    state = original(build("resnet"))
    del state["backbone.res3.0.conv2.weight"]
    del state[f"{QUERY}.decoder_norm.bias"]
    state["backbone.fc.weight"] = torch.zeros(3)
    state[f"{QUERY}.query_embed.weight"] = torch.zeros(9, 64)
    state[f"{CROSS}.1.multihead_attn.in_proj_weight"] = torch.zeros(64, 64)
    message = complaint(state)
    assert f"missing: backbone.res3.0.conv2.weight, {QUERY}.decoder_norm.bias;" in message
    assert "unexpected: backbone.fc.weight;" in message
    assert f"{QUERY}.query_embed.weight is 9x64, expected 7x64" in message
    assert f"{CROSS}.1.multihead_attn.in_proj_weight is 64x64, expected 192x64" in message


def test_a_weight_is_called_what_the_file_calls_it(build: Build) -> None:
    state = {with_static_query(without_prefix(name)): tensor for name, tensor in original(build("resnet")).items()}
    state["sem_seg_head.mask_features.bias"] = torch.zeros(3)
    state["sem_seg_head.extra"] = torch.zeros(3)
    message = complaint(state)
    assert "sem_seg_head.mask_features.bias is 3, expected 64" in message
    assert "unexpected: sem_seg_head.extra;" in message


def test_weights_that_tell_the_architecture_are_listed_too(build: Build) -> None:
    state = original(build("swin"))
    gone = [
        f"{QUERY}.class_embed.weight",
        f"{PIXEL}.transformer.level_embed",
        "backbone.layers.0.blocks.0.mlp.fc1.weight",
    ]
    for name in gone:
        del state[name]
    message = complaint(state)
    assert all(name in message for name in gone)


def test_two_spellings_of_one_weight_are_refused(build: Build) -> None:
    state = original(build("resnet"))
    state[f"{QUERY}.static_query.weight"] = state[f"{QUERY}.query_feat.weight"]
    assert f"{QUERY}.static_query.weight beside {QUERY}.query_feat.weight" in complaint(state)


def test_long_lists_are_cut(build: Build) -> None:
    state = original(build("resnet"))
    for index in range(40):
        state[f"head.{index}"] = torch.zeros(1)
    message = complaint(state)
    assert "head.0, head.1," in message
    assert "... and 28 more" in message


def test_a_classifier_is_no_mask2former() -> None:
    message = complaint({"conv1.weight": torch.zeros(64, 3, 7, 7), "fc.bias": torch.zeros(1000)})
    assert f"missing: {QUERY}.query_feat.weight" in message


def test_an_absurd_index_builds_no_absurd_model(build: Build) -> None:
    state = original(build("resnet"))
    state["backbone.res2.999999999.conv1.weight"] = torch.zeros(1)
    assert "unexpected: backbone.res2.999999999.conv1.weight" in complaint(state)


def test_a_file_gets_a_taxonomy_by_its_number_of_classes(build: Build, tmp_path: Path) -> None:
    for classes, names in ((19, CITYSCAPES.names), (4, ("class 0", "class 1", "class 2", "class 3"))):
        path = tmp_path / f"model_{classes}.pth"
        torch.save({"model": original(build("resnet", num_labels=classes)), "iteration": 5}, path)
        bundle = load_bundle(str(path))
        assert bundle.taxonomy.names == names
        assert (bundle.taxonomy.things is None) == (classes != 19)
        assert bundle.name == f"model_{classes}"
        assert not bundle.model.training
        assert bundle.preprocessing == Preprocessing((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), 1024, 2048)
        assert "not stated" in bundle.licence
