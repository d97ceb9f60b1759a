"""Benchmarks of unknown objects as instances: OoDIS."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from outmask.data.datasets import spans
from outmask.data.taxonomies import CITYSCAPES
from outmask.errors import OutmaskError
from outmask.evaluation.benchmarks.labels import InstanceCoding, read_class_instances
from outmask.evaluation.benchmarks.layouts import WrongLayout, images_in, lost_and_found_frames
from outmask.evaluation.benchmarks.records import ANOMALY, KNOWN, OUTSIDE, Record

_CAR = 26
"""Cityscapes' id of cars, which OoDIS' labels and its evaluation take for the unknown."""

# As Cityscapes' evaluation reads instance files: it ignores its void ids and cars without a number ("cargroup").
_OFFICIAL = InstanceCoding(
    objects=(_CAR,),
    known=tuple(id_ for id_ in CITYSCAPES.evaluation_ids if id_ != _CAR),
    outside=(*sorted(set(range(34)) - set(CITYSCAPES.evaluation_ids)), _CAR),
)

# Whatever class a 16-bit file can number.
_PLAIN = InstanceCoding(objects=tuple(range(1, 66)), known=(KNOWN,), outside=(OUTSIDE,))


def oodis(root: Path, split: str) -> list[Record]:
    """OoDIS (Nekrasov et al., ICRA 2025): the public labels, of Fishyscapes Lost & Found's validation frames."""
    folder = root / "fs_lost_found_instance" / "gtCoarse"
    labels = images_in(folder, "*/*/*_gtCoarse_instanceIds.png")
    if not labels:
        raise WrongLayout(f"no labels in {folder}")
    names = [label.stem.removesuffix("_gtCoarse_instanceIds") for label in labels]
    images = lost_and_found_frames(root / "fs_lost_found" / "leftImg8bit", names)
    return [_record(name, image, label, _OFFICIAL) for name, image, label in zip(names, images, labels, strict=True)]


def plain_record(name: str, image: Path, file: Path) -> Record:
    """A record of the plain form: 0 known, 255 outside, objects ``1000 * class + number`` of any class."""
    return _record(name, image, file, _PLAIN)


def _record(name: str, image: Path, file: Path, coding: InstanceCoding) -> Record:
    return Record(name, image, label=partial(_read_label, file, coding), instances=partial(_read, file, coding))


def _read(path: Path, coding: InstanceCoding) -> NDArray[np.int32]:
    instances = read_class_instances(path, coding)
    if not (instances == 0).any():
        raise OutmaskError(
            f"the instances {path} leave no known pixel, and no false alarm could be counted; expected the background "
            f"as one of the class ids {spans(coding.known)}"
        )
    return instances


def _read_label(path: Path, coding: InstanceCoding) -> NDArray[np.uint8]:
    """``(H, W)`` uint8: 0 known, 1 unknown object, 255 outside."""
    instances = _read(path, coding)
    return np.select([instances < 0, instances > 0], [np.uint8(OUTSIDE), np.uint8(ANOMALY)], np.uint8(KNOWN))
