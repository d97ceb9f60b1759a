"""What a run does when its data, its numbers or its disk are bad."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch

from outmask.data.labels import IGNORE, VOID, Sample
from outmask.data.transforms import Batch, DrawnSamples, collate
from outmask.errors import OutmaskError
from outmask.preprocessing import Preprocessing
from outmask.training import checkpoint, run
from outmask.training.module import SegmentationTraining
from outmask.training.run import main, read_recipe
from outmask.types import MaskPrediction

RecipeWriter = Callable[..., Path]


class Images:
    """Numbered images of which some can't be read."""

    def __init__(self, count: int, corrupt: set[int]) -> None:
        self.count, self.corrupt = count, corrupt

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        if index in self.corrupt:
            raise OutmaskError(f"{index}.png: can't be decoded")
        return Sample(np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint8), np.zeros((4, 4), bool), str(index))


def test_a_corrupt_image_gives_its_place_to_the_next_one_and_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    healthy = DrawnSamples([Images(300, set())], [], seed=0, length=900)
    draws = DrawnSamples([Images(300, {7, 8, 299})], [], seed=0, length=900)
    with caplog.at_level(logging.WARNING, "outmask"):
        names = [sample.name for sample in draws]
    takes_over = {"7": "9", "8": "9", "299": "0"}
    assert names == [takes_over.get(sample.name, sample.name) for sample in healthy]
    assert draws.broken == [3]
    assert sorted(record.getMessage().split(":")[0] for record in caplog.records) == ["299.png", "7.png", "8.png"]
    assert [sample.name for sample in draws] == names
    assert len(caplog.records) == 3


def test_loading_processes_share_what_they_know_of_corrupt_images() -> None:
    draws = DrawnSamples([Images(200, {3})], [], seed=0, length=200)
    loader = torch.utils.data.DataLoader(draws, batch_size=None, num_workers=2, collate_fn=lambda sample: sample.name)
    assert "3" not in list(loader)
    assert draws.broken == [1]


def test_more_than_one_percent_of_corrupt_images_is_an_error() -> None:
    draws = DrawnSamples([Images(300, {5, 100, 200, 250})], [], seed=0, length=300)
    with pytest.raises(OutmaskError, match=r"\d+.png: can't be decoded \(4 of 300 images .* more than 1%"):
        list(draws)
    with pytest.raises(OutmaskError, match=r"1 of 3 images"):
        list(DrawnSamples([Images(3, {0})], [], seed=0, length=3))


def test_a_dataset_that_can_not_be_used_at_all_ends_the_run_soon() -> None:
    draws = DrawnSamples([Images(100_000, set(range(100_000)))], [], seed=0, length=5)
    with pytest.raises(OutmaskError, match="10 images of this dataset in a row"):
        draws[0]
    assert draws.broken == [10]


@pytest.mark.parametrize("label", [VOID, IGNORE])
def test_images_without_any_class_train_and_leave_no_gradient_out(write_recipe: RecipeWriter, label: int) -> None:
    recipe = read_recipe(write_recipe())
    module = SegmentationTraining(recipe, Preprocessing())
    empty = Sample(np.zeros((32, 48, 3), np.uint8), np.full((32, 48), label, np.uint8), np.zeros((32, 48), bool), "a")
    batch = collate([empty, empty], num_classes=7)
    losses = module.criterion(module.model(batch.pixels.float()), batch.targets, [0, 1])
    torch.autograd.backward(torch.stack(list(losses.values())).sum())
    assert all(value.isfinite() for value in losses.values())
    assert losses["mask"] == losses["dice"] == 0
    gradients = {name: p.grad for name, p in module.model.named_parameters() if p.requires_grad}
    assert [name for name, gradient in gradients.items() if gradient is None] == []  # DDP waits for them
    assert all(gradient.isfinite().all() for gradient in gradients.values() if gradient is not None)


def diverge_at(
    monkeypatch: pytest.MonkeyPatch, iteration: int, spoil: Callable[[MaskPrediction], MaskPrediction]
) -> None:
    """From this iteration on, what the model gives is spoilt."""
    step = SegmentationTraining.training_step

    def spoilt_step(self: SegmentationTraining, batch: object, batch_idx: int) -> torch.Tensor:
        if self.global_step == iteration:
            forward = self.model.forward
            monkeypatch.setattr(self.model, "forward", lambda pixels: spoil(forward(pixels)))
        return step(self, batch, batch_idx)  # type: ignore[arg-type]

    monkeypatch.setattr(SegmentationTraining, "training_step", spoilt_step)


def spoil_logits(made: MaskPrediction) -> MaskPrediction:
    return MaskPrediction(made.class_logits, made.mask_logits * torch.nan, made.auxiliary)


def spoil_gradient(made: MaskPrediction) -> MaskPrediction:
    """The loss is finite, its gradient is not: sqrt at 0."""
    return MaskPrediction(made.class_logits + (made.class_logits * 0).sqrt(), made.mask_logits, made.auxiliary)


