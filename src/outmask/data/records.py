"""What a labelled dataset is on disk: its files, and what the ids in them mean."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from outmask.data.labels import Sample
from outmask.types import Taxonomy

Unlabelled = Literal["ignore", "void"]


@dataclass(frozen=True)
class Record:
    """One image of a dataset.

    Attributes:
        image: its file.
        labels: the file of its label map: an 8-bit PNG of ids, or of segments where the layout's ``read`` says so.
        name: says which image it is, unique in its dataset.
        segments: of a file of segments: ``(n, 3)`` int32, each segment's id, category and whether it is a crowd.
    """

    image: Path
    labels: Path
    name: str
    segments: NDArray[np.int32] | None = field(default=None, compare=False, repr=False)


ReadLabels = Callable[[Record, NDArray[np.uint8]], NDArray[np.uint8]]
"""A record and a ``(256,)`` lookup table -> its ``(H, W)`` uint8 labels."""


DrawSample = Callable[[Record, NDArray[np.uint8]], Sample]
"""A record and a ``(256,)`` lookup table -> its sample."""


ReadObjects = Callable[[Record], NDArray[np.uint16]]
"""A record -> ``(H, W)`` uint16: which object a pixel shows, from 1; 0 where its file does not say."""


@dataclass(frozen=True)
class Layout:
    """How a dataset lies on disk and what the ids in its files mean.

    Attributes:
        find: root and split -> the records; none where the folders are not there.
        expected: the layout in words, for messages.
        splits: the splits there are; None = any.
        taxonomy: the files' classes, at the ids that its ``evaluation_ids`` name; None = ``taxonomy.yaml`` says so.
        unlabelled_ids: ids of pixels without a class.
        unlabelled: what these become where nobody says otherwise.
        read: how labels are read; None = the file holds one id a pixel.
        objects: how the objects of a class are told apart; None = the files don't.
        draw: of a dataset that is generated: how a record's sample is made, objects told apart; its files do not exist.
    """

    find: Callable[[Path, str], list[Record]]
    expected: str
    splits: tuple[str, ...] | None
    taxonomy: Taxonomy | None
    unlabelled_ids: tuple[int, ...]
    unlabelled: Unlabelled
    read: ReadLabels | None = None
    objects: ReadObjects | None = None
    draw: DrawSample | None = None
