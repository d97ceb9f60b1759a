"""An ablation is done piece by piece: what is there is adopted, what is missing is done, what fails is named."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from outmask.ablation import Ablation, read_grid, work
from outmask.ablation.runs import claimed
from outmask.training.run import main as train

from .conftest import Study

RUNS = [f"{row}/seed-{seed}" for row in ("masked", "tuned") for seed in (0, 1)]


def weights(study: Study, run: str) -> dict[str, torch.Tensor]:
    return load_file(study.out / run / "model/model.safetensors")


def assert_same_weights(one: Study, other: Study, run: str) -> None:
    ours, theirs = weights(one, run), weights(other, run)
    assert ours.keys() == theirs.keys()
    for name, weight in ours.items():
        torch.testing.assert_close(weight, theirs[name], rtol=0, atol=1e-6, msg=f"{run}: {name}")


def test_every_row_is_trained_with_every_seed_and_measured(finished: Study) -> None:
    for run in RUNS:
        assert (finished.out / run / "model/config.json").exists()
        numbers = {path.stem for path in (finished.out / run / "numbers").iterdir()}
        variants = {"two-scenes.refined", "two-scenes.things"} if run.startswith("masked") else set()
        assert numbers == {"two-scenes", *variants}
    seeds = [weights(finished, f"masked/seed-{seed}") for seed in (0, 1)]
    assert any(not torch.equal(weight, seeds[1][name]) for name, weight in seeds[0].items())


def test_a_row_starts_from_the_model_of_its_own_seed(finished: Study, tmp_path: Path) -> None:
    arguments = ["--config", str(finished.folder / "tuned.yaml"), "--data_root", str(finished.data), "--seed", "1"]
    start = finished.out / "masked/seed-1/model"
    model = train([*arguments, "--start_from", str(start), "--out", str(tmp_path / "by_hand")])
    ours = load_file(model / "model.safetensors")
    for name, weight in weights(finished, "tuned/seed-1").items():
        torch.testing.assert_close(weight, ours[name], rtol=0, atol=1e-6, msg=name)


def test_what_is_done_is_not_done_again(study: Study, no_work: Callable[[], None]) -> None:
    before = {path: path.read_bytes() for path in study.out.rglob("*.json")}
    no_work()
    assert study.run() == 0
    assert {path: path.read_bytes() for path in study.out.rglob("*.json")} == before


KILLED = """
import os, signal, sys
from outmask.training.module import SegmentationTraining

start = SegmentationTraining.on_train_batch_start

def start_or_die(self, batch, batch_idx):
    if self.recipe.seed == 1 and self.recipe.start_from and self.global_step == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    start(self, batch, batch_idx)

SegmentationTraining.on_train_batch_start = start_or_die
from outmask.app.cli import main
main(["ablate", *sys.argv[1:]])
"""


def test_after_a_kill_the_same_command_goes_on(
    study: Study, finished: Study, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("model", "numbers", "logs"):
        shutil.rmtree(study.out / "tuned/seed-1" / name)
    (study.out / "tuned/seed-1/last.ckpt").unlink()
    (study.out / "tuned/seed-1/recipe.yaml").unlink()
    killed = subprocess.run([sys.executable, "-c", KILLED, *study.arguments()], capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert torch.load(study.out / "tuned/seed-1/last.ckpt", weights_only=True)["global_step"] == 1
    assert study.run() == 0
    assert "tuned/seed-1 is trained" in capsys.readouterr().err
    assert_same_weights(study, finished, "tuned/seed-1")
    assert (study.out / "ablation.csv").read_text() == (finished.out / "ablation.csv").read_text()


def test_models_that_were_trained_by_hand_are_adopted(
    fresh: Study, finished: Study, no_work: Callable[[], None]
) -> None:
    """Wherever their data lay, in an earlier version's recipe.yaml, without our record of what they start from."""
    shutil.copytree(finished.out, fresh.out)
    (fresh.out / "rows.yaml").unlink()
    for run in RUNS:
        kept = fresh.out / run / "recipe.yaml"
        recipe = {**yaml.safe_load(kept.read_text()), "data_root": "/elsewhere", "licence": "mine", "workers": 3}
        del recipe["accumulate"], recipe["precision"]
        if recipe["start_from"]:
            recipe["start_from"] = f"runs/{'/'.join(Path(recipe['start_from']).parts[-3:])}"
            (fresh.out / run / "base.yaml").unlink()
        kept.write_text(yaml.safe_dump(recipe))
    no_work()
    assert fresh.run() == 0
    assert (fresh.out / "ablation.csv").read_text() == (finished.out / "ablation.csv").read_text()


def test_a_training_that_was_begun_by_hand_goes_on(fresh: Study, finished: Study) -> None:
    fresh.write()
    fresh.grid["rows"] = fresh.grid["rows"][:1]
    del fresh.grid["tables"]
    run = fresh.out / "masked/seed-1"
    shutil.copytree(finished.out / "masked/seed-1", run)
    shutil.rmtree(run / "model")
    state = torch.load(run / "last.ckpt", weights_only=True)
    assert state["global_step"] == 2
    kept = yaml.safe_load((run / "recipe.yaml").read_text())
    (run / "recipe.yaml").write_text(yaml.safe_dump({key: kept[key] for key in kept if key != "accumulate"}))
    assert fresh.run("--seeds", "1") == 0
    assert_same_weights(fresh, finished, "masked/seed-1")


