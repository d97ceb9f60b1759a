"""Losses on points instead of whole masks (PointRend; Mask2Former 3.3)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

Generators = Sequence[torch.Generator | None]
"""One generator per image of a batch; None draws from torch's own."""


def seeded_generators(seeds: Sequence[int], device: torch.device) -> Generators:
    """A generator per image, so that an image's points depend on neither its batch nor its process."""
    return [torch.Generator(device).manual_seed(seed) for seed in seeds]


def uniform_points(counts: Sequence[int], num_points: int, generators: Generators, device: torch.device) -> Tensor:
    """``(sum(counts), num_points, 2)`` uniform in [0, 1]: ``counts[i]`` rows from generator ``i``."""
    rows = [
        torch.rand(count, num_points, 2, device=device, generator=generator)
        for count, generator in zip(counts, generators, strict=True)
    ]
    return torch.cat(rows)


def sample_points(maps: Tensor, points: Tensor) -> Tensor:
    """Bilinear values of maps at normalised coordinates, whatever the maps' resolution.

    Args:
        maps: ``(R, C, h, w)`` floating.
        points: ``(R, P, 2)`` x and y in [0, 1] from the outer edge of the first pixel to that of the last.

    Returns:
        ``(R, C, P)``; beyond the outermost pixel centres a value fades towards 0, as in Mask2Former.
    """
    return F.grid_sample(maps, 2 * points.unsqueeze(2) - 1, mode="bilinear", align_corners=False).squeeze(3)


@torch.no_grad()
def draw_training_points(
    mask_logits: Tensor,
    target_maps: Tensor,
    counts: Sequence[int],
    num_points: int,
    oversample: int,
    importance: float,
    generators: Generators,
) -> tuple[Tensor, Tensor]:
    """Points where each matched mask is least certain, and some anywhere.

    Of ``oversample * num_points`` uniform candidates, the ``importance * num_points`` with the smallest ``|logit|`` are
    kept; the rest of ``num_points`` is uniform. An ignored point is no candidate while others are left: nothing ever
    teaches the model to be certain there, so ignored regions would attract most of the points. The candidates are drawn
    once per target and shared by all layers, which then choose their own.

    Args:
        mask_logits: ``(T, L, h, w)`` logits of the masks that L layers matched to T targets.
        target_maps: ``(T, H, W)`` from :func:`outmask.losses.masks.target_maps`.
        counts: how many of the T targets each image has.
        num_points: P.
        oversample: candidates per point, at least 1.
        importance: share of the points chosen by uncertainty, in [0, 1].
        generators: one per image.

    Returns:
        points ``(T, L, P, 2)`` and the target's value there ``(T, L, P)``, NaN = ignored.
    """
    count, layers = mask_logits.shape[:2]
    num_candidates, num_uncertain = oversample * num_points, int(importance * num_points)
    total = num_candidates + num_points - num_uncertain
    points = uniform_points(counts, total, generators, mask_logits.device)
    labels = sample_points(target_maps[:, None], points)  # (T, 1, total)

    certainty = sample_points(mask_logits, points[:, :num_candidates]).abs_()
    certainty.masked_fill_(labels[:, :, :num_candidates].isnan(), torch.inf)
    uncertain = certainty.topk(num_uncertain, dim=2, largest=False, sorted=False).indices
    uniform = torch.arange(num_candidates, total, device=points.device).expand(count, layers, -1)
    chosen = torch.cat([uncertain, uniform], dim=2)

    points = points[:, None].expand(-1, layers, -1, -1).gather(2, chosen[..., None].expand(-1, -1, -1, 2))
    return points, labels.expand(-1, layers, -1).gather(2, chosen)
