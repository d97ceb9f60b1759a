from collections.abc import Callable

import pytest
import torch
from torch import distributed

from outmask.data.labels import Target
from outmask.losses.masks import average_num_masks, mask_bce, mask_dice, split_ignored, target_maps
from outmask.losses.points import sample_points

TargetMaker = Callable[..., Target]


def test_bce_and_dice_are_their_equations_over_the_points_that_count() -> None:
    logits = torch.tensor([[0.5, -1.0, 3.0, 9.0]])
    labels, weights = torch.tensor([[1.0, 0.0, 0.25, 1.0]]), torch.tensor([[1.0, 1.0, 1.0, 0.0]])
    p, y = logits[0, :3].sigmoid(), labels[0, :3]
    bce = -(y * p.log() + (1 - y) * (1 - p).log()).mean()
    dice = 1 - (2 * (p * y).sum() + 1) / (p.sum() + y.sum() + 1)
    torch.testing.assert_close(mask_bce(logits, labels, weights), bce[None])
    torch.testing.assert_close(mask_dice(logits, labels, weights), dice[None])


def test_certain_and_right_costs_nothing_certain_and_wrong_costs_the_logit() -> None:
    labels, weights = torch.tensor([[0.0, 1.0] * 500]), torch.ones(1, 1000)
    right = 30 * (2 * labels - 1)
    assert mask_bce(right, labels, weights).item() < 1e-6
    assert mask_dice(right, labels, weights).item() < 1e-6
    assert mask_bce(-right, labels, weights).item() == pytest.approx(30)
    assert mask_dice(-right, labels, weights).item() == pytest.approx(
        1, abs=2 / 1000
    )  # the smoothing 1 of 1 / (1000 + 1)


def test_a_mask_without_any_point_that_counts_costs_nothing_and_learns_nothing() -> None:
    logits = torch.randn(2, 5, requires_grad=True)
    loss = mask_bce(logits, torch.zeros(2, 5), torch.zeros(2, 5)) + mask_dice(
        logits, torch.zeros(2, 5), torch.zeros(2, 5)
    )
    loss.sum().backward()
    assert loss.tolist() == [0, 0]
    assert logits.grad is not None
    assert not logits.grad.any()


def test_a_sample_is_ignored_exactly_where_it_touches_an_ignored_pixel(random_target: TargetMaker) -> None:
    targets = [random_target(0, 2), random_target(1, 3, ignored_rows=9), random_target(2, 0)]
    maps = target_maps(targets)
    assert maps.shape == (5, 32, 48)
    points = torch.rand(5, 500, 2)
    labels, weights = split_ignored(sample_points(maps[:, None], points)[:, 0])
    assert weights[:2].all()
    # Rows 23 to 31 are ignored, so a sample touches one from the centre of row 22 on.
    torch.testing.assert_close(weights[2:], (points[2:, :, 1] * 32 < 22.5).float())
    exact = sample_points(targets[1].masks.float()[:, None], points[2:])[:, 0]
    torch.testing.assert_close(labels[2:], exact * weights[2:])


def test_masks_are_counted_over_all_processes(random_target: TargetMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    device = torch.device("cpu")
    targets = [random_target(0, 2), random_target(1, 1)]
    assert average_num_masks(targets, device).item() == 3
    assert average_num_masks([random_target(0, 0)], device).item() == 1
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(distributed, "all_reduce", lambda count: count.add_(5))  # the other process holds 5
    assert average_num_masks(targets, device).item() == 4


def test_a_single_mask_of_all_processes_weighs_as_much_as_in_one(
    random_target: TargetMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 2)
    for elsewhere, total in ((0, 1), (1, 1)):  # DDP halves the gradient of each process, so half a mask is right
        monkeypatch.setattr(distributed, "all_reduce", lambda count, added=elsewhere: count.add_(added))
        assert average_num_masks([random_target(0, total - elsewhere)], torch.device("cpu")).item() == 0.5
