"""``outmask train``: a recipe's run in one folder, resumable at any time."""

from __future__ import annotations

import time
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
import yaml
from jsonargparse import ArgumentError, ArgumentParser, Namespace
from lightning.pytorch.callbacks import Callback, RichProgressBar
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch.utils.data import DataLoader, Subset

from outmask.checkpoints import ModelBundle, save_folder
from outmask.data.labels import Sample
from outmask.data.transforms import Batch, collate
from outmask.errors import OutmaskError
from outmask.preprocessing import Preprocessing
from outmask.training.module import SegmentationTraining
from outmask.training.recipe import Recipe, build_taxonomy, build_training_set, build_validation

# Where the data lies and who loads it: no part of what is trained.
PLACES = ("data_root", "workers")


def main(argv: list[str] | None = None) -> Path:
    """Parse ``--config recipe.yaml --out DIR [--resume] [--key value ...]`` and train; returns the model's folder.

    Raises:
        OutmaskError: on a bad recipe, or where ``--out`` holds another run.
    """
    parser = _parser()
    parser.add_argument(
        "--out", type=str, required=True, help="folder of the run: checkpoints, logs and the trained model"
    )
    parser.add_argument("--resume", action="store_true", help="continue the run in --out from its last checkpoint")
    recipe, description, options = _parse(parser, argv)
    return train(recipe, description, Path(options.out), resume=bool(options.resume))


def read_recipe(path: str | Path, data_root: str | Path | None = None) -> Recipe:
    """The recipe in a YAML file.

    Args:
        path: the file.
        data_root: where its datasets lie, in place of what the file says.

    Raises:
        OutmaskError: on a missing file or a bad recipe.
    """
    arguments = ["--config", str(path)] + ([] if data_root is None else ["--data_root", str(data_root)])
    return _parse(_parser(), arguments)[0]


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="outmask train", description="Train a model by a recipe.", exit_on_error=False)
    parser.add_argument("--config", action="config", help="recipe, YAML")
    parser.add_class_arguments(Recipe)
    return parser


def _parse(parser: ArgumentParser, argv: list[str] | None) -> tuple[Recipe, dict[str, Any], Namespace]:
    """The recipe, the same as plain values, and the other options."""
    try:
        options: Namespace = parser.parse_args(argv)
        settings = parser.instantiate_classes(options)
    except ArgumentError as error:
        raise OutmaskError(" ".join(str(error).split())) from None
    description = yaml.safe_load(parser.dump(options, skip_none=False))
    names = Recipe.__dataclass_fields__
    recipe = Recipe(**{name: settings[name] for name in names})
    return recipe, {name: description[name] for name in names}, options


