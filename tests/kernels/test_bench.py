"""The benchmarks of the kernels, but for the times, which take a GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.kernels.conftest import Run
from torch import nn

from outmask.errors import OutmaskError
from outmask.kernels import bench
from outmask.kernels.bench import FrameRate, KernelTiming, time_deformable, time_frames, time_scores
from outmask.models import Mask2Former, Mask2FormerConfig

TINY = Mask2FormerConfig(
    num_classes=3,
    backbone={"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1]},
    dim=32,
    num_heads=2,
    encoder_layers=1,
    encoder_ffn_dim=32,
    num_points=2,
    num_queries=5,
    decoder_layers=3,
    decoder_ffn_dim=32,
)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("measure", [time_deformable, time_scores, lambda: time_frames(nn.Identity(), nn.Identity())])
def test_needs_a_gpu_and_says_so(measure: Any) -> None:
    with pytest.raises(OutmaskError, match="needs a CUDA device, and PyTorch finds none: run it on a machine with"):
        measure()


def test_a_share_of_the_bandwidth_is_bytes_over_time_over_a_copys_rate() -> None:
    timing = KernelTiming("", "", 2.0, peer_milliseconds=5.0, least_bytes=10**9, copy_rate=2e12, difference=0.0)
    assert timing.ratio == 2.5
    assert timing.bandwidth_share == 0.25  # 0.5 TB/s of 2 TB/s


def measured(name: str, **arguments: Any) -> Any:
    """A benchmark whose clock always shows 2 ms, on whatever device there is."""
    with pytest.MonkeyPatch.context() as patch:
        if not torch.cuda.is_available():
            patch.setattr(bench, "_device", lambda: torch.device("cpu"))
            patch.setattr(bench, "_peak_bytes", lambda run, device: 1)
        patch.setattr(bench, "_median", lambda run: (run(), 2.0)[1])
        patch.setattr(bench, "_COPIED", 1000)
        patch.setattr(bench, "_HEADS", 2)
        return getattr(bench, name)(**arguments)


def measured_deformable(dtype: torch.dtype) -> list[KernelTiming]:
    return measured("time_deformable", size=(8, 16), dtype=dtype)  # type: ignore[no-any-return]


def measured_scores() -> list[KernelTiming]:
    return measured("time_scores", size=(12, 18), masks=20)  # type: ignore[no-any-return]


def measured_frames() -> tuple[FrameRate, list[str]]:
    """With a peer one of whose classes is off by 100; and which of the two ran, in order."""
    torch.manual_seed(0)
    model, peer = Mask2Former(TINY).eval(), Mask2Former(TINY).eval()
    peer.load_state_dict(model.state_dict())
    peer.mask_decoder.class_embed.bias.data[0] += 100
    ran: list[str] = []
    for name, one in (("ours", model), ("peer", peer)):
        one.register_forward_hook(lambda *_, name=name: ran.append(name))
    return measured("time_frames", model=model, peer=peer, size=(32, 64), dtype=torch.float32), ran


def test_deformable_attention_is_compared_with_two_of_pytorch_forward_and_both_ways(run: Run) -> None:
    timings = run(measured_deformable, torch.float32)
    assert [(timing.name.split(", ")[-1], timing.peer) for timing in timings] == [
        ("forward", "weighted gather"),
        ("forward", "grid_sample"),
        ("both ways", "weighted gather"),
        ("both ways", "grid_sample"),
    ]
    # Tokens of 2 heads: 32 channels in and out, 3 levels of 4 points with two coordinates and a weight.
    tokens = 1 * 1 + 1 * 1 + 1 * 2
    values, points = tokens * 2 * 32 * 4, tokens * 2 * 12 * 3 * 4
    assert timings[0].least_bytes == 2 * values + points
    # Backward reads the inputs and the output's gradient, and writes the gradients of the inputs.
    assert timings[2].least_bytes == 3 * (values + points) + 2 * values
    assert all(timing.difference < 1e-5 and timing.copy_rate == 1e6 for timing in timings)


def test_scores_are_compared_with_interpolate_sigmoid_einsum(run: Run) -> None:
    (timing,) = run(measured_scores)
    assert timing.name == "EAM, AEM and labels, 20 masks at 12x18, float32"
    assert timing.least_bytes == 20 * 3 * 5 * 4 + 12 * 18 * (4 + 4 + 8)
    assert timing.difference < 1e-5


def test_frames_are_compared_with_the_same_model_elsewhere(run: Run) -> None:
    rate, ran = run(measured_frames)
    assert rate.frames_per_second == 500
    assert ran[:2] == ["ours", "peer"]
    assert rate.difference == pytest.approx(1, rel=0.05)  # of a hundred in the largest logit, all


def test_a_rate_is_of_our_frame_and_a_ratio_of_the_peers_to_it() -> None:
    rate = FrameRate(50.0, 75.0, 3, 4, 0.0)
    assert (rate.frames_per_second, rate.ratio) == (20, 1.5)
