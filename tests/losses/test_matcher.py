from collections.abc import Callable
from itertools import permutations

import pytest
import torch
from torch import Tensor
from transformers.models.mask2former.modeling_mask2former import Mask2FormerHungarianMatcher

from outmask.data.labels import Target
from outmask.errors import OutmaskError
from outmask.losses.masks import mask_bce, mask_dice, split_ignored, target_maps
from outmask.losses.matcher import match, pairwise_mask_costs
from outmask.losses.points import sample_points
from outmask.types import MaskPrediction

PredictionMaker = Callable[..., MaskPrediction]
TargetMaker = Callable[..., Target]
WEIGHTS = {"class_weight": 2.0, "mask_weight": 5.0, "dice_weight": 5.0}


def match_targets(layers: list[MaskPrediction], targets: list[Target], num_points: int = 300) -> Tensor:
    maps = [target_maps([target]) for target in targets]
    class_ids, generators = [target.class_ids for target in targets], [None] * len(targets)
    return match(layers, class_ids, maps, num_points=num_points, generators=generators, **WEIGHTS)


def test_pairwise_costs_are_the_losses_of_every_pair() -> None:
    logits = 4 * torch.randn(2, 6, 200)
    sampled = torch.rand(3, 200)
    sampled[:, 150:] = torch.nan
    labels, weights = split_ignored(sampled)
    bce, dice = pairwise_mask_costs(logits, sampled)
    pairs = (logits[:, :, None].expand(2, 6, 3, 200), labels.expand(2, 6, 3, 200), weights.expand(2, 6, 3, 200))
    torch.testing.assert_close(bce, mask_bce(*pairs), rtol=1e-5, atol=1e-5)  # float32, summed in another order
    torch.testing.assert_close(dice, mask_dice(*pairs), rtol=1e-5, atol=1e-5)


def test_the_assignment_is_the_cheapest_of_all(
    random_prediction: PredictionMaker, random_target: TargetMaker, fixed_points: Tensor
) -> None:
    prediction, target = random_prediction(batch=1, queries=5), random_target(3, 3, ignored_rows=8)
    labels, weights = split_ignored(sample_points(target_maps([target])[None], fixed_points[None, :300])[0])
    logits = sample_points(prediction.mask_logits.detach(), fixed_points[None, :300])[0]
    probability = prediction.class_logits.detach()[0].softmax(-1)

    def cost(queries: tuple[int, ...]) -> float:
        chosen = list(queries)
        return float(
            5 * mask_bce(logits[chosen], labels, weights).sum()
            + 5 * mask_dice(logits[chosen], labels, weights).sum()
            - 2 * probability[chosen, target.class_ids].sum()
        )

    best = min(permutations(range(5), 3), key=cost)
    assert tuple(match_targets([prediction], [target])[0].tolist()) == best


def test_matches_as_transformers(
    random_prediction: PredictionMaker, random_target: TargetMaker, fixed_points: Tensor
) -> None:
    prediction = random_prediction(batch=3, queries=8)
    targets = [random_target(seed, count) for seed, count in ((0, 4), (1, 8), (2, 1))]
    peer = Mask2FormerHungarianMatcher(cost_class=2.0, cost_mask=5.0, cost_dice=5.0, num_points=300)
    expected = []
    for queries, columns in peer(
        prediction.mask_logits,
        prediction.class_logits,
        [target.masks.float() for target in targets],
        [target.class_ids for target in targets],
    ):
        expected += queries[columns.argsort()].tolist()
    assert match_targets([prediction], targets)[0].tolist() == expected


def test_every_layer_is_matched_on_its_own(
    random_prediction: PredictionMaker, random_target: TargetMaker, fixed_points: Tensor
) -> None:
    layers = [random_prediction(seed) for seed in range(3)]
    targets = [random_target(0, 3), random_target(1, 2)]
    together = match_targets(layers, targets)
    assert together.shape == (3, 5)
    for layer, queries in zip(layers, together, strict=True):
        assert torch.equal(match_targets([layer], targets)[0], queries)


def test_points_are_drawn_once_per_image_for_all_layers(
    random_prediction: PredictionMaker, random_target: TargetMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn, rand = [], torch.rand

    def counting(*size: int, **options: object) -> Tensor:
        drawn.append(size)
        return rand(*size)

    monkeypatch.setattr(torch, "rand", counting)
    match_targets([random_prediction(seed) for seed in range(4)], [random_target(0, 3), random_target(1, 2)])
    assert drawn == [(1, 300, 2)] * 2


def test_an_image_without_targets_takes_no_query(
    random_prediction: PredictionMaker, random_target: TargetMaker
) -> None:
    prediction = random_prediction()
    assert match_targets([prediction, prediction], [random_target(0, 0), random_target(1, 0)]).shape == (2, 0)
    assert match_targets([prediction], [random_target(0, 0), random_target(1, 2)]).min() >= 0


def test_targets_without_a_query_are_left_over(random_prediction: PredictionMaker, random_target: TargetMaker) -> None:
    queries = match_targets([random_prediction(batch=1, queries=3)], [random_target(0, 5)])[0]
    assert sorted(queries.tolist()) == [-1, -1, 0, 1, 2]


def test_ignored_pixels_do_not_sway_the_matching(
    random_prediction: PredictionMaker, random_target: TargetMaker, fixed_points: Tensor
) -> None:
    prediction, target = random_prediction(batch=1), random_target(0, 4, ignored_rows=16)
    changed = prediction.mask_logits.detach().clone()
    changed[:, :, 5:] = 50 * torch.randn(1, 6, 3, 12)  # row 4 is interpolated at points of the last valid rows
    other = MaskPrediction(prediction.class_logits, changed)
    assert torch.equal(match_targets([prediction], [target]), match_targets([other], [target]))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_diverged_model_is_an_error_that_says_so(
    random_prediction: PredictionMaker, random_target: TargetMaker, value: float
) -> None:
    prediction = random_prediction(batch=1)
    mask_logits = prediction.mask_logits.detach().clone()
    mask_logits[0, 2] = value
    with pytest.raises(OutmaskError, match="finite logits"):
        match_targets([MaskPrediction(prediction.class_logits, mask_logits)], [random_target(0, 2)])
