"""One training step of Mask2Former-R50 here and in transformers: same weights, pixels, targets and points."""

from __future__ import annotations

import itertools
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, ResNetConfig

from outmask.checkpoints.huggingface import convert
from outmask.data.labels import Target
from outmask.losses import SetCriterion
from outmask.losses.points import seeded_generators, uniform_points
from outmask.models.backbones import STAGES

NUM_CLASSES = 19
"""Cityscapes'."""
CPU = torch.device("cpu")
PRECISIONS = (
    (torch.float32, torch.float32),
    (torch.bfloat16, torch.bfloat16),
    (torch.bfloat16, torch.float32),
)
"""Ours and theirs: the same twice, then ours with ``precision: bf16-mixed`` against what theirs has by default."""
TERMS = {"class": "loss_cross_entropy", "mask": "loss_mask", "dice": "loss_dice"}


@dataclass(frozen=True)
class TrainingComparison:
    """A training step against transformers'.

    Attributes:
        dtype, peer_dtype: of the matrix products: float32, or bfloat16 as with ``precision: bf16-mixed``.
        seconds, peer_seconds: forward and backward, step by step, taken in turns.
        losses: each weighted term, ours and theirs: ``class``, ``mask``, ``dice`` of the last layer, ``class_0`` ... of
            the inner ones.
        peaks_mb: the most memory that a step takes beyond what the process held before, in MB, of ours and of theirs;
            None where it was not measured.
        loss_difference: the largest relative difference of a term.
        gradient_difference: relative difference (of norms) of the gradient of the whole backbone.
    """

    dtype: torch.dtype
    peer_dtype: torch.dtype
    seconds: tuple[float, ...]
    peer_seconds: tuple[float, ...]
    losses: dict[str, tuple[float, float]]
    peaks_mb: tuple[float | None, float | None]
    loss_difference: float
    gradient_difference: float

    @property
    def ratios(self) -> list[float]:
        """How many times faster ours is, in each turn."""
        return [peer / own for own, peer in zip(self.seconds, self.peer_seconds, strict=True)]

    @property
    def ratio(self) -> float:
        """The median of :attr:`ratios`."""
        return median(self.ratios)


def compare_training(
    steps: int = 3,
    size: int = 512,
    batch: int = 2,
    config: Mask2FormerConfig | None = None,
    peak_memory: Callable[[Callable[[], object]], float | None] = lambda run: None,
) -> list[TrainingComparison]:
    """Forward and backward of both models on the CPU, with freshly initialised weights, in both precisions.

    Args:
        steps: turns that are timed, after one that is not.
        size: height and width of the images in pixels, a multiple of 32.
        batch: images.
        config: transformers' configuration; by default that of the published R50 model with Cityscapes' 19 classes.
        peak_memory: runs a step, once more, and gives the most memory that it took, in MB.

    Returns:
        one comparison for each of :data:`PRECISIONS`. In bfloat16 the terms differ by the rounding, and what it flips.
    """
    torch.manual_seed(0)
    if config is None:
        config = Mask2FormerConfig(num_labels=NUM_CLASSES, backbone_config=ResNetConfig(out_features=STAGES))
    theirs = Mask2FormerForUniversalSegmentation(config).train()
    _freeze_batch_norm(theirs)
    ours = convert(theirs, "transformers").train()
    ours.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # as our training has it
    criterion = SetCriterion(
        config.num_labels,
        class_weight=config.class_weight,
        mask_weight=config.mask_weight,
        dice_weight=config.dice_weight,
        no_object_weight=config.no_object_weight,
        num_points=config.train_num_points,
        oversample=int(config.oversample_ratio),
        importance=config.importance_sample_ratio,
    )
    pixels = torch.randn(batch, 3, size, size)
    targets = [_scene(index, size, config.num_labels) for index in range(batch)]
    seeds = list(range(batch))
    mask_labels = [target.masks.float() for target in targets]
    class_labels = [target.class_ids for target in targets]

    def step(dtype: torch.dtype) -> dict[str, Tensor]:
        ours.zero_grad()
        with _precision(dtype):
            losses = criterion(ours(pixels.contiguous(memory_format=torch.channels_last)), targets, seeds)
        torch.autograd.backward(torch.stack(list(losses.values())).sum())
        return losses

    def peer_step(dtype: torch.dtype) -> dict[str, Tensor]:
        theirs.zero_grad()
        with (
            _precision(dtype),
            _same_points(theirs, criterion, targets, seeds),
            mock.patch.object(theirs, "get_loss", lambda terms: terms),
        ):
            terms: dict[str, Tensor] = theirs(
                pixel_values=pixels, mask_labels=mask_labels, class_labels=class_labels
            ).loss
        torch.autograd.backward(torch.stack(list(terms.values())).sum())
        return terms

    names = {
        f"{name}{suffix}": f"{peer_name}{suffix}"
        for suffix in ("", *(f"_{index}" for index in range(config.decoder_layers - 1)))
        for name, peer_name in TERMS.items()
    }
    bodies = ours.backbone.get_submodule("body"), theirs.model.pixel_level_module.encoder
    dtypes = (torch.float32, torch.bfloat16)
    found = {dtype: (step(dtype), _gradient(bodies[0])) for dtype in dtypes}
    peer_found = {dtype: (peer_step(dtype), _gradient(bodies[1])) for dtype in dtypes}
    peaks = {(one, dtype): peak_memory(partial(one, dtype)) for dtype in dtypes for one in (step, peer_step)}
    times: dict[tuple[Callable[[torch.dtype], object], torch.dtype], list[float]] = defaultdict(list)
    for _ in range(steps):
        for dtype in dtypes:
            for one in (step, peer_step):
                times[one, dtype].append(_seconds(partial(one, dtype)))

    def comparison(dtype: torch.dtype, peer_dtype: torch.dtype) -> TrainingComparison:
        (losses, gradient), (peer_losses, peer_gradient) = found[dtype], peer_found[peer_dtype]
        pairs = {name: (losses[name].item(), peer_losses[peer_name].item()) for name, peer_name in names.items()}
        return TrainingComparison(
            dtype,
            peer_dtype,
            tuple(times[step, dtype]),
            tuple(times[peer_step, peer_dtype]),
            pairs,
            (peaks[step, dtype], peaks[peer_step, peer_dtype]),
            max(abs(own - peer) / abs(peer) for own, peer in pairs.values()),
            float((gradient - peer_gradient).norm() / peer_gradient.norm()),
        )

    return [comparison(*dtypes) for dtypes in PRECISIONS]


