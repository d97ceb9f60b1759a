"""Anomaly scores of per-pixel classifiers: what of K logits at a pixel says that it shows none of the K classes.

Notation: ``C_k`` the logits of a pixel, resized to the output **before** anything else; ``P = softmax(C)`` over the K
known classes; ``O`` the outlier logit of an outlier-aware network. Larger scores are more anomalous.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from outmask.errors import OutmaskError
from outmask.scores.declarations import first_mark
from outmask.scores.upsampling import upsampled_tiles
from outmask.types import PixelPrediction

# Logits of a tile; the cached parts of a PixelTile are up to four times that. As for mask logits, a CPU's cache holds
# the first, and the second is worth a GPU's launches.
_CPU_TILE_BYTES = 4 << 20
_GPU_TILE_BYTES = 64 << 20


@dataclass(frozen=True)
class PixelTile:
    """The logits of some pixels and, computed once for all scores that ask, what the scores are made of.

    Everything is taken relative to the largest logit and nothing close to 1 is subtracted from 1: a trained network is
    so certain of most pixels that in float32 their softmax is 1 and its logarithm 0, where entropies still differ.

    Attributes:
        logits: ``(K, pixels)`` float32 or float64.
        outlier_logits: ``(pixels,)``, if the network has them.
    """

    logits: Tensor
    outlier_logits: Tensor | None

    @cached_property
    def peak(self) -> Tensor:
        """``max_k C_k``, ``(pixels,)``."""
        return self.logits.amax(0)

    @cached_property
    def at_peak(self) -> Tensor:
        """Which classes have the maximum, ``(K, pixels)`` bool: usually one."""
        return self.logits == self.peak

    @cached_property
    def gaps(self) -> Tensor:
        """``C_k - max_j C_j``, ``(K, pixels)``, at most 0."""
        return self.logits - self.peak

    @cached_property
    def lesser(self) -> Tensor:
        """``exp(C_k - max_j C_j)`` of the classes below the maximum, 0 for those at it; ``(K, pixels)``."""
        return self.gaps.exp().masked_fill_(self.at_peak, 0)

    @cached_property
    def rest(self) -> Tensor:
        """``1 / max_k P_k - 1 = sum_k exp(C_k - max_j C_j) - 1``, without the difference; ``(pixels,)``."""
        return self.lesser.sum(0) + (self.at_peak.sum(0) - 1)

    @property
    def labels(self) -> Tensor:
        """``argmax_k C_k``, the first of equals, ``(pixels,)`` int64."""
        return first_mark(self.at_peak.to(self.logits.dtype))

    @property
    def log_total(self) -> Tensor:
        """``logsumexp_k C_k``, ``(pixels,)``."""
        return self.peak + self.rest.log1p()

    @property
    def outlier(self) -> Tensor:
        """The outlier logits of a network that is known to have them."""
        assert self.outlier_logits is not None
        return self.outlier_logits


@dataclass(frozen=True)
class PixelScore:
    """One anomaly score of a per-pixel classifier.

    Attributes:
        name: as users write it.
        finish: a tile -> ``(pixels,)`` score.
        equation: what is computed, in the notation above.
        source: who proposed it.
        display_range: K, at least 2 -> the values that pictures show as certainly known and certainly unknown.
        needs_outlier_logits: whether only outlier-aware networks have it.
    """

    name: str
    finish: Callable[[PixelTile], Tensor]
    equation: str
    source: str
    display_range: Callable[[int], tuple[float, float]]
    needs_outlier_logits: bool = False


def _entropy(tile: PixelTile) -> Tensor:
    # log s - sum_k P_k (C_k - max C) with s = 1 + rest: two terms that are never negative.
    return tile.rest.log1p() - (tile.lesser * tile.gaps).sum(0) / (1 + tile.rest)


def _negated_divergence(tile: PixelTile) -> Tensor:
    return math.log(len(tile.logits)) + tile.gaps.mean(0) - tile.rest.log1p()


def _lowest_divergence(k: int) -> float:
    """``-KL(uniform || P)`` of one class at 0.99 that leaves the rest to the others in equal parts."""
    return math.log(k) + (math.log(0.99) + (k - 1) * math.log(0.01 / (k - 1))) / k


# Logits have no upper end. A pixel counts as known where one class is at probability 0.99 and the others' logits are 0,
# as unknown where all logits are 0: C = log(99 (K - 1)), logsumexp_k C_k = log(100 (K - 1)); 0 and log K.
_DECLARED = (
    PixelScore(
        name="msp",
        finish=lambda tile: -1 / (1 + tile.rest),
        equation="-max_k P_k",
        source="maximum softmax probability (Hendrycks and Gimpel 2017)",
        display_range=lambda k: (-1.0, -1 / k),
    ),
    PixelScore(
        name="maxlogit",
        finish=lambda tile: -tile.peak,
        equation="-max_k C_k",
        source="maximum logit (Hendrycks et al. 2022)",
        display_range=lambda k: (-math.log(99 * (k - 1)), 0.0),
    ),
    PixelScore(
        name="entropy",
        finish=_entropy,
        equation="-sum_k P_k log P_k",
        source="entropy of the softmax (Chan et al. 2021; M2F-EAM table 5)",
        display_range=lambda k: (0.0, math.log(k)),
    ),
    PixelScore(
        name="energy",
        finish=lambda tile: -tile.log_total,
        equation="-logsumexp_k C_k",
        source="free energy (Liu et al. 2020)",
        display_range=lambda k: (-math.log(100 * (k - 1)), -math.log(k)),
    ),
    PixelScore(
        name="kl",
        finish=_negated_divergence,
        equation="-KL(uniform || P) = log K + mean_k log P_k",
        source="divergence from the uniform distribution (M2F-EAM table 5); KL(P || uniform) ranks as the entropy",
        display_range=lambda k: (_lowest_divergence(k), 0.0),
    ),
    PixelScore(
        name="void",
        # In this order, so that only logits of one size are subtracted from each other.
        finish=lambda tile: (tile.outlier - tile.peak - tile.rest.log1p()).sigmoid(),
        equation="softmax(C, O)_void = sigmoid(O - logsumexp_k C_k)",
        source="void classifier of K + 1 classes (Blum et al. 2021)",
        display_range=lambda k: (0.0, 1.0),
        needs_outlier_logits=True,
    ),
    PixelScore(
        name="ood-head",
        finish=lambda tile: tile.outlier.sigmoid(),
        equation="sigmoid(O)",
        source="two-head network with a head for outliers (Bevandic et al. 2022)",
        display_range=lambda k: (0.0, 1.0),
        needs_outlier_logits=True,
    ),
    PixelScore(
        name="densehybrid",
        finish=lambda tile: F.logsigmoid(tile.outlier) - tile.log_total,
        equation="log sigmoid(O) - logsumexp_k C_k: the outlier posterior over the unnormalised likelihood",
        source="DenseHybrid (Grcic et al. 2022)",
        # The outlier posterior at 0.01; at 1.
        display_range=lambda k: (math.log(0.01) - math.log(100 * (k - 1)), -math.log(k)),
        needs_outlier_logits=True,
    ),
)

PIXEL_SCORES = {score.name: score for score in _DECLARED}


def fitting(prediction: PixelPrediction) -> list[str]:
    """Names of the scores that a prediction can have."""
    aware = prediction.outlier_logits is not None
    return [score.name for score in _DECLARED if aware or not score.needs_outlier_logits]


@torch.no_grad()
def evaluate(
    prediction: PixelPrediction,
    scores: Sequence[PixelScore],
    size: tuple[int, int],
    with_labels: bool = True,
    tile_rows: int | None = None,
) -> dict[str, Tensor]:
    """Scores and labels of a batch in one pass over tiles of output rows; nothing of ``K x H x W`` is ever held.

    Computes in float32, or in float64 where the prediction is; half precision and autocast lower nothing but the
    prediction itself.

    Args:
        prediction: logits, which are resized bilinearly (``align_corners=False``) to ``size`` first.
        scores: what to evaluate.
        size: ``(H, W)`` of the output, both at least 1.
        with_labels: also give the closed-set labels.
        tile_rows: output rows of a tile; by default as many as suit the device's cache.

    Returns:
        a score's name -> ``(B, H, W)`` float32 on the prediction's device, and ``"labels"`` -> ``(B, H, W)`` int64,
        ``argmax_k C_k``, the first of equals.

    Raises:
        OutmaskError: where a score needs outlier logits and there are none.
    """
    available = fitting(prediction)
    for score in scores:
        if score.name not in available:
            raise OutmaskError(
                f"score {score.name!r} needs the outlier_logits of an outlier-aware network, this prediction has none: "
                f"choose from {', '.join(available)}"
            )
    maps = [prediction.logits]
    if prediction.outlier_logits is not None and any(score.needs_outlier_logits for score in scores):
        maps.append(prediction.outlier_logits[:, None])
    batch, device, width = prediction.logits.shape[0], prediction.logits.device, size[1]
    dtype = torch.promote_types(prediction.logits.dtype, torch.float32)
    if tile_rows is None:
        budget = _CPU_TILE_BYTES if device.type == "cpu" else _GPU_TILE_BYTES
        tile_rows = max(1, budget // (prediction.num_classes * width * dtype.itemsize))

    results = {score.name: torch.empty((batch, *size), dtype=torch.float32, device=device) for score in scores}
    if with_labels:
        results["labels"] = torch.empty((batch, *size), dtype=torch.int64, device=device)
    with torch.autocast(device.type, enabled=False):
        for image in range(batch):
            for tiles in zip(*(upsampled_tiles(map_[image], size, tile_rows, dtype) for map_ in maps), strict=True):
                rows, logits = tiles[0]
                tile = PixelTile(logits.flatten(1), tiles[1][1].flatten() if len(tiles) > 1 else None)
                for score in scores:
                    results[score.name][image, rows] = score.finish(tile).view(-1, width)
                if with_labels:
                    results["labels"][image, rows] = tile.labels.view(-1, width)
    return results
