"""A run: it trains, it refuses what it can't do, and after a kill it goes on as if nothing had happened."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from outmask.errors import OutmaskError
from outmask.training.run import main


@pytest.fixture(scope="module")
def recipe(small_recipe: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four iterations in two chunks."""
    path = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    path.write_text(yaml.safe_dump(small_recipe))
    return path


@pytest.fixture(scope="module")
def finished(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an undisturbed run."""
    out = tmp_path_factory.mktemp("run") / "out"
    main(["--config", str(recipe), "--out", str(out)])
    return out


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "model" / "model.safetensors")


def test_a_run_leaves_model_recipe_and_log(finished: Path) -> None:
    assert (finished / "recipe.yaml").exists()
    log = (finished / "logs" / "version_0" / "metrics.csv").read_text()
    for column in ("train/loss", "val/mIoU", "val/AP_eam", "val/FPR95_unclaimed"):
        assert column in log
    assert not list(finished.glob("*.partial"))


def test_the_trained_folder_loads_and_predicts(finished: Path) -> None:
    import outmask

    segmenter = outmask.load(finished / "model")
    result = segmenter.predict(np.zeros((50, 70, 3), np.uint8), score="unclaimed")
    assert result.score.shape == (50, 70)
    assert segmenter.taxonomy.names[0] == "drivable"


KILLED_IN_THE_SECOND_CHUNK = """
import os, signal
from outmask.training.module import SegmentationTraining
from outmask.training.run import main

start = SegmentationTraining.on_train_batch_start

def start_or_die(self, batch, batch_idx):
    if self.global_step == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    start(self, batch, batch_idx)

SegmentationTraining.on_train_batch_start = start_or_die
main()
"""


def test_resuming_after_a_kill_continues_the_same_run(recipe: Path, finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["--config", str(recipe), "--out", str(out)]
    killed = subprocess.run([sys.executable, "-c", KILLED_IN_THE_SECOND_CHUNK, *arguments], capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert not (out / "model").exists()
    main([*arguments, "--resume"])
    resumed, undisturbed = weights(out), weights(finished)
    assert resumed.keys() == undisturbed.keys()
    for name, weight in undisturbed.items():
        torch.testing.assert_close(resumed[name], weight, rtol=0, atol=1e-6, msg=name)


def test_a_run_is_not_overwritten(recipe: Path, finished: Path) -> None:
    with pytest.raises(OutmaskError, match="--resume"):
        main(["--config", str(recipe), "--out", str(finished)])


def test_another_recipe_does_not_resume(recipe: Path, finished: Path) -> None:
    with pytest.raises(OutmaskError, match="learning_rate"):
        main(["--config", str(recipe), "--out", str(finished), "--resume", "--learning_rate", "0.5"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model.no_such_field", "3"], "no_such_field"),
        (["--taxonomy", "no_such_taxonomy"], "no_such_taxonomy"),
        (["--iterations", "0"], "at least 1"),
        (["--data_root", "/no/such/folder"], "/no/such/folder"),
        (["--no_such_option", "1"], "no_such_option"),
    ],
)
def test_bad_recipes_are_refused_in_one_line(recipe: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    out = tmp_path / "out"
    with pytest.raises(OutmaskError, match=message) as caught:
        main(["--config", str(recipe), "--out", str(out), *arguments])
    assert "\n" not in str(caught.value)
    assert not out.exists()
