"""``outmask train``: a recipe's run in one folder, resumable at any time."""

from __future__ import annotations

import errno
import math
import os
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import torch
import yaml
from jsonargparse import ActionConfigFile, ArgumentError, ArgumentParser, Namespace  # type: ignore[attr-defined]
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from outmask.checkpoints import ModelBundle, save_folder
from outmask.errors import OutmaskError
from outmask.preprocessing import Preprocessing
from outmask.training.checkpoint import LastCheckpoint, check_checkpoint
from outmask.training.data import RecipeData
from outmask.training.inheritance import read_settings, write_settings
from outmask.training.module import SegmentationTraining, count_parameters
from outmask.training.recipe import Recipe

# Where the data lies and who does the work: no part of what is trained.
PLACES = ("data_root", "devices", "num_nodes", "strategy", "workers")


def main(argv: list[str] | None = None) -> Path:
    """Parse ``--config RECIPE --out DIR [--resume] [--key value ...]`` and train; returns the model's folder.

    Raises:
        OutmaskError: on a bad recipe, or where ``--out`` holds another run.
    """
    recipes: dict[str, dict[str, Any]] = {}
    parser = _parser(recipes)
    parser.add_argument(
        "--out", type=str, required=True, help="folder of the run: checkpoints, logs and the trained model"
    )
    parser.add_argument("--resume", action="store_true", help="continue the run in --out from its last checkpoint")
    recipe, options = _parse(parser, recipes, argv)
    description = yaml.safe_load(parser.dump(options, skip_none=False))
    description = {name: description[name] for name in Recipe.__dataclass_fields__}
    return train(recipe, description, Path(options.out), resume=bool(options.resume))


def read_recipe(path: str | Path, data_root: str | Path | None = None) -> Recipe:
    """The recipe in a YAML file, with all that it inherits.

    Args:
        path: the file, or the name of a bundled recipe.
        data_root: where its datasets lie, in place of what the file says.

    Raises:
        OutmaskError: on a missing file or a bad recipe.
    """
    arguments = ["--config", str(path)] + ([] if data_root is None else ["--data_root", str(data_root)])
    recipes: dict[str, dict[str, Any]] = {}
    return _parse(_parser(recipes), recipes, arguments)[0]


class _RecipeFile(ActionConfigFile):
    """Reads a recipe with all that it inherits.

    Args:
        recipes: where to note what ``--config`` named, and the settings found there.
    """

    def __init__(self, recipes: dict[str, dict[str, Any]], **kwargs: Any) -> None:
        super().__init__(**kwargs)  # type: ignore[no-untyped-call]
        self.recipes = recipes

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
        self.recipes[values] = read_settings(values)
        text = write_settings(self.recipes[values])
        super().__call__(parser, cfg, text, option_string)  # type: ignore[no-untyped-call]


def _parser(recipes: dict[str, dict[str, Any]]) -> ArgumentParser:
    parser = ArgumentParser(prog="outmask train", description="Train a model by a recipe.", exit_on_error=False)
    parser.add_argument(
        "--config", action=_RecipeFile, recipes=recipes, help="recipe: a YAML file or a name of outmask list recipes"
    )
    parser.add_class_arguments(Recipe)
    return parser


def _parse(
    parser: ArgumentParser, recipes: dict[str, dict[str, Any]], argv: list[str] | None
) -> tuple[Recipe, Namespace]:
    """The recipe, and all options as they were given."""
    try:
        options: Namespace = parser.parse_args(argv)
        settings = parser.instantiate_classes(options)
    except ArgumentError as error:
        for name, own in recipes.items():
            _check_alone(name, own)
        raise OutmaskError(_one_line(error)) from None
    return Recipe(**{name: settings[name] for name in Recipe.__dataclass_fields__}), options


def _check_alone(name: str, settings: dict[str, Any]) -> None:
    """Refuse a recipe in its own name where it is bad whatever else was given."""
    try:
        # What is required may have been given beside it.
        _parser({}).parse_object({"taxonomy": "", "train": [], **settings})
    except ArgumentError as error:
        raise OutmaskError(f"{name}: {_one_line(error)}") from None


