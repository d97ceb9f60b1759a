"""The report of what the kernels' benchmark measures, which only a GPU can."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from outmask.app.bench import gpu
from outmask.app.cli import main
from outmask.kernels.bench import FrameRate, KernelTiming


def test_every_kernel_and_every_model_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    timing = KernelTiming("attention", "grid_sample", 2.0, 8.0, 10**9, 10**12, 1e-6)
    monkeypatch.setattr(gpu, "time_deformable", lambda: [timing])
    monkeypatch.setattr(gpu, "time_scores", lambda: [timing])
    monkeypatch.setattr(gpu, "_frames", lambda backbone: FrameRate(50.0, 75.0, 3 * 10**9, 4 * 10**9, 1e-3))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a card")
    report = gpu.gpu()
    assert report.rows[:2] == [("attention", "grid_sample", "4.00", "50%", "1e-06")] * 2
    assert [row[0] for row in report.rows[2:]] == [
        f"Mask2Former, {name}, 1024x2048, bfloat16, EAM, AEM and labels included: 20.0 frames a second"
        for name in ("resnet50", "swin-large")
    ]
    assert {row[2:] for row in report.rows[2:]} == {("1.50", "", "0.001")}
    assert report.notes == [
        "memory  a frame of resnet50 takes 3.00 GB beyond the weights, transformers' 4.00 GB",
        "memory  a frame of swin-large takes 3.00 GB beyond the weights, transformers' 4.00 GB",
        "card  a card, which copies 1.00 TB/s",
    ]


def test_both_libraries_have_the_same_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[nn.Module] = []
    monkeypatch.setattr(gpu, "time_frames", lambda *models: given.extend(models))
    gpu._frames("resnet50")
    pixels = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        ours, theirs = (model(pixels) for model in given)
    torch.testing.assert_close(ours.class_logits, theirs.class_logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(ours.mask_logits, theirs.mask_logits, atol=1e-4, rtol=1e-4)


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a CUDA device")
def test_without_a_gpu_it_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "gpu"]) == 2
    assert "needs a CUDA device" in capsys.readouterr().err
