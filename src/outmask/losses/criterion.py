"""The loss of a mask classifier: match every target to a query, then supervise classes and masks in every layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from outmask.errors import OutmaskError
from outmask.losses.masks import (
    average_num_masks,
    average_over_processes,
    check_targets,
    mask_bce,
    mask_dice,
    split_ignored,
    target_maps,
)
from outmask.losses.matcher import match
from outmask.losses.negative_class import with_negative_class
from outmask.losses.points import Generators, draw_training_points, sample_points, seeded_generators
from outmask.types import MaskPrediction

if TYPE_CHECKING:
    from outmask.data.labels import Target


@dataclass(frozen=True)
class SetCriterion:
    """``class_weight * CE + mask_weight * BCE + dice_weight * dice`` in every decoder layer (Mask2Former 3.2-3.3).

    Defaults are Mask2Former's, which both papers keep. The same three weights weigh the costs of the matching.

    Attributes:
        num_classes: K, without *no object*.
        negative_class: pasted objects are no void, but one more class to recognise (UNO, Delic et al. 2024).
        class_weight: of the cross-entropy over all queries, unmatched ones being *no object*.
        mask_weight: of the binary cross-entropy of matched masks.
        dice_weight: of their dice loss.
        no_object_weight: of *no object* among the classes of the cross-entropy, above 0.
        num_points: points on which masks are matched and compared.
        oversample: candidates per point when points are chosen by uncertainty, at least 1.
        importance: share of the points chosen by uncertainty, in [0, 1].

    Raises:
        OutmaskError: on values outside of these ranges.
    """

    num_classes: int
    class_weight: float = 2.0
    mask_weight: float = 5.0
    dice_weight: float = 5.0
    no_object_weight: float = 0.1
    num_points: int = 12544
    oversample: int = 3
    importance: float = 0.75
    negative_class: bool = False

    def __post_init__(self) -> None:
        if self.num_classes < 1 or self.num_points < 1 or self.oversample < 1:
            raise OutmaskError(
                "num_classes, num_points and oversample must be at least 1, "
                f"got {self.num_classes}, {self.num_points} and {self.oversample}"
            )
        if not 0 <= self.importance <= 1:
            raise OutmaskError(f"importance must be in [0, 1], got {self.importance}")
        if self.no_object_weight <= 0 or min(self.class_weight, self.mask_weight, self.dice_weight) < 0:
            raise OutmaskError(
                "class_weight, mask_weight and dice_weight must not be negative and no_object_weight must be above 0, "
                f"got {self.class_weight}, {self.mask_weight}, {self.dice_weight} and {self.no_object_weight}"
            )

    def __call__(
        self, prediction: MaskPrediction, targets: Sequence[Target], seeds: Sequence[int] | None = None
    ) -> dict[str, Tensor]:
        """Weighted losses of a batch, computed in float32; their sum is the total.

        Pixels of ``Target.ignore`` count nowhere. Every other pixel outside of a target mask counts as 0 in it, so a
        mask is penalised for claiming void (M2F-EAM 3.4).

        Args:
            prediction: of B images, with L - 1 auxiliary predictions.
            targets: of the same B images, all of one size, on the prediction's device; that size is usually 4 times
                that of the mask logits.
            seeds: of the points, one per image; by default they come from torch's own generator.

        Returns:
            float32 scalars ``class``, ``mask`` and ``dice``, and the same of auxiliary prediction i as ``class_i``,
            ``mask_i``, ``dice_i``. Without any target the mask losses are 0 and still differentiable.

        Raises:
            OutmaskError: where targets do not fit the prediction; as ``NotFinite`` where a cost of the matching is not.
        """
        self._validate(prediction, targets)
        if self.negative_class:
            targets = [with_negative_class(target, self.num_classes) for target in targets]
        layers = (*prediction.auxiliary, prediction)
        with torch.autocast(prediction.mask_logits.device.type, enabled=False):
            counts = [len(target.class_ids) for target in targets]
            maps = target_maps(targets)
            # Before the matching: a process whose logits are not finite leaves there, and has met all others by then.
            num_masks = average_num_masks(targets, maps.device)
            total_weight = self._total_class_weight(counts, prediction)
            generators = [None] * len(targets) if seeds is None else seeded_generators(seeds, maps.device)
            queries = match(
                layers,
                [target.class_ids for target in targets],
                torch.split(maps, counts),
                class_weight=self.class_weight,
                mask_weight=self.mask_weight,
                dice_weight=self.dice_weight,
                num_points=self.num_points,
                generators=generators,
            )
            images = torch.arange(len(targets)).repeat_interleave(torch.tensor(counts)).to(queries.device)
            class_ids = torch.cat([target.class_ids for target in targets])
            bce, dice = self._mask_losses(layers, maps, counts, images, queries, generators)
            losses = {
                "class": self.class_weight * self._class_losses(layers, class_ids, images, queries) / total_weight,
                "mask": self.mask_weight * bce / num_masks,
                "dice": self.dice_weight * dice / num_masks,
            }
        suffixes = [*(f"_{index}" for index in range(len(prediction.auxiliary))), ""]
        return {
            f"{name}{suffix}": value
            for name, values in losses.items()
            for suffix, value in zip(suffixes, values.unbind(), strict=True)
        }

    def _class_losses(
        self, layers: Sequence[MaskPrediction], class_ids: Tensor, images: Tensor, queries: Tensor
    ) -> Tensor:
        """Weighted cross-entropy, summed over all queries of the batch, ``(L,)``."""
        logits = torch.stack([layer.class_logits for layer in layers]).float()  # (L, B, N, K + 1)
        no_object = logits.shape[-1] - 1
        labels = torch.full(logits.shape[:-1], no_object, device=logits.device)
        layer, target = (queries >= 0).nonzero(as_tuple=True)
        labels[layer, images[target], queries[layer, target]] = class_ids[target]
        weights = torch.ones(no_object + 1, device=logits.device)
        weights[no_object] = self.no_object_weight
        loss = F.cross_entropy(logits.flatten(0, 2), labels.flatten(), weights, reduction="none")
        return loss.view(len(layers), -1).sum(1)

    def _total_class_weight(self, counts: Sequence[int], prediction: MaskPrediction) -> Tensor:
        """Sum of the cross-entropy's weights, per process: 1 for a matched query, ``no_object_weight`` for another."""
        batch, num_queries = prediction.class_logits.shape[:2]
        matched = sum(min(count, num_queries) for count in counts)
        total = matched + self.no_object_weight * (batch * num_queries - matched)
        return average_over_processes(torch.tensor(total, device=prediction.class_logits.device))

    def _mask_losses(
        self,
        layers: Sequence[MaskPrediction],
        maps: Tensor,
        counts: Sequence[int],
        images: Tensor,
        queries: Tensor,
        generators: Generators,
    ) -> tuple[Tensor, Tensor]:
        """BCE and dice of the matched masks, summed over the batch, each ``(L,)``."""
        chosen = queries.clamp(min=0)  # (L, T)
        matched_masks = [layer.mask_logits[images, row] for layer, row in zip(layers, chosen, strict=True)]
        mask_logits = torch.stack(matched_masks, dim=1).float()  # (T, L, h, w): all layers are compared at once
        points, labels = draw_training_points(
            mask_logits, maps, counts, self.num_points, self.oversample, self.importance, generators
        )
        logits = sample_points(mask_logits.flatten(0, 1)[:, None], points.flatten(0, 1)).view(labels.shape)
        labels, weights = split_ignored(labels)
        matched = (queries >= 0).T  # a target without a query borrowed one above: no loss
        return (
            (mask_bce(logits, labels, weights) * matched).sum(0),
            (mask_dice(logits, labels, weights) * matched).sum(0),
        )

    def _validate(self, prediction: MaskPrediction, targets: Sequence[Target]) -> None:
        if prediction.num_classes != self.num_classes:
            raise OutmaskError(
                f"the prediction has {prediction.num_classes} classes and the criterion {self.num_classes}: "
                "give both the same"
            )
        if prediction.negative_class != self.negative_class:
            raise OutmaskError(
                f"the prediction has {'a' if prediction.negative_class else 'no'} negative class and the criterion "
                f"{'one' if self.negative_class else 'none'}: build both alike"
            )
        check_targets(targets, len(prediction.class_logits), self.num_classes)
