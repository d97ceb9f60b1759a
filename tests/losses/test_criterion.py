from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F
from transformers import Mask2FormerConfig
from transformers.models.mask2former.modeling_mask2former import Mask2FormerLoss

from outmask.data.labels import Target
from outmask.errors import OutmaskError
from outmask.losses import SetCriterion
from outmask.types import MaskPrediction

PredictionMaker = Callable[..., MaskPrediction]
TargetMaker = Callable[..., Target]
CLASSES, POINTS = 4, 80


def bilinear(map_: Tensor, points: Tensor) -> Tensor:
    return F.grid_sample(map_.float()[None, None], 2 * points[None, None] - 1, align_corners=False)[0, 0, 0]


def bce_and_dice(mask_logits: Tensor, mask: Tensor, ignore: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    counts = bilinear(ignore, points) == 0
    x, y = bilinear(mask_logits, points)[counts], bilinear(mask, points)[counts]
    if not len(x):
        return 0 * mask_logits.sum(), 0 * mask_logits.sum()
    p = x.sigmoid()
    dice = 1 - (2 * (p * y).sum() + 1) / (p.sum() + y.sum() + 1)
    return F.binary_cross_entropy_with_logits(x, y), dice


def plain_losses(prediction: MaskPrediction, targets: Sequence[Target], table: Tensor) -> dict[str, Tensor]:
    """The losses read from the paper, pair by pair: one layer, one image, one mask at a time."""
    candidates, uniform = table[: 3 * POINTS], table[3 * POINTS : 3 * POINTS + POINTS // 4]
    num_masks = max(1, sum(len(target.class_ids) for target in targets))
    losses = {}
    for suffix, layer in [*((f"_{i}", layer) for i, layer in enumerate(prediction.auxiliary)), ("", prediction)]:
        cross_entropy, total_weight, bce_sum, dice_sum = torch.zeros(()), 0.0, torch.zeros(()), torch.zeros(())
        for class_logits, mask_logits, target in zip(layer.class_logits, layer.mask_logits, targets, strict=True):
            cost = torch.zeros(len(mask_logits), len(target.class_ids))
            for q in range(cost.shape[0]):
                for t in range(cost.shape[1]):
                    bce, dice = bce_and_dice(mask_logits[q], target.masks[t], target.ignore, table[:POINTS])
                    cost[q, t] = 5 * bce + 5 * dice - 2 * class_logits[q].softmax(0)[target.class_ids[t]]
            matched = dict(zip(*linear_sum_assignment(cost.detach().numpy()), strict=True))
            for q in range(len(mask_logits)):
                label = int(target.class_ids[matched[q]]) if q in matched else CLASSES
                weight = 1.0 if q in matched else 0.1
                cross_entropy = cross_entropy - weight * class_logits[q].log_softmax(0)[label]
                total_weight += weight
            for q, t in matched.items():
                certainty = bilinear(mask_logits[q], candidates).detach().abs()
                certainty[bilinear(target.ignore, candidates) > 0] = torch.inf
                points = torch.cat([candidates[certainty.argsort()[: POINTS - POINTS // 4]], uniform])
                bce, dice = bce_and_dice(mask_logits[q], target.masks[t], target.ignore, points)
                bce_sum, dice_sum = bce_sum + bce, dice_sum + dice
        losses[f"class{suffix}"] = 2 * cross_entropy / total_weight
        losses[f"mask{suffix}"] = 5 * bce_sum / num_masks
        losses[f"dice{suffix}"] = 5 * dice_sum / num_masks
    return losses


def gradients(losses: dict[str, Tensor], prediction: MaskPrediction) -> list[Tensor]:
    layers = (*prediction.auxiliary, prediction)
    leaves = [logits for layer in layers for logits in (layer.class_logits, layer.mask_logits)]
    return list(torch.autograd.grad(torch.stack(list(losses.values())).sum(), leaves))


@pytest.mark.parametrize(
    ("counts", "ignored_rows"),
    [((3, 2), 0), ((3, 1), 12), ((0, 4), 4), ((8, 2), 4), ((0, 0), 4), ((2, 2), 32)],
    ids=["plain", "ignore", "an image without targets", "more targets than queries", "no targets", "all ignored"],
)
def test_equals_the_plain_losses(
    random_prediction: PredictionMaker,
    random_target: TargetMaker,
    fixed_points: Tensor,
    counts: tuple[int, int],
    ignored_rows: int,
) -> None:
    prediction = random_prediction(auxiliary=2)
    targets = [random_target(seed, count, ignored_rows=ignored_rows) for seed, count in enumerate(counts)]
    losses = SetCriterion(CLASSES, num_points=POINTS)(prediction, targets)
    expected = plain_losses(prediction, targets, fixed_points)
    torch.testing.assert_close(losses, {key: expected[key] for key in losses})
    assert losses.keys() == expected.keys()
    if sum(counts):
        for mine, plain in zip(gradients(losses, prediction), gradients(expected, prediction), strict=True):
            torch.testing.assert_close(mine, plain)


def test_equals_transformers(
    random_prediction: PredictionMaker,
    random_target: TargetMaker,
    fixed_points: Tensor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prediction = random_prediction(batch=3, queries=8, auxiliary=1)
    targets = [random_target(seed, count) for seed, count in ((0, 4), (1, 2), (2, 1))]
    losses = SetCriterion(CLASSES, num_points=POINTS)(prediction, targets)

    def rand(*size: int, device: torch.device | None = None, generator: torch.Generator | None = None) -> Tensor:
        """The peer draws its candidates and its uniform points in two calls, here in one."""
        start = 3 * POINTS if size[-2] == POINTS // 4 else 0
        return fixed_points[start : start + size[-2]].expand(*size).contiguous().to(device)

    monkeypatch.setattr(torch, "rand", rand)
    peer = Mask2FormerLoss(Mask2FormerConfig(num_labels=CLASSES, train_num_points=POINTS), weight_dict={})
    theirs = peer(
        prediction.mask_logits,
        prediction.class_logits,
        [target.masks.float() for target in targets],
        [target.class_ids for target in targets],
        [
            {"masks_queries_logits": layer.mask_logits, "class_queries_logits": layer.class_logits}
            for layer in prediction.auxiliary
        ],
    )
    names = {"class": ("loss_cross_entropy", 2), "mask": ("loss_mask", 5), "dice": ("loss_dice", 5)}
    expected = {
        f"{name}{suffix}": weight * theirs[f"{peer_name}{suffix}"]
        for name, (peer_name, weight) in names.items()
        for suffix in ("", "_0")
    }
    torch.testing.assert_close(losses, {key: expected[key] for key in losses})
    for mine, other in zip(gradients(losses, prediction), gradients(expected, prediction), strict=True):
        torch.testing.assert_close(mine, other)


def test_void_pushes_a_matched_mask_down_and_ignore_does_not_touch_it() -> None:
    # 16 x 16 mask logits of a 64 x 64 image: above, target in the left half and void in the right; below, ignore.
    mask_logits = torch.zeros(1, 1, 16, 16, requires_grad=True)
    prediction = MaskPrediction(torch.zeros(1, 1, CLASSES + 1), mask_logits)
    ignore = torch.zeros(64, 64, dtype=torch.bool)
    ignore[32:] = True
    mask = torch.zeros(1, 64, 64, dtype=torch.bool)
    mask[:, :32, :32] = True
    losses = SetCriterion(CLASSES, num_points=8000)(prediction, [Target(torch.tensor([1]), mask, ignore, ignore[None])])
    (gradient,) = torch.autograd.grad(losses["mask"] + losses["dice"], mask_logits)
    assert (gradient[0, 0, :8, 8:] > 0).all()  # void: the mask is to give up every pixel
    assert (gradient[0, 0, :8, :8] < 0).all()  # target: to claim every one
    # Ignore: exactly nothing. Row 8 is still interpolated at points of the last valid image rows.
    assert not gradient[0, 0, 9:].any()


def test_ignored_pixels_change_no_loss(random_prediction: PredictionMaker, random_target: TargetMaker) -> None:
    prediction = random_prediction(batch=1)
    target = random_target(0, 3, ignored_rows=16)
    criterion = SetCriterion(CLASSES, num_points=POINTS)
    torch.manual_seed(0)
    expected = criterion(prediction, [target])
    changed = prediction.mask_logits.detach().clone()
    changed[:, :, 5:] += 100 * torch.randn(1, 6, 3, 12)  # row 4 is interpolated at points of the last valid rows
    claimed = target.masks.clone()
    claimed[:, 16:] = True  # rows 16 to 31 are ignored
    torch.manual_seed(0)
    other = criterion(
        MaskPrediction(prediction.class_logits, changed),
        [Target(target.class_ids, claimed, target.ignore, target.outliers)],
    )
    assert {key: value.item() for key, value in other.items()} == {key: value.item() for key, value in expected.items()}


def test_the_order_of_targets_does_not_matter(
    random_prediction: PredictionMaker, random_target: TargetMaker, fixed_points: Tensor
) -> None:
    prediction, target = random_prediction(batch=1, auxiliary=1), random_target(0, 4, ignored_rows=4)
    order = torch.tensor([2, 0, 3, 1])
    shuffled = Target(target.class_ids[order], target.masks[order], target.ignore, target.outliers)
    criterion = SetCriterion(CLASSES, num_points=POINTS)
    torch.testing.assert_close(criterion(prediction, [shuffled]), criterion(prediction, [target]))


def test_total_is_the_sum_over_layers(
    random_prediction: PredictionMaker, random_target: TargetMaker, fixed_points: Tensor
) -> None:
    prediction = random_prediction(auxiliary=2)
    targets = [random_target(0, 3), random_target(1, 2)]
    criterion = SetCriterion(CLASSES, num_points=POINTS)
    losses = criterion(prediction, targets)
    alone = MaskPrediction(prediction.class_logits, prediction.mask_logits)
    for suffix, layer in (("_0", prediction.auxiliary[0]), ("_1", prediction.auxiliary[1]), ("", alone)):
        for name, value in criterion(layer, targets).items():
            torch.testing.assert_close(losses[f"{name}{suffix}"], value)
    assert len(losses) == 9


def test_a_right_prediction_costs_little_a_wrong_one_much() -> None:
    # Uniform points: a certain mask only pays within one pixel of its edge, here 128 of 4096 pixels with at most
    # |x| min(y, 1 - y) < 2.5 each, so 5 * 2.5 / 32 < 0.4 in all.
    mask = torch.zeros(1, 64, 64, dtype=torch.bool)
    mask[:, 16:48, 16:48] = True
    nothing = torch.zeros(64, 64, dtype=torch.bool)
    target = Target(torch.tensor([1]), mask, nothing, nothing[None])
    criterion = SetCriterion(CLASSES, num_points=4000, importance=0.0)
    class_logits = torch.full((1, 1, CLASSES + 1), -20.0)
    class_logits[0, 0, 1] = 20
    right = 20 * (2 * mask.float()[None] - 1)
    losses = criterion(MaskPrediction(class_logits, right), [target])
    assert losses["class"] < 1e-6
    assert losses["mask"] < 0.4
    assert losses["dice"] < 0.1
    wrong = criterion(MaskPrediction(-class_logits, -right), [target])
    assert wrong["class"] > 50
    assert wrong["mask"] > 90
    assert wrong["dice"] > 4.5


def test_without_targets_only_the_classes_learn(random_prediction: PredictionMaker, random_target: TargetMaker) -> None:
    prediction = random_prediction(auxiliary=1)
    losses = SetCriterion(CLASSES, num_points=POINTS)(prediction, [random_target(0, 0), random_target(1, 0)])
    assert losses["mask"].item() == losses["dice_0"].item() == 0
    expected = -2 * prediction.class_logits.log_softmax(-1)[..., -1].mean()
    torch.testing.assert_close(losses["class"], expected)
    classes_0, masks_0, classes, masks = gradients(losses, prediction)
    assert classes_0.any()
    assert classes.any()
    assert not masks_0.any()
    assert not masks.any()


@pytest.mark.parametrize("scale", [1e4, 1e30])
def test_huge_logits_have_finite_losses_and_gradients(
    random_prediction: PredictionMaker, random_target: TargetMaker, scale: float
) -> None:
    made = random_prediction()
    prediction = MaskPrediction(
        (scale * made.class_logits).detach().requires_grad_(), (scale * made.mask_logits).detach().requires_grad_()
    )
    targets = [random_target(0, 3, ignored_rows=8), random_target(1, 2)]
    losses = SetCriterion(CLASSES, num_points=POINTS)(prediction, targets)
    assert all(value.isfinite() for value in losses.values())
    assert all(gradient.isfinite().all() for gradient in gradients(losses, prediction))


def test_losses_are_float32_under_autocast(
    random_prediction: PredictionMaker, random_target: TargetMaker, fixed_points: Tensor
) -> None:
    made = random_prediction()
    half = MaskPrediction(made.class_logits.bfloat16(), made.mask_logits.bfloat16())
    targets = [random_target(0, 3), random_target(1, 2)]
    criterion = SetCriterion(CLASSES, num_points=POINTS)
    with torch.autocast("cpu", torch.bfloat16):
        losses = criterion(half, targets)
    exact = criterion(MaskPrediction(half.class_logits.float(), half.mask_logits.float()), targets)
    assert all(value.dtype == torch.float32 for value in losses.values())
    torch.testing.assert_close(losses, exact, rtol=0, atol=0)


def test_more_points_than_pixels_are_legitimate(random_prediction: PredictionMaker, random_target: TargetMaker) -> None:
    losses = SetCriterion(CLASSES, num_points=500)(random_prediction(), [random_target(0, 3), random_target(1, 2)])
    assert all(value.isfinite() for value in losses.values())


@pytest.mark.parametrize(
    "options",
    [{"num_points": 0}, {"oversample": 0}, {"importance": 1.5}, {"no_object_weight": 0.0}, {"mask_weight": -1.0}],
)
def test_refuses_settings_without_meaning(options: dict[str, Any]) -> None:
    with pytest.raises(OutmaskError, match=next(iter(options))):
        SetCriterion(CLASSES, **options)


def test_refuses_targets_that_do_not_fit(random_prediction: PredictionMaker, random_target: TargetMaker) -> None:
    criterion = SetCriterion(CLASSES, num_points=POINTS)
    target = random_target(0, 3)
    with pytest.raises(OutmaskError, match="4 classes and the criterion 9"):
        SetCriterion(9)(random_prediction(), [target, target])
    with pytest.raises(OutmaskError, match="1 targets for 2 images"):
        criterion(random_prediction(), [target])
    with pytest.raises(OutmaskError, match="one size"):
        criterion(random_prediction(), [target, random_target(0, 3, size=(16, 16))])
    foreign = Target(target.class_ids + CLASSES, target.masks, target.ignore, target.outliers)
    with pytest.raises(OutmaskError, match="from 0 to 3"):
        criterion(random_prediction(), [target, foreign])


def test_an_image_draws_its_points_by_its_seed_wherever_it_is_in_the_batch(
    random_prediction: PredictionMaker, random_target: TargetMaker
) -> None:
    prediction, targets = random_prediction(auxiliary=1), [random_target(0, 3, ignored_rows=4), random_target(1, 2)]
    criterion = SetCriterion(CLASSES, num_points=POINTS)

    def turned(layer: MaskPrediction) -> MaskPrediction:
        auxiliary = tuple(turned(inner) for inner in layer.auxiliary)
        return MaskPrediction(layer.class_logits.flip(0), layer.mask_logits.flip(0), auxiliary)

    losses = criterion(prediction, targets, [5, 9])
    torch.testing.assert_close(criterion(turned(prediction), targets[::-1], [9, 5]), losses)
    assert criterion(prediction, targets, [5, 10])["mask"] != losses["mask"]
    torch.manual_seed(0)  # the global generator has no say
    torch.testing.assert_close(criterion(prediction, targets, [5, 9]), losses, rtol=0, atol=0)


def test_the_negative_class_is_matched_like_any_other(random_target: TargetMaker) -> None:
    torch.manual_seed(5)
    target = random_target(0, 3)
    pasted = target.masks[2]
    target = Target(target.class_ids[:2], target.masks[:2], target.ignore, pasted[None])
    prediction = MaskPrediction(torch.randn(1, 6, CLASSES + 2), 3 * torch.randn(1, 6, 8, 12))
    as_class = Target(torch.cat([target.class_ids, torch.tensor([CLASSES])]), torch.cat([target.masks, pasted[None]]),
                      target.ignore, pasted[None])  # fmt: skip
    expected = SetCriterion(CLASSES + 1, num_points=POINTS)(prediction, [as_class], seeds=[1])
    with_negative = replace(prediction, negative_class=True)
    losses = SetCriterion(CLASSES, num_points=POINTS, negative_class=True)(with_negative, [target], seeds=[1])
    assert losses == expected
    with pytest.raises(OutmaskError, match="has a negative class and the criterion none"):
        SetCriterion(CLASSES, num_points=POINTS)(with_negative, [target])
