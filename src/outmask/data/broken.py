"""Broken items of a large collection: a run of days doesn't end for one damaged file."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor
from torch.utils.data import Dataset

from outmask.errors import OutmaskError

if TYPE_CHECKING:
    from outmask.data.labels import Sample
    from outmask.data.transforms import SampleSource

_log = logging.getLogger(__name__)

T = TypeVar("T")

MOST_BROKEN = 0.01
"""Share of a dataset's images, or of those that objects are cut from, that a run goes on without."""

_BROKEN_IN_A_ROW = 10
"""As many neighbours that can't be used are no accident: the dataset or its taxonomy is wrong, and the run stops."""


class TooManyBroken(OutmaskError):
    """Too much of a dataset, or of a source of objects, can't be used."""


class BrokenItems:
    """Which items of a collection were found broken; the next item takes the place of one that is.

    Each is named once in a warning, by the process that finds it first. What stands in for it depends on the files
    alone: not on the process, nor on what was read before.

    Args:
        size: how many items there are.
        kind: what they are called in messages.
    """

    def __init__(self, size: int, kind: str) -> None:
        self._kind = kind
        # In shared memory: what one loading process has found, no other warns of again.
        self._found: Tensor = torch.zeros(size, dtype=torch.bool)
        self._found.share_memory_()  # type: ignore[no-untyped-call]

    @property
    def count(self) -> int:
        """How many were found, over all loading processes."""
        return int(self._found.sum())

    def pass_over(self, index: int, read: Callable[[int], T]) -> T:
        """Item ``index``, or the first one after it that can be read.

        Args:
            index: of the item.
            read: gives an item by its index; its :class:`OutmaskError` says that the item is broken, and names the
                file.

        Raises:
            TooManyBroken: where more than :data:`MOST_BROKEN` of the items, or several in a row, are broken.
        """
        for _ in range(_BROKEN_IN_A_ROW):
            try:
                return read(index)
            except TooManyBroken:  # of a collection inside this one
                raise
            except OutmaskError as error:
                failure = error
            if not self._found[index]:
                self._note(index, failure)
            index = (index + 1) % len(self._found)
        raise TooManyBroken(f"{failure} (and {_BROKEN_IN_A_ROW} {self._kind} in a row can't be used)") from failure

    def _note(self, index: int, failure: OutmaskError) -> None:
        self._found[index] = True
        size = len(self._found)
        if (count := self.count) > MOST_BROKEN * size:
            raise TooManyBroken(
                f"{failure} ({count} of {size} {self._kind} can't be used, more than {MOST_BROKEN:.0%}: "
                "mend or remove them)"
            ) from failure
        _log.warning("%s (left out; %d of %d %s can't be used)", failure, count, size, self._kind)


class UsableImages(Dataset["Sample"]):
    """A dataset whose broken images are passed over.

    Args:
        dataset: the images.
    """

    def __init__(self, dataset: SampleSource) -> None:
        self.dataset = dataset
        self._broken = BrokenItems(len(dataset), "images of this dataset")

    @classmethod
    def of(cls, dataset: SampleSource) -> UsableImages:
        """The dataset itself where it is one already: then it keeps its count, and warns once wherever it is used."""
        return dataset if isinstance(dataset, cls) else cls(dataset)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        return self._broken.pass_over(index, self.dataset.__getitem__)

    @property
    def broken(self) -> int:
        """How many images were found that can't be used, over all loading processes."""
        return self._broken.count
