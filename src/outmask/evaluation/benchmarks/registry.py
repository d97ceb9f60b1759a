"""The benchmarks by name, and how one is opened."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from outmask.data.taxonomies import CAMVID, CITYSCAPES, IDD_LITE, STREETHAZARDS, WORLD
from outmask.errors import OutmaskError
from outmask.evaluation.benchmarks import anomaly, coco, objects, semantic, world
from outmask.evaluation.benchmarks.labels import BINARY, lookup, read_label
from outmask.evaluation.benchmarks.layouts import WrongLayout, plain_pairs
from outmask.evaluation.benchmarks.records import ANOMALY, KNOWN, OUTSIDE, Benchmark, Record, Track
from outmask.types import Taxonomy

_log = logging.getLogger(__name__)

Categories = tuple[dict[str, Any], ...]
Read = Callable[[Path, str], tuple[Sequence[Record], Categories]]
"""Root and split -> the records, and the categories of their panoptic segments."""


@dataclass(frozen=True)
class _Form:
    """One layout that a benchmark may lie in.

    Attributes:
        says: the layout in words, for messages.
        read: reads it, or raises ``WrongLayout``.
    """

    says: str
    read: Read


@dataclass(frozen=True)
class _Entry:
    """What there is to know of a benchmark.

    Attributes:
        summary: what it is, in one line.
        images: its splits, the default first, and how many images each has where it is whole; None = any number.
        plain: its plain form: ``images/*`` and a folder of files with their stems.
        plain_folder: that folder; where there is one, the plain form is read.
        official: its published layout; None where there is none.
        track, smallest_object, taxonomy: as of ``Benchmark``.
        split_taxonomies: of the splits that have their own.
        is_drawn: whether it is generated below its root, which need not be there.
    """

    summary: str
    images: Mapping[str, int | None]
    plain: _Form
    plain_folder: str = "labels_masks"
    official: _Form | None = None
    track: Track | None = None
    smallest_object: int = 0
    taxonomy: Taxonomy | None = None
    split_taxonomies: Mapping[str, Taxonomy] = field(default_factory=dict)
    is_drawn: bool = False

    def form(self, root: Path) -> _Form:
        """The layout that ``root`` has, or should have."""
        if self.official is None:
            return self.plain
        # SegmentMeIfYouCan's own folders are called like the plain ones; its labels are not.
        official_labels = any((root / self.plain_folder).glob("*_labels_semantic.png"))
        is_plain = (root / "images").is_dir() and (root / self.plain_folder).is_dir() and not official_labels
        return self.plain if is_plain else self.official

    def expected(self) -> str:
        return self.plain.says if self.official is None else f"{self.official.says}, or {self.plain.says}"


def _records(read: Callable[[Path, str], Sequence[Record]]) -> Read:
    """A reader of benchmarks without panoptic segments."""
    return lambda root, split: (read(root, split), ())


def _binary(values: Mapping[int, int] = BINARY, hint: str = "") -> _Form:
    def read(root: Path, split: str) -> list[Record]:
        table = lookup(values)
        return [
            Record(stem, image, label=partial(read_label, label, table, hint))
            for stem, image, label in plain_pairs(root, "labels_masks")
        ]

    return _Form("images/* with labels_masks/SAME_STEM.png (0 known, 1 anomaly, 255 outside)", _records(read))


def _classes(taxonomy: Taxonomy, open_set: bool = False) -> _Form:
    def read(root: Path, split: str) -> list[Record]:
        table = semantic.plain_table(taxonomy, open_set)
        pairs = plain_pairs(root, "labels")
        if open_set:
            return [semantic.open_set_record(stem, image, label, table, taxonomy) for stem, image, label in pairs]
        return [Record(stem, image, semantic=partial(read_label, label, table)) for stem, image, label in pairs]

    ids = f"0-{taxonomy.num_classes - 1} classes" + (f", {taxonomy.unknown_id} unknown" if open_set else "")
    return _Form(f"images/* with labels/SAME_STEM.png ({ids}, 255 outside)", _records(read))


def _objects() -> _Form:
    def read(root: Path, split: str) -> list[Record]:
        return [
            objects.plain_record(stem, image, instances) for stem, image, instances in plain_pairs(root, "instances")
        ]

    return _Form(
        "images/* with instances/SAME_STEM.png (0 known, 255 outside, objects 1000 * class + number as in Cityscapes)",
        _records(read),
    )


def _closed_set(dataset: str, summary: str, images: Mapping[str, int | None], taxonomy: Taxonomy) -> _Entry:
    plain = _classes(taxonomy)

    def read(root: Path, split: str) -> list[Record]:
        try:
            return semantic.closed_set(dataset, root, split)
        except OutmaskError as error:  # it says what it expected
            raise OutmaskError(f"{error}, or {plain.says}") from error

    official = _Form(f"the published layout of the dataset {dataset}", _records(read))
    return _Entry(summary, images, plain, "labels", official, taxonomy=taxonomy)


_BENCHMARKS: Mapping[str, _Entry] = {
    "road_anomaly": _Entry(
        "Road Anomaly (Lis et al., ICCV 2019): animals, rocks, cones on roads, 60 web images, objects numbered in 46",
        {"test": 60},
        # Copies in the plain form often keep the files' own 2.
        plain=_binary({**BINARY, 2: ANOMALY}),
        official=_Form(
            "frame_list.json, frames/X.jpg and frames/X.labels/labels_semantic.png", _records(anomaly.road_anomaly)
        ),
        track="anomaly",
    ),
    "smiyc_anomaly21": _Entry(
        "SegmentMeIfYouCan RoadAnomaly21 (Chan et al. 2021): 10 validation images, 100 test images with hidden labels",
        {"validation": 10, "test": 100},
        plain=_binary(),
        official=_Form(
            "dataset_AnomalyTrack/images/FID.jpg with labels_masks/FID_labels_semantic.png (of FIDs that begin with "
            "validation)",
            _records(anomaly.smiyc_anomaly21),
        ),
        track="anomaly",
    ),
    "smiyc_obstacle21": _Entry(
        "SegmentMeIfYouCan RoadObstacle21 (Chan et al. 2021): 30 validation images, 327 test images with hidden labels",
        {"validation": 30, "test": 327},
        plain=_binary(),
        official=_Form(
            "dataset_ObstacleTrack/images/SCENE_X.webp with labels_masks/SCENE_X_labels_semantic.png (of the scene "
            "validation)",
            _records(anomaly.smiyc_obstacle21),
        ),
        track="obstacle",
    ),
    "lost_and_found": _Entry(
        "Lost and Found (Pinggera et al., IROS 2016): small obstacles on the road; frames without labels left out",
        {"test": 1186, "test_no_known": 1043, "train": 1030},
        plain=_binary(),
        official=_Form(
            "leftImg8bit/SPLIT/NN_Scene/FID_leftImg8bit.png with gtCoarse/SPLIT/NN_Scene/FID_gtCoarse_labelIds.png",
            _records(anomaly.lost_and_found),
        ),
        track="obstacle",
    ),
    "fs_lost_and_found": _Entry(
        "Fishyscapes Lost & Found (Blum et al., IJCV 2021): 100 validation frames",
        {"val": 100},
        plain=_binary(),
        official=_Form(
            "fishyscapes_lostandfound/NNNN_FID_labels.png with Lost and Found's "
            "leftImg8bit/{train,test}/NN_Scene/FID_leftImg8bit.png",
            _records(anomaly.fs_lost_and_found),
        ),
        track="anomaly",
    ),
    "fs_static": _Entry(
        "Fishyscapes Static (Blum et al., IJCV 2021): 30 validation frames with pasted objects",
        {"val": 30},
        plain=_binary(),
        official=_Form("X_rgb.jpg with X_labels.png in one folder", _records(anomaly.fs_static)),
    ),
    "streethazards": _Entry(
        "StreetHazards (Hendrycks et al., ICML 2022): simulated towns t5 and t6, 12 known classes and anomalies",
        {"test": 1500, "validation": 1031},
        plain=_classes(STREETHAZARDS, open_set=True),
        plain_folder="labels",
        official=_Form(
            "test/images/test/{t5,t6}/X.png with test/annotations/test/{t5,t6}/X.png (of the split validation "
            "train/{images,annotations}/validation/TOWN/X.png)",
            _records(semantic.streethazards),
        ),
        taxonomy=STREETHAZARDS,
    ),
    "cityscapes": _closed_set(
        "cityscapes",
        "Cityscapes (Cordts et al., CVPR 2016): closed set, 19 classes",
        {"val": 500, "train": 2975},
        CITYSCAPES,
    ),
    "camvid": _closed_set(
        "camvid",
        "CamVid (Brostow et al. 2009) in SegNet's layout: closed set, 11 classes",
        {"test": 233, "val": 101, "train": 367},
        CAMVID,
    ),
    "idd_lite": _closed_set(
        "idd_lite",
        "IDD-Lite (Mishra et al. 2019): closed set, 7 coarse classes of Indian roads",
        {"val": 204, "train": 1403},
        IDD_LITE,
    ),
    "coco_open_panoptic": _Entry(
        "COCO open-set panoptic segmentation (Hwang et al., CVPR 2021): 20, 10 or 5 % of the thing classes unknown",
        {"20": 5000, "10": 5000, "5": 5000},
        plain=_Form(
            "images/* with panoptic/SAME_STEM.png and panoptic.json in COCO's panoptic format",
            partial(coco.coco_open_panoptic, annotation="panoptic.json", segmentations="panoptic", images="images"),
        ),
        plain_folder="panoptic",
        official=_Form(
            "annotations/panoptic_val2017.json, annotations/panoptic_val2017/*.png and val2017/*.jpg",
            partial(
                coco.coco_open_panoptic,
                annotation="annotations/panoptic_val2017.json",
                segmentations="annotations/panoptic_val2017",
                images="val2017",
            ),
        ),
    ),
    "oodis": _Entry(
        "OoDIS (Nekrasov et al., ICRA 2025): anomalies as instances, the public labels (Lost & Found)",
        {"validation": None},
        plain=_objects(),
        plain_folder="instances",
        official=_Form(
            "fs_lost_found_instance/gtCoarse/SPLIT/NN_Scene/FID_gtCoarse_instanceIds.png with "
            "fs_lost_found/leftImg8bit/SPLIT/NN_Scene/FID_leftImg8bit.png",
            _records(objects.oodis),
        ),
        smallest_object=10,
    ),
    "world": _Entry(
        "The synthetic world: streets of two towns that training never showed, objects of no known class in each; "
        "open20, open10, open5: 20, 10 or 5 % of the classes unknown, too",
        {
            "test": 200,
            "t5": 100,
            "t6": 100,
            "validation": 100,
            **{split: 100 if split.startswith("validation") else 200 for split in world.OPEN_SPLITS},
        },
        plain=_Form("SPLIT/images, SPLIT/panoptic and SPLIT/panoptic.json as they are drawn there", world.world),
        smallest_object=world.SMALLEST_OBJECT,
        taxonomy=WORLD,
        split_taxonomies=world.OPEN_SPLITS,
        is_drawn=True,
    ),
    "folder": _Entry(
        "Any images/* with labels_masks/SAME_STEM.png: 0 known, 1 (or --anomaly-id) anomaly, 255 outside",
        {"all": None},
        plain=_binary(),
    ),
}


def available() -> list[str]:
    """The names that :func:`open_benchmark` knows."""
    return list(_BENCHMARKS)


def describe(name: str) -> str:
    """What a benchmark is, in one line.

    Raises:
        OutmaskError: on an unknown name.
    """
    return _entry(name).summary


def splits(name: str) -> tuple[str, ...]:
    """The splits of a benchmark, the default one first.

    Raises:
        OutmaskError: on an unknown name.
    """
    return tuple(_entry(name).images)


def open_benchmark(name: str, root: str | Path, split: str | None = None, anomaly_id: int | None = None) -> Benchmark:
    """The benchmark called ``name``, its files below ``root``, in its published layout or in its plain form.

    A split that holds another number of images than the published one is opened with a warning in the log.

    Args:
        name: one of :func:`available`.
        root: the folder that holds it.
        split: one of :func:`splits`; by default the first. The plain form holds one split, which is taken for this one.
        anomaly_id: the anomaly's label value, for ``folder`` only (default 1).

    Raises:
        OutmaskError: on an unknown name or split, or where ``root`` does not hold the benchmark's layout.
    """
    entry, root = _entry(name), Path(root)
    split = splits(name)[0] if split is None else split
    if split not in entry.images:
        raise OutmaskError(f"{name} has no split {split!r}: choose from {', '.join(entry.images)}")
    if not root.is_dir() and not entry.is_drawn:
        raise OutmaskError(f"{root}: no such folder; --root is the folder that holds the benchmark {name}")
    form = _folder_form(anomaly_id) if name == "folder" else entry.form(root)
    if anomaly_id is not None and name != "folder":
        raise OutmaskError(f"--anomaly-id is for the benchmark folder; {name} defines its own label values")
    try:
        records, categories = form.read(root, split)
    except WrongLayout as error:
        raise OutmaskError(f"{root} is not the benchmark {name}: {error}; expected {entry.expected()}") from error
    whole = entry.images[split]
    if whole is not None and len(records) != whole:
        _log.warning(
            "%s, split %s: %d images in %s, but the published set has %d: its figures can't be compared",
            *(name, split, len(records), root, whole),
        )
    taxonomy = entry.split_taxonomies.get(split, entry.taxonomy)
    return Benchmark(name, split, tuple(records), entry.track, taxonomy, categories, entry.smallest_object)


def _entry(name: str) -> _Entry:
    if name not in _BENCHMARKS:
        raise OutmaskError(f"unknown benchmark {name!r}; expected one of {', '.join(_BENCHMARKS)}")
    return _BENCHMARKS[name]


def _folder_form(anomaly_id: int | None) -> _Form:
    anomaly_id = ANOMALY if anomaly_id is None else anomaly_id
    if anomaly_id in (KNOWN, OUTSIDE):
        raise OutmaskError(f"anomaly id {anomaly_id} already means known (0) or outside (255); give another one")
    if not 0 < anomaly_id < OUTSIDE:
        raise OutmaskError(f"anomaly id {anomaly_id} can't stand in an 8-bit label; give one from 1 to 254")
    values = {KNOWN: KNOWN, anomaly_id: ANOMALY, OUTSIDE: OUTSIDE}
    return _binary(values, hint="; name another anomaly with --anomaly-id")
