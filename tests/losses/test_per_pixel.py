"""The per-pixel losses: label maps, equations read pixel by pixel, gradients, and two processes."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import timedelta
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, multiprocessing
from torch.nn import functional as F

from outmask.data.labels import IGNORE, VOID, Target
from outmask.errors import OutmaskError
from outmask.losses.per_pixel import (
    UNLABELLED,
    DenseHybrid,
    EnergyMargin,
    MaximisedEntropy,
    OutlierHead,
    PixelCriterion,
    PixelCrossEntropy,
    VoidClassifier,
    label_maps,
)
from outmask.types import MaskPrediction, PixelPrediction

CLASSES = 4
CRITERIA: list[PixelCriterion] = [
    PixelCrossEntropy(CLASSES),
    VoidClassifier(CLASSES),
    OutlierHead(CLASSES),
    MaximisedEntropy(CLASSES),
    # Margins within the reach of small random logits, so that pixels lie on both sides.
    EnergyMargin(CLASSES, known_margin=-3.0, outlier_margin=-2.0),
    DenseHybrid(CLASSES),
]
EVERY_CRITERION = pytest.mark.parametrize("criterion", CRITERIA, ids=lambda criterion: type(criterion).__name__)

# What a pixel of each of these letters is: two classes, void of the data set, pasted, ignored.
KINDS = {"0": 0, "2": 2, "v": VOID, "p": VOID, "i": IGNORE}


def target(*rows: str) -> Target:
    """Rows of the letters of ``KINDS``."""
    labels = torch.tensor([[KINDS[letter] for letter in row] for row in rows], dtype=torch.uint8).numpy()
    pasted = torch.tensor([[letter == "p" for letter in row] for row in rows]).numpy()
    return Target.from_labels(labels, pasted, CLASSES)


TARGETS = [target("00ip", "02vp", "22vi"), target("2222", "0vvi", "pppp")]


def prediction(
    needs_outlier_logits: bool, size: tuple[int, int] = (3, 4), dtype: torch.dtype = torch.float64, scale: float = 2.0
) -> PixelPrediction:
    generator = torch.Generator().manual_seed(0)
    maps = scale * torch.randn(2, CLASSES + 1, *size, generator=generator, dtype=torch.float64).to(dtype)
    logits, outlier_logits = maps[:, :-1].clone().requires_grad_(), maps[:, -1].clone().requires_grad_()
    return PixelPrediction(logits, outlier_logits if needs_outlier_logits else None)


def leaves(made: PixelPrediction) -> list[Tensor]:
    return [made.logits] if made.outlier_logits is None else [made.logits, made.outlier_logits]


def channels(part: Tensor) -> Tensor:
    """``(B, K, h, w)`` as they are, ``(B, h, w)`` as one channel."""
    return part if part.ndim == 4 else part[:, None]


# --- The targets. -----------------------------------------------------------------------------------------------------


def test_label_maps_tell_class_pasted_void_and_ignored_apart() -> None:
    labels, outlier, void = label_maps([target("02vpi")])
    assert labels.dtype == torch.int64
    assert labels[0].tolist() == [[0, 2, UNLABELLED, UNLABELLED, UNLABELLED]]
    assert outlier[0].tolist() == [[False, False, False, True, False]]
    assert void[0].tolist() == [[False, False, True, True, False]]


def test_label_maps_of_many_masks_of_a_class_and_of_none() -> None:
    masks = torch.zeros(3, 1, 5, dtype=torch.bool)
    masks[0, 0, 0] = masks[1, 0, 1] = masks[2, 0, 3] = True
    nothing = torch.zeros(1, 5, dtype=torch.bool)
    several = Target(torch.tensor([3, 3, 1]), masks, nothing, nothing[None])
    empty = Target(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 1, 5, dtype=torch.bool), nothing, nothing[None])
    labels, _, void = label_maps([several, empty])
    assert labels.tolist() == [[[3, 3, -1, 1, -1]], [[-1] * 5]]
    assert void[1].all()


def test_ignored_pixels_are_ignored_whatever_else_they_are() -> None:
    everywhere = torch.ones(1, 2, dtype=torch.bool)
    labels, outlier, void = label_maps([Target(torch.tensor([1]), everywhere[None], everywhere, everywhere[None])])
    assert (labels == UNLABELLED).all()
    assert not outlier.any()
    assert not void.any()


# --- The equations, pixel by pixel. -----------------------------------------------------------------------------------


def mean(values: list[Tensor]) -> Tensor:
    return torch.stack(values).mean()


def plain_losses(criterion: PixelCriterion, made: PixelPrediction) -> dict[str, Tensor]:
    """What the docstrings say, for a prediction of the targets' size."""
    known: list[Tensor] = []
    in_outlier: list[Tensor] = []
    energies: list[Tensor] = []
    pasted: list[tuple[Tensor, Tensor]] = []
    everything: list[Tensor] = []
    for image, rows in enumerate([("00ip", "02vp", "22vi"), ("2222", "0vvi", "pppp")]):
        for y, row in enumerate(rows):
            for x, letter in enumerate(row):
                c = made.logits[image, :, y, x]
                o = torch.zeros_like(c[0]) if made.outlier_logits is None else made.outlier_logits[image, y, x]
                if letter in "02":
                    known.append(-c.softmax(0)[int(letter)].log())
                    in_outlier.append(-(1 - o.sigmoid()).log())
                    energies.append(-c.exp().sum().log())
                    everything.append(-torch.cat([c, o[None]]).softmax(0)[int(letter)].log())
                elif letter in "vp":
                    everything.append(-torch.cat([c, o[None]]).softmax(0)[CLASSES].log())
                if letter == "p":
                    pasted.append((c, o))
                    in_outlier.append(-o.sigmoid().log())
    match criterion:
        case VoidClassifier():
            return {"class": mean(everything)}
        case OutlierHead():
            return {"class": mean(known), "outlier": 0.2 * mean(in_outlier)}
        case MaximisedEntropy():
            to_uniform = [F.cross_entropy(c, torch.full_like(c, 1 / CLASSES)) for c, _ in pasted]
            return {"class": 0.1 * mean(known), "outlier": 0.9 * mean(to_uniform)}
        case EnergyMargin():
            high = [max(torch.zeros_like(e), e + 3) ** 2 for e in energies]
            low = [max(torch.zeros_like(c[0]), -2 + c.exp().sum().log()) ** 2 for c, _ in pasted]
            return {"class": mean(known), "energy": 0.1 * 0.5 * (mean(high) + mean(low))}
        case DenseHybrid():
            likelihood = 0.03 * mean([c.exp().sum().log() for c, _ in pasted])
            return {"class": mean(known), "outlier": 0.3 * mean(in_outlier), "likelihood": likelihood}
    return {"class": mean(known)}


