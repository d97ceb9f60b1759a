"""Mask2Former's losses: matching, class cross-entropy, mask BCE and dice on sampled points."""

from outmask.losses.criterion import SetCriterion

__all__ = ["SetCriterion"]
