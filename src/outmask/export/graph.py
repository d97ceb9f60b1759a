"""One traceable module from pixels to everything that a model says of them.

The scores are the declarations of ``outmask.scores`` evaluated literally, on all ``B x N x H x W`` mask probabilities
at once: the engine that spares this memory walks tiles, which a trace cannot. Thresholds stay outside.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from outmask import scores
from outmask.errors import OutmaskError
from outmask.models import Model
from outmask.models.deformable import DeformableAttention
from outmask.scores.declarations import SCORES, Pool, Score, Stack, Weights, class_probabilities
from outmask.scores.pixelwise import PIXEL_SCORES, PixelScore, PixelTile
from outmask.types import MaskPrediction, PixelPrediction

LABELS = "labels"
MASK_LOGITS = ("class_logits", "mask_logits")
PIXEL_LOGITS = ("logits", "outlier_logits")


class ExportGraph(nn.Module):
    """``(B, 3, H, W)`` normalised pixels -> one tensor for each of ``output_names``.

    Args:
        model: in eval mode; it is copied, and the copy's deformable attention samples by ``grid_sample``.
        names: scores of the graph; they must suit the model's kind of prediction.

    Attributes:
        output_names: the scores, each ``(B, H, W)``; ``"labels"`` ``(B, H, W)`` int64; of a mask classifier
            ``"class_logits"`` ``(B, N, K + 1)`` and ``"mask_logits"`` ``(B, N, h, w)``, of a per-pixel classifier
            ``"logits"`` ``(B, K, h, w)`` and, of an outlier-aware one, ``"outlier_logits"`` ``(B, h, w)``.

    Raises:
        OutmaskError: on an unknown score, or one of the other kind of prediction.
    """

    def __init__(self, model: Model, names: Sequence[str]) -> None:
        super().__init__()
        for name in names:
            scores.check(name)
        self.model = deepcopy(model)
        for module in self.model.modules():
            if isinstance(module, DeformableAttention):
                module.exportable = True
        # A look at the prediction says what it is; of this size, no model is slow.
        with torch.inference_mode():
            prediction = model(next(model.parameters()).new_zeros(1, 3, 64, 64))
        available = scores.available(prediction)
        if strangers := [name for name in names if name not in available]:
            raise OutmaskError(
                f"score {strangers[0]!r} is none of this model's predictions: choose from {', '.join(available)}"
            )
        self.names = tuple(names)
        of_masks = isinstance(prediction, MaskPrediction)
        logits = MASK_LOGITS if of_masks else PIXEL_LOGITS[: 1 if prediction.outlier_logits is None else 2]
        self.output_names = (*self.names, LABELS, *logits)

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """The outputs, in the order of ``output_names``."""
        prediction = self.model(pixels)
        size = (pixels.shape[2], pixels.shape[3])
        maps, class_scores = literal(prediction, self.names, size)
        logits: tuple[Tensor, ...]
        if isinstance(prediction, MaskPrediction):
            logits = (prediction.class_logits, prediction.mask_logits)
        elif prediction.outlier_logits is None:
            logits = (prediction.logits,)
        else:
            logits = (prediction.logits, prediction.outlier_logits)
        return (*maps, class_scores.argmax(1), *logits)


def literal(
    prediction: MaskPrediction | PixelPrediction, names: Sequence[str], size: tuple[int, int]
) -> tuple[list[Tensor], Tensor]:
    """Scores of a batch, and what the closed-set labels are the argmax of, in plain tensor operations.

    Args:
        prediction: of any kind that has these scores.
        names: of the scores.
        size: ``(H, W)``.

    Returns:
        a ``(B, H, W)`` map for each name; ``(B, K, H, W)`` class scores.
    """
    if isinstance(prediction, MaskPrediction):
        return _of_masks(prediction, [SCORES[name] for name in names], size)
    return _of_pixels(prediction, [PIXEL_SCORES[name] for name in names], size)


def _of_masks(
    prediction: MaskPrediction, declared: Sequence[Score], size: tuple[int, int]
) -> tuple[list[Tensor], Tensor]:
    logits = _resized(prediction.mask_logits, size).flatten(2)  # (B, N, pixels)

    def weights(of: Weights, class_logits: Tensor) -> Tensor:
        """``(B, N, columns)``: a declared weight looks at one mask at a time."""
        return of(class_logits.flatten(0, 1)).reshape(*class_logits.shape[:2], -1)

    def finished(score: Score) -> Tensor:
        known = prediction.class_logits if score.sees_negative else prediction.known_class_logits()
        pooled = _POOLS[score.pool](logits, None if score.weights is None else weights(score.weights, known))
        return score.finish(Stack(_columns_first(pooled))).reshape(-1, *size)

    class_scores = _sum(logits, weights(class_probabilities, prediction.known_class_logits()))
    return [finished(score) for score in declared], class_scores.reshape(*class_scores.shape[:2], *size)


def _of_pixels(
    prediction: PixelPrediction, declared: Sequence[PixelScore], size: tuple[int, int]
) -> tuple[list[Tensor], Tensor]:
    logits = _resized(prediction.logits, size)
    outlier: Tensor | None = None
    if prediction.outlier_logits is not None:
        outlier = _resized(prediction.outlier_logits[:, None], size).flatten()
    tile = PixelTile(_columns_first(logits.flatten(2)), outlier)
    return [score.finish(tile).reshape(-1, *size) for score in declared], logits


def _resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)


def _columns_first(values: Tensor) -> Tensor:
    """``(B, columns, pixels)`` -> ``(columns, B * pixels)``, which is what declared scores finish."""
    return values.transpose(0, 1).flatten(1)


def _max(logits: Tensor, weights: Tensor | None) -> Tensor:
    return logits.sigmoid().amax(1, keepdim=True)


def _sum(logits: Tensor, weights: Tensor | None) -> Tensor:
    assert weights is not None
    return torch.bmm(weights.transpose(1, 2), logits.sigmoid())


def _strongest(logits: Tensor, weights: Tensor | None) -> Tensor:
    assert weights is not None
    strongest = logits == logits.amax(1, keepdim=True)
    return (strongest * weights).amax(1, keepdim=True)


def _noisy_or(logits: Tensor, log_odds: Tensor | None) -> Tensor:
    assert log_odds is not None
    # log(1 - m w) = log((1 - w) + w (1 - m)), all of it in logarithms: nothing under- or overflows.
    impossible = -F.softplus(log_odds).expand_as(logits)
    unclaimed = -F.softplus(-log_odds) - F.softplus(logits)
    return torch.stack([impossible, unclaimed]).logsumexp(0).sum(1, keepdim=True)


_POOLS: dict[Pool, Callable[[Tensor, Tensor | None], Tensor]] = {
    Pool.MAX: _max,
    Pool.SUM: _sum,
    Pool.STRONGEST: _strongest,
    Pool.NOISY_OR: _noisy_or,
}
