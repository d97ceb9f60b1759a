"""Every anomaly score, declared: a weight per mask, how masks are pooled at a pixel, and what becomes of the result.

Notation: ``C_q`` the class logits of mask q over K classes and *no object*; ``P_q = softmax(C_q)`` over all K + 1, *no
object* dropped afterwards and the rest not renormalised; ``m_q = sigmoid(M_q)`` the mask's probability at a pixel;
``L_k = sum_q m_q P_q(k)`` the closed-set score of class k. Larger scores are more anomalous.

``outmask.scores.fused`` evaluates the declarations; a new score is one more of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from functools import cached_property

import torch
from torch import Tensor

from outmask.errors import OutmaskError

Weights = Callable[[Tensor], Tensor]
"""``(N, K + 1)`` class logits -> ``(N, columns)`` weights."""


class Pool(Enum):
    """How N masks become one value per weight column at each pixel."""

    MAX = auto()
    """``max_q m_q``; takes no weights."""
    SUM = auto()
    """``sum_q m_q W_q``."""
    STRONGEST = auto()
    """``W_q`` of ``q = argmax_q M_q``, over the logits because sigmoids saturate into ties; ``W_q >= 0``.

    Of masks that still tie the largest weight counts, so that the order of the masks doesn't.
    """
    NOISY_OR = auto()
    """``sum_q log(1 - m_q sigmoid(W_q))``: the weights are log-odds, so that neither 1 - m nor 1 - w cancels."""


@dataclass(frozen=True)
class Stack:
    """``(n, pixels)`` values and, computed once for all who ask, the largest of the n at each pixel."""

    values: Tensor

    @cached_property
    def peak(self) -> Tensor:
        """``(pixels,)``."""
        return self.values.amax(0)

    def argmax_(self) -> Tensor:
        """``(pixels,)`` int64, the first of equals; overwrites the values."""
        return first_mark(self.values.eq_(self.peak))


def first_mark(marks: Tensor) -> Tensor:
    """The first row that is marked: with the maxima marked, an argmax in a fifth of ``torch.argmax``'s time.

    Passes over whole rows vectorise, which a search along the first dimension does not.

    Args:
        marks: ``(n, pixels)`` float32 or float64, 1 or 0; they are overwritten.

    Returns:
        ``(pixels,)`` int64; the last row where nothing is marked.
    """
    last = len(marks) - 1
    rank = torch.arange(last, -1, -1, dtype=marks.dtype, device=marks.device)
    return last - marks.mul_(rank[:, None]).amax(0).long()


@dataclass(frozen=True)
class Score:
    """One anomaly score.

    Attributes:
        name: as users write it.
        pool: how the masks are pooled.
        weights: of the masks; scores that name the same function share its columns. None only for ``Pool.MAX``.
        finish: pooled ``(columns, pixels)`` values -> ``(pixels,)`` score; must not change them in place.
        equation: what is computed, in the notation above.
        source: who proposed it.
        display_range: K -> the values that pictures show as certainly known and certainly unknown.
        sees_negative: whether the weights see the *negative* class of a prediction that has one. To all others it is
            no object.
    """

    name: str
    pool: Pool
    weights: Weights | None
    finish: Callable[[Stack], Tensor]
    equation: str
    source: str
    display_range: Callable[[int], tuple[float, float]]
    sees_negative: bool = False


def class_probabilities(class_logits: Tensor) -> Tensor:
    """``P_q(k)``, ``(N, K)``: *no object* takes its share of the softmax and is dropped."""
    return class_logits.softmax(1)[:, :-1]


def _top_probability(class_logits: Tensor) -> Tensor:
    return class_probabilities(class_logits).amax(1, keepdim=True)


def _top_log_odds(class_logits: Tensor) -> Tensor:
    """``log(w / (1 - w))`` of ``w = max_k P_q(k)``: the top class against all others and *no object*."""
    top = class_logits[:, :-1].max(1, keepdim=True)
    others = class_logits.scatter(1, top.indices, -math.inf)
    return top.values - others.logsumexp(1, keepdim=True)


def _probability_energy(class_logits: Tensor) -> Tensor:
    return class_probabilities(class_logits).logsumexp(1, keepdim=True)


def _logit_energy(class_logits: Tensor) -> Tensor:
    return class_logits[:, :-1].logsumexp(1, keepdim=True)


def _negative_margin(class_logits: Tensor) -> Tensor:
    """``P_q(negative) - max_known P_q``, the negative class being the last before *no object*."""
    probabilities = class_probabilities(class_logits)
    if probabilities.shape[1] < 2:
        raise OutmaskError(
            "score 'uno' expects a known class and, last before 'no object', the negative class; "
            "the prediction has 1 class in all: choose another score"
        )
    return probabilities[:, -1:] - probabilities[:, :-1].amax(1, keepdim=True)


def _only(pooled: Stack) -> Tensor:
    return pooled.values[0]


def _negated(pooled: Stack) -> Tensor:
    return -pooled.values[0]


def _negated_peak(pooled: Stack) -> Tensor:
    return -pooled.peak


def _one_minus_peak(pooled: Stack) -> Tensor:
    return 1 - pooled.peak


def _negated_energy(pooled: Stack) -> Tensor:
    return -pooled.values.logsumexp(0)


def _negated_tanh_sum(pooled: Stack) -> Tensor:
    return -pooled.values.tanh().sum(0)


_M2F_EAM = "M2F-EAM (Grcic et al. 2023)"

_DECLARED = (
    Score(
        name="am",
        pool=Pool.MAX,
        weights=None,
        finish=_negated,
        equation="-max_q m_q",
        source=f"{_M2F_EAM} eq. 4",
        display_range=lambda k: (-1.0, 0.0),
    ),
    Score(
        name="ahm",
        pool=Pool.STRONGEST,
        weights=_top_probability,
        finish=_negated,
        equation="-max_k P_q(k) of q = argmax_q M_q",
        source=f"{_M2F_EAM} eq. 5",
        display_range=lambda k: (-1.0, 0.0),
    ),
    Score(
        name="aem",
        pool=Pool.SUM,
        weights=class_probabilities,
        finish=_negated_peak,
        equation="-max_k L_k",
        source=f"{_M2F_EAM} eq. 6",
        display_range=lambda k: (-1.0, 0.0),
    ),
    Score(
        name="aem-energy",
        pool=Pool.SUM,
        weights=class_probabilities,
        finish=_negated_energy,
        equation="-logsumexp_k L_k",
        source=f"{_M2F_EAM} table 5",
        # One class at 1 and the others at 0; all at 0.
        display_range=lambda k: (-math.log(math.e + k - 1), -math.log(k)),
    ),
    Score(
        name="eam",
        pool=Pool.SUM,
        weights=_top_probability,
        finish=_negated,
        equation="-sum_q m_q max_k P_q(k)",
        source=f"{_M2F_EAM} eq. 7",
        display_range=lambda k: (-1.0, 0.0),
    ),
    Score(
        name="eam-energy",
        pool=Pool.SUM,
        weights=_probability_energy,
        finish=_negated,
        equation="-sum_q m_q logsumexp_k P_q(k)",
        source=f"{_M2F_EAM} table 5, energy over the probabilities",
        # One mask of a certain class; none.
        display_range=lambda k: (-math.log(math.e + k - 1), 0.0),
    ),
    Score(
        name="eam-energy-logits",
        pool=Pool.SUM,
        weights=_logit_energy,
        finish=_negated,
        equation="-sum_q m_q logsumexp_k C_q(k)",
        source=f"{_M2F_EAM} table 5, energy over the logits",
        # One mask of a class at probability 0.99, the logits of the K others at 0: e^c = 99 K; none.
        display_range=lambda k: (-math.log(100 * k - 1), 0.0),
    ),
    Score(
        name="m2a",
        pool=Pool.SUM,
        weights=class_probabilities,
        finish=_one_minus_peak,
        equation="1 - max_k L_k",
        source="Mask2Anomaly (Rai et al. 2024) eq. 5",
        display_range=lambda k: (0.0, 1.0),
    ),
    Score(
        name="rba",
        pool=Pool.SUM,
        weights=class_probabilities,
        finish=_negated_tanh_sum,
        equation="-sum_k tanh(L_k)",
        source="RbA (Nayal et al. 2023)",
        # One class at 1 and the others at 0; all at 0.
        display_range=lambda k: (-math.tanh(1), 0.0),
    ),
    Score(
        name="uno",
        pool=Pool.SUM,
        weights=_negative_margin,
        finish=_only,
        equation="sum_q m_q [P_q(negative) - max_(k not negative) P_q(k)], negative = the last of the K classes",
        source="UNO (Delic et al. 2024)",
        display_range=lambda k: (-1.0, 1.0),
        sees_negative=True,
    ),
    Score(
        name="unclaimed",
        pool=Pool.NOISY_OR,
        weights=_top_log_odds,
        finish=_only,
        equation="sum_q log(1 - m_q max_k P_q(k))",
        source="outmask: the log-probability that no mask claims the pixel, masks taken as independent",
        # A pixel that its masks leave unclaimed with 5 % is as good as known; the score has no lower end.
        display_range=lambda k: (-3.0, 0.0),
    ),
)

SCORES = {score.name: score for score in _DECLARED}
