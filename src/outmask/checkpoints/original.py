"""Files of the original Mask2Former and of what was built on it: M2F-EAM, Mask2Anomaly, RbA.

The architecture is read off the names and shapes of the weights: these files hold nothing else. Spellings that changed
over the years are told apart by inspection, never by a version number.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from outmask.checkpoints.bundle import ModelBundle, nameless_taxonomy
from outmask.checkpoints.keys import refuse, require_same
from outmask.checkpoints.pickles import read_weights
from outmask.errors import OutmaskError
from outmask.models import Mask2Former, Mask2FormerConfig
from outmask.preprocessing import Preprocessing

PIXEL, QUERY = "sem_seg_head.pixel_decoder", "sem_seg_head.predictor"

# Not weights, or weights that nothing reads: the loss's class weights, BatchNorm's counter, a buffer that follows from
# the window size, the norm of a backbone's classifier, and a layer that Mask2Anomaly registers but never calls.
UNUSED = re.compile(
    r"criterion\.empty_weight|.*\.num_batches_tracked|.*\.relative_position_index|backbone\.norm\.(weight|bias)"
    r"|.*\.fusion_layer\..*"
)

# A name in the file and our names, stacked along the first axis where there are several.
Pair = tuple[str, tuple[str, ...]]


def load_original(path: str | Path) -> ModelBundle:
    """Load a ``.pkl``, ``.pth`` or ``.pt`` of the original layout.

    The file doesn't name its classes: 19 are taken for Cityscapes', others are ``class 0`` ... without things and
    stuff. Nor does it state its preprocessing: ImageNet's statistics and the Cityscapes test size are taken.

    Raises:
        OutmaskError: where the file is no checkpoint, or its weights are not those of a Mask2Former; they are listed.
    """
    path = Path(path)
    model = convert(read_weights(path), str(path))
    return ModelBundle(
        model.eval(),
        nameless_taxonomy(model.config.num_classes),
        Preprocessing(),
        licence="not stated in the file: ask where it was published",
        provenance={"file": path.name, "layout": "original Mask2Former"},
        name=path.stem,
    )


def convert(weights: Mapping[str, Tensor], source: str) -> Mask2Former:
    """A model with these weights.

    Args:
        weights: a state dict of the original layout.
        source: the file, for messages.

    Raises:
        OutmaskError: listing the names that are missing, unexpected or of another shape.
    """
    spelling: dict[str, str] = {}  # modern name -> the file's
    for name in weights:
        if not UNUSED.fullmatch(name) and spelling.setdefault(modern_name(name), name) != name:
            refuse(source, missing=(), unexpected=[f"{name} beside {spelling[modern_name(name)]}"], misshaped=())
    given = {modern: weights[name] for modern, name in spelling.items()}
    model = Mask2Former(infer_config(given, source))
    ours = model.state_dict()
    pairs = dict(_names(model))
    expected = {
        theirs: (sum(len(ours[name]) for name in names), *ours[names[0]].shape[1:]) for theirs, names in pairs.items()
    }
    # The messages call a weight what the file calls it.
    require_same(
        {spelling.get(name, name): shape for name, shape in expected.items()},
        {spelling[name]: tensor.shape for name, tensor in given.items()},
        source,
    )
    with torch.no_grad():
        for theirs, names in pairs.items():
            for name, part in zip(names, given[theirs].chunk(len(names)), strict=True):
                ours[name].copy_(part)  # state_dict shares memory with the model
    return model


def modern_name(name: str) -> str:
    """The name that today's Mask2Former gives to a weight.

    Older files spell ``query_feat`` as ``static_query`` and lack the ``pixel_decoder.`` prefix, or have it twice: the
    original loader adds it to files that have it already.
    """
    head, dot, rest = name.partition("sem_seg_head.")
    if head or not dot:
        return name
    if rest.startswith("predictor."):
        return name.replace("predictor.static_query.", "predictor.query_feat.")
    while rest.startswith("pixel_decoder."):
        rest = rest.removeprefix("pixel_decoder.")
    return f"{PIXEL}.{rest}"


def infer_config(weights: Mapping[str, Tensor], source: str) -> Mask2FormerConfig:
    """The architecture that these weights are of.

    Args:
        weights: state dict with modern names.
        source: the file, for messages.

    Raises:
        OutmaskError: where a weight that tells the architecture is missing.
    """
    sizes = _Sizes(weights)
    dim = sizes[f"{QUERY}.query_feat.weight", 1]
    heads = max(1, dim // 32)  # 8 at 256: every released model has heads of 32 channels
    levels = sizes[f"{PIXEL}.transformer.level_embed", 0]
    encoder = f"{PIXEL}.transformer.encoder.layers"
    attention = f"{QUERY}.transformer_cross_attention_layers"
    values: dict[str, Any] = {
        "num_classes": sizes[f"{QUERY}.class_embed.weight", 0] - 1,
        "dim": dim,
        "num_heads": heads,
        "encoder_layers": _count(weights, encoder),
        "encoder_ffn_dim": sizes[f"{encoder}.0.linear1.weight", 0],
        "num_points": sizes[f"{encoder}.0.self_attn.attention_weights.weight", 0] // max(1, heads * levels),
        "encoder_levels": levels,
        "num_queries": sizes[f"{QUERY}.query_feat.weight", 0],
        "decoder_layers": _count(weights, attention),
        "decoder_ffn_dim": sizes[f"{QUERY}.transformer_ffn_layers.0.linear1.weight", 0],
        "decoder_levels": sizes[f"{QUERY}.level_embed.weight", 0],
        "attention": "global" if any(".multihead_attn_foreground." in name for name in weights) else "masked",
        "backbone": _swin(weights, sizes) if "backbone.patch_embed.proj.weight" in weights else _resnet(weights, sizes),
    }
    refuse(source, missing=sizes.missing, unexpected=(), misshaped=())
    try:
        return Mask2FormerConfig(**values)
    except OutmaskError as error:
        raise OutmaskError(f"{source}: the weights are of no Mask2Former that this project knows; {error}") from None


class _Sizes:
    """Sizes by name and axis, remembering what is missing so that one message can list it."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        self.weights = weights
        self.missing: list[str] = []

    def __getitem__(self, place: tuple[str, int]) -> int:
        name, axis = place
        if name not in self.weights or self.weights[name].ndim <= axis:
            if name not in self.missing:
                self.missing.append(name)
            return 1
        return self.weights[name].shape[axis]


