"""Deformable attention as one weighted gather against the usual stack of ``grid_sample`` calls."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from transformers.models.mask2former.modeling_mask2former import multi_scale_deformable_attention

from outmask.app.bench.comparison import Comparison, Report, Values, compare, comparison_report
from outmask.models.deformable import LevelSizes, grid_sample_attention, own_places, weighted_gather

_SIZE = (512, 1024)
_HEADS, _CHANNELS, _POINTS = 8, 32, 4
_REPEATS = 7

Attention = Callable[[Tensor, LevelSizes, Tensor, Tensor], Tensor]


def deformable() -> Report:
    """One layer's sampling of Mask2Former's pixel decoder, forward, and with its gradients."""
    torch.manual_seed(0)
    sizes = [(_SIZE[0] // stride, _SIZE[1] // stride) for stride in (32, 16, 8)]
    places = own_places(sizes, _HEADS, _POINTS, torch.empty(0))
    value = torch.randn(1, len(places), _HEADS, _CHANNELS)
    # Offsets of a few pixels, as learned ones are; between pixels, as at one rounding decides on which side it lies.
    pixels = (places + 4 * torch.randn(places.shape)).floor() + 0.05 + 0.9 * torch.rand(places.shape)
    weights = torch.randn(1, *places.shape[:-1]).flatten(3).softmax(-1).view(1, *places.shape[:-1])
    inputs = (value, pixels[None], weights)
    peers: list[tuple[str, Attention]] = [
        ("grid_sample, a level at a time", grid_sample_attention),
        ("transformers multi_scale_deformable_attention", _transformers_attention),
    ]
    what = f"deformable attention among {len(places)} tokens ({_SIZE[0]}x{_SIZE[1]})"
    comparisons = [_forward(what, name, peer, sizes, inputs) for name, peer in peers]
    comparisons += [_with_gradients(what, name, peer, sizes, inputs) for name, peer in peers]
    return comparison_report(comparisons, "of the output or of any gradient")


def _transformers_attention(value: Tensor, sizes: LevelSizes, pixels: Tensor, weights: Tensor) -> Tensor:
    extent = pixels.new_tensor([(width, height) for height, width in sizes])[:, None]
    attended: Tensor = multi_scale_deformable_attention(value, list(sizes), (pixels + 0.5) / extent, weights)
    return attended


def _forward(
    what: str, name: str, peer: Attention, sizes: LevelSizes, inputs: tuple[Tensor, Tensor, Tensor]
) -> Comparison:
    def run(attend: Attention) -> Values:
        with torch.inference_mode():
            return {"output": attend(inputs[0], sizes, *inputs[1:])}

    return compare(what, name, lambda: run(weighted_gather), lambda: run(peer), _REPEATS, ours_per_peer=3)


def _with_gradients(
    what: str, name: str, peer: Attention, sizes: LevelSizes, inputs: tuple[Tensor, Tensor, Tensor]
) -> Comparison:
    def run(attend: Attention) -> Values:
        value, pixels, weights = leaves = [part.clone().requires_grad_() for part in inputs]
        output = attend(value, sizes, pixels, weights)
        gradients = torch.autograd.grad(output.square().mean() * output.shape[1], leaves)
        return {"output": output.detach(), **dict(zip(("value", "pixels", "weights"), gradients, strict=True))}

    return compare(f"{what}, with gradients", name, lambda: run(weighted_gather), lambda: run(peer), _REPEATS)
