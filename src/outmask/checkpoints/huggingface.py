"""transformers' ``Mask2FormerForUniversalSegmentation``, from a folder or the hub.

transformers reads its own files, whose names it has changed more than once; the weights are then copied from its live
modules to ours, so that no name on disk matters here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError
from torch import nn
from transformers import AutoConfig, Mask2FormerForUniversalSegmentation, PretrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES
from transformers.utils import logging

from outmask.checkpoints.bundle import ModelBundle, nameless_taxonomy, plain_taxonomy
from outmask.checkpoints.keys import refuse, shape
from outmask.checkpoints.original import UNUSED as ORIGINAL_UNUSED
from outmask.data.taxonomies import CITYSCAPES
from outmask.errors import OutmaskError
from outmask.models import Mask2Former, Mask2FormerConfig, Model, SemanticSegmentationModel
from outmask.preprocessing import Preprocessing
from outmask.types import Taxonomy

# Weights that may be absent or present: those of the original files, and Swin's final norm, which no backbone uses.
UNUSED = re.compile(rf"{ORIGINAL_UNUSED.pattern}|.*\.swin\.layernorm\.(weight|bias)")

# What rebuilds a backbone; the rest of its configuration is housekeeping of transformers.
BACKBONE_SETTINGS = {
    "resnet": (
        "embedding_size",
        "hidden_sizes",
        "depths",
        "layer_type",
        "hidden_act",
        "downsample_in_first_stage",
        "downsample_in_bottleneck",
    ),
    "swin": (
        "image_size",
        "patch_size",
        "embed_dim",
        "depths",
        "num_heads",
        "window_size",
        "mlp_ratio",
        "qkv_bias",
        "drop_path_rate",
        "hidden_act",
        "use_absolute_embeddings",
        "layer_norm_eps",
    ),
}

# Variants of transformers' configuration that no published model uses and our model doesn't have.
FIXED_SETTINGS = {
    "activation_function": "relu",
    "pre_norm": False,
    "enforce_input_projection": False,
    "common_stride": 4,
    "feature_strides": [4, 8, 16, 32],
}


def load_huggingface(source: str) -> ModelBundle:
    """Load a folder written by ``save_pretrained``, or a hub id.

    Classes come from ``id2label``; things and stuff are known only where they are Cityscapes' classes. Preprocessing
    comes from ``preprocessor_config.json``, or is that of the Cityscapes recipes where there is none.

    Raises:
        OutmaskError: where nothing can be read (the hub out of reach, too), weights are missing, unexpected or
            mis-shaped, or the configuration is of a variant that isn't supported.
    """
    local = Path(source).is_dir()
    if not local:
        _check_hub(source)
    if _is_semantic_segmentation(source):
        with _quiet():
            model = SemanticSegmentationModel.from_pretrained(source)
            return _bundle(
                model, AutoConfig.from_pretrained(source), source, local, "transformers semantic segmentation"
            )
    try:
        with _quiet():
            theirs, report = Mask2FormerForUniversalSegmentation.from_pretrained(
                source, dtype=torch.float32, output_loading_info=True, ignore_mismatched_sizes=True
            )
    except Exception as error:  # configurations and weights of another making can raise anything
        raise OutmaskError(f"{source}: transformers can't load it as Mask2Former ({_first_line(error)})") from None
    refuse(
        source,
        missing=_relevant(report["missing_keys"]),
        unexpected=_relevant(report["unexpected_keys"]),
        misshaped=sorted(
            f"{name} is {shape(given)}, expected {shape(expected)}"
            for name, given, expected in report["mismatched_keys"]
        ),
    )
    return _bundle(convert(theirs, source).eval(), theirs.config, source, local, "transformers Mask2Former")


def _bundle(model: Model, config: PretrainedConfig, source: str, local: bool, layout: str) -> ModelBundle:
    name = Path(source).resolve().name if local else source
    return ModelBundle(
        model,
        _taxonomy(config),
        _preprocessing(source, local),
        licence="not stated in the files" if local else f"see https://huggingface.co/{source}",
        provenance={"source": name, "layout": layout},
        name=name,
    )


def _is_semantic_segmentation(source: str) -> bool:
    """Whether the configuration is of a per-pixel model (SegFormer, UperNet ...); what can't be read is none."""
    try:
        with _quiet():
            kind = AutoConfig.from_pretrained(source).model_type
    except Exception:  # the loading that follows says what is wrong
        return False
    return kind in MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES


