"""``outmask flow``: a normalising flow of a recipe's known scenes, whose samples a recipe can paste."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import ConcatDataset

from outmask.app import DONE
from outmask.app.terminal import progress_bar, say
from outmask.data.broken import UsableImages
from outmask.data.flow import CONFIG, WEIGHTS, PatchFlow, inlier_crops, train_flow
from outmask.data.transforms import SampleSource
from outmask.errors import OutmaskError
from outmask.output.files import write_image
from outmask.training.build import open_training_images
from outmask.training.recipe import Recipe
from outmask.training.run import read_recipe

CHECKPOINT, PICTURE = "flow.ckpt", "samples.png"

_ROWS, _COLUMNS = 6, 6
"""Patches in each half of the picture."""
_SAMPLES = 2
"""What a random choice is for, beside the seed: the picture. outmask.data.flow has the others."""


def flow(config: str, out: str, data_root: str | None, iterations: int, patch: int, resume: bool) -> int:
    """Train a flow on the known parts of a recipe's training images, then write it and a picture of what it makes.

    The folder takes part in a recipe as ``{kind: flow, root: OUT}`` among the sources of its negatives.

    Args:
        config: the recipe; its datasets, taxonomy, seed and workers count.
        out: the flow's folder: ``flow.safetensors``, ``flow.json``, ``samples.png`` and ``flow.ckpt`` to go on from.
        data_root: where the datasets lie, in place of what the recipe says.
        iterations: in all, those before a resume included.
        patch: side of a training patch in pixels.
        resume: go on from the checkpoint in ``out``.

    Returns:
        the exit code.

    Raises:
        OutmaskError: on a bad recipe or bad images, where ``out`` holds a flow and ``resume`` is not set, holds another
            one or one that can't go on, or can't be written.
    """
    folder = Path(out)
    if not resume and any((folder / name).exists() for name in (CHECKPOINT, WEIGHTS, CONFIG)):
        raise OutmaskError(f"{out} already holds a flow: continue its training with --resume, or choose another --out")
    if (folder / WEIGHTS).exists() and not (folder / CHECKPOINT).exists():
        raise OutmaskError(f"{out} holds a flow but no {CHECKPOINT} to go on from: choose another --out")
    recipe = read_recipe(config, data_root)
    images = _training_images(recipe)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutmaskError(f"{out} can't be written ({error.strerror}): choose another --out") from None
    with progress_bar() as bar:
        task = bar.add_task("flow", total=iterations)
        trained = train_flow(
            images,
            iterations=iterations,
            patch=patch,
            seed=recipe.seed,
            workers=recipe.workers,
            device="cuda" if torch.cuda.is_available() else "cpu",
            checkpoint=folder / CHECKPOINT,
            progress=lambda done, bits: bar.update(task, completed=done, description=f"flow, {bits:.2f} bits a byte"),
        )
    trained.save(folder)
    picture, bits = _compare(trained, images, patch, np.random.default_rng((recipe.seed, _SAMPLES)))
    write_image(folder / PICTURE, picture)
    say(f"flow: {out}, {bits:.2f} bits a byte of a training patch")
    say(f"training patches beside what it makes: {folder / PICTURE}")
    return DONE


def _training_images(recipe: Recipe) -> SampleSource:
    """All labelled images, without what the recipe pastes: that may be this flow's own samples."""
    return ConcatDataset([UsableImages(images) for images in open_training_images(recipe)])


def _compare(
    trained: PatchFlow, images: SampleSource, patch: int, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], float]:
    """Real patches on the left, made ones on the right, as one picture; bits a byte of the real ones."""
    real = inlier_crops(images, _ROWS * _COLUMNS, patch, rng)
    with torch.no_grad():
        bits = float(trained.bits_per_dimension(torch.from_numpy(real).permute(0, 3, 1, 2), rng).mean())
    made = trained.sample(rng, (patch, patch), len(real))
    halves = [_grid(patches) for patches in (real, made)]
    gap = np.full((len(halves[0]), patch // 2, 3), 255, np.uint8)
    return np.concatenate([halves[0], gap, halves[1]], axis=1), bits


def _grid(patches: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """``(N, h, w, 3)`` patches, row by row, with white lines between them."""
    framed = np.pad(patches, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=255)
    rows = framed.reshape(_ROWS, _COLUMNS, *framed.shape[1:])
    return np.concatenate([np.concatenate(list(row), axis=1) for row in rows], axis=0)
