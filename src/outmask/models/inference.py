"""A model as it is best run: the same function in fewer passes over memory."""

from __future__ import annotations

from typing import TypeVar

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from transformers.models.resnet.modeling_resnet import (
    ResNetBasicLayer,
    ResNetBottleNeckLayer,
    ResNetConvLayer,
    ResNetShortCut,
)

Network = TypeVar("Network", bound=nn.Module)


def prepare_for_inference(model: Network) -> Network:
    """Fold every BatchNorm of a transformers ResNet into its convolution, and let its ReLUs overwrite their input.

    What the model computes stays the same to rounding; the names of its weights don't, so it can no longer be saved.

    Args:
        model: changed in place.

    Returns:
        the model, in eval mode and without gradients of its weights.
    """
    model.eval().requires_grad_(False)
    for module in model.modules():
        if isinstance(module, ResNetConvLayer | ResNetShortCut) and isinstance(module.normalization, nn.BatchNorm2d):
            module.convolution = fuse_conv_bn_eval(module.convolution, module.normalization)
            module.normalization = nn.Identity()
        rectified = isinstance(module, ResNetConvLayer | ResNetBasicLayer | ResNetBottleNeckLayer)
        if rectified and isinstance(module.activation, nn.ReLU):
            module.activation.inplace = True
    return model
