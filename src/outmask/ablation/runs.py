"""The trainings of an ablation: one folder for each row and seed, in which what is there already is adopted."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from outmask.ablation.entries import Quick, Row
from outmask.ablation.grid import Grid
from outmask.checkpoints.folder import CONFIG, WEIGHTS, read_config
from outmask.errors import OutmaskError
from outmask.models.architectures import MASK2FORMER
from outmask.output.files import replacing
from outmask.scores.declarations import SCORES
from outmask.scores.pixelwise import PIXEL_SCORES
from outmask.training.recipe import Recipe
from outmask.training.run import PLACES, read_recipe, train

_RECIPE = "recipe.yaml"
"""What a training keeps of its settings, in its folder."""

_NEGATIVE_CLASS = "negative_class"
"""A loss on pasted objects, and the way to find unknown ones by the class that it trains."""

_TEXTS = ("licence", "reproduces")
"""What a recipe says of its model, beside what it trains."""


@dataclass(frozen=True, eq=False)
class Run:
    """One training.

    Attributes:
        row: of the grid.
        seed: of all that is drawn.
        folder: of the run, as of ``outmask train --out``.
        recipe: with this seed and start.
        base: the run whose model this one fine-tunes.
    """

    row: Row
    seed: int
    folder: Path
    recipe: Recipe
    base: Run | None = None

    @property
    def description(self) -> dict[str, Any]:
        """The recipe as plain values."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self.recipe)))  # which turns tuples into lists
        return values

    @property
    def kind(self) -> str | None:
        """The model's, as far as it is known before it is trained: not of another's model that is fine-tuned."""
        if self.recipe.model or self.recipe.start_from is None:
            return str(self.recipe.model.get("kind", MASK2FORMER))
        return None if self.base is None else self.base.kind

    @property
    def name(self) -> str:
        """For messages: the folder below the ablation's."""
        return f"{self.row.name}/{self.folder.name}"

    @property
    def model(self) -> Path:
        """The trained model's folder."""
        return self.folder / "model"

    @property
    def trained(self) -> bool:
        """Whether it is there; it is written whole, at the end of the training."""
        return (self.model / CONFIG).is_file()


def plan(grid: Grid, data_root: Path, out: Path, quick: Quick | None = None) -> list[Run]:
    """All runs of a grid, seed by seed, each after the one that it starts from.

    Args:
        grid: its rows and seeds.
        data_root: the folder that the recipes' datasets are relative to.
        out: the folder of the runs.
        quick: how the recipes are shortened, if they are.

    Raises:
        OutmaskError: on a recipe that can't be read, or that gives its own ``start_from`` beside the row's.
    """
    recipes = {row.name: _recipe(row, data_root) for row in grid.rows}
    if quick is not None:
        recipes = {name: _shortened(recipe, quick) for name, recipe in recipes.items()}
    runs: dict[tuple[str, int], Run] = {}
    for seed in grid.seeds:
        for row in grid.rows:
            recipe = replace(recipes[row.name], seed=seed)
            base = None if row.start_from is None else runs[row.start_from, seed]
            if base is not None:
                recipe = replace(recipe, start_from=str(base.model))
            runs[row.name, seed] = Run(row, seed, out / row.name / f"seed-{seed}", recipe, base)
    return list(runs.values())


def _recipe(row: Row, data_root: Path) -> Recipe:
    try:
        recipe = read_recipe(row.recipe, data_root)
    except OutmaskError as error:
        raise OutmaskError(f"row {row.name!r}: {error}") from error
    if row.start_from is not None and recipe.start_from is not None:
        raise OutmaskError(f"row {row.name!r}: both the row and {row.recipe} say what to start from: leave one out")
    return recipe


def _shortened(recipe: Recipe, quick: Quick) -> Recipe:
    iterations = max(1, round(quick.iterations * recipe.iterations))
    return replace(
        recipe,
        iterations=iterations,
        warmup=round(quick.iterations * recipe.warmup),
        chunk=min(recipe.chunk, iterations),
        validation_images=min(recipe.validation_images or quick.images, quick.images),
    )


def check_grid(grid: Grid, out: Path) -> None:
    """Keep the names of the grid's rows in ``out``, where an earlier grid's must all be found again.

    Raises:
        OutmaskError: where they are not: this is another ablation's folder.
    """
    record = out / "rows.yaml"
    names = [row.name for row in grid.rows]
    earlier: list[str] = yaml.safe_load(record.read_text(encoding="utf-8")) if record.exists() else []
    if missing := [name for name in earlier if name not in names]:
        raise OutmaskError(
            f"{out} holds the ablation of another grid, with {', '.join(missing)} among its rows: "
            "put them back, or choose another --out"
        )
    _write_yaml(record, names)


