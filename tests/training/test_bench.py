"""The comparison with transformers' training step, at a size that a test can afford."""

from __future__ import annotations

import pytest
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
def comparison() -> TrainingComparison:
    return compare_training(
        2, 64, config=Mask2FormerConfig(num_labels=19, backbone_config=ResNetConfig(**BACKBONE), **SMALL)
    )


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
