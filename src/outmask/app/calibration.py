"""``outmask calibrate``: thresholds chosen on validation data, stored in the model with where they came from."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
from rich.table import Table

import outmask
from outmask.app import DONE
from outmask.app.arguments import score_names
from outmask.app.terminal import progress_bar, say, stdout, walks
from outmask.checkpoints import load_bundle, local_folder, save_folder, store_operating_points
from outmask.checkpoints.folder import MARKER, read_config
from outmask.errors import OutmaskError
from outmask.evaluation import Benchmark, ModelMaps, open_benchmark
from outmask.evaluation.calibrate import Rule, calibrate, pasted_benchmark
from outmask.weights import bundled_models


def calibration(
    model: str,
    score: str,
    rule: str,
    benchmark: str | None,
    root: str | None,
    split: str | None,
    config: str | None,
    data_root: str | None,
    out: str | None,
) -> int:
    """Choose a threshold for each score, store them and print them; returns the exit code.

    Raises:
        OutmaskError: on validation data that is given twice or not at all or cannot be read, a rule that no threshold
            fits, or a model that cannot be written.
    """
    names, chosen_by = score_names(score), Rule.parse(rule)
    if (benchmark is None) == (config is None):
        raise OutmaskError("validation data is either a benchmark (--benchmark and --root) or a recipe (--config)")
    if benchmark is not None and root is None:
        raise OutmaskError("--benchmark needs --root, the folder that holds it")
    folder = local_folder(model)
    ours = folder is not None and MARKER in read_config(folder)
    if out is None and model in bundled_models():
        raise OutmaskError(f"{model} belongs to the installation: name a folder for its calibrated copy with --out")
    if out is None and not ours:
        raise OutmaskError(f"{model} is no model folder of outmask's: name a folder to write one to with --out")
    if out is not None and Path(out).exists():
        raise OutmaskError(f"--out {out} exists already: choose another folder or remove it")
    segmenter = outmask.load(model)
    if benchmark is not None and root is not None:
        opened = open_benchmark(benchmark, root, split)
    else:
        opened = _recipe_benchmark(str(config), data_root, segmenter.taxonomy.num_classes)

    with progress_bar() as bar:
        (points,) = calibrate(ModelMaps(segmenter), opened, names, [chosen_by], walks(bar, opened))
    if out is None:
        target = folder
    else:
        target = Path(out)
        _copy(model, folder if ours else None, target)
    assert target is not None
    try:
        store_operating_points(target, points)
    except OutmaskError as error:
        raise OutmaskError(f"{error}; --out writes the model and its thresholds to another folder") from error

    table = Table(title=f"{opened.name} {opened.split}, {len(opened)} images: {chosen_by}", caption="percent")
    rates = ("TPR", "FPR", "precision", "F1")
    table.add_column("score")
    for column in ("threshold", *rates):
        table.add_column(column, justify="right")
    for name, point in points.items():
        shown = ("-" if point[rate] is None else f"{point[rate]:.2f}" for rate in rates)
        table.add_row(name, str(np.float32(point["threshold"])), *shown)
    stdout.print(table)
    say(f"stored in {target}")
    return DONE


def _recipe_benchmark(config: str, data_root: str | None, num_classes: int) -> Benchmark:
    """A recipe's validation images with pasted objects."""
    from outmask.training.build import build_taxonomy, build_validation
    from outmask.training.run import read_recipe

    recipe = read_recipe(config, data_root)
    if recipe.validation_negatives is None or not recipe.validation:
        raise OutmaskError(f"{config} lacks validation images, or validation_negatives to paste on them")
    if build_taxonomy(recipe).num_classes != num_classes:
        raise OutmaskError(f"{config} has other classes than the model")
    sources = " + ".join(f"{dataset.name} {dataset.split}" for dataset in recipe.validation)
    name = f"{sources}, pasted objects of {Path(config).name}"
    return pasted_benchmark(name, build_validation(recipe), num_classes)


def _copy(model: str, ours: Path | None, target: Path) -> None:
    """The model's folder at ``target``, whole or not at all; one of ours byte for byte, so that its hash stays."""
    if ours is None:
        save_folder(load_bundle(model), target)
        return
    try:
        target.absolute().parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.absolute().parent) as beside:
            copied = Path(beside) / "model"
            shutil.copytree(ours, copied)
            copied.rename(target)
    except OSError as error:
        raise OutmaskError(f"{target}: can't be written ({error.strerror})") from error