def check_settings(runs: Sequence[Run]) -> None:
    """Refuse runs whose folders hold something else.

    Raises:
        OutmaskError: names the first of them, and the settings that differ.
    """
    for run in runs:
        if run.trained and not (run.folder / _RECIPE).exists():
            raise OutmaskError(f"{run.folder} holds a model, but no {_RECIPE} that says how it was trained: remove it")
        if differing := _differing(run):
            raise OutmaskError(
                f"{run.folder} holds a run of another recipe, {', '.join(differing)} differ: "
                f"remove that folder to train {run.name} anew, or choose another --out"
            )


def _differing(run: Run) -> list[str]:
    """The settings in which the run in the folder, if there is one, is not this one.

    Both are compared as today's recipes, so that a setting that did not exist yet has its default. Paths of data,
    devices and workers don't count, nor does what is only said of the model; a start counts by its row and seed.
    """
    kept = run.folder / _RECIPE
    if not kept.exists():
        return []
    other = read_recipe(kept)
    if run.base is not None and other.start_from is not None:
        same_place = Path(other.start_from).parts[-3:] == run.base.model.parts[-3:]  # ROW/seed-N/model
        other = replace(other, start_from=run.recipe.start_from if same_place else other.start_from)
    names = [name for name in Recipe.__dataclass_fields__ if name not in (*PLACES, *_TEXTS)]
    return [name for name in names if _comparable(run.recipe, name) != _comparable(other, name)]


def _comparable(recipe: Recipe, name: str) -> Any:
    if name == "model" and recipe.model:
        return {"kind": MASK2FORMER, **recipe.model}
    return getattr(recipe, name)


def check_kinds(runs: Sequence[Run], grid: Grid) -> None:
    """Refuse what models can't give before they are trained, not after.

    Args:
        runs: all of a grid's.
        grid: says what is asked of them.

    Raises:
        OutmaskError: names a row of per-pixel models with scores of masks, variants, ways or attention, one of mask
            models with scores of pixels, or one whose loss does not train the class that a way asks for.
    """
    attention = grid.attention
    for run in runs:
        outlier = run.recipe.loss.outlier
        if any(grid.way(label).way == _NEGATIVE_CLASS for label in run.row.ways) and (
            outlier is None or outlier.kind != _NEGATIVE_CLASS
        ):
            raise OutmaskError(
                f"row {run.row.name!r}: the way {_NEGATIVE_CLASS} needs a model with that class, which "
                f"loss.outlier of kind {_NEGATIVE_CLASS} trains"
            )
        if run.kind is None:
            continue
        row, of_masks = run.row, run.kind == MASK2FORMER
        if not of_masks and (row.variants or row.ways or row.name in attention):
            what = "attention needs" if row.name in attention else "variants need" if row.variants else "ways need"
            raise OutmaskError(f"row {row.name!r}: {what} a {MASK2FORMER}, got a {run.kind}")
        asked = [*row.scores, *(score for label in row.ways for score in grid.way(label).scores)]
        if strangers := [score for score in asked if score in (PIXEL_SCORES if of_masks else SCORES)]:
            raise OutmaskError(
                f"row {row.name!r}: {', '.join(strangers)} can't be had of {'mask' if of_masks else 'per-pixel'} "
                "models: outmask list scores says what each is made from"
            )


def train_run(run: Run) -> None:
    """Train, or go on where a training was killed; nothing is done where the model is there already.

    Raises:
        OutmaskError: where it can't be trained, or was started from another model than its base is now.
    """
    if run.base is not None:
        _check_base(run, run.base)
    if run.trained:
        return
    if run.recipe.processes > 1:
        raise OutmaskError(
            f"this training takes {run.recipe.processes} processes: run it with outmask train --out {run.folder}, "
            "its model is then taken from there"
        )
    if (kept := run.folder / _RECIPE).exists():
        _write_yaml(kept, run.description)  # the same settings, as today's recipes spell them
    train(run.recipe, run.description, run.folder, resume=True)


def _check_base(run: Run, base: Run) -> None:
    """Note which weights the run starts from; they must not change under it."""
    record = run.folder / "base.yaml"
    weights = read_config(base.model)["hashes"][WEIGHTS]
    if not record.exists():
        _write_yaml(record, {"model": base.name, "weights": weights})
    elif yaml.safe_load(record.read_text(encoding="utf-8"))["weights"] != weights:
        raise OutmaskError(
            f"it was fine-tuned from another {base.name} than is there now: remove {run.folder} to train it anew"
        )


@contextmanager
def claimed(folder: Path) -> Iterator[bool]:
    """Within the block, whether this process alone works in a run's folder; the system lets go when it ends or dies."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "run.lock").open("w")
    except OSError as error:
        raise OutmaskError(f"{folder} can't be written ({error.strerror}): choose another --out") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def _write_yaml(path: Path, values: Any) -> None:
    with replacing(path) as file:
        file.write(yaml.safe_dump(values, sort_keys=False).encode())
