"""Two local processes train what one process trains with the joint batch."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from outmask.errors import OutmaskError
from outmask.training.data import shares
from outmask.training.recipe import DatasetRecipe, Recipe

# Run by every process. ResNet, since its frozen BatchNorm is what makes a joint batch and its halves comparable.
RECORDING = """
import json, sys
from pathlib import Path
import torch
from outmask.training.module import SegmentationTraining
from outmask.training.run import main

out = Path(sys.argv[sys.argv.index("--out") + 1])
step = SegmentationTraining.training_step

def recorded_step(self, batch, batch_idx):
    with (out / f"draws_{self.global_rank}.jsonl").open("a") as file:
        file.write(json.dumps([self.global_step, batch.draws]) + chr(10))
    return step(self, batch, batch_idx)

def keep_gradients(self, optimizer):
    if self.global_step == 0 and self.global_rank == 0:
        torch.save({name: p.grad for name, p in self.model.named_parameters() if p.grad is not None}, out / "grads.pt")

SegmentationTraining.training_step = recorded_step
SegmentationTraining.on_before_optimizer_step = keep_gradients
main()
"""


@pytest.fixture(scope="module")
def runs(small_recipe: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Folders of the same run on one and on two processes: two iterations, of four images each."""
    folder = tmp_path_factory.mktemp("distributed")
    resnet = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [16, 16, 32, 32], "depths": [1, 1, 1, 1]}
    recipe = {
        **small_recipe,
        "model": {**small_recipe["model"], "backbone": resnet},
        "iterations": 2,
        "batch_size": 4,
        "validate_every": 1,
    }
    (folder / "recipe.yaml").write_text(json.dumps(recipe))  # JSON is YAML
    (folder / "record.py").write_text(RECORDING)
    # One thread each; and no trace of a launcher that may have started the tests.
    environment = {
        name: value for name, value in os.environ.items() if name not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")
    }
    started = {
        devices: subprocess.Popen(
            [
                *(sys.executable, str(folder / "record.py"), "--config", str(folder / "recipe.yaml")),
                *("--out", str(folder / f"run{devices}"), "--devices", str(devices)),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**environment, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
            text=True,
        )
        for devices in (1, 2)
    }
    for devices, process in started.items():
        output, _ = process.communicate(timeout=240)
        assert process.returncode == 0, f"{devices}: {output}"
    return {devices: folder / f"run{devices}" for devices in started}


def test_two_processes_have_the_gradients_of_the_joint_batch(runs: dict[int, Path]) -> None:
    one, two = (torch.load(runs[devices] / "grads.pt", weights_only=True) for devices in (1, 2))
    assert one.keys() == two.keys()
    assert any(name.startswith("backbone.") for name in one)
    assert max(gradient.abs().max() for gradient in one.values()) > 1
    for name, gradient in one.items():
        torch.testing.assert_close(two[name], gradient, rtol=0, atol=1e-5, msg=name)


def test_two_processes_share_the_draws_of_one(runs: dict[int, Path]) -> None:
    def draws(devices: int, rank: int) -> list[Any]:
        return [json.loads(line) for line in (runs[devices] / f"draws_{rank}.jsonl").read_text().splitlines()]

    assert draws(1, 0) == [[0, [0, 1, 2, 3]], [1, [4, 5, 6, 7]]]
    assert draws(2, 0) == [[0, [0, 1]], [1, [4, 5]]]
    assert draws(2, 1) == [[0, [2, 3]], [1, [6, 7]]]


def test_two_processes_log_the_losses_and_metrics_of_the_joint_batch_once(runs: dict[int, Path]) -> None:
    def logged(devices: int) -> dict[str, list[float]]:
        values: dict[str, list[float]] = {}
        with (runs[devices] / "logs" / "version_0" / "metrics.csv").open() as file:
            for row in csv.DictReader(file):
                for name, value in row.items():
                    if value:
                        values.setdefault(name, []).append(float(value))
        return values

    one, two = logged(1), logged(2)
    assert one.keys() == two.keys()
    assert {"train/loss", "train/class", "val/mIoU", "val/AP_eam"} <= one.keys()
    # The second iteration's weights differ in their last digits.
    for name, values in one.items():
        assert two[name] == pytest.approx(values, rel=1e-3), name


def test_two_processes_write_one_checkpoint_and_one_model(runs: dict[int, Path]) -> None:
    names = [sorted(path.name for path in runs[devices].iterdir() if "draws" not in path.name) for devices in (1, 2)]
    assert names[0] == names[1] == ["grads.pt", "last.ckpt", "logs", "model", "recipe.yaml"]
    assert [path.name for path in (runs[2] / "logs").iterdir()] == ["version_0"]


@pytest.mark.parametrize(("processes", "accumulate"), [(1, 1), (2, 1), (1, 4), (3, 2)])
def test_processes_and_accumulated_steps_share_an_iteration(processes: int, accumulate: int) -> None:
    taken = [shares(5, 12, accumulate, processes, rank) for rank in range(processes)]
    assert all(len(steps) == accumulate for steps in taken)
    assert all(len(step) == 12 // processes // accumulate for steps in taken for step in steps)
    in_order = [draw for step in range(accumulate) for steps in taken for draw in steps[step]]
    assert in_order == list(range(60, 72))


def test_a_batch_that_can_not_be_shared_is_refused() -> None:
    def make(**values: int) -> Recipe:
        return Recipe("idd_lite", [DatasetRecipe("camvid", ".", "train")], **values)  # type: ignore[arg-type]

    with pytest.raises(OutmaskError, match="batch_size 16 can't be shared by 3 processes.*multiple of 3"):
        make(devices=3)
    with pytest.raises(OutmaskError, match="in 5 accumulated steps"):
        make(accumulate=5)
    assert make(devices=4, num_nodes=2, accumulate=2).processes == 8
