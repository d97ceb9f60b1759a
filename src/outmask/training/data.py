"""The draws of a run, shared among its processes, and its validation images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar

import lightning as L
from torch.utils.data import DataLoader, Dataset

from outmask.data.labels import Sample
from outmask.data.transforms import Batch, DrawnSamples, collate
from outmask.training.build import build_taxonomy, build_training_set, build_validation
from outmask.training.recipe import Recipe

T = TypeVar("T")


class RecipeData(L.LightningDataModule):
    """The recipe's draws, one chunk of iterations at a time, and its validation images."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.num_classes = build_taxonomy(recipe).num_classes
        self.training = build_training_set(recipe)
        self.validation = build_validation(recipe)

    def train_dataloader(self) -> DataLoader[Batch]:
        """This process's draws of the next chunk, in their order."""
        assert self.trainer is not None
        recipe = self.recipe
        # By the iterations done: Lightning counts epochs differently after a resume.
        first = self.trainer.global_step
        draws = [
            share
            for iteration in range(first, min(first + recipe.chunk, recipe.iterations))
            for share in shares(
                iteration, recipe.batch_size, recipe.accumulate, recipe.processes, self.trainer.global_rank
            )
        ]
        return DataLoader(
            Batches(self.training, self.num_classes),
            batch_size=None,
            sampler=draws,
            num_workers=recipe.workers,
            collate_fn=_as_it_is,
        )

    def val_dataloader(self) -> DataLoader[Sample] | list[Any]:
        """Validation images, one at a time at their own size; all of them in every process."""
        if not self.validation:
            return []
        return DataLoader(self.validation, batch_size=None, collate_fn=_as_it_is)  # type: ignore[arg-type]


class Batches(Dataset[Batch]):
    """Batches of a run's draws: item ``(3, 4, 5)`` is the batch of these three."""

    def __init__(self, draws: DrawnSamples, num_classes: int) -> None:
        self.draws = draws
        self.num_classes = num_classes

    def __getitem__(self, draws: Sequence[int]) -> Batch:
        batch = collate([self.draws[draw] for draw in draws], self.num_classes)
        return replace(batch, draws=tuple(draws))


def shares(iteration: int, batch_size: int, accumulate: int, processes: int, rank: int) -> list[range]:
    """The draws of one process in one iteration, a range for each of its accumulated steps.

    All processes together take the draws ``iteration * batch_size ... (iteration + 1) * batch_size - 1``, each once, in
    the order of steps and then of ranks: what an iteration sees depends on neither their number nor that of the steps.
    """
    step = batch_size // accumulate
    own = step // processes
    starts = range(iteration * batch_size + rank * own, (iteration + 1) * batch_size, step)
    return [range(start, start + own) for start in starts]


def _as_it_is(sample: T) -> T:
    """Instead of the loader's own conversion to tensors."""
    return sample
