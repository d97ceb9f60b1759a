"""Benchmarks with labels of known and anomaly: Road Anomaly, SegmentMeIfYouCan, Lost and Found, Fishyscapes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from outmask.data.datasets import read_ids
from outmask.evaluation.benchmarks.labels import (
    BINARY,
    InstanceCoding,
    lookup,
    read_class_instances,
    read_label,
    read_plain_instances,
)
from outmask.evaluation.benchmarks.layouts import WrongLayout, demand, images_in, lost_and_found_frames
from outmask.evaluation.benchmarks.records import ANOMALY, KNOWN, OUTSIDE, Record

_BINARY = lookup(BINARY)

_ROAD_ANOMALY = lookup({0: KNOWN, 2: ANOMALY})

_OBJECTS = tuple(range(2, 201))
"""Object classes in Lost and Found's files (road-anomaly-benchmark, ``tracks.py``); 0 is outside, 1 the road."""

_LOST_AND_FOUND = lookup({**dict.fromkeys(range(256), OUTSIDE), 1: KNOWN, **dict.fromkeys(_OBJECTS, ANOMALY)})

_LOST_AND_FOUND_INSTANCES = InstanceCoding(objects=_OBJECTS, known=(1,), outside=(0,))

# The obstacle track tests by day and without falling snow; its validation leaves out ten frames (``tracks.py``).
_NOT_OBSTACLE_TEST = ("snowstorm1", "snowstorm2", "driveway", "validation")
_NOT_OBSTACLE_VALIDATION = tuple(f"validation_{number}" for number in (19, *range(21, 30)))

# Sequences of Lost and Found's test set whose objects are known classes: children and bicycles (``tracks.py``).
_KNOWN_OBJECTS = (
    "15_Rechbergstr_Deckenpfronn",
    "01_Hanns_Klemm_Str_45_000006",
    "01_Hanns_Klemm_Str_45_000007",
    "10_Schlossberg_9_000004",
)