@pytest.mark.parametrize(("spoil", "culprit"), [(spoil_logits, "logits"), (spoil_gradient, "gradient")])
def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_state_before_it(
    recipe: Path,
    finished: Path,
    same_state: Callable[[Path, Path], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    spoil: Callable[[MaskPrediction], MaskPrediction],
    culprit: str,
) -> None:
    out = tmp_path / "out"
    with monkeypatch.context() as broken:
        diverge_at(broken, 3, spoil)
        with pytest.raises(OutmaskError, match=f"iteration 3: {culprit} not finite on train/") as caught:
            main(["--config", str(recipe), "--out", str(out)])
    assert "\n" not in str(caught.value)
    report = json.loads((out / "before_failure.json").read_text())
    assert report["iteration"] == 3
    assert len(report["images"]) == 2
    assert all(name in str(caught.value) for name in report["images"])
    for name, step in (("last", 2), ("before_failure", 3)):
        state = torch.load(out / f"{name}.ckpt", weights_only=True)
        assert state["global_step"] == step
        assert all(weight.isfinite().all() for weight in state["state_dict"].values())
    # In the place of last.ckpt, that state goes on without the iterations since the last chunk.
    shutil.copy(out / "before_failure.ckpt", out / "last.ckpt")
    draws: list[tuple[int, ...]] = []
    step = SegmentationTraining.training_step

    def recorded(self: SegmentationTraining, batch: Batch, batch_idx: int) -> torch.Tensor:
        draws.append(batch.draws)
        return step(self, batch, batch_idx)

    monkeypatch.setattr(SegmentationTraining, "training_step", recorded)
    main(["--config", str(recipe), "--out", str(out), "--resume"])
    assert draws == [(6, 7)]
    same_state(out, finished)


def test_a_run_that_failed_goes_on_when_the_cause_is_gone(
    write_recipe: RecipeWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["--config", str(write_recipe()), "--out", str(tmp_path / "out")]
    with monkeypatch.context() as broken:
        diverge_at(broken, 3, spoil_logits)
        with pytest.raises(OutmaskError, match="not finite"):
            main(arguments)
    assert (main([*arguments, "--resume"]) / "config.json").exists()


def test_a_full_disk_leaves_the_last_good_checkpoint(
    write_recipe: RecipeWriter,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    small_disk: Callable[[int], AbstractContextManager[None]],
) -> None:
    out = tmp_path / "out"
    save = checkpoint.save_checkpoint

    def save_on_a_filling_disk(trainer: object, path: Path) -> None:
        with small_disk(100_000) if path.exists() else nullcontext():
            save(trainer, path)  # type: ignore[arg-type]

    monkeypatch.setattr(checkpoint, "save_checkpoint", save_on_a_filling_disk)
    with pytest.raises(OutmaskError, match=r"iteration 4 can't be saved \(.*make room.*--resume") as caught:
        main(["--config", str(write_recipe()), "--out", str(out)])
    assert "\n" not in str(caught.value)
    assert torch.load(out / "last.ckpt", weights_only=True)["global_step"] == 2
    assert not list(out.glob("*.partial"))


def test_a_full_disk_at_the_end_leaves_the_earlier_model_and_resuming_writes_the_new_one(
    recipe: Path,
    finished: Path,
    same_state: Callable[[Path, Path], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    small_disk: Callable[[int], AbstractContextManager[None]],
) -> None:
    arguments = ["--config", str(recipe), "--out", str(tmp_path / "out")]
    save = run.save_folder
    shutil.copytree(finished / "model", tmp_path / "out" / "model")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out" / "model").iterdir()}

    def save_on_a_full_disk(*args: object, **options: object) -> None:
        with small_disk(50_000):
            save(*args, **options)  # type: ignore[arg-type]

    with monkeypatch.context() as full:
        full.setattr(run, "save_folder", save_on_a_full_disk)
        with pytest.raises(OutmaskError, match="out/model: can't be written") as caught:
            main(arguments)
    assert "\n" not in str(caught.value)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out" / "model").iterdir()} == before
    main([*arguments, "--resume"])
    same_state(tmp_path / "out", finished)


@pytest.mark.parametrize("damage", ["cut", "changed", "empty"])
def test_a_damaged_checkpoint_is_one_line(write_recipe: RecipeWriter, tmp_path: Path, damage: str) -> None:
    out, recipe = tmp_path / "out", write_recipe(iterations=2)
    main(["--config", str(recipe), "--out", str(out)])
    last = out / "last.ckpt"
    content = bytearray(last.read_bytes())
    if damage == "changed":
        content[len(content) // 2] ^= 1
    last.write_bytes(content[: {"cut": len(content) // 2, "changed": None, "empty": 0}[damage]])
    shutil.rmtree(out / "model")
    with pytest.raises(OutmaskError, match="last.ckpt is damaged") as caught:
        main(["--config", str(recipe), "--out", str(out), "--resume"])
    assert "\n" not in str(caught.value)
