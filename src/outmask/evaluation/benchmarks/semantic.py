"""Benchmarks with labels of classes: StreetHazards (open-set), Cityscapes, CamVid and IDD-Lite (closed-set)."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from outmask.data.datasets import lookup_table, open_dataset
from outmask.data.layouts import LAYOUTS
from outmask.data.taxonomies import STREETHAZARDS
from outmask.evaluation.benchmarks.labels import lookup, read_label, read_unknown
from outmask.evaluation.benchmarks.layouts import WrongLayout, demand, images_in
from outmask.evaluation.benchmarks.records import OUTSIDE, Record
from outmask.types import Taxonomy

_ANOMALY = 14
"""Id of the unknown objects in StreetHazards' test files; *other* is outside (as in DenseHybrid)."""


def _streethazards_table() -> NDArray[np.uint8]:
    same = {name: name for name in STREETHAZARDS.names}
    other = LAYOUTS["streethazards"].unlabelled_ids
    table = lookup_table(STREETHAZARDS, STREETHAZARDS, same, unlabelled_ids=other, unlabelled="void")
    table[_ANOMALY] = STREETHAZARDS.unknown_id
    return table


def streethazards(root: Path, split: str) -> list[Record]:
    """StreetHazards (Hendrycks et al., ICML 2022), grouped by town: the test set is t5 and t6."""
    part = root / ("test" if split == "test" else "train")
    images = images_in(part / "images" / split, "*/*")
    if not images:
        raise WrongLayout(f"no images in {part / 'images' / split}")
    labels = [part / "annotations" / split / image.parent.name / f"{image.stem}.png" for image in images]
    demand(labels)
    table = _streethazards_table()
    return [
        open_set_record(f"{image.parent.name}/{image.stem}", image, label, table, STREETHAZARDS, image.parent.name)
        for image, label in zip(images, labels, strict=True)
    ]


def closed_set(dataset: str, root: Path, split: str) -> list[Record]:
    """A closed-set benchmark in the layout of the training dataset of that name; pixels without a class are outside."""
    opened = open_dataset(dataset, root, split, unlabelled="void")
    return [
        Record(record.name, record.image, semantic=partial(read_label, record.labels, opened.table))
        for record in opened.records
    ]


def open_set_record(
    name: str, image: Path, label: Path, table: NDArray[np.uint8], taxonomy: Taxonomy, group: str = ""
) -> Record:
    """A record whose one file holds both the known classes and the unknown pixels."""
    return Record(
        name,
        image,
        label=partial(read_unknown, label, table, taxonomy.unknown_id),
        semantic=partial(read_label, label, table),
        group=group,
    )


def plain_table(taxonomy: Taxonomy, unknown: bool) -> NDArray[np.uint8]:
    """Table of the plain form: class ids as they are, K where something is ``unknown``, 255 outside."""
    ids = range(taxonomy.num_classes + unknown)
    return lookup({OUTSIDE: OUTSIDE, **dict(zip(ids, ids, strict=True))})