def road_anomaly(root: Path, split: str) -> list[Record]:
    """Road Anomaly (Lis et al., ICCV 2019): 0 known, 2 anomaly; objects are numbered in 46 of the 60 frames."""
    frame_list = root / "frame_list.json"
    try:
        names = json.loads(frame_list.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WrongLayout(f"no readable {frame_list}") from error
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise WrongLayout(f"{frame_list} must be a list of image file names")
    images = [root / "frames" / name for name in names]
    folders = [image.with_suffix(".labels") for image in images]
    demand([*images, *(folder / "labels_semantic.png" for folder in folders)])
    records = []
    for image, folder in zip(images, folders, strict=True):
        instances = folder / "labels_instance.png"
        records.append(
            Record(
                image.stem,
                image,
                label=partial(read_label, folder / "labels_semantic.png", _ROAD_ANOMALY),
                instances=partial(read_plain_instances, instances) if instances.is_file() else None,
            )
        )
    return records


def smiyc_anomaly21(root: Path, split: str) -> list[Record]:
    """SegmentMeIfYouCan's RoadAnomaly21 (Chan et al. 2021): the test frames' labels are hidden."""
    images = images_in(_dataset(root, "dataset_AnomalyTrack") / "images")
    return _smiyc([image for image in images if image.stem.startswith("validation") == (split == "validation")], split)


def smiyc_obstacle21(root: Path, split: str) -> list[Record]:
    """SegmentMeIfYouCan's RoadObstacle21 (Chan et al. 2021): the test frames' labels are hidden."""
    images = images_in(_dataset(root, "dataset_ObstacleTrack") / "images")
    scenes = [(image.stem.split("_")[0], image) for image in images]
    if split == "test":
        chosen = [image for scene, image in scenes if scene not in _NOT_OBSTACLE_TEST]
    else:
        chosen = [
            image
            for scene, image in scenes
            if scene == "validation" and not image.stem.startswith(_NOT_OBSTACLE_VALIDATION)
        ]
    return _smiyc(chosen, split)


def _dataset(root: Path, name: str) -> Path:
    """The dataset's own folder, or the one that the benchmark's kit keeps several in."""
    if root.name.startswith("dataset_") and root.name != name:
        raise WrongLayout(f"it is called {root.name}, another dataset of the kit")
    return root / name if (root / name).is_dir() else root


def _smiyc(images: Sequence[Path], split: str) -> list[Record]:
    if not images:
        raise WrongLayout(f"no image belongs to the split {split!r}")
    if split == "test":
        return [Record(image.stem, image) for image in images]
    labels = [image.parent.parent / "labels_masks" / f"{image.stem}_labels_semantic.png" for image in images]
    demand(labels)
    return [
        Record(image.stem, image, label=partial(read_label, label, _BINARY))
        for image, label in zip(images, labels, strict=True)
    ]


def lost_and_found(root: Path, split: str) -> list[Record]:
    """Lost and Found (Pinggera et al. 2016): the road is known, the objects on it anomalies, all else outside."""
    part = "train" if split == "train" else "test"
    images = images_in(root / "leftImg8bit" / part, "*/*_leftImg8bit.*")
    if split == "test_no_known":
        images = [image for image in images if not image.name.startswith(_KNOWN_OBJECTS)]
    if not images:
        raise WrongLayout(f"no image of the split {split!r} in {root / 'leftImg8bit' / part}")
    stems = [root / "gtCoarse" / part / image.parent.name / image.stem.removesuffix("_leftImg8bit") for image in images]
    labels = [stem.with_name(f"{stem.name}_gtCoarse_labelIds.png") for stem in stems]
    demand(labels)
    empty = _without_content(labels)
    records = []
    for image, stem, label in zip(images, stems, labels, strict=True):
        instances = stem.with_name(f"{stem.name}_gtCoarse_instanceIds.png")
        if label not in empty:
            records.append(
                Record(
                    stem.name,
                    image,
                    label=partial(read_label, label, _LOST_AND_FOUND),
                    instances=partial(read_class_instances, instances, _LOST_AND_FOUND_INSTANCES)
                    if instances.is_file()
                    else None,
                )
            )
    return records


def _without_content(labels: Sequence[Path]) -> set[Path]:
    """Labels that are zero everywhere: frames that nobody labelled.

    Nothing compresses better than zeros, so only the smallest files are read.
    """
    empty = set()
    for label in sorted(labels, key=lambda path: path.stat().st_size):
        if read_ids(label).any():
            break
        empty.add(label)
    return empty


def fs_lost_and_found(root: Path, split: str) -> list[Record]:
    """Fishyscapes Lost & Found (Blum et al., IJCV 2021): frames of Lost and Found, labelled anew."""
    labels = images_in(root / "fishyscapes_lostandfound", "*_labels.png")
    if not labels:
        raise WrongLayout(f"no labels in {root / 'fishyscapes_lostandfound'}")
    # NNNN_FID_labels.png is of the frame FID.
    names = [label.stem.removesuffix("_labels").partition("_")[2] for label in labels]
    images = lost_and_found_frames(root / "leftImg8bit", names)
    return [
        Record(name, image, label=partial(read_label, label, _BINARY))
        for name, image, label in zip(names, images, labels, strict=True)
    ]


def fs_static(root: Path, split: str) -> list[Record]:
    """Fishyscapes Static (Blum et al., IJCV 2021): Cityscapes frames with pasted objects."""
    images = images_in(root, "*_rgb.*")
    if not images:
        raise WrongLayout("it holds no image *_rgb.jpg")
    labels = [image.with_name(f"{image.stem.removesuffix('_rgb')}_labels.png") for image in images]
    demand(labels)
    return [
        Record(image.stem.removesuffix("_rgb"), image, label=partial(read_label, label, _BINARY))
        for image, label in zip(images, labels, strict=True)
    ]