@EVERY_CRITERION
def test_losses_are_their_equations(criterion: PixelCriterion) -> None:
    made = prediction(criterion.needs_outlier_logits)
    torch.testing.assert_close(criterion(made, TARGETS), plain_losses(criterion, made))


@EVERY_CRITERION
def test_gradients_are_those_of_finite_differences(criterion: PixelCriterion) -> None:
    made = prediction(criterion.needs_outlier_logits, size=(2, 2))  # resized to 3 x 4 on the way

    def total(logits: Tensor, *outlier_logits: Tensor) -> Tensor:
        return torch.stack(list(criterion(PixelPrediction(logits, *outlier_logits), TARGETS).values())).sum()

    assert torch.autograd.gradcheck(total, leaves(made))


@EVERY_CRITERION
def test_logits_are_resized_to_the_targets_first(criterion: PixelCriterion) -> None:
    made = prediction(criterion.needs_outlier_logits, size=(2, 2))
    resized = [F.interpolate(channels(part), (3, 4), mode="bilinear") for part in leaves(made)]
    there = PixelPrediction(resized[0], resized[1][:, 0] if len(resized) > 1 else None)
    torch.testing.assert_close(criterion(made, TARGETS), criterion(there, TARGETS))


# --- Closed forms. ----------------------------------------------------------------------------------------------------


def test_undecided_logits_cost_what_they_must() -> None:
    nothing = PixelPrediction(torch.zeros(2, CLASSES, 3, 4), torch.zeros(2, 3, 4))
    closed = PixelPrediction(nothing.logits)
    log_k = math.log(CLASSES)
    expected: list[tuple[PixelCriterion, PixelPrediction, dict[str, float]]] = [
        (PixelCrossEntropy(CLASSES), closed, {"class": log_k}),
        (VoidClassifier(CLASSES), nothing, {"class": math.log(CLASSES + 1)}),
        (OutlierHead(CLASSES), nothing, {"class": log_k, "outlier": 0.2 * math.log(2)}),
        (MaximisedEntropy(CLASSES), closed, {"class": 0.1 * log_k, "outlier": 0.9 * log_k}),
        # E = -log 4: too high by 12 - log 4 for pixels of a class, high enough for pasted ones.
        (EnergyMargin(CLASSES), closed, {"class": log_k, "energy": 0.05 * (12 - log_k) ** 2}),
        (
            DenseHybrid(CLASSES),
            nothing,
            {"class": log_k, "outlier": 0.3 * math.log(2), "likelihood": 0.03 * log_k},
        ),
    ]
    for criterion, made, values in expected:
        losses = {name: value.item() for name, value in criterion(made, TARGETS).items()}
        assert losses == pytest.approx(values, rel=1e-6), type(criterion).__name__


