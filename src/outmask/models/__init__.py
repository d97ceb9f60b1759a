"""Mask2Former, its backbones and its three attentions."""

from outmask.models.backbones import BACKBONES, build_backbone, load_pretrained
from outmask.models.mask2former import Mask2Former, Mask2FormerConfig

__all__ = ["BACKBONES", "Mask2Former", "Mask2FormerConfig", "build_backbone", "load_pretrained"]
