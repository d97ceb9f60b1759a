"""The comparison with transformers' training step, at a size that a test can afford."""

from __future__ import annotations

import pytest
import torch
from transformers import Mask2FormerConfig, ResNetConfig

from outmask.models.backbones import STAGES
from outmask.training.bench import TrainingComparison, compare_training

BACKBONE = {"embedding_size": 8, "hidden_sizes": [16, 16, 32, 32], "depths": [1, 1, 1, 1], "out_features": STAGES}
SMALL = {
    "feature_size": 32,
    "mask_feature_size": 32,
    "hidden_dim": 32,
    "encoder_feedforward_dim": 64,
    "encoder_layers": 2,
    "decoder_layers": 4,
    "num_attention_heads": 4,
    "dim_feedforward": 64,
    "num_queries": 12,
    "train_num_points": 200,
}


@pytest.fixture(scope="module")
def comparisons() -> list[TrainingComparison]:
    return compare_training(
        2, 64, config=Mask2FormerConfig(num_labels=19, backbone_config=ResNetConfig(**BACKBONE), **SMALL)
    )


@pytest.fixture(scope="module")
def comparison(comparisons: list[TrainingComparison]) -> TrainingComparison:
    return comparisons[0]


def test_with_the_same_points_every_term_of_the_loss_is_transformers(comparison: TrainingComparison) -> None:
    # Three inner layers and the last one; float32, summed in another order.
    assert len(comparison.losses) == 3 * 4
    assert all(peer > 0 for _, peer in comparison.losses.values())
    assert comparison.loss_difference < 1e-5
    assert comparison.gradient_difference < 1e-3


def test_steps_are_timed_in_turns(comparison: TrainingComparison) -> None:
    assert len(comparison.seconds) == len(comparison.peer_seconds) == 2
    assert min(*comparison.seconds, *comparison.peer_seconds) > 0
    ratios = [peer / own for own, peer in zip(comparison.seconds, comparison.peer_seconds, strict=True)]
    assert min(ratios) <= comparison.ratio <= max(ratios)


def test_every_precision_is_compared_on_the_same_runs(comparisons: list[TrainingComparison]) -> None:
    full, half = torch.float32, torch.bfloat16
    assert [(one.dtype, one.peer_dtype) for one in comparisons] == [(full, full), (half, half), (half, full)]
    same, both, mixed = comparisons
    assert mixed.seconds == both.seconds != same.seconds
    assert mixed.peer_seconds == same.peer_seconds != both.peer_seconds
    for name, (own, peer) in mixed.losses.items():
        assert own == both.losses[name][0]
        assert peer == same.losses[name][1]
    # bfloat16 rounds by up to 2 ** -9, and a term is what comes of a good many roundings.
    assert 2**-11 < mixed.loss_difference < 2**-5
    assert 2**-11 < both.loss_difference < 2**-5


def test_by_default_it_is_the_published_r50() -> None:
    full = compare_training(0, 64)[0]
    assert len(full.losses) == 3 * 10
    assert full.loss_difference < 1e-4  # float32; some of its terms are the small rest of large ones