def train(recipe: Recipe, description: dict[str, Any], out: Path, resume: bool = False) -> Path:
    """Run a recipe; kill it whenever you like, ``resume=True`` continues the same run.

    Args:
        recipe: what to train.
        description: the recipe as plain values, kept in the run's folder and in the model's provenance.
        out: the run's folder: ``recipe.yaml``, ``last.ckpt``, ``logs/`` and, at the end, ``model/``; where something
            was not finite, ``before_failure.ckpt`` and ``before_failure.json``. On several machines one that all see.
        resume: continue from ``last.ckpt``.

    Returns:
        the trained model's folder.

    Raises:
        OutmaskError: where ``out`` holds a run and ``resume`` is not set, or the run there follows another recipe or
            its checkpoint is damaged; where the loss is not finite, too many images can't be used, or the disk is full.
    """
    last = out / "last.ckpt"
    # The processes that Lightning starts for more devices come here too, when the first one has been through.
    first = _is_first_process()
    if first:
        _check_out(description, out, resume)
    module = SegmentationTraining(recipe, Preprocessing(short_side=recipe.inference_short_side))
    data = RecipeData(recipe)
    parameters = count_parameters(module.model)
    _silence_lightning()
    clock = LastCheckpoint(last)
    trainer = _trainer(recipe, out, clock)
    if first:
        _write_description(description, out)
    try:
        trainer.fit(module, data, ckpt_path=str(last) if resume and last.exists() else None, weights_only=True)
    except SystemExit:  # what Lightning makes of Ctrl-C
        raise KeyboardInterrupt from None
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise OutmaskError(f"{out}: {error.strerror}: make room, then go on with --resume") from error
    assert trainer.global_step == recipe.iterations, "the loop ended before the recipe did"
    results = trainer.validate(module, data, verbose=False)[0] if recipe.validation else {}
    if not trainer.is_global_zero:
        return out / "model"
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
            "parameters": parameters,
            "training_hours": round(clock.seconds / 3600, 2),
            # What the images do not define is NaN, which JSON does not have.
            "validation": {
                name.removeprefix("val/"): None if math.isnan(value) else round(float(value), 2)
                for name, value in results.items()
            },
        },
        name=out.name,
    )
    save_folder(bundle, out / "model", dtype=torch.float16)
    return out / "model"


def _trainer(recipe: Recipe, out: Path, clock: LastCheckpoint) -> L.Trainer:
    """Lightning's loop; refuses a precision, strategy or number of devices that it does not know or have."""
    # Every start logs into its own folder version_0, version_1 ...: a resume keeps what was logged before.
    table = CSVLogger(out, "logs")
    try:
        return L.Trainer(
            max_epochs=-1,
            max_steps=recipe.iterations,
            devices=recipe.devices,
            num_nodes=recipe.num_nodes,
            strategy=recipe.strategy,
            use_distributed_sampler=False,  # RecipeData shares the draws among the processes
            accumulate_grad_batches=recipe.accumulate,
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
            logger=[table, TensorBoardLogger(str(out), "logs", version=table.version)],
            callbacks=[clock, RichProgressBar()],
        )
    except (ValueError, MisconfigurationException) as error:
        raise OutmaskError(f"precision, strategy, devices or num_nodes: {_one_line(error)}") from None


def _is_first_process() -> bool:
    """Known before Lightning has set up its processes: launchers tell each its rank and that of its machine."""
    ranks = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID")
    return all(os.environ.get(name, "0") == "0" for name in ranks)


def _check_out(description: dict[str, Any], out: Path, resume: bool) -> None:
    """Refuse another run's folder, and one that can't go on."""
    kept = out / "recipe.yaml"
    if not kept.exists():
        return
    if not resume:
        raise OutmaskError(f"{out} already holds a run: continue it with --resume, or choose another --out")
    other = yaml.safe_load(kept.read_text(encoding="utf-8")) or {}
    # What a run is for is no part of it either.
    settings = {name: value for name, value in description.items() if name not in (*PLACES, "reproduces")}
    if differing := sorted(name for name, value in settings.items() if other.get(name) != value):
        raise OutmaskError(f"{out} holds a run of another recipe: {', '.join(differing)} differ")
    if (last := out / "last.ckpt").exists():
        check_checkpoint(last)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _write_description(description: dict[str, Any], out: Path) -> None:
    """``recipe.yaml``, written beside and renamed."""
    beside = out / "recipe.partial"
    try:
        out.mkdir(parents=True, exist_ok=True)
        beside.write_text(yaml.safe_dump(description, sort_keys=False), encoding="utf-8")
        beside.replace(out / "recipe.yaml")
    except OSError as error:
        raise OutmaskError(f"{out} can't be written ({error.strerror}): choose another --out") from None


def _silence_lightning() -> None:
    """Its hints don't apply: draws are cheap, a chunk's order is fixed and frozen norms are in eval mode on purpose."""
    for message in (
        ".*does not have many workers.*",
        ".*number of training batches.*",
        ".*IterableDataset.*",
        ".*in eval mode at the start of training.*",
        ".*overridden `transfer_batch_to_device`.*",
        ".*isinstance.treespec, LeafSpec.*",
    ):
        warnings.filterwarnings("ignore", message)
