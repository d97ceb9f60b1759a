"""A run: it trains, it refuses what it can't do, and after a kill it goes on as if nothing had happened."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from outmask.errors import OutmaskError
from outmask.training.run import main


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


KILLED = """
import os, signal, sys
from outmask.training.module import SegmentationTraining
from outmask.training.run import main

start = SegmentationTraining.on_train_batch_start

def start_or_die(self, batch, batch_idx):
    if self.global_step == int(sys.argv[-1]):
        os.kill(os.getpid(), signal.SIGKILL)
    start(self, batch, batch_idx)

SegmentationTraining.on_train_batch_start = start_or_die
main(sys.argv[1:-1])
"""


@pytest.mark.parametrize("iteration", [1, 3])
def test_a_run_killed_in_the_middle_of_a_chunk_continues_as_the_same_run_to_the_last_bit(
    recipe: Path, finished: Path, tmp_path: Path, same_state: Callable[[Path, Path], None], iteration: int
) -> None:
    """In the middle of the first chunk, before any checkpoint, and of the second."""
    out = tmp_path / "out"
    arguments = ["--config", str(recipe), "--out", str(out)]
    killed = subprocess.run([sys.executable, "-c", KILLED, *arguments, str(iteration)], capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert not (out / "model").exists()
    assert (out / "last.ckpt").exists() == (iteration > 2)
    main([*arguments, "--resume"])
    same_state(out, finished)


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
        (["--learning_rate", "-1"], "learning_rate must not be negative, got -1"),
        (["--learning_rate", ".nan"], "learning_rate must not be negative, got nan"),
        (["--warmup", "-1"], "warmup must not be negative"),
        (["--workers", "-1"], "workers must not be negative"),
        (["--precision", "bf17"], "precision, .*'bf17'"),
        (["--strategy", "dpd"], "strategy, .*'dpd'"),
        (["--start_from", "no/such/model"], "start_from: unknown model 'no/such/model'"),
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
