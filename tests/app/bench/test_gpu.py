"""The report of what the kernels' benchmark measures, which only a GPU can."""

from __future__ import annotations

import pytest
import torch

from outmask.app.bench import gpu
from outmask.app.cli import main
from outmask.kernels.bench import FrameRate, KernelTiming


def test_every_kernel_and_every_model_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    timing = KernelTiming("attention", "grid_sample", 2.0, 8.0, 10**9, 10**12, 1e-6)
    monkeypatch.setattr(gpu, "time_deformable", lambda: [timing])
    monkeypatch.setattr(gpu, "time_scores", lambda: [timing])
    monkeypatch.setattr(gpu, "frames_per_second", lambda config: FrameRate(20.0, 50.0, 3 * 10**9))
    report = gpu.gpu()
    assert report.rows == [("attention", "grid_sample", "4.00", "50%", "1e-06")] * 2
    assert [note.split(":")[0] for note in report.notes] == [
        f"frames  {name}, 1024x2048, bfloat16, EAM and labels included" for name in ("resnet50", "swin-large")
    ]


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a CUDA device")
def test_without_a_gpu_it_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "gpu"]) == 2
    assert "needs a CUDA device" in capsys.readouterr().err
