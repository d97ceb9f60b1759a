"""Anomaly scores of mask predictions: larger = more anomalous.

>>> import torch
>>> from outmask.types import MaskPrediction
>>> prediction = MaskPrediction(torch.zeros(1, 100, 20), torch.zeros(1, 100, 64, 128))
>>> score(prediction, "eam", size=(256, 512)).shape
torch.Size([1, 256, 512])
>>> sorted(evaluate(prediction, ["eam", "am"], size=(256, 512)))
['am', 'eam', 'labels']
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from numbers import Integral

from torch import Tensor

from outmask.errors import OutmaskError
from outmask.scores import fused
from outmask.scores.declarations import SCORES, Score
from outmask.types import MaskPrediction

__all__ = ["available", "check", "describe", "display_range", "evaluate", "score"]


def available() -> list[str]:
    """Names of all scores."""
    return list(SCORES)


def check(name: str) -> None:
    """Refuse what is no score.

    Raises:
        OutmaskError: names the available scores and the one that was probably meant.
    """
    _declared(name)


def describe(name: str) -> str:
    """The score's equation and its source, in one line; ``outmask.scores.declarations`` has the notation.

    Raises:
        OutmaskError: where there is no such score.
    """
    declared = _declared(name)
    return f"{declared.equation}  ({declared.source})"


def display_range(name: str, num_classes: int) -> tuple[float, float]:
    """The score's values that pictures show as certainly known and certainly unknown; scores may go beyond them.

    Args:
        name: one of :func:`available`.
        num_classes: K, at least 1; the ranges of energies depend on it.

    Raises:
        OutmaskError: where there is no such score, or no class.
    """
    if num_classes < 1:
        raise OutmaskError(f"num_classes must be at least 1, got {num_classes}")
    return _declared(name).display_range(num_classes)


def evaluate(prediction: MaskPrediction, names: Sequence[str], size: tuple[int, int]) -> dict[str, Tensor]:
    """Any set of scores, and the closed-set labels, in one pass; memory beyond the output is a few MB.

    Args:
        prediction: ``(B, N, K + 1)`` class and ``(B, N, h, w)`` mask logits; float16, bfloat16, float32 or float64.
        names: from :func:`available`; none for the labels alone.
        size: ``(H, W)`` of the output; mask logits are resized to it before anything else.

    Returns:
        each name -> ``(B, H, W)`` float32, larger = more anomalous, and ``"labels"`` -> ``(B, H, W)`` int64 class ids;
        on the prediction's device, without gradients.

    Raises:
        OutmaskError: on an unknown name, a size that is no pair of positive integers, or a score that needs more
            classes than the prediction has.
    """
    if isinstance(names, str):
        raise OutmaskError(f"names must be a sequence of scores, got the string {names!r}: give [{names!r}]")
    return fused.evaluate(prediction, [_declared(name) for name in names], _checked(size))


def score(prediction: MaskPrediction, name: str, size: tuple[int, int]) -> Tensor:
    """One score, ``(B, H, W)`` float32: as :func:`evaluate`, without the labels' time."""
    return fused.evaluate(prediction, [_declared(name)], _checked(size), with_labels=False)[name]


def _declared(name: str) -> Score:
    if name not in SCORES:
        close = get_close_matches(name, SCORES, n=1)
        meant = f"did you mean {close[0]!r}? " if close else ""
        raise OutmaskError(f"unknown score {name!r}: {meant}choose from {', '.join(SCORES)}")
    return SCORES[name]


def _checked(size: tuple[int, int]) -> tuple[int, int]:
    if len(size) != 2 or not all(isinstance(side, Integral) and side > 0 for side in size):
        raise OutmaskError(f"size must be (height, width), two positive integers, got {tuple(size)}")
    return int(size[0]), int(size[1])