def train(recipe: Recipe, description: dict[str, Any], out: Path, resume: bool = False) -> Path:
    """Run a recipe; kill it whenever you like, ``resume=True`` continues the same run.

    Args:
        recipe: what to train.
        description: the recipe as plain values, kept in the run's folder and in the model's provenance.
        out: the run's folder: ``recipe.yaml``, ``last.ckpt``, ``logs/`` and, at the end, ``model/``.
        resume: continue from ``last.ckpt``.

    Returns:
        the trained model's folder.

    Raises:
        OutmaskError: where ``out`` holds a run and ``resume`` is not set, or the run there follows another recipe.
    """
    last = out / "last.ckpt"
    kept = out / "recipe.yaml"
    if kept.exists():
        if not resume:
            raise OutmaskError(f"{out} already holds a run: continue it with --resume, or choose another --out")
        other = yaml.safe_load(kept.read_text()) or {}
        settings = {name: value for name, value in description.items() if name not in PLACES}
        if differing := sorted(name for name, value in settings.items() if other.get(name) != value):
            raise OutmaskError(f"{out} holds a run of another recipe: {', '.join(differing)} differ")
    module = SegmentationTraining(recipe, Preprocessing(short_side=recipe.inference_short_side))
    data = RecipeData(recipe)
    out.mkdir(parents=True, exist_ok=True)
    beside = kept.with_suffix(".partial")
    beside.write_text(yaml.safe_dump(description, sort_keys=False))
    beside.replace(kept)

    _silence_lightning()
    clock = LastCheckpoint(last)
    trainer = L.Trainer(
        max_epochs=-1,
        max_steps=recipe.iterations,
        devices=1,
        # An epoch is one chunk of iterations: it ends with a checkpoint, and the next one builds its own draws.
        reload_dataloaders_every_n_epochs=1,
        check_val_every_n_epoch=recipe.validate_every,
        num_sanity_val_steps=0,
        gradient_clip_val=recipe.gradient_clip,
        precision=recipe.precision,  # type: ignore[arg-type]
        log_every_n_steps=min(10, recipe.chunk),
        default_root_dir=out,
        enable_checkpointing=False,
        enable_model_summary=False,
        # Every start logs into its own folder version_0, version_1 ...: a resume keeps what was logged before.
        logger=[CSVLogger(out, "logs"), TensorBoardLogger(str(out), "logs")],
        callbacks=[clock, RichProgressBar()],
    )
    try:
        trainer.fit(module, data, ckpt_path=str(last) if resume and last.exists() else None, weights_only=True)
    except SystemExit:  # what Lightning makes of Ctrl-C
        raise KeyboardInterrupt from None
    assert trainer.global_step == recipe.iterations, "the loop ended before the recipe did"
    results = trainer.validate(module, data, verbose=False)[0] if recipe.validation else {}
    bundle = ModelBundle(
        model=module.model,
        taxonomy=module.taxonomy,
        preprocessing=module.preprocessing,
        operating_points={},
        licence=recipe.licence,
        provenance={
            # Where the data lay on one machine says nothing to anybody else.
            "recipe": {name: value for name, value in description.items() if name not in PLACES},
            "iterations": trainer.global_step,
            "training_hours": round(clock.seconds / 3600, 2),
            "validation": {name.removeprefix("val/"): round(float(value), 2) for name, value in results.items()},
        },
        name=out.name,
    )
    save_folder(bundle, out / "model", dtype=torch.float16)
    return out / "model"


class RecipeData(L.LightningDataModule):
    """The recipe's draws, one chunk of iterations at a time, and its validation images."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.num_classes = build_taxonomy(recipe).num_classes
        self.training = build_training_set(recipe)
        self.validation = build_validation(recipe)

    def train_dataloader(self) -> DataLoader[Batch]:
        """Draws of the next chunk, in their order."""
        assert self.trainer is not None
        recipe = self.recipe
        # By the iterations done: Lightning counts epochs differently after a resume.
        first = self.trainer.global_step * recipe.batch_size
        last = min(first + recipe.chunk * recipe.batch_size, len(self.training))
        return DataLoader(
            Subset(self.training, range(first, last)),  # type: ignore[arg-type]
            batch_size=recipe.batch_size,
            num_workers=recipe.workers,
            collate_fn=partial(collate, num_classes=self.num_classes),
            persistent_workers=False,
        )

    def val_dataloader(self) -> DataLoader[Sample] | list[Any]:
        """Validation images, one at a time at their own size."""
        if not self.validation:
            return []
        return DataLoader(self.validation, batch_size=None, collate_fn=lambda sample: sample)  # type: ignore[arg-type]


class LastCheckpoint(Callback):
    """Keeps one checkpoint, of the last finished chunk, never half-written, and the hours that training took."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seconds = 0.0
        self._started = time.monotonic()

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the chunk's clock."""
        self._started = time.monotonic()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write beside, then rename."""
        self.seconds += time.monotonic() - self._started
        beside = self.path.with_suffix(".partial")
        trainer.save_checkpoint(beside)
        if trainer.is_global_zero:
            beside.replace(self.path)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must know."""
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Inverse of :meth:`state_dict`."""
        self.seconds = float(state_dict["seconds"])


def _silence_lightning() -> None:
    """Its hints on workers and its sampler don't apply: draws are cheap, and a chunk's order is fixed on purpose."""
    for message in (".*does not have many workers.*", ".*number of training batches.*", ".*IterableDataset.*"):
        warnings.filterwarnings("ignore", message)