def _count(weights: Mapping[str, Tensor], prefix: str) -> int:
    """Length of the list ``prefix.0``, ``prefix.1`` ...: its highest index + 1, an absurd index left out."""
    start = len(prefix) + 1
    indices = (name[start:].partition(".")[0] for name in weights if name.startswith(f"{prefix}."))
    return max((int(index) for index in indices if index.isdecimal() and int(index) < len(weights)), default=-1) + 1


def _resnet(weights: Mapping[str, Tensor], sizes: _Sizes) -> dict[str, Any]:
    bottleneck = any(re.fullmatch(r"backbone\.res2\.\d+\.conv3\.weight", name) for name in weights)
    last = "conv3" if bottleneck else "conv2"
    return {
        "model_type": "resnet",
        "embedding_size": sizes["backbone.stem.conv1.weight", 0],
        "hidden_sizes": [sizes[f"backbone.res{stage}.0.{last}.weight", 0] for stage in range(2, 6)],
        "depths": [_count(weights, f"backbone.res{stage}") for stage in range(2, 6)],
        "layer_type": "bottleneck" if bottleneck else "basic",
    }


def _swin(weights: Mapping[str, Tensor], sizes: _Sizes) -> dict[str, Any]:
    blocks = [f"backbone.layers.{stage}.blocks" for stage in range(4)]
    tables = [f"{block}.0.attn.relative_position_bias_table" for block in blocks]
    width = sizes["backbone.patch_embed.proj.weight", 0]
    return {
        "model_type": "swin",
        "embed_dim": width,
        "patch_size": sizes["backbone.patch_embed.proj.weight", 2],
        "depths": [_count(weights, block) for block in blocks],
        "num_heads": [sizes[table, 1] for table in tables],
        "window_size": (round(sizes[tables[0], 0] ** 0.5) + 1) // 2,  # the table has (2 * window - 1)^2 rows
        "mlp_ratio": sizes[f"{blocks[0]}.0.mlp.fc1.weight", 0] / max(1, width),
        "qkv_bias": any(name.endswith(".attn.qkv.bias") for name in weights),
        "drop_path_rate": 0.3,  # of all Swin recipes; it acts in training only
    }