def _precision(dtype: torch.dtype) -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16)


def _gradient(body: nn.Module) -> Tensor:
    """All gradients as one vector."""
    return torch.cat([parameter.grad.flatten() for parameter in body.parameters() if parameter.grad is not None])


def _seconds(step: Callable[[], object]) -> float:
    started = time.perf_counter()
    step()
    return time.perf_counter() - started


def _freeze_batch_norm(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.requires_grad_(False).eval()


def _scene(seed: int, size: int, num_classes: int) -> Target:
    """Ten smooth regions, about what a crop of a street scene shows, each of its own class."""
    generator = torch.Generator().manual_seed(seed)
    classes = torch.randperm(num_classes, generator=generator)[:10].sort().values
    noise = torch.randn(1, len(classes), 6, 6, generator=generator)
    region = F.interpolate(noise, (size, size), mode="bilinear")[0].argmax(0)
    present = torch.unique(region)
    nothing = torch.zeros(1, size, size, dtype=torch.bool)
    return Target(classes[present], region == present[:, None, None], nothing[0], nothing[:0])


@contextmanager
def _same_points(
    theirs: Mask2FormerForUniversalSegmentation,
    criterion: SetCriterion,
    targets: Sequence[Target],
    seeds: Sequence[int],
) -> Iterator[None]:
    """Within the block, transformers' loss draws what our criterion draws with these seeds.

    Theirs draws anew in every layer, ours once for all: it is given the same points every time. Its rows of targets
    follow the queries, ours the targets, so its matches are sorted.
    """
    num_points, oversample, importance = criterion.num_points, criterion.oversample, criterion.importance
    counts = [len(target.class_ids) for target in targets]
    candidates, uniform = oversample * num_points, num_points - int(importance * num_points)
    generators = seeded_generators(seeds, CPU)
    matching = itertools.cycle([uniform_points([1], num_points, [generator], CPU) for generator in generators])
    training = uniform_points(counts, candidates + uniform, generators, CPU)
    drawn = {tuple(part.shape): part.contiguous() for part in torch.split(training, [candidates, uniform], dim=1)}
    rand, match = torch.rand, theirs.criterion.matcher.forward

    def given(*size: Any, **options: Any) -> Tensor:
        if size == (1, num_points, 2):
            return next(matching)
        return drawn[size] if size in drawn else rand(*size, **options)

    def sorted_matches(*args: Any) -> list[tuple[Tensor, Tensor]]:
        return [(queries[order], matched[order]) for queries, matched in match(*args) for order in [matched.argsort()]]

    with mock.patch("torch.rand", given), mock.patch.object(theirs.criterion.matcher, "forward", sorted_matches):
        yield
