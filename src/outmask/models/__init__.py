"""Mask2Former with its three attentions, the per-pixel baselines, and their backbones."""

from outmask.models.architectures import Architecture, Model, build_architecture, describe_architecture
from outmask.models.backbones import BACKBONES, build_backbone, load_pretrained
from outmask.models.deeplab import DeepLabV3Plus, DeepLabV3PlusConfig
from outmask.models.mask2former import Mask2Former, Mask2FormerConfig
from outmask.models.per_pixel import PerPixel, PerPixelConfig
from outmask.models.semantic_segmentation import SemanticSegmentationConfig, SemanticSegmentationModel

__all__ = [
    "BACKBONES",
    "Architecture",
    "DeepLabV3Plus",
    "DeepLabV3PlusConfig",
    "Mask2Former",
    "Mask2FormerConfig",
    "Model",
    "PerPixel",
    "PerPixelConfig",
    "SemanticSegmentationConfig",
    "SemanticSegmentationModel",
    "build_architecture",
    "build_backbone",
    "describe_architecture",
    "load_pretrained",
]
