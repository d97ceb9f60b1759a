"""The official folder layouts of the datasets that outmask trains on; a new one is one more entry of ``LAYOUTS``."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from outmask.data import coco
from outmask.data.ade20k import ADE20K
from outmask.data.coco_classes import COCO_PANOPTIC
from outmask.data.images import read_values
from outmask.data.records import Layout, Record
from outmask.data.taxonomies import CAMVID, CITYSCAPES, IDD_LITE, STREETHAZARDS, WORLD
from outmask.data.vistas import MAPILLARY_VISTAS, MAPILLARY_VISTAS_V2
from outmask.data.world import samples as world
from outmask.errors import OutmaskError

_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")

_LONG_SPLITS = {"train": "training", "val": "validation"}
"""Splits, and what Vistas, ADE20K and StreetHazards call their folders."""


def _camvid(root: Path, split: str) -> list[Record]:
    return [
        Record(image, root / f"{split}annot" / f"{image.stem}.png", f"{split}/{image.stem}")
        for image in _images(root / split, "*")
    ]


def _idd_lite(root: Path, split: str) -> list[Record]:
    records = []
    for image in _images(root / "leftImg8bit" / split, "*/*_image.*"):
        stem, sequence = image.stem.removesuffix("_image"), image.parent.name
        labels = root / "gtFine" / split / sequence / f"{stem}_label.png"
        records.append(Record(image, labels, f"{split}/{sequence}/{stem}"))
    return records


def _cityscapes(root: Path, split: str) -> list[Record]:
    records = []
    for image in _images(root / "leftImg8bit" / split, "*/*_leftImg8bit.*"):
        stem, city = image.stem.removesuffix("_leftImg8bit"), image.parent.name
        labels = root / "gtFine" / split / city / f"{stem}_gtFine_labelIds.png"
        records.append(Record(image, labels, f"{split}/{city}/{stem}"))
    return records


def _cityscapes_objects(record: Record) -> NDArray[np.uint16]:
    """Of ``gtFine_instanceIds.png``: ``1000 class + number`` is an object; a lower value a class, or a group of it."""
    path = record.labels.with_name(record.labels.name.replace("_labelIds", "_instanceIds"))
    values = read_values(path, "instances")
    if values.ndim != 2 or values.dtype.kind not in "iu" or not 0 <= values.min() <= values.max() < 1 << 16:
        raise OutmaskError(
            f"{path}: instances must be a 16-bit PNG with one channel, got {values.shape} {values.dtype}"
        )
    return np.where(values < 1000, 0, values).astype(np.uint16)


def _vistas(root: Path, split: str, folders: tuple[str, ...]) -> list[Record]:
    """Labels lie in the first of ``folders`` that is there."""
    part = root / _LONG_SPLITS[split]
    labels = next((part / folder for folder in folders if (part / folder).is_dir()), part / folders[0])
    return [
        Record(image, labels / f"{image.stem}.png", f"{split}/{image.stem}") for image in _images(part / "images", "*")
    ]


def _ade20k(root: Path, split: str) -> list[Record]:
    labels = root / "annotations" / _LONG_SPLITS[split]
    return [
        Record(image, labels / f"{image.stem}.png", f"{split}/{image.stem}")
        for image in _images(root / "images" / _LONG_SPLITS[split], "*")
    ]


def _streethazards(root: Path, split: str) -> list[Record]:
    labels = root / "train" / "annotations" / _LONG_SPLITS[split]
    records = []
    for image in _images(root / "train" / "images" / _LONG_SPLITS[split], "*/*"):
        town = image.parent.name
        records.append(Record(image, labels / town / f"{image.stem}.png", f"{split}/{town}/{image.stem}"))
    return records


def _folder(root: Path, split: str) -> list[Record]:
    part = "" if split == "all" else split
    return [
        Record(image, root / "labels" / part / f"{image.stem}.png", f"{split}/{image.stem}")
        for image in _images(root / "images" / part, "*")
    ]


def _images(folder: Path, pattern: str) -> list[Path]:
    # A leading dot marks what operating systems leave behind ("._x.png").
    return sorted(
        path
        for path in folder.glob(pattern)
        if path.suffix.lower() in _IMAGE_SUFFIXES and not path.name.startswith(".")
    )


# Of most datasets for mask models, pixels without a class are void: Mask2Former drops their ids from the target masks,
# so that they count as 0 in its mask losses.
LAYOUTS: Mapping[str, Layout] = {
    "camvid": Layout(
        find=_camvid,
        expected="SPLIT/X.png (or .jpg) with SPLITannot/X.png",
        splits=("train", "val", "test"),
        taxonomy=CAMVID,
        unlabelled_ids=(11,),
        unlabelled="ignore",
    ),
    "idd_lite": Layout(
        find=_idd_lite,
        expected="leftImg8bit/SPLIT/SEQ/N_image.jpg with gtFine/SPLIT/SEQ/N_label.png",
        splits=("train", "val", "test"),
        taxonomy=IDD_LITE,
        unlabelled_ids=(255,),
        unlabelled="ignore",
    ),
    "cityscapes": Layout(
        find=_cityscapes,
        expected="leftImg8bit/SPLIT/CITY/X_leftImg8bit.png (or .jpg) with gtFine/SPLIT/CITY/X_gtFine_labelIds.png",
        splits=("train", "val", "test"),
        taxonomy=CITYSCAPES,
        # Label ids 0 ... 33 of which 19 are training classes (cityscapesScripts, labels.py).
        unlabelled_ids=tuple(sorted(set(range(34)) - set(CITYSCAPES.evaluation_ids))),
        unlabelled="void",
        objects=_cityscapes_objects,
    ),
    "mapillary_vistas": Layout(
        # Version 2.0 comes with 1.2's labels in a folder of their own.
        find=partial(_vistas, folders=("labels", "v1.2/labels")),
        expected="{training,validation}/images/X.jpg with labels/X.png (or v1.2/labels/X.png) beside images",
        splits=("train", "val"),
        taxonomy=MAPILLARY_VISTAS,
        unlabelled_ids=(65,),
        unlabelled="void",
    ),
    "mapillary_vistas_v2": Layout(
        find=partial(_vistas, folders=("v2.0/labels",)),
        expected="{training,validation}/images/X.jpg with v2.0/labels/X.png beside images",
        splits=("train", "val"),
        taxonomy=MAPILLARY_VISTAS_V2,
        unlabelled_ids=(123,),
        unlabelled="void",
    ),
    "ade20k": Layout(
        find=_ade20k,
        expected="images/{training,validation}/X.jpg with annotations/{training,validation}/X.png (SceneParsing)",
        splits=("train", "val"),
        taxonomy=ADE20K,
        unlabelled_ids=(0,),
        unlabelled="void",
    ),
    "streethazards": Layout(
        find=_streethazards,
        expected="train/images/{training,validation}/TOWN/X.png with annotations/... instead of images/...",
        splits=("train", "val"),
        taxonomy=STREETHAZARDS,
        # "other": no class in either paper. 14, the anomaly, must not be in a training set.
        unlabelled_ids=(4,),
        unlabelled="void",
    ),
    "coco_panoptic": Layout(
        find=coco.find,
        expected="annotations/panoptic_{train,val}2017.json, their PNGs in annotations/panoptic_{train,val}2017 "
        "(or panoptic_{train,val}2017) and images in {train,val}2017",
        splits=("train", "val"),
        taxonomy=COCO_PANOPTIC,
        unlabelled_ids=(coco.NO_CATEGORY,),
        unlabelled="void",
        read=coco.read_labels,
        objects=coco.read_objects,
    ),
    "world": Layout(
        find=world.find,
        expected="nothing: its scenes are drawn",
        # Towns t5 and t6 are for testing only.
        splits=tuple(split for split in world.SPLITS if world.SPLITS[split].unknowns != "test"),
        taxonomy=WORLD,
        unlabelled_ids=(),
        unlabelled="void",
        draw=world.draw_sample,
    ),
    "folder": Layout(
        find=_folder,
        expected="taxonomy.yaml, images/SPLIT/X.jpg and labels/SPLIT/X.png (of split 'all' without the SPLIT folders)",
        splits=None,
        taxonomy=None,
        unlabelled_ids=(255,),
        unlabelled="ignore",
    ),
}
