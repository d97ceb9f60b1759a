"""``outmask fit``: what detectors learn from the training set, stored in the model."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

import outmask
from outmask.app import DONE
from outmask.app.terminal import progress_bar, say
from outmask.checkpoints import local_folder, store_statistics
from outmask.checkpoints.folder import MARKER, read_config
from outmask.data.transforms import DrawnSamples
from outmask.detectors import fit, fitted
from outmask.errors import OutmaskError
from outmask.weights import bundled_models


def fitting(model: str, detector: str, config: str, data_root: str | None, images: int | None) -> int:
    """Make statistics of detectors, given as ``a,b``, from a recipe's training images; returns the exit code.

    An image that cannot be used is named in a warning and left out; too many of them are an error, as in training.

    Raises:
        OutmaskError: on an unknown detector, one that the model cannot have, a model or a recipe that do not fit each
            other, images that cannot be found, or a model that cannot be written.
    """
    detectors = [fitted(name) for name in dict.fromkeys(part.strip() for part in detector.split(","))]
    if images is not None and images < 1:
        raise OutmaskError(f"--images must be at least 1, got {images}")
    folder = local_folder(model)
    if model in bundled_models():
        raise OutmaskError(f"{model} belongs to the installation: copy its folder, and fit the copy")
    if folder is None or MARKER not in read_config(folder):
        raise OutmaskError(f"{model} is no model folder of outmask's: it has no place for statistics")
    segmenter = outmask.load(model)
    drawn = _training_images(config, data_root, segmenter.taxonomy.num_classes, images)
    with progress_bar() as bar:

        def walk() -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
            for index in bar.track(range(len(drawn)), description="fit"):
                sample = drawn[index]
                yield sample.image, sample.labels

        statistics = fit(segmenter, detectors, walk(), segmenter.taxonomy.num_classes)
    store_statistics(folder, statistics)
    say(f"{', '.join(statistics)} fitted to {len(drawn)} training images: stored in {folder}")
    return DONE


def _training_images(config: str, data_root: str | None, num_classes: int, images: int | None) -> DrawnSamples:
    """A recipe's training images as they are, nothing pasted: all of them once, or so many at random."""
    from outmask.training.build import build_taxonomy, open_training_images
    from outmask.training.run import read_recipe

    recipe = read_recipe(config, data_root)
    if build_taxonomy(recipe).num_classes != num_classes:
        raise OutmaskError(f"{config} has other classes than the model")
    datasets = open_training_images(recipe)
    total = sum(len(dataset) for dataset in datasets)
    return DrawnSamples(datasets, [], seed=recipe.seed, length=total if images is None else min(images, total))