def convert(theirs: Mask2FormerForUniversalSegmentation, source: str) -> Mask2Former:
    """Our model with the weights of transformers' live one.

    Raises:
        OutmaskError: where its configuration is of a variant that isn't supported.
    """
    ours = Mask2Former(translate_config(theirs.config, source))
    pixels, queries = theirs.model.pixel_level_module, theirs.model.transformer_module
    _copy(pixels.encoder, ours.backbone.get_submodule("body"))  # the same class on both sides

    decoder = ours.pixel_decoder
    _copy(pixels.decoder.input_projections, decoder.input_proj)
    _copy(pixels.decoder.mask_projection, decoder.mask_features)
    for index, (lateral, output) in enumerate(zip(decoder.lateral, decoder.output, strict=True)):
        number = len(decoder.lateral) - index  # theirs count from the finest map, ours go from coarse to fine
        _copy(getattr(pixels.decoder, f"adapter_{number}"), lateral)
        _copy(getattr(pixels.decoder, f"layer_{number}"), output)
    for their_layer, our_layer in zip(pixels.decoder.encoder.layers, decoder.layers, strict=True):
        for their_name, our_name in (
            ("self_attn", "self_attn"),
            ("self_attn_layer_norm", "norm1"),
            ("fc1", "linear1"),
            ("fc2", "linear2"),
            ("final_layer_norm", "norm2"),
        ):
            _copy(getattr(their_layer, their_name), getattr(our_layer, our_name))

    for their_layer, our_layer in zip(queries.decoder.layers, ours.mask_decoder.layers, strict=True):
        _copy_packed(their_layer.cross_attn, our_layer.get_submodule("cross_attn"))
        for their_name, our_name in (
            ("cross_attn_layer_norm", "cross_norm"),
            ("self_attn", "self_attn"),
            ("self_attn_layer_norm", "self_norm"),
            ("fc1", "linear1"),
            ("fc2", "linear2"),
            ("final_layer_norm", "ffn_norm"),
        ):
            _copy(getattr(their_layer, their_name), getattr(our_layer, our_name))
    _copy(queries.decoder.layernorm, ours.mask_decoder.decoder_norm)
    _copy(theirs.class_predictor, ours.mask_decoder.class_embed)
    mask_embedders = (queries.decoder.mask_predictor.mask_embedder, ours.mask_decoder.mask_embed)
    for their_linear, our_linear in zip(*map(_linears, mask_embedders), strict=True):
        _copy(their_linear, our_linear)
    with torch.no_grad():
        decoder.level_embed.copy_(pixels.decoder.level_embed)
        ours.mask_decoder.query_feat.copy_(queries.queries_features.weight)
        ours.mask_decoder.query_embed.copy_(queries.queries_embedder.weight)
        ours.mask_decoder.level_embed.copy_(queries.level_embed.weight)
    return ours


def translate_config(config: PretrainedConfig, source: str) -> Mask2FormerConfig:
    """Our configuration for transformers'.

    Raises:
        OutmaskError: naming the setting that isn't supported.
    """
    backbone = config.backbone_config
    if backbone.model_type not in BACKBONE_SETTINGS:
        raise OutmaskError(f"{source}: backbone {backbone.model_type!r}, expected {' or '.join(BACKBONE_SETTINGS)}")
    widths = dict.fromkeys(("feature_size", "mask_feature_size"), config.hidden_dim)
    for name, value in {**FIXED_SETTINGS, **widths}.items():
        given = getattr(config, name)
        if (list(given) if isinstance(given, tuple) else given) != value:
            raise OutmaskError(f"{source}: setting {name} = {given!r} isn't supported, expected {value!r}")
    settings = {name: getattr(backbone, name) for name in BACKBONE_SETTINGS[backbone.model_type]}
    return Mask2FormerConfig(
        num_classes=config.num_labels,
        backbone={"model_type": backbone.model_type, **settings},
        dim=config.hidden_dim,
        num_heads=config.num_attention_heads,
        encoder_layers=config.encoder_layers,
        encoder_ffn_dim=config.encoder_feedforward_dim,
        num_queries=config.num_queries,
        decoder_layers=config.decoder_layers - 1,  # theirs counts the raw queries' prediction as a layer
        decoder_ffn_dim=config.dim_feedforward,
    )


