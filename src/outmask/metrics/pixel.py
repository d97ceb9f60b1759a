"""How well a score separates anomaly pixels from known ones: AP, AUROC, FPR at a TPR, best F1 and the curves, streamed.

All pixels of all images are pooled, so the curves need the order of billions of values. They are counted per distinct
score, which is exact, until there are too many distinct scores to hold; then neighbours are joined *where the pixels
are*, never on a grid of values: mask-level scores saturate, and fixed bins put most known pixels into one of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from outmask.errors import OutmaskError
from outmask.metrics.values import ANOMALY, KNOWN, as_array

_DEFAULT_BUDGET = 1 << 21
_CHUNK = 1 << 20
"""Pixels sorted at once, in each of at most ``_THREADS`` threads: what bounds the memory of one update."""
_THREADS = min(4, os.cpu_count() or 1)
_RUNS = 64
"""Exact runs that are held apart: joining each small image at once would take time in the square of the images."""
_SKETCHES = 16
"""Sketches that fill the budget: they are merged in pairs, so that 16 of them stand for 2^15 chunks of pixels."""


class Counts(NamedTuple):
    """Known and anomaly pixels per distinct score, the most anomalous score first."""

    scores: NDArray[np.float32]
    """Strictly falling."""
    known: NDArray[np.int64]
    anomaly: NDArray[np.int64]


@dataclass(frozen=True)
class OperatingPoint:
    """What a threshold does: pixels with ``score > threshold`` are called unknown.

    Attributes:
        threshold: finite float32 value; pixels at minus infinity are above none.
        TPR: anomaly pixels found, in percent (recall).
        FPR: known pixels called unknown, in percent; NaN without known pixels.
        precision: anomaly pixels among those called unknown, in percent.
        F1: harmonic mean of precision and TPR, in percent.
    """

    threshold: float
    TPR: float
    FPR: float
    precision: float
    F1: float

    def rates(self) -> dict[str, float]:
        """All but the threshold, by name."""
        return {name: value for name, value in vars(self).items() if name != "threshold"}


@dataclass(frozen=True)
class Curve:
    """Anomaly and known pixels above every threshold: the PR and the ROC curve in counts.

    Attributes:
        scores: ``(n,)`` float32, strictly falling; point i calls all pixels with ``score >= scores[i]`` unknown.
        true_positives: ``(n,)`` int64, anomaly pixels called unknown.
        false_positives: ``(n,)`` int64, known pixels called unknown.
    """

    scores: NDArray[np.float32]
    true_positives: NDArray[np.int64]
    false_positives: NDArray[np.int64]

    @classmethod
    def of(cls, counts: Counts) -> Curve:
        """The curve of pixels counted per score."""
        return cls(counts.scores, np.cumsum(counts.anomaly), np.cumsum(counts.known))

    @property
    def anomaly(self) -> int:
        """All anomaly pixels."""
        return int(self.true_positives[-1]) if len(self.true_positives) else 0

    @property
    def known(self) -> int:
        """All known pixels."""
        return int(self.false_positives[-1]) if len(self.false_positives) else 0

    @cached_property
    def precision(self) -> NDArray[np.float64]:
        """``(n,)``, 0 to 1."""
        return self.true_positives / (self.true_positives + self.false_positives)

    @cached_property
    def tpr(self) -> NDArray[np.float64]:
        """``(n,)``, 0 to 1: the true-positive rate, or recall; NaN without anomaly pixels."""
        return self.true_positives / (self.anomaly or np.nan)

    @cached_property
    def fpr(self) -> NDArray[np.float64]:
        """``(n,)``, 0 to 1: the false-positive rate; NaN without known pixels."""
        return self.false_positives / (self.known or np.nan)

    @property
    def average_precision(self) -> float:
        """Sum of recall steps times precision, in percent (scikit-learn's rule); NaN without anomaly pixels."""
        if not self.anomaly:
            return float("nan")
        return 100 * float(self.precision @ np.diff(self.true_positives, prepend=0)) / self.anomaly

    @property
    def auroc(self) -> float:
        """Area under the ROC curve, ties counted half, in percent; NaN without pixels of both kinds."""
        if not (self.anomaly and self.known):
            return float("nan")
        steps = np.diff(self.false_positives, prepend=0)
        above = self.true_positives - np.diff(self.true_positives, prepend=0) / 2
        return 100 * float(above @ steps) / self.anomaly / self.known

    def shares(self, edges: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """How the scores of known and of anomaly pixels are distributed.

        Args:
            edges: ``(n + 1,)`` rising; what lies beyond them counts in the outermost bins.

        Returns:
            two ``(n,)`` float64, the shares of the known and of the anomaly pixels in each bin, which includes its
            lower edge; they add up to 1, or are NaN where there are no such pixels.
        """
        above = np.searchsorted(-self.scores, -edges[1:-1].astype(np.float32), side="right")
        return (
            _shares(np.append(0, self.false_positives)[above], self.known),
            _shares(np.append(0, self.true_positives)[above], self.anomaly),
        )

    def at_tpr(self, percent: float) -> OperatingPoint | None:
        """The first (highest) threshold that finds at least ``percent`` of the anomaly pixels.

        Returns:
            None without anomaly pixels.

        Raises:
            OutmaskError: on a rate outside of (0, 100].
        """
        _check_rate("TPR", percent)
        return self.above(self._below(self._reaches(percent))) if self.anomaly else None

    def at_fpr(self, percent: float) -> OperatingPoint | None:
        """The lowest threshold that calls at most ``percent`` of the known pixels unknown.

        Returns:
            None without known pixels, or where even the highest score calls more of them unknown.

        Raises:
            OutmaskError: on a rate outside of (0, 100].
        """
        _check_rate("FPR", percent)
        allowed = int(np.count_nonzero(self.false_positives * 100.0 <= percent * self.known))
        return self.above(self._below(allowed - 1)) if self.known and allowed else None

    def best_f1(self) -> OperatingPoint | None:
        """The (highest) threshold of the largest pixel F1: an oracle, where it is found on the pixels it is used on.

        Returns:
            None without anomaly pixels.
        """
        if not self.anomaly:
            return None
        # F1 = 2 TP / (2 TP + FP + FN), and TP + FN are all anomaly pixels.
        f1 = self.true_positives / (self.true_positives + self.false_positives + self.anomaly)
        return self.above(self._below(int(np.argmax(f1))))

    def above(self, threshold: float) -> OperatingPoint:
        """What ``score > threshold`` selects; its precision is NaN where that is nothing."""
        index = int(np.searchsorted(-self.scores, -np.float32(threshold))) - 1
        hits, false_alarms = (
            int(counts[index]) if index >= 0 else 0 for counts in (self.true_positives, self.false_positives)
        )
        nan = float("nan")
        return OperatingPoint(
            threshold=threshold,
            TPR=100 * hits / (self.anomaly or nan),
            FPR=100 * false_alarms / (self.known or nan),
            precision=100 * hits / ((hits + false_alarms) or nan),
            F1=200 * hits / ((hits + false_alarms + self.anomaly) or nan),
        )

    def compute(self) -> dict[str, float]:
        """AP, AUROC, FPR95, FPR90, best_F1 and anomaly_share; see :meth:`PixelMetrics.compute`."""
        pixels = self.anomaly + self.known
        best = self.best_f1()
        nan = float("nan")
        return {
            "AP": self.average_precision,
            "AUROC": self.auroc,
            **{f"FPR{rate}": 100 * float(self.fpr[self._reaches(rate)]) if self.anomaly else nan for rate in (95, 90)},
            "best_F1": best.F1 if best else nan,
            "anomaly_share": 100 * self.anomaly / pixels if pixels else nan,
        }

    def _reaches(self, percent: float) -> int:
        """The first point that finds at least ``percent`` of the anomaly pixels."""
        return int(np.argmax(self.true_positives * 100.0 >= percent * self.anomaly))

    def _below(self, index: int) -> float:
        """The threshold that the scores up to ``index`` exceed, and no others: the next score below."""
        last = index + 1 == len(self.scores)
        below = np.nextafter(self.scores[-1], np.float32(-np.inf)) if last else self.scores[index + 1]
        return float(np.clip(below, np.finfo(np.float32).min, np.finfo(np.float32).max))


class PixelMetrics:
    """Streaming AP, AUROC, FPR at a TPR, best F1 and their curves over the pixels of any number of images.

    Equal to scikit-learn's ``average_precision_score``, ``roc_auc_score`` and ``roc_curve`` on the float32 scores
    (ties included) while known and anomaly pixels show at most ``budget / 2`` distinct scores each, and within 1e-3 of
    them beyond, whatever the scores' distribution. Partial results of several processes are joined by :meth:`merge`.

    Args:
        budget: the most distinct scores that are held, at 12 bytes each (a multiple of that while they are joined);
            None holds all of them and is exact.
    """

    def __init__(self, budget: int | None = _DEFAULT_BUDGET) -> None:
        if budget is not None and budget < 8 * _SKETCHES:
            raise OutmaskError(f"budget must be None (exact) or at least {8 * _SKETCHES} scores, got {budget}")
        share = None if budget is None else budget // 2
        self._known, self._anomaly = _Population(share), _Population(share)

    def update(self, score: NDArray[Any] | Tensor, label: NDArray[Any] | Tensor) -> None:
        """Count the pixels of one image (or of any other set).

        Args:
            score: floating, any shape, larger = more anomalous; compared as float32, infinities allowed.
            label: integer, the same shape: 0 known, 1 anomaly, anything else outside (not looked at).

        Raises:
            OutmaskError: on other types or shapes that differ, or a NaN at a known or anomaly pixel; nothing of the
                image is counted then.
        """
        scores, labels = _checked(score, label)
        chunks = [slice(start, start + _CHUNK) for start in range(0, scores.size, _CHUNK)]
        for value, population in ((KNOWN, self._known), (ANOMALY, self._anomaly)):
            for start in range(0, len(chunks), _THREADS):
                several = chunks[start : start + _THREADS]
                for pixels in _parallel(partial(_count, scores, labels, value, population.bins), several):
                    population.add(pixels)

    def merge(self, other: PixelMetrics) -> None:
        """Add everything that ``other`` has counted."""
        self._known.merge(other._known)
        self._anomaly.merge(other._anomaly)

    def counts(self, bins: int | None = None) -> Counts:
        """All pixels so far per distinct score, or in at most about ``bins`` bins under their median scores."""
        known, anomaly = (population.total() for population in (self._known, self._anomaly))
        if bins is not None:
            known, anomaly = (_coarsen(population, bins // 2) for population in (known, anomaly))
        scores = np.concatenate([known.scores, anomaly.scores])
        none = np.zeros(len(scores), np.int64)
        counts = Counts(scores, none, none.copy())
        counts.known[: len(known.scores)] = known.pixels
        counts.anomaly[len(known.scores) :] = anomaly.pixels
        order, starts = _falling(scores)
        return Counts(scores[order][starts], *(np.add.reduceat(part[order], starts) for part in counts[1:]))

    def curve(self) -> Curve:
        """The PR and ROC curves of all pixels so far, in counts."""
        return Curve.of(self.counts())

    def compute(self) -> dict[str, float]:
        """The metrics in percent.

        Returns:
            ``AP``: sum of recall steps times precision, over the distinct scores as thresholds.
            ``AUROC``: area under the ROC curve, ties counted half.
            ``FPR95``, ``FPR90``: false-positive rate at the first (highest) threshold with a true-positive rate of at
            least 95 % (90 %); ``curve().at_tpr`` gives any other.
            ``best_F1``: the largest pixel F1 over all thresholds.
            ``anomaly_share``: anomaly pixels among those counted, the AP of chance.
            A value that these pixels do not define is NaN: everything but ``anomaly_share`` without anomaly pixels,
            ``AUROC`` and the FPRs without known pixels.
        """
        return self.curve().compute()


class _Pixels(NamedTuple):
    """Pixels of one kind per distinct score, or per bin under its median score."""

    scores: NDArray[np.float32]
    """Strictly falling."""
    pixels: NDArray[np.int64]


class _Population:
    """The scores of one kind of pixels: exact up to a budget, then sketches of a sixteenth of it each.

    Every chunk becomes a sketch, and two sketches that stand for equally many chunks become one: a pixel is moved once
    per doubling of the data, by at most one bin each time, so that error and memory grow with the logarithm of the
    pixels.
    """

    def __init__(self, budget: int | None) -> None:
        self._budget = budget
        self._exact: list[_Pixels] = []
        self._held = 0
        """Scores in the exact runs, equal ones of different runs counted apart."""
        self._sketches: list[tuple[int, _Pixels]] = []
        """``(level, sketch of 2^level chunks)``, by falling level."""

    @property
    def bins(self) -> int | None:
        """The most bins of a sketch; None while everything is counted exactly."""
        return self._budget // _SKETCHES if self._budget is not None and self._sketches else None

    def add(self, pixels: _Pixels) -> None:
        """Take in a chunk of pixels."""
        self._exact.append(pixels)
        self._held += len(pixels.scores)
        if self._sketches:
            self._sketch_exact()
        elif len(self._exact) > _RUNS or (self._budget is not None and self._held > self._budget):
            self._exact = [_join(self._exact)]  # images may share their scores
            self._held = len(self._exact[0].scores)
            if self._budget is not None and self._held > self._budget:
                self._sketch_exact()

    def merge(self, other: _Population) -> None:
        """Add what ``other`` has counted."""
        exact, sketches = list(other._exact), list(other._sketches)  # copies: it may be merged into itself
        if self._budget is None:
            exact += [sketch for _, sketch in sketches]
        elif sketches:
            self._sketch_exact()
            self._sketches += sketches
            self._settle()
        for pixels in exact:
            self.add(pixels)

    def total(self) -> _Pixels:
        """All of it, joined."""
        if self._exact:
            self._exact = [_join(self._exact)]
            self._held = len(self._exact[0].scores)
        return _join(self._exact + [sketch for _, sketch in self._sketches])

    def _sketch_exact(self) -> None:
        if self._budget is not None:
            bins = self._budget // _SKETCHES
            self._sketches += [(0, _coarsen(run, bins)) for run in self._exact]
            self._exact, self._held = [], 0
            self._settle()

    def _settle(self) -> None:
        """Merge sketches of one level until each level has at most one, and all of them fit into the budget."""
        assert self._budget is not None
        bins = self._budget // _SKETCHES
        by_level = sorted(self._sketches, key=lambda entry: -entry[0])
        self._sketches = []
        while by_level:
            level, sketch = by_level.pop()
            if by_level and (by_level[-1][0] == level or len(by_level) + len(self._sketches) >= _SKETCHES):
                other_level, other = by_level.pop()
                by_level.append((max(level, other_level) + 1, _coarsen(_join([sketch, other]), bins)))
                by_level.sort(key=lambda entry: -entry[0])
            else:
                self._sketches.insert(0, (level, sketch))


def _checked(score: NDArray[Any] | Tensor, label: NDArray[Any] | Tensor) -> tuple[NDArray[Any], NDArray[Any]]:
    """Score and label as flat arrays."""
    scores, labels = as_array(score), as_array(label)
    if scores.dtype.kind != "f" or labels.dtype.kind not in "iub":
        raise OutmaskError(
            f"expected a floating-point score and an integer label map, got {scores.dtype} and {labels.dtype}"
        )
    if scores.shape != labels.shape:
        raise OutmaskError(f"score and label must have the same shape, got {scores.shape} and {labels.shape}")
    scores, labels = scores.ravel(), labels.ravel()
    undefined = np.isnan(scores)
    if undefined.any() and (evaluated := int(np.isin(labels[undefined], (KNOWN, ANOMALY)).sum())):
        raise OutmaskError(f"the score has NaN at {evaluated} evaluated pixels")
    return scores, labels


def _parallel(function: Callable[[slice], _Pixels], chunks: list[slice]) -> Iterable[_Pixels]:
    """``map``, in threads where that pays: NumPy sorts without holding the interpreter's lock."""
    if len(chunks) < 2:
        return map(function, chunks)
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(function, chunks))


def _count(scores: NDArray[np.float32], labels: NDArray[Any], value: int, bins: int | None, chunk: slice) -> _Pixels:
    """A chunk's pixels of one label per distinct score, or in at most about ``bins`` bins."""
    with np.errstate(over="ignore"):  # a float64 beyond float32's range is infinite
        chosen = scores[chunk][labels[chunk] == value].astype(np.float32)
    chosen.sort()  # rising: numpy has no falling sort
    starts = np.flatnonzero(changes(chosen))
    pixels = _Pixels(chosen[starts][::-1], np.diff(starts, append=chosen.size)[::-1])
    return pixels if bins is None else _coarsen(pixels, bins)


def _falling(scores: NDArray[np.float32]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The order in which sorted runs of scores fall, and where in it a new score starts."""
    order = np.argsort(-scores, kind="stable")  # merges sorted runs in linear time
    return order, np.flatnonzero(changes(scores[order]))


def changes(values: NDArray[Any]) -> NDArray[np.bool_]:
    """``(n,)``: True where one of n values differs from the one before it, and at the first."""
    return np.append(True, values[1:] != values[:-1])[: len(values)]


def _join(runs: list[_Pixels]) -> _Pixels:
    """One population out of several; equal scores are added up."""
    if len(runs) == 1:
        return runs[0]
    scores = np.concatenate([np.empty(0, np.float32), *(run.scores for run in runs)])
    pixels = np.concatenate([np.empty(0, np.int64), *(run.pixels for run in runs)])
    order, starts = _falling(scores)
    return _Pixels(scores[order][starts], np.add.reduceat(pixels[order], starts))


def _coarsen(population: _Pixels, bins: int) -> _Pixels:
    """Join neighbouring scores until at most about ``bins`` are left, with the least harm to the curves.

    A new bin starts wherever one of two quantities reaches its next step: the pixels so far, in equal steps (TPR and
    FPR are kept to a step), and their logarithm (precision is kept to a *relative* step, also at the top, where few
    pixels decide it). A score that alone exceeds a step stays alone with at most lighter ones after it. Each bin stands
    under its median score.
    """
    if len(population.scores) <= bins:
        return population
    share = np.arange(1, bins // 2 + 1) / (bins // 2)
    so_far = np.cumsum(population.pixels)
    steps = np.sort(np.concatenate([[0], share * so_far[-1], np.exp(share * np.log(so_far[-1]))]))
    starts = np.searchsorted(so_far, steps)
    starts = starts[changes(starts) & (starts < len(so_far))]  # the logarithm's last step may be rounded up
    pixels = np.add.reduceat(population.pixels, starts)
    # Under the first or the last score, every coarsening would move all pixels the same way.
    medians = np.searchsorted(so_far, np.cumsum(pixels) - pixels / 2)
    return _Pixels(population.scores[medians], pixels)


def _shares(above: NDArray[np.int64], total: int) -> NDArray[np.float64]:
    """Of the counts above rising inner edges, the share in each bin."""
    counts: NDArray[np.int64] = -np.diff(above, prepend=total, append=0)
    return counts / (total or np.nan)


def _check_rate(name: str, percent: float) -> None:
    if not 0 < percent <= 100:
        raise OutmaskError(f"a {name} must be above 0 and at most 100 percent, got {percent}")