def test_maximised_entropy_is_least_at_the_uniform_distribution() -> None:
    at_uniform = MaximisedEntropy(CLASSES)(PixelPrediction(torch.full((1, CLASSES, 1, 4), 7.0)), [target("pppp")])
    assert at_uniform["outlier"].item() == pytest.approx(0.9 * math.log(CLASSES), rel=1e-6)
    other = MaximisedEntropy(CLASSES)(PixelPrediction(torch.randn(1, CLASSES, 1, 4)), [target("pppp")])
    assert other["outlier"] > at_uniform["outlier"]


def test_energies_beyond_their_margins_cost_nothing() -> None:
    # One logit of 20, the others at -20: E = -20 for a class. All at -20: E = 20 - log 4.
    logits = torch.full((1, CLASSES, 1, 2), -20.0)
    logits[0, 2, 0, 0] = 20
    assert EnergyMargin(CLASSES)(PixelPrediction(logits), [target("2p")])["energy"].item() == 0
    swapped = EnergyMargin(CLASSES)(PixelPrediction(logits.flip(3)), [target("2p")])["energy"].item()
    too_high, too_low = 20 - math.log(4) + 12, -6 + 20
    assert swapped == pytest.approx(0.05 * (too_high**2 + too_low**2), rel=1e-6)


def test_the_void_classifier_is_a_classifier_of_one_more_class() -> None:
    made = prediction(True)
    assert made.outlier_logits is not None
    logits = torch.cat([made.logits, made.outlier_logits[:, None]], 1)
    labels = torch.tensor([[[0, 0, 9, 4], [0, 2, 4, 4], [2, 2, 4, 9]], [[2, 2, 2, 2], [0, 4, 4, 9], [4, 4, 4, 4]]])
    expected = F.cross_entropy(logits, labels, ignore_index=9)
    torch.testing.assert_close(VoidClassifier(CLASSES)(made, TARGETS)["class"], expected)


# --- What counts and what doesn't. ------------------------------------------------------------------------------------


@EVERY_CRITERION
def test_pixels_that_do_not_count_get_no_gradient_and_all_others_do(criterion: PixelCriterion) -> None:
    made = prediction(criterion.needs_outlier_logits)
    # Margins that every energy violates, so that no hinge hides a pixel.
    if isinstance(criterion, EnergyMargin):
        criterion = EnergyMargin(CLASSES, known_margin=-50.0, outlier_margin=50.0)
    total = torch.stack(list(criterion(made, TARGETS).values())).sum()
    gradients = torch.cat([channels(gradient) for gradient in torch.autograd.grad(total, leaves(made))], 1)
    reached = (gradients != 0).any(1)
    labels, outlier, void = label_maps(TARGETS)
    known = labels != UNLABELLED
    match criterion:
        case PixelCrossEntropy():
            assert torch.equal(reached, known)
        case VoidClassifier():
            assert torch.equal(reached, known | void)
        case _:
            assert torch.equal(reached, known | outlier)


@EVERY_CRITERION
@pytest.mark.parametrize("letter", ["i", "v", "0", "p"])
def test_terms_without_pixels_are_zero_and_differentiable(criterion: PixelCriterion, letter: str) -> None:
    made = prediction(criterion.needs_outlier_logits, size=(1, 2))
    losses = criterion(made, [target(letter * 4), target(letter * 4)])
    void_is_a_class = isinstance(criterion, VoidClassifier)
    assert (losses["class"].item() > 0) == (letter == "0" or (void_is_a_class and letter in "vp"))
    if "outlier" in losses:  # a head learns from both sides, entropy from pasted pixels alone
        assert (losses["outlier"].item() > 0) == (letter == "p" or (criterion.needs_outlier_logits and letter == "0"))
    if "likelihood" in losses:
        assert (losses["likelihood"].item() != 0) == (letter == "p")
    if letter == "i":
        assert all(value.item() == 0 for value in losses.values())
    total = torch.stack(list(losses.values())).sum()
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(total, leaves(made)))


@EVERY_CRITERION
@pytest.mark.parametrize("scale", [1e4, 1e15])
def test_huge_logits_have_finite_losses_and_gradients(criterion: PixelCriterion, scale: float) -> None:
    made = prediction(criterion.needs_outlier_logits, dtype=torch.float32, scale=scale)
    losses = criterion(made, TARGETS)
    assert all(value.isfinite() for value in losses.values())
    total = torch.stack(list(losses.values())).sum()
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(total, leaves(made)))


