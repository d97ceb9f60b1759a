"""Scores as float16 that keep their order.

Most known pixels of a mask-level score lie within 1e-3 of -1, where float16 has steps of 5e-4: rounded, they lose their
order. Pixel metrics look at nothing but that order, over the pixels of all images together, so the scores may go
through one monotone map, fitted to all images, that puts float16's values where the pixels are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from outmask.errors import OutmaskError

_ONE = 0x3C00
"""Bits of float16's 1.0; 0 to ``_ONE`` are the bits of all float16 values from 0 to 1, in their order."""

_FLOAT32_MAX = np.finfo(np.float32).max


class ScoreSample:
    """The score distribution of any number of images, in bounded memory and the same for the same images.

    A uniform random sample of the pixels, and the highest scores exactly: precision is decided there, by few pixels.
    Both are all pixels while they fit.

    Args:
        size: the most pixels of the uniform sample, at 4 bytes each.
        top: how many of the highest scores are kept.
    """

    def __init__(self, size: int = 1 << 22, top: int = 1 << 20) -> None:
        self._size, self._top_size = size, top
        self._random = np.random.default_rng(0)
        self._rate = 1.0
        self._parts: list[NDArray[np.float32]] = []
        self._top = np.empty(0, np.float32)

    def add(self, score: NDArray[Any]) -> None:
        """Take in the pixels of one image.

        Raises:
            OutmaskError: where the score is not floating, or has a NaN.
        """
        scores = np.clip(_as_scores(score).ravel(), -_FLOAT32_MAX, _FLOAT32_MAX)  # JSON has no infinity for edges
        self._parts.append(self._thin(scores, self._rate))
        while sum(map(len, self._parts)) > self._size:
            self._rate /= 2
            self._parts = [self._thin(np.concatenate(self._parts), 0.5)]
        if len(self._top) == self._top_size:
            scores = scores[scores > self._top.min()]
        self._top = np.concatenate([self._top, scores])
        if len(self._top) > self._top_size:
            self._top = np.partition(self._top, -self._top_size)[-self._top_size :].copy()

    def values(self) -> NDArray[np.float32]:
        """``(n,)``, the uniform sample."""
        return np.concatenate([*self._parts, np.empty(0, np.float32)])

    def distribution(self) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """The distinct scores that were kept, ascending, and about how many pixels each of them stands for."""
        sampled, exact = self.values(), self._top[:0]
        if self._rate < 1:
            lowest = self._top.min()
            sampled, exact = sampled[sampled <= lowest], self._top[self._top > lowest]
        values, where = np.unique(np.concatenate([sampled, exact]), return_inverse=True)
        weights = np.repeat([1 / self._rate, 1.0], [len(sampled), len(exact)])
        return values, np.bincount(where, weights).astype(np.float64)

    def _thin(self, scores: NDArray[np.float32], rate: float) -> NDArray[np.float32]:
        return scores[self._random.random(len(scores), np.float32) < rate] if rate < 1 else scores


@dataclass(frozen=True, eq=False)
class Float16Map:
    """A monotone map of scores onto float16 values from 0 to 1, for all images of a submission.

    A step function: the scores from one edge to the next become one float16 value, so that the order of two pixels is
    kept or becomes a tie, never reversed. The scores below the first edge, however low, become 0, those from the last
    edge on 1; infinity is a score like others.

    Attributes:
        edges: ``(n,)`` float32, strictly increasing, n at most 15,360: there are 15,361 float16 values from 0 to 1.
    """

    edges: NDArray[np.float32]

    @classmethod
    def fit(cls, sample: ScoreSample) -> Float16Map:
        """The map that serves average precision and the false-positive rate best without knowing the labels.

        The steps are equal in the mean of two quantities: the share t of pixels that score higher, which the
        false-positive rate follows, and ``log(1 + t / 1e-5)``, as precision follows relative ranks and only few pixels
        score as high as anomalies. No distinct score takes more than one step; what a frequent one (-1.0, where masks
        saturate) leaves over goes to the others. At most 15,361 distinct scores, all of them in the sample, are
        therefore kept apart.
        """
        values, weights = sample.distribution()
        if len(values) <= _ONE + 1:
            return cls(values[1:])
        share = np.cumsum(weights[::-1])[::-1] / weights.sum()
        position = share / 2 + np.log1p(share / 1e-5) / np.log1p(1 / 1e-5) / 2
        steps = _fill(-np.diff(position, append=0.0), _ONE)
        # A new value begins where the steps so far pass a whole number; rounding must not keep them just below it.
        starts = np.diff(np.floor(np.cumsum(steps[:-1]) + 1e-6), prepend=0.0) > 0
        return cls(values[1:][starts])

    def __call__(self, score: NDArray[Any]) -> NDArray[np.float16]:
        """Map scores of any shape, compared as float32.

        Raises:
            OutmaskError: where the score is not floating, or has a NaN.
        """
        bits = np.round(np.linspace(0, _ONE, len(self.edges) + 1)).astype(np.uint16)
        return bits.view(np.float16)[np.searchsorted(self.edges, _as_scores(score), side="right")]

    def to_json(self) -> dict[str, Any]:
        """The map as plain JSON values, and how to read them."""
        return {
            "rule": "of n edges, k at or below a score: the float16 whose bits are round(15360 k / n)",
            "edges": self.edges.tolist(),
        }


def tie_share(scores: NDArray[np.float32], mapped: NDArray[np.float16]) -> float:
    """Of the pixel pairs with different scores, the share that a map has made equal.

    Args:
        scores: ``(n,)`` scores.
        mapped: ``(n,)``, what each of them became.

    Returns:
        0 to 1; 0 where no two scores differ.
    """
    pixels = len(scores)
    tied_before, tied_after = _tied_pairs(scores), _tied_pairs(mapped)
    different = pixels * (pixels - 1) // 2 - tied_before
    return (tied_after - tied_before) / different if different else 0.0


def _as_scores(score: NDArray[Any]) -> NDArray[np.float32]:
    scores = np.asarray(score)
    if scores.dtype.kind != "f":
        raise OutmaskError(f"expected a floating-point score, got {scores.dtype}")
    with np.errstate(over="ignore"):  # a float64 beyond float32's range is infinite
        scores = scores.astype(np.float32)
    if missing := int(np.isnan(scores).sum()):
        raise OutmaskError(f"the score has NaN at {missing} pixels; every pixel of a submission needs a score")
    return scores


def _fill(weights: NDArray[np.float64], total: int) -> NDArray[np.float64]:
    """Divide ``total`` in proportion to the weights, but at most 1 to each; there are more than ``total`` weights."""
    full = np.zeros(len(weights), bool)
    while True:
        parts = np.where(full, 1.0, weights * ((total - full.sum()) / weights[~full].sum()))
        if not (parts > 1).any():
            return parts
        full |= parts > 1


def _tied_pairs(values: NDArray[Any]) -> int:
    counts = np.unique(values, return_counts=True)[1].astype(np.int64)
    return int((counts * (counts - 1) // 2).sum())