def _copy(theirs: nn.Module, ours: nn.Module) -> None:
    ours.load_state_dict(theirs.state_dict())


def _copy_packed(theirs: nn.MultiheadAttention, ours: nn.Module) -> None:
    """PyTorch's multi-head attention keeps query, key and value in one matrix."""
    assert theirs.in_proj_weight is not None
    state = {f"out_proj.{name}": tensor for name, tensor in theirs.out_proj.state_dict().items()}
    for part, packed in (("weight", theirs.in_proj_weight), ("bias", theirs.in_proj_bias)):
        for name, tensor in zip("qkv", packed.chunk(3), strict=True):
            state[f"{name}_proj.{part}"] = tensor
    ours.load_state_dict(state)


def _linears(module: nn.Module) -> list[nn.Module]:
    return [child for child in module.modules() if isinstance(child, nn.Linear)]


def _relevant(names: set[str]) -> list[str]:
    """Without what may be absent or present."""
    return sorted(name for name in names if not UNUSED.fullmatch(name))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' bars and its report on weights that don't fit, which is told in one line here."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _check_hub(repository: str) -> None:
    """One quick question to the hub where nothing is cached: downloading would retry for half a minute if offline."""
    if isinstance(try_to_load_from_cache(repository, "config.json"), str):
        return
    try:
        get_hf_file_metadata(hf_hub_url(repository, "config.json"))
    except (RepositoryNotFoundError, EntryNotFoundError):
        raise OutmaskError(
            f"{repository!r} is no file or folder here, and the hub has no public model of that name: check the name"
        ) from None
    except Exception as error:  # the network can raise anything
        raise OutmaskError(
            f"{repository!r} is no file or folder here, and the hub can't be reached ({type(error).__name__}): "
            "check the path, or the connection"
        ) from None


def _taxonomy(config: PretrainedConfig) -> Taxonomy:
    names = [str(config.id2label[index]) for index in range(config.num_labels)]
    if all(name == f"LABEL_{index}" for index, name in enumerate(names)):  # transformers' own, where nobody named them
        return nameless_taxonomy(len(names))
    if [name.lower().replace("_", " ").strip() for name in names] == list(CITYSCAPES.names):
        return CITYSCAPES
    return plain_taxonomy(names)


def _preprocessing(source: str, local: bool) -> Preprocessing:
    """The image processor's settings. A fixed height and width would distort a picture: its smaller side is taken."""
    path = Path(source) / "preprocessor_config.json"
    if not local:
        try:
            path = Path(hf_hub_download(source, path.name))
        except EntryNotFoundError:
            return Preprocessing()
    if not path.exists():
        return Preprocessing()
    try:
        return _read_processor(json.loads(path.read_text(encoding="utf-8")))
    except (AttributeError, KeyError, OSError, TypeError, ValueError) as error:
        raise OutmaskError(f"{path}: no readable image processor ({_first_line(error)}); mend or remove it") from None


def _read_processor(values: dict[str, Any]) -> Preprocessing:
    default = Preprocessing()
    scale = values.get("rescale_factor", 1 / 255) if values.get("do_rescale", True) else 1.0
    mean, std = default.mean, default.std
    if not values.get("do_normalize", True):
        mean, std = (0.0, 0.0, 0.0), (1 / scale, 1 / scale, 1 / scale)
    elif "image_mean" in values and "image_std" in values:
        mean, std = (tuple(float(part) / scale for part in values[name]) for name in ("image_mean", "image_std"))  # type: ignore[assignment]
    short, long = default.short_side, default.long_side
    if not values.get("do_resize", True):
        short = long = None
    elif (size := values.get("size")) is not None:
        size = {"shortest_edge": size} if isinstance(size, int) else size
        short = min(size["height"], size["width"]) if "height" in size else size.get("shortest_edge")
        long = size.get("longest_edge", values.get("max_size"))
    return Preprocessing(mean, std, short, long)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__