def _names(model: Mask2Former) -> Iterator[Pair]:
    """Every weight of the original layout, with what we call it."""
    config = model.config
    assert not isinstance(config.backbone, str)
    yield from (_swin_names if config.backbone["model_type"] == "swin" else _resnet_names)(model)
    yield from _pixel_decoder_names(config)
    yield from _mask_decoder_names(config)


def _pixel_decoder_names(config: Mask2FormerConfig) -> Iterator[Pair]:
    for level in range(config.encoder_levels):
        for place in (0, 1):
            yield from _affine(f"{PIXEL}.input_proj.{level}.{place}", f"pixel_decoder.input_proj.{level}.{place}")
    yield f"{PIXEL}.transformer.level_embed", ("pixel_decoder.level_embed",)
    for layer in range(config.encoder_layers):
        theirs, ours = f"{PIXEL}.transformer.encoder.layers.{layer}", f"pixel_decoder.layers.{layer}"
        for part in ("sampling_offsets", "attention_weights", "value_proj", "output_proj"):
            yield from _affine(f"{theirs}.self_attn.{part}", f"{ours}.self_attn.{part}")
        for part in ("norm1", "linear1", "linear2", "norm2"):
            yield from _affine(f"{theirs}.{part}", f"{ours}.{part}")
    fine = 4 - config.encoder_levels
    for index in range(fine):
        number = fine - index  # the original counts from the finest map, we go from coarse to fine
        for theirs, ours in ((f"adapter_{number}", f"lateral.{index}"), (f"layer_{number}", f"output.{index}")):
            yield f"{PIXEL}.{theirs}.weight", (f"pixel_decoder.{ours}.0.weight",)
            yield from _affine(f"{PIXEL}.{theirs}.norm", f"pixel_decoder.{ours}.1")
    yield from _affine(f"{PIXEL}.mask_features", "pixel_decoder.mask_features")


def _mask_decoder_names(config: Mask2FormerConfig) -> Iterator[Pair]:
    for layer in range(config.decoder_layers):
        ours = f"mask_decoder.layers.{layer}"
        theirs = f"{QUERY}.transformer_cross_attention_layers.{layer}"
        if config.attention == "global":
            yield from _packed_attention(f"{theirs}.multihead_attn_foreground", f"{ours}.cross_attn")
            yield from _packed_attention(f"{theirs}.multihead_attn_background", f"{ours}.background_attn")
        else:
            yield from _packed_attention(f"{theirs}.multihead_attn", f"{ours}.cross_attn")
        yield from _affine(f"{theirs}.norm", f"{ours}.cross_norm")
        theirs = f"{QUERY}.transformer_self_attention_layers.{layer}"
        yield from _packed_attention(f"{theirs}.self_attn", f"{ours}.self_attn")
        yield from _affine(f"{theirs}.norm", f"{ours}.self_norm")
        theirs = f"{QUERY}.transformer_ffn_layers.{layer}"
        for part, name in (("linear1", "linear1"), ("linear2", "linear2"), ("norm", "ffn_norm")):
            yield from _affine(f"{theirs}.{part}", f"{ours}.{name}")
    for part in ("decoder_norm", "class_embed"):
        yield from _affine(f"{QUERY}.{part}", f"mask_decoder.{part}")
    for part in ("query_feat", "query_embed", "level_embed"):
        yield f"{QUERY}.{part}.weight", (f"mask_decoder.{part}",)
    for index in range(3):
        yield from _affine(f"{QUERY}.mask_embed.layers.{index}", f"mask_decoder.mask_embed.{2 * index}")


