"""The architectures by name, as ``config.json`` and recipes call them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from outmask.errors import OutmaskError
from outmask.models.deeplab import DeepLabV3Plus, DeepLabV3PlusConfig
from outmask.models.mask2former import Mask2Former, Mask2FormerConfig
from outmask.models.per_pixel import PerPixel, PerPixelConfig
from outmask.models.semantic_segmentation import SemanticSegmentationConfig, SemanticSegmentationModel

Model = Mask2Former | PerPixel | DeepLabV3Plus | SemanticSegmentationModel
Architecture = Mask2FormerConfig | PerPixelConfig | DeepLabV3PlusConfig | SemanticSegmentationConfig

MASK2FORMER = "mask2former"
"""What a description without a kind means: model folders had only this one at first."""

_KINDS: Mapping[str, tuple[type[Any], type[Any]]] = {
    MASK2FORMER: (Mask2FormerConfig, Mask2Former),
    "per_pixel": (PerPixelConfig, PerPixel),
    "deeplab_v3_plus": (DeepLabV3PlusConfig, DeepLabV3Plus),
    "semantic_segmentation": (SemanticSegmentationConfig, SemanticSegmentationModel),
}


def build_architecture(description: Mapping[str, Any]) -> Model:
    """A model with random weights.

    Args:
        description: ``kind`` (by default ``"mask2former"``) and the fields of its configuration.

    Raises:
        OutmaskError: on an unknown kind, unknown or missing fields, or values that the configuration refuses.
    """
    settings = dict(description)
    kind = settings.pop("kind", MASK2FORMER)
    if kind not in _KINDS:
        raise OutmaskError(f"unknown architecture {kind!r}: choose from {', '.join(_KINDS)}")
    config, model = _KINDS[kind]
    try:
        built: Model = model(config(**settings))
    except TypeError as error:
        raise OutmaskError(f"{kind}: {str(error).replace(f'{config.__name__}.__init__() ', '')}") from None
    return built


def describe_architecture(model: Model) -> dict[str, Any]:
    """Inverse of :func:`build_architecture`, but for the weights."""
    kind = next(kind for kind, (_, class_) in _KINDS.items() if type(model) is class_)
    return {"kind": kind, **model.config.to_json()}
