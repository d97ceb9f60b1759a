"""Anomaly scores of mask predictions and of per-pixel predictions: larger = more anomalous.

>>> import torch
>>> from outmask.types import MaskPrediction
>>> prediction = MaskPrediction(torch.zeros(1, 100, 20), torch.zeros(1, 100, 64, 128))
>>> score(prediction, "eam", size=(256, 512)).shape
torch.Size([1, 256, 512])
>>> sorted(evaluate(prediction, ["eam", "am"], size=(256, 512)))
['am', 'eam', 'labels']

A score fits one of the two kinds of prediction, ``available(prediction)`` says which:

>>> from outmask.types import PixelPrediction
>>> available(PixelPrediction(torch.zeros(1, 19, 64, 128)))
['msp', 'maxlogit', 'entropy', 'energy', 'kl']
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from numbers import Integral

from torch import Tensor

from outmask.errors import OutmaskError
from outmask.scores import fused, pixelwise
from outmask.scores.declarations import SCORES, Score
from outmask.scores.pixelwise import PIXEL_SCORES, PixelScore
from outmask.types import MaskPrediction, PixelPrediction

Prediction = MaskPrediction | PixelPrediction

_ALL: dict[str, Score | PixelScore] = {**SCORES, **PIXEL_SCORES}

__all__ = ["Prediction", "available", "check", "describe", "display_range", "evaluate", "score"]


def available(prediction: Prediction | None = None) -> list[str]:
    """Names of all scores, or of those that a prediction can have."""
    if prediction is None:
        return list(_ALL)
    return pixelwise.fitting(prediction) if isinstance(prediction, PixelPrediction) else list(SCORES)


def check(name: str) -> None:
    """Refuse what is no score.

    Raises:
        OutmaskError: names the available scores and the one that was probably meant.
    """
    _declared(name)


def describe(name: str) -> str:
    """The score's equation and its source, in one line.

    ``outmask.scores.declarations`` has the notation of mask scores, ``outmask.scores.pixelwise`` that of the others.

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
    declared = _declared(name)
    # A softmax over one class is constant: its range is drawn as that over two.
    return declared.display_range(max(num_classes, 2) if isinstance(declared, PixelScore) else num_classes)


def evaluate(prediction: Prediction, names: Sequence[str], size: tuple[int, int]) -> dict[str, Tensor]:
    """Any set of scores, and the closed-set labels, in one pass; memory beyond the output is a few MB.

    Args:
        prediction: of masks or of pixels; float16, bfloat16, float32 or float64.
        names: from ``available(prediction)``; none for the labels alone.
        size: ``(H, W)`` of the output; mask logits, or the logits of pixels, are resized to it before anything else.

    Returns:
        each name -> ``(B, H, W)`` float32, larger = more anomalous, and ``"labels"`` -> ``(B, H, W)`` int64 class ids;
        on the prediction's device, without gradients.

    Raises:
        OutmaskError: on an unknown name, a size that is no pair of positive integers, a score of the other kind of
            prediction, or one that needs more classes or other logits than the prediction has.
    """
    if isinstance(names, str):
        raise OutmaskError(f"names must be a sequence of scores, got the string {names!r}: give [{names!r}]")
    return _evaluate(prediction, names, size, with_labels=True)


def score(prediction: Prediction, name: str, size: tuple[int, int]) -> Tensor:
    """One score, ``(B, H, W)`` float32: as :func:`evaluate`, without the labels' time."""
    return _evaluate(prediction, [name], size, with_labels=False)[name]


def _evaluate(
    prediction: Prediction, names: Sequence[str], size: tuple[int, int], with_labels: bool
) -> dict[str, Tensor]:
    declared = [_declared(name) for name in names]
    of_pixels = [one for one in declared if isinstance(one, PixelScore)]
    of_masks = [one for one in declared if isinstance(one, Score)]
    if isinstance(prediction, PixelPrediction):
        _refuse(of_masks, "masks", "pixels", prediction)
        return pixelwise.evaluate(prediction, of_pixels, _checked(size), with_labels)
    _refuse(of_pixels, "pixels", "masks", prediction)
    return fused.evaluate(prediction, of_masks, _checked(size), with_labels)


def _refuse(strangers: Sequence[Score | PixelScore], kind: str, expected: str, prediction: Prediction) -> None:
    if strangers:
        raise OutmaskError(
            f"score {strangers[0].name!r} is one of {kind} and this is a prediction of {expected}: "
            f"choose from {', '.join(available(prediction))}"
        )


def _declared(name: str) -> Score | PixelScore:
    if name not in _ALL:
        close = get_close_matches(name, _ALL, n=1)
        meant = f"did you mean {close[0]!r}? " if close else ""
        raise OutmaskError(f"unknown score {name!r}: {meant}choose from {', '.join(_ALL)}")
    return _ALL[name]


def _checked(size: tuple[int, int]) -> tuple[int, int]:
    if len(size) != 2 or not all(isinstance(side, Integral) and side > 0 for side in size):
        raise OutmaskError(f"size must be (height, width), two positive integers, got {tuple(size)}")
    return int(size[0]), int(size[1])