def _resnet_names(model: Mask2Former) -> Iterator[Pair]:
    """detectron2's ResNet: a convolution holds its norm."""

    def convolution(theirs: str, ours: str) -> Iterator[Pair]:
        yield f"{theirs}.weight", (f"{ours}.convolution.weight",)
        for part in ("weight", "bias", "running_mean", "running_var"):
            yield f"{theirs}.norm.{part}", (f"{ours}.normalization.{part}",)

    body = "backbone.body"
    yield from convolution("backbone.stem.conv1", f"{body}.embedder.embedder")
    for stage_index, stage in enumerate(model.get_submodule(f"{body}.encoder.stages").children()):
        for index, block in enumerate(stage.get_submodule("layers").children()):
            theirs = f"backbone.res{stage_index + 2}.{index}"
            ours = f"{body}.encoder.stages.{stage_index}.layers.{index}"
            for number in range(len(list(block.get_submodule("layer").children()))):
                yield from convolution(f"{theirs}.conv{number + 1}", f"{ours}.layer.{number}")
            if list(block.get_submodule("shortcut").children()):
                yield from convolution(f"{theirs}.shortcut", f"{ours}.shortcut")


def _swin_names(model: Mask2Former) -> Iterator[Pair]:
    """The authors' Swin: query, key and value in one matrix; a norm on each output."""
    config = model.config.backbone
    assert not isinstance(config, str)
    body = "backbone.body.swin"
    yield from _affine("backbone.patch_embed.proj", f"{body}.embeddings.patch_embeddings.projection")
    yield from _affine("backbone.patch_embed.norm", f"{body}.embeddings.norm")
    parts = ("weight", "bias") if config["qkv_bias"] else ("weight",)
    for stage, depth in enumerate(config["depths"]):
        for index in range(depth):
            theirs, ours = f"backbone.layers.{stage}.blocks.{index}", f"{body}.encoder.layers.{stage}.blocks.{index}"
            table = "relative_position_bias_table"
            yield f"{theirs}.attn.{table}", (f"{ours}.attention.relative_position_bias.{table}",)
            for part in parts:
                yield f"{theirs}.attn.qkv.{part}", tuple(f"{ours}.attention.{name}_proj.{part}" for name in "qkv")
            yield from _affine(f"{theirs}.attn.proj", f"{ours}.attention.o_proj")
            yield from _affine(f"{theirs}.norm1", f"{ours}.layernorm_before")
            yield from _affine(f"{theirs}.norm2", f"{ours}.layernorm_after")
            for name in ("mlp.fc1", "mlp.fc2"):
                yield from _affine(f"{theirs}.{name}", f"{ours}.{name}")
        if stage < len(config["depths"]) - 1:
            theirs, ours = f"backbone.layers.{stage}.downsample", f"{body}.encoder.layers.{stage}.downsample"
            yield f"{theirs}.reduction.weight", (f"{ours}.reduction.weight",)
            yield from _affine(f"{theirs}.norm", f"{ours}.norm")
        yield from _affine(f"backbone.norm{stage}", f"backbone.body.hidden_states_norms.stage{stage + 1}")


def _affine(theirs: str, ours: str) -> Iterator[Pair]:
    for part in ("weight", "bias"):
        yield f"{theirs}.{part}", (f"{ours}.{part}",)


def _packed_attention(theirs: str, ours: str) -> Iterator[Pair]:
    """PyTorch's multi-head attention keeps query, key and value in one matrix."""
    for part in ("weight", "bias"):
        yield f"{theirs}.in_proj_{part}", tuple(f"{ours}.{name}_proj.{part}" for name in "qkv")
    yield from _affine(f"{theirs}.out_proj", f"{ours}.out_proj")
