"""Which mask of the prediction answers for which target (DETR's bipartite matching, on points as in Mask2Former)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

from outmask.errors import OutmaskError
from outmask.losses.masks import split_ignored
from outmask.losses.points import Generators, sample_points, uniform_points
from outmask.types import MaskPrediction


class NotFinite(OutmaskError):
    """The model gave NaN or infinite logits: training has diverged, or the precision is too low for it."""


@torch.no_grad()
def match(
    layers: Sequence[MaskPrediction],
    class_ids: Sequence[Tensor],
    target_maps: Sequence[Tensor],
    *,
    class_weight: float,
    mask_weight: float,
    dice_weight: float,
    num_points: int,
    generators: Generators,
) -> Tensor:
    """Cheapest one-to-one assignment of queries to targets, in each layer and image.

    The cost of a pair is ``class_weight * -P(class) + mask_weight * BCE + dice_weight * dice``, BCE and dice on random
    points that are drawn once per image and shared by its masks, targets and layers.

    Args:
        layers: L predictions of the same B images.
        class_ids: of each image ``(n,)`` int64, n may be 0.
        target_maps: of each image ``(n, H, W)`` from :func:`outmask.losses.masks.target_maps`.
        class_weight, mask_weight, dice_weight: of the three costs.
        num_points: points per image.
        generators: of the points, one per image.

    Returns:
        ``(L, T)`` int64 on the prediction's device: the query of each of the batch's T targets, -1 for a target that is
        left over because an image has more targets than queries.

    Raises:
        NotFinite: where a cost is not finite.
    """
    num_queries = layers[0].class_logits.shape[1]
    device = layers[0].mask_logits.device
    costs = [torch.zeros(len(layers), num_queries, 0, device=device)]
    for image, (ids, maps, generator) in enumerate(zip(class_ids, target_maps, generators, strict=True)):
        if len(ids):
            probability = torch.stack([layer.class_logits[image] for layer in layers]).float().softmax(-1)
            mask_logits = torch.stack([layer.mask_logits[image] for layer in layers]).float()
            points = uniform_points([1], num_points, [generator], device)
            bce, dice = pairwise_mask_costs(
                sample_points(mask_logits, points.expand(len(layers), -1, -1)), sample_points(maps[None], points)[0]
            )
            costs.append(mask_weight * bce + dice_weight * dice - class_weight * probability[:, :, ids])

    assigned = torch.full((len(layers), sum(cost.shape[2] for cost in costs)), -1)
    all_costs = torch.cat(costs, dim=2).cpu()  # one transfer for all layers and images
    if not all_costs.isfinite().all():
        raise NotFinite(
            "matching needs finite logits, but the model gave NaN or infinite ones: "
            "lower the learning rate or train in float32"
        )
    start = 0
    for cost in torch.split(all_costs, [len(ids) for ids in class_ids], dim=2):
        for layer in range(len(layers)):
            queries, targets = linear_sum_assignment(cost[layer].numpy())
            assigned[layer, start + torch.from_numpy(targets)] = torch.from_numpy(queries)
        start += cost.shape[2]
    return assigned.to(device)


def pairwise_mask_costs(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """:func:`mask_bce` and :func:`mask_dice` of every mask with every target of one image, as matrix products.

    With labels y in [0, 1], ``BCE = softplus(x) - x y``, of which only ``x y`` depends on the pair.

    Args:
        logits: ``(L, N, P)``.
        labels: ``(n, P)``, NaN = ignored, at the same points in all rows.

    Returns:
        BCE and dice, each ``(L, N, n)``.
    """
    labels, weights = split_ignored(labels)
    weights = weights[0]
    labels = labels.T  # (P, n), 0 where ignored
    bce = (F.softplus(logits) @ weights)[..., None] - logits @ labels
    probability = logits.sigmoid()
    total = (probability @ weights)[..., None] + labels.sum(0)
    dice = 1 - (2 * (probability @ labels) + 1) / (total + 1)
    return bce / weights.sum().clamp(min=1), dice
