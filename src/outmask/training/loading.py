"""Whether training waits for its data: the time to make a batch against that of the step that uses it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from outmask.errors import OutmaskError
from outmask.preprocessing import Preprocessing
from outmask.training.build import build_taxonomy, build_training_set
from outmask.training.data import Batches
from outmask.training.module import SegmentationTraining
from outmask.training.recipe import DatasetRecipe, NegativesRecipe, ObjectsRecipe, Recipe
from outmask.training.run import read_recipe

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class LoadingShare:
    """What it takes one process to make a batch (read, paste, crop, flip), as a fraction of the training step's time.

    Below 1 a process that loads keeps up with one that trains; with ``workers: 0``, a step takes longer by it.

    Attributes:
        from_disk: where every image is decoded, as always with a dataset that is too large to be kept in memory.
        from_memory: where it was decoded before.
    """

    from_disk: float
    from_memory: float


def compare_loading(recipe: Recipe, steps: int = 2) -> LoadingShare:
    """Make the batches of a recipe's first two epochs, and train on one of them, forward and backward, on the CPU.

    Args:
        recipe: its images must be few enough to be kept in memory, and fill whole batches.
        steps: that are timed, after one that is not.

    Raises:
        OutmaskError: where the last batch of an epoch would be a part of one.
    """
    draws = build_training_set(replace(recipe, iterations=1_000_000))
    images = sum(map(len, draws.datasets))
    if images % recipe.batch_size:
        raise OutmaskError(f"{images} images are no whole batches of {recipe.batch_size}")
    batches = Batches(draws, build_taxonomy(recipe).num_classes)
    numbers = [range(first, first + recipe.batch_size) for first in range(0, 2 * images, recipe.batch_size)]
    # In its first epoch a run reads every image once, in the second it finds them decoded.
    loading = [_seconds(lambda share=share: batches[share]) for share in numbers]  # type: ignore[misc]
    training = SegmentationTraining(recipe, Preprocessing())
    batch = batches[numbers[0]]

    def step() -> None:
        training.zero_grad()
        torch.autograd.backward(torch.stack(list(training.losses(batch).values())).sum())

    step()
    trained = median(_seconds(step) for _ in range(steps))
    half = len(loading) // 2
    return LoadingShare(median(loading[:half]) / trained, median(loading[half:]) / trained)


def _seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def synthetic_recipes(root: Path) -> dict[str, Recipe]:
    """A small model's training and a large one's, on made-up images of their datasets' sizes, written below ``root``.

    Returns:
        recipes by what they are: the bundled model's own, where steps are short, and Mask2Former-R50 on crops of
        Cityscapes, where files are large. Both paste objects.
    """
    rng = np.random.default_rng(0)
    for index in range(24):
        image, labels = _scene(rng, (360, 480), range(11))
        _write(root / f"camvid/train/{index}.png", image)
        _write(root / f"camvid/trainannot/{index}.png", labels)
    for index in range(6):
        image, labels = _scene(rng, (1024, 2048), range(7, 9))
        _write(root / f"cityscapes/leftImg8bit/train/a/{index}_leftImg8bit.png", image)
        _write(root / f"cityscapes/gtFine/train/a/{index}_gtFine_labelIds.png", labels)
    for index in range(8):
        image, _ = _scene(rng, (300, 400), range(1))
        mask = cv2.circle(np.zeros((300, 400), np.uint8), (200, 150), 120, 255, -1)
        _write(root / f"objects/images/disc_{index}.png", image)
        _write(root / f"objects/masks/disc_{index}.png", mask)
    objects = NegativesRecipe([ObjectsRecipe("folder", "objects")])
    street = replace(
        read_recipe("street", root),
        train=[DatasetRecipe("camvid", "camvid", "train")],
        validation=[],
        start_from=None,
        negatives=objects,
        validation_negatives=None,
    )
    large = Recipe(
        taxonomy="cityscapes",
        train=[DatasetRecipe("cityscapes", "cityscapes", "train")],
        model={"backbone": "resnet50"},
        negatives=objects,
        data_root=str(root),
        crop=(512, 512),
        short_side=(512, 2048),
        batch_size=2,
    )
    return {
        f"the street recipe, {_crops(street)} from 360x480": street,
        f"Mask2Former-R50, {_crops(large)} from 1024x2048": large,
    }


def _crops(recipe: Recipe) -> str:
    return f"{recipe.batch_size} crops of {'x'.join(map(str, recipe.crop))}"


def _scene(rng: np.random.Generator, size: tuple[int, int], ids: range) -> tuple[Bytes, Bytes]:
    """Soft colours with a camera's noise, which a PNG shrinks to about half, as it does photographs; and labels."""
    soft = cv2.resize(rng.uniform(0, 255, (6, 8, 3)).astype(np.float32), size[::-1], interpolation=cv2.INTER_CUBIC)
    image = (soft + rng.normal(0, 3, (*size, 3))).clip(0, 255).astype(np.uint8)
    blocks = rng.choice(np.array(ids), (6, 8)).astype(np.uint8)
    return image, cv2.resize(blocks, size[::-1], interpolation=cv2.INTER_NEAREST)


def _write(path: Path, pixels: Bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), pixels)
