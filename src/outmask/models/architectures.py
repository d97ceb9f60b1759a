"""The architectures by name, as ``config.json`` and recipes call them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from outmask.errors import OutmaskError
from outmask.models.deeplab import DeepLabV3Plus, DeepLabV3PlusConfig
from outmask.models.mask2former import Mask2Former, Mask2FormerConfig
from outmask.models.per_pixel import PerPixel, PerPixelConfig
from outmask.models.semantic_segmentation import SemanticSegmentationConfig, SemanticSegmentationModel

Model = Mask2Former | PerPixel | DeepLabV3Plus | SemanticSegmentationModel
Architecture = Mask2FormerConfig | PerPixelConfig | DeepLabV3PlusConfig | SemanticSegmentationConfig

MASK2FORMER = "mask2former"
"""What a description without a kind means: model folders had only this one at first."""

HEADS = ("negative_class", "outlier_head")
"""Fields of the configurations that add an output: what a loss on pasted pixels may need beside the K classes."""

_KINDS: Mapping[str, tuple[type[Any], type[Any]]] = {
    MASK2FORMER: (Mask2FormerConfig, Mask2Former),
    "per_pixel": (PerPixelConfig, PerPixel),
    "deeplab_v3_plus": (DeepLabV3PlusConfig, DeepLabV3Plus),
    "semantic_segmentation": (SemanticSegmentationConfig, SemanticSegmentationModel),
}


def configure(description: Mapping[str, Any]) -> Architecture:
    """The configuration that a description means.

    Args:
        description: ``kind`` (by default ``"mask2former"``) and the fields of its configuration.

    Raises:
        OutmaskError: on an unknown kind, unknown or missing fields, or values that the configuration refuses.
    """
    settings = dict(description)
    kind = settings.pop("kind", MASK2FORMER)
    if kind not in _KINDS:
        raise OutmaskError(f"unknown architecture {kind!r}: choose from {', '.join(_KINDS)}")
    config, _ = _KINDS[kind]
    try:
        configured: Architecture = config(**settings)
    except TypeError as error:
        raise OutmaskError(f"{kind}: {str(error).replace(f'{config.__name__}.__init__() ', '')}") from None
    return configured


def build_architecture(description: Mapping[str, Any]) -> Model:
    """A model with random weights; arguments and errors are those of :func:`configure`."""
    config = configure(description)
    built: Model = next(model for class_, model in _KINDS.values() if type(config) is class_)(config)
    return built


def with_head(model: Model, description: Mapping[str, Any]) -> Model:
    """The same weights in an architecture that may have one output more, which starts from nothing.

    Args:
        model: without ``negative_class`` or ``outlier_head``.
        description: of the model's architecture, with or without one of them.

    Raises:
        OutmaskError: where the two differ in anything else.
    """
    wider = build_architecture(description)
    plain: Any = {head: False for head in HEADS if hasattr(wider.config, head)}
    if replace(wider.config, **plain) != model.config:
        raise OutmaskError(f"expected the architecture {model.config}, got {wider.config}")
    narrow, count = model.state_dict(), model.config.num_classes
    with torch.no_grad():
        for name, own in wider.state_dict().items():
            if name not in narrow:
                continue  # of an outlier head
            if own.shape == narrow[name].shape:
                own.copy_(narrow[name])
            else:  # the new output comes after the K known classes
                own[:count].copy_(narrow[name][:count])
                own[count + 1 :].copy_(narrow[name][count:])
    return wider


def describe_architecture(model: Model) -> dict[str, Any]:
    """Inverse of :func:`build_architecture`, but for the weights."""
    kind = next(kind for kind, (_, class_) in _KINDS.items() if type(model) is class_)
    return {"kind": kind, **model.config.to_json()}