@pytest.mark.parametrize("change", ["recipe", "rows", "unknown"])
def test_a_folder_of_another_grid_is_refused(
    study: Study, no_work: Callable[[], None], capsys: pytest.CaptureFixture[str], change: str
) -> None:
    if change == "recipe":
        study.recipes["masked"] |= {"learning_rate": 1e-3, "iterations": 3}
    elif change == "rows":
        study.grid["rows"] = study.grid["rows"][:1]
        study.grid["tables"] = study.grid["tables"][1:]
    else:
        (study.out / "masked/seed-0/recipe.yaml").unlink()
    no_work()
    assert study.run() == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    expected = {
        "recipe": "masked/seed-0 holds a run of another recipe, iterations, learning_rate differ",
        "rows": "another grid, with tuned among its rows",
        "unknown": "holds a model, but no recipe.yaml",
    }
    assert expected[change] in error


def test_a_grid_may_grow(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    study.grid["rows"].append({"name": "third", "recipe": "masked.yaml", "scores": ["am"]})
    assert study.run("--rows", "third", "--seeds", "0") == 0
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if line.startswith("outmask: ")] == [
        "outmask: third/seed-0 is trained",
        "outmask: third/seed-0 on Two scenes is measured",
    ]
    same_recipe, third = weights(study, "masked/seed-0"), weights(study, "third/seed-0")
    assert all(torch.equal(weight, third[name]) for name, weight in same_recipe.items())


def test_a_row_that_fails_is_named_and_the_others_are_done(fresh: Study, capsys: pytest.CaptureFixture[str]) -> None:
    fresh.grid |= {"seeds": [0], "tables": []}
    fresh.grid["rows"] = [
        {"name": "broken", "recipe": "broken.yaml", "scores": ["eam"]},
        {"name": "tuned", "recipe": "tuned.yaml", "scores": ["eam"], "start_from": "broken"},
        {"name": "masked", "recipe": "masked.yaml", "scores": ["eam"]},
    ]
    fresh.recipes["broken"] = {**fresh.recipes["masked"], "pretrained": "no/such/file.npz"}
    assert fresh.run() == 1
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("outmask: ")]
    assert told[0].startswith("outmask: broken/seed-0, training failed: ")
    assert told[1:] == [
        "outmask: tuned/seed-0 failed: it starts from broken/seed-0, which failed",
        "outmask: masked/seed-0 is trained",
        "outmask: masked/seed-0 on Two scenes is measured",
    ]


def test_a_defect_leaves_its_traceback(
    study: Study, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def defect(*_: Any, **__: Any) -> None:
        raise RuntimeError("out of\nmemory")

    monkeypatch.setattr("outmask.ablation.numbers.evaluate", defect)
    shutil.rmtree(study.out / "tuned/seed-0/numbers")
    assert study.run() == 1
    failure = study.out / "tuned/seed-0/failure.txt"
    assert "RuntimeError: out of memory; see " in capsys.readouterr().err
    assert "Traceback" in failure.read_text()
    monkeypatch.undo()
    assert study.run() == 0
    assert not failure.exists()


def test_a_base_that_was_trained_anew_is_noticed(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(study.out / "masked/seed-0/model")
    shutil.copytree(study.out / "masked/seed-1/model", study.out / "masked/seed-0/model")
    assert study.run("--rows", "tuned") == 1
    assert "was fine-tuned from another masked/seed-0" in capsys.readouterr().err


def test_a_changed_model_is_measured_again(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    numbers = study.out / "tuned/seed-0/numbers/two-scenes.json"
    before = json.loads(numbers.read_text())
    shutil.copytree(study.out / "masked/seed-0/model", study.out / "tuned/seed-0/model", dirs_exist_ok=True)
    assert study.run() == 0
    assert "tuned/seed-0 on Two scenes is measured" in capsys.readouterr().err
    after = json.loads(numbers.read_text())
    assert after["depends_on"]["model"] != before["depends_on"]["model"]
    base = json.loads((study.out / "masked/seed-0/numbers/two-scenes.json").read_text())
    assert after["scores"]["eam"] == base["scores"]["eam"]


def test_of_more_scores_only_the_missing_ones_are_measured(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[list[str]] = []
    evaluate = sys.modules["outmask.ablation.numbers"].evaluate

    def recorded(source: Any, benchmark: Any, scores: list[str], **options: Any) -> Any:
        measured.append(scores)
        return evaluate(source, benchmark, scores, **options)

    monkeypatch.setattr("outmask.ablation.numbers.evaluate", recorded)
    study.grid["rows"][1]["scores"] = ["eam", "rba", "aem"]
    assert study.run() == 0
    assert measured == [["rba", "aem"], ["rba", "aem"]]
    kept = json.loads((study.out / "tuned/seed-1/numbers/two-scenes.json").read_text())
    assert set(kept["scores"]) == {"eam", "rba", "aem"}


def test_variants_are_refined_by_what_they_name(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    removed: list[str] = []
    refinement_mask = sys.modules["outmask.openset.inference"].refinement_mask

    def recorded(prediction: Any, taxonomy: Any, size: Any, remove: str) -> Any:
        removed.append(remove)
        return refinement_mask(prediction, taxonomy, size, remove)

    monkeypatch.setattr("outmask.openset.inference.refinement_mask", recorded)
    shutil.rmtree(study.out / "masked/seed-0/numbers")
    assert study.run() == 0
    assert removed == ["stuff"] * 2 + ["things"] * 2


def test_a_run_is_left_to_the_process_that_has_it(
    study: Study, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(study.out / "tuned/seed-0/numbers")
    ablation = Ablation(read_grid(study.write()), study.data, study.out)
    told: list[str] = []
    other = claimed(study.out / "tuned/seed-0")
    assert other.__enter__()
    monkeypatch.setattr(work.time, "sleep", lambda seconds: other.__exit__(None, None, None))
    assert ablation.work(told.append, lambda benchmark: lambda records, what: records)
    assert told == ["waiting for another process: tuned/seed-0", "tuned/seed-0 on Two scenes is measured"]