@EVERY_CRITERION
def test_losses_are_float32_under_autocast(criterion: PixelCriterion) -> None:
    half = prediction(criterion.needs_outlier_logits, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        losses = criterion(half, TARGETS)
    exact = criterion(PixelPrediction(*(part.float() for part in leaves(half))), TARGETS)
    assert all(value.dtype == torch.float32 for value in losses.values())
    torch.testing.assert_close(losses, exact, rtol=0, atol=0)


# --- Two processes. ---------------------------------------------------------------------------------------------------


def _gradients(criterion: PixelCriterion, images: slice) -> list[Tensor]:
    """Of one process' share of the joint batch, with respect to all of it."""
    made = prediction(criterion.needs_outlier_logits)
    share = PixelPrediction(*(part[images] for part in leaves(made)))
    total = torch.stack(list(criterion(share, TARGETS[images]).values())).sum()
    return list(torch.autograd.grad(total, leaves(made)))


def _process(rank: int, rendezvous: str) -> list[list[Tensor]]:
    distributed.init_process_group(
        "gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2, timeout=timedelta(seconds=120)
    )
    try:
        gradients = [_gradients(criterion, slice(rank, rank + 1)) for criterion in CRITERIA]
        for gradient in chain(*gradients):  # as DistributedDataParallel averages them
            distributed.all_reduce(gradient)
            gradient /= 2
        distributed.barrier()  # neither process leaves while the other still needs it
        return gradients
    finally:
        distributed.destroy_process_group()


def _other_process(index: int, rendezvous: str) -> None:
    _process(1, rendezvous)


def test_two_processes_give_the_gradients_of_the_joint_batch(tmp_path: Path) -> None:
    # The two images differ in their numbers of known, void and pasted pixels.
    rendezvous = str(tmp_path / "rendezvous")
    other = multiprocessing.spawn(_other_process, (rendezvous,), join=False)
    gradients = _process(0, rendezvous)
    while not other.join():
        pass
    for criterion, found in zip(CRITERIA, gradients, strict=True):
        joint = _gradients(criterion, slice(0, 2))
        # Counts are exchanged as float32, whose rounding of 1 / 5 or 1 / 9 is 6e-8 of it.
        torch.testing.assert_close(found, joint, rtol=1e-6, atol=0, msg=lambda text, c=criterion: f"{c}: {text}")


# --- Refusals. --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: PixelCrossEntropy(0), "num_classes must be at least 1, got 0"),
        (lambda: OutlierHead(3, outlier_weight=-1.0), "outlier_weight must not be negative, got -1.0"),
        (lambda: DenseHybrid(3, likelihood_weight=-1.0), "likelihood_weight must not be negative"),
        (lambda: EnergyMargin(3, energy_weight=-1.0), "energy_weight must not be negative"),
        (
            lambda: EnergyMargin(3, known_margin=-5.0),
            "known_margin must not be above outlier_margin, got -5.0 and -6.0",
        ),
        (lambda: MaximisedEntropy(3, outlier_weight=1.5), r"outlier_weight must be in \[0, 1\], got 1.5"),
    ],
)
def test_refuses_settings_without_meaning(make: Callable[[], Any], complaint: str) -> None:
    with pytest.raises(OutmaskError, match=complaint):
        make()


def test_refuses_predictions_and_targets_that_do_not_fit() -> None:
    criterion, made = PixelCrossEntropy(CLASSES), prediction(False)
    with pytest.raises(OutmaskError, match="4 classes and the criterion 9"):
        PixelCrossEntropy(9)(made, TARGETS)
    with pytest.raises(OutmaskError, match="1 targets for 2 images"):
        criterion(made, TARGETS[:1])
    with pytest.raises(OutmaskError, match="one size"):
        criterion(made, [TARGETS[0], target("00")])
    foreign = Target(TARGETS[1].class_ids + CLASSES, TARGETS[1].masks, TARGETS[1].ignore, TARGETS[1].outliers)
    with pytest.raises(OutmaskError, match="from 0 to 3"):
        criterion(made, [TARGETS[0], foreign])
    with pytest.raises(OutmaskError, match="got a MaskPrediction: use SetCriterion"):
        criterion(MaskPrediction(torch.zeros(2, 3, 5), torch.zeros(2, 3, 3, 4)), TARGETS)  # type: ignore[arg-type]
    with pytest.raises(OutmaskError, match="OutlierHead needs outlier_logits: build the model with outlier_head=True"):
        OutlierHead(CLASSES)(made, TARGETS)
    with pytest.raises(OutmaskError, match="does not train outlier_logits: build the model with outlier_head=False"):
        criterion(prediction(True), TARGETS)
