"""The engine: any set of scores and the closed-set labels in one pass over the output.

A tile of output rows is upsampled, pooled and finished while it is in cache; nothing of ``N x H x W`` is ever held.
The weight columns of all sum-pooled scores share one matrix product with the mask probabilities, and what several
scores read (``L``, its maximum, the strongest mask's logit) is computed once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from outmask import kernels
from outmask.scores.declarations import Pool, Score, Stack, Weights, class_probabilities
from outmask.scores.upsampling import upsampled_tiles
from outmask.types import MaskPrediction

# A tile's mask logits or, where a kernel keeps those in registers, its pooled values. CPU: time hardly changed from 2
# to 5 MB (2 MB of second-level cache a core) and rose below. GPU: not tuned; large enough that launches are worth
# their while.
_CPU_TILE_BYTES = 4 << 20
_GPU_TILE_BYTES = 64 << 20

# Log-odds beyond which 1 - m w can leave float32's range, e^-87, before its logarithm is taken.
_EXTREME_LOG_ODDS = 80.0

# (the tile's mask logits, a buffer of their shape, or they themselves, to overwrite) -> (columns, pixels)
_TilePool = Callable[[Stack, Tensor], Tensor]


@torch.no_grad()
def evaluate(
    prediction: MaskPrediction,
    scores: Sequence[Score],
    size: tuple[int, int],
    with_labels: bool = True,
    tile_rows: int | None = None,
) -> dict[str, Tensor]:
    """Scores and labels of a batch: mask logits are resized, **then** go through the sigmoid, **then** are pooled.

    Computes in float32, or in float64 where the prediction is; half precision and autocast lower nothing but the
    prediction itself. The matrix product is as exact as ``torch.set_float32_matmul_precision`` lets it be: anything
    but the default ``"highest"`` costs resolution, which mask scores need close to -1.

    Args:
        prediction: ``(B, N, K + 1)`` class and ``(B, N, h, w)`` mask logits; a *negative* class beside the K known ones
            is no object to all scores but UNO's, and to the labels.
        scores: what to evaluate.
        size: ``(H, W)`` of the output, both at least 1.
        with_labels: also give the closed-set labels.
        tile_rows: output rows of a tile; by default as many as suit the device's cache.

    Returns:
        a score's name -> ``(B, H, W)`` float32 on the prediction's device, and ``"labels"`` -> ``(B, H, W)`` int64,
        ``argmax_k L_k``, the first of equals.

    Raises:
        OutmaskError: where a score needs more classes than there are.
    """
    masks = prediction.mask_logits
    batch, device, width = len(masks), masks.device, size[1]
    dtype = torch.promote_types(torch.promote_types(masks.dtype, prediction.class_logits.dtype), torch.float32)

    maps = {score.name: torch.empty((batch, *size), dtype=torch.float32, device=device) for score in scores}
    if with_labels:
        maps["labels"] = torch.empty((batch, *size), dtype=torch.int64, device=device)
    known = prediction.known_class_logits()

    with torch.autocast(device.type, enabled=False):
        for image in range(batch):
            groups = _groups(known[image].to(dtype), prediction.class_logits[image].to(dtype), scores, with_labels)
            for rows, group, pooled in _pooled(masks[image], groups, size, tile_rows, dtype):
                parts = torch.split(pooled, group.widths)
                stacks = {weights: Stack(part) for weights, part in zip(group.weights, parts, strict=True)}
                for score in group.scores:
                    maps[score.name][image, rows] = score.finish(stacks[score.weights]).view(-1, width)
                if group.with_labels:
                    maps["labels"][image, rows] = stacks[class_probabilities].argmax_().view(-1, width)
    return maps


@dataclass(frozen=True)
class _Group:
    """Scores that share a pool over one image's masks.

    Attributes:
        pool: how.
        columns: ``(N, sum of the widths)`` weights; None for ``Pool.MAX``.
        weights: whose columns the pool gives, and ``widths``: how many each.
        scores: that finish them.
        with_labels: whether the closed-set labels are taken from them, too.
    """

    pool: Pool
    columns: Tensor | None
    weights: tuple[Weights | None, ...]
    widths: list[int]
    scores: tuple[Score, ...]
    with_labels: bool


def _groups(known: Tensor, all_classes: Tensor, scores: Sequence[Score], with_labels: bool) -> list[_Group]:
    """The pools that ``scores`` need of one image, those that don't need a buffer first."""
    seeing = {score.weights for score in scores if score.sees_negative}
    groups = []
    for pool in Pool:
        members = tuple(score for score in scores if score.pool is pool)
        labelled = with_labels and pool is Pool.SUM
        weights = tuple(dict.fromkeys([class_probabilities] * labelled + [score.weights for score in members]))
        if pool is Pool.MAX and members:
            groups.append(_Group(pool, None, weights, [1], members, False))
        elif weights:
            columns = [weight(all_classes if weight in seeing else known) for weight in weights if weight is not None]
            widths = [column.shape[1] for column in columns]
            groups.append(_Group(pool, torch.cat(columns, 1), weights, widths, members, labelled))
    return groups


def _pooled(
    masks: Tensor, groups: Sequence[_Group], size: tuple[int, int], tile_rows: int | None, dtype: torch.dtype
) -> Iterator[tuple[slice, _Group, Tensor]]:
    """Walk the output in tiles of whole rows: a tile's rows, and each group with its ``(columns, pixels)`` values."""
    by_kernel = kernels.available(masks) and dtype == torch.float32
    if tile_rows is None:
        of_pixel = max((sum(group.widths) for group in groups), default=1) if by_kernel else len(masks)
        budget = _CPU_TILE_BYTES if masks.device.type == "cpu" else _GPU_TILE_BYTES
        tile_rows = max(1, budget // (of_pixel * size[1] * dtype.itemsize))
    if by_kernel:
        for start in range(0, size[0], tile_rows):
            rows = slice(start, min(start + tile_rows, size[0]))
            for group in groups:
                yield rows, group, _pooled_by_kernel(masks, group, size, rows)
        return
    pools = [_tile_pool(group) for group in groups]
    scratch = torch.empty(0, dtype=dtype, device=masks.device)
    for rows, tile in upsampled_tiles(masks, size, tile_rows, dtype):
        logits = Stack(tile.flatten(1))
        for group, pool in zip(groups, pools, strict=True):
            # The last to read the logits overwrites them: half as many bytes pass through the cache.
            last = group is groups[-1]
            yield rows, group, pool(logits, logits.values if last else scratch.resize_(logits.values.shape))


def _pooled_by_kernel(masks: Tensor, group: _Group, size: tuple[int, int], rows: slice) -> Tensor:
    from outmask.kernels.scores import noisy_or, strongest_logit, weight_of_strongest, weighted_sum

    if group.columns is None:
        return strongest_logit(masks, size, rows).sigmoid_()
    pools = {Pool.SUM: weighted_sum, Pool.STRONGEST: weight_of_strongest, Pool.NOISY_OR: noisy_or}
    return pools[group.pool](masks, group.columns, size, rows)


def _tile_pool(group: _Group) -> _TilePool:
    return _strongest_probability if group.columns is None else _WEIGHTED[group.pool](group.columns)


def _strongest_probability(logits: Stack, out: Tensor) -> Tensor:
    return logits.peak.sigmoid()[None]


def _weighted_sum(weights: Tensor) -> _TilePool:
    columns = weights.T.contiguous()
    return lambda logits, out: columns @ torch.sigmoid(logits.values, out=out)


def _weight_of_strongest(weights: Tensor) -> _TilePool:
    # Three passes that vectorise; an argmax over the masks and a gather take three times as long.
    return lambda logits, out: torch.eq(logits.values, logits.peak, out=out).mul_(weights).amax(0, keepdim=True)


def _noisy_or(log_odds: Tensor) -> _TilePool:
    claimed, unclaimed = log_odds.sigmoid(), (-log_odds).sigmoid()
    # Masks so certain of their class should be rare: they go the slow way, through logarithms only.
    extreme = (log_odds[:, 0] > _EXTREME_LOG_ODDS).nonzero()[:, 0]

    def pool(logits: Stack, out: Tensor) -> Tensor:
        slow = torch.logaddexp(
            F.logsigmoid(-log_odds[extreme]),
            F.logsigmoid(log_odds[extreme]) + F.logsigmoid(-logits.values[extreme]),
        )
        # 1 - m w = (1 - w) + w (1 - m), a sum of positive terms, with 1 - m = sigmoid(-M); rounded, it may pass 1.
        torch.neg(logits.values, out=out).sigmoid_().mul_(claimed).add_(unclaimed).clamp_(max=1).log_()
        return out.index_copy_(0, extreme, slow).sum(0, keepdim=True)

    return pool


_WEIGHTED: dict[Pool, Callable[[Tensor], _TilePool]] = {
    Pool.SUM: _weighted_sum,
    Pool.STRONGEST: _weight_of_strongest,
    Pool.NOISY_OR: _noisy_or,
}
