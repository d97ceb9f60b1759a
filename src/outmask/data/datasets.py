"""Labelled street datasets in their official folder layouts, mapped to any taxonomy that knows their classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Dataset

from outmask.data.images import read_image
from outmask.data.labels import IGNORE, VOID, Sample
from outmask.data.taxonomies import CAMVID, CITYSCAPES, IDD_LITE, class_mapping, taxonomy
from outmask.errors import OutmaskError
from outmask.types import Taxonomy

Unlabelled = Literal["ignore", "void"]

NO_SUCH_ID = 253
"""Entry of a lookup table for ids that a dataset's labels must not hold."""

_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
_SPECIAL = {"ignore": IGNORE, "void": VOID}


@dataclass(frozen=True)
class Record:
    """One image of a dataset, its label map (an 8-bit PNG of ids) and its name."""

    image: Path
    labels: Path
    name: str


class SegmentationDataset(Dataset[Sample]):
    """Labelled images, read when they are asked for.

    Args:
        records: the files.
        table: ``(256,)`` uint8: for each id in the files a class id, ``VOID``, ``IGNORE`` or :data:`NO_SUCH_ID`.
        taxonomy: what the class ids after the table mean.
        name: the dataset's name, for messages.
        cache: keep the decoded samples in memory (4 bytes a pixel).

    Raises:
        OutmaskError: on a table of another shape; at reading, on a file that can't be decoded, an image and labels of
            different sizes, or ids that the table does not allow.
    """

    def __init__(
        self,
        records: Sequence[Record],
        table: NDArray[np.uint8],
        taxonomy: Taxonomy,
        name: str,
        *,
        cache: bool = False,
    ) -> None:
        if table.shape != (256,) or table.dtype != np.uint8:
            raise OutmaskError(f"{name}: the lookup table must be (256,) uint8, got {table.shape} {table.dtype}")
        self.records = tuple(records)
        self.table = table
        self.taxonomy = taxonomy
        self.name = name
        self._cache: dict[int, Sample] | None = {} if cache else None

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Sample:
        if self._cache is None:
            return self._read(self.records[index])
        if index not in self._cache:
            sample = self._read(self.records[index])
            for array in (sample.image, sample.labels, sample.outlier):
                array.setflags(write=False)
            self._cache[index] = sample
        return self._cache[index]

    def _read(self, record: Record) -> Sample:
        image = read_image(record.image)
        ids = read_ids(record.labels)
        if image.shape[:2] != ids.shape:
            raise OutmaskError(
                f"{record.labels}: labels are {ids.shape[1]}x{ids.shape[0]} but the image {record.image.name} is "
                f"{image.shape[1]}x{image.shape[0]}; they must be of one size"
            )
        labels = self.table[ids]
        if (labels == NO_SUCH_ID).any():
            strangers = np.unique(ids[labels == NO_SUCH_ID]).tolist()
            allowed = np.flatnonzero(self.table != NO_SUCH_ID).tolist()
            raise OutmaskError(
                f"{record.labels}: holds the ids {strangers}, but {self.name} labels are {_spans(allowed)}"
            )
        return Sample(image, labels, np.zeros(labels.shape, dtype=np.bool_), record.name)


def read_ids(path: Path) -> NDArray[np.uint8]:
    """``(H, W)`` uint8 ids of an 8-bit, one-channel or palette, PNG.

    Raises:
        OutmaskError: where the file is missing, can't be decoded or has another format.
    """
    try:
        with Image.open(path) as picture:
            # OpenCV would turn the indices of a palette into colours.
            ids = np.array(picture)
    except (OSError, SyntaxError, ValueError) as error:
        raise OutmaskError(f"{path}: can't read labels ({error})") from None
    if ids.dtype == np.bool_:
        ids = ids.astype(np.uint8)
    if ids.ndim != 2 or ids.dtype != np.uint8:
        raise OutmaskError(
            f"{path}: labels must be an 8-bit PNG of class ids with one channel, got {ids.shape} {ids.dtype}"
        )
    return ids


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


def _folder(root: Path, split: str) -> list[Record]:
    part = "" if split == "all" else split
    return [
        Record(image, root / "labels" / part / f"{image.stem}.png", f"{split}/{image.stem}")
        for image in _images(root / "images" / part, "*")
    ]


def _images(folder: Path, pattern: str) -> list[Path]:
    return sorted(path for path in folder.glob(pattern) if path.suffix.lower() in _IMAGE_SUFFIXES)


@dataclass(frozen=True)
class _Layout:
    """How a dataset lies on disk and what the ids in its files mean."""

    find: Callable[[Path, str], list[Record]]
    expected: str
    splits: tuple[str, ...] | None
    taxonomy: Taxonomy | None
    unlabelled_ids: tuple[int, ...]
    unlabelled: Unlabelled


_LAYOUTS: Mapping[str, _Layout] = {
    "camvid": _Layout(
        find=_camvid,
        expected="SPLIT/X.png (or .jpg) with SPLITannot/X.png",
        splits=("train", "val", "test"),
        taxonomy=CAMVID,
        unlabelled_ids=(11,),
        unlabelled="ignore",
    ),
    "idd_lite": _Layout(
        find=_idd_lite,
        expected="leftImg8bit/SPLIT/SEQ/N_image.jpg with gtFine/SPLIT/SEQ/N_label.png",
        splits=("train", "val", "test"),
        taxonomy=IDD_LITE,
        unlabelled_ids=(255,),
        unlabelled="ignore",
    ),
    "cityscapes": _Layout(
        find=_cityscapes,
        expected="leftImg8bit/SPLIT/CITY/X_leftImg8bit.png (or .jpg) with gtFine/SPLIT/CITY/X_gtFine_labelIds.png",
        splits=("train", "val", "test"),
        taxonomy=CITYSCAPES,
        # Label ids 0 ... 33 of which 19 are training classes (cityscapesScripts, labels.py).
        unlabelled_ids=tuple(sorted(set(range(34)) - set(CITYSCAPES.evaluation_ids))),
        # Mask2Former drops these ids from the target masks, so that they count as 0 in its mask losses.
        unlabelled="void",
    ),
    "folder": _Layout(
        find=_folder,
        expected="taxonomy.yaml, images/SPLIT/X.jpg and labels/SPLIT/X.png (of split 'all' without the SPLIT folders)",
        splits=None,
        taxonomy=None,
        unlabelled_ids=(255,),
        unlabelled="ignore",
    ),
}


def available() -> list[str]:
    """Names of the datasets that :func:`open_dataset` knows."""
    return list(_LAYOUTS)


def open_dataset(
    name: str,
    root: str | Path,
    split: str,
    *,
    target: str | None = None,
    unlabelled: Unlabelled | None = None,
    ignore_classes: Sequence[str] = (),
    cache: bool = False,
) -> SegmentationDataset:
    """Open a dataset that lies under ``root`` in its official layout.

    Args:
        name: ``"camvid"`` (SegNet layout), ``"idd_lite"``, ``"cityscapes"``, or ``"folder"``: ``images/*`` and
            ``labels/SAME_STEM.png`` with class ids (255 = unlabelled), and ``taxonomy.yaml`` with the fields of
            :class:`~outmask.types.Taxonomy`.
        root: the dataset's folder.
        split: ``"train"``, ``"val"``, ...; of ``"folder"`` a sub-folder of images and labels, or ``"all"`` for none.
        target: taxonomy to map the classes to; by default the dataset's own.
        unlabelled: what pixels without a class become: left out of the losses, or counted as claimed by no mask. By
            default ``"void"`` for Cityscapes, as Mask2Former does, else ``"ignore"``.
        ignore_classes: classes of the dataset's own taxonomy that every loss leaves out.
        cache: keep decoded samples in memory.

    Raises:
        OutmaskError: on an unknown name, split, class or mapping; where the folder has another layout; where images
            have no labels.
    """
    if name not in _LAYOUTS:
        raise OutmaskError(f"unknown dataset {name!r}: choose from {', '.join(_LAYOUTS)}")
    layout, root = _LAYOUTS[name], Path(root)
    if layout.splits is not None and split not in layout.splits:
        raise OutmaskError(f"{name} has no split {split!r}: choose from {', '.join(layout.splits)}")
    records = layout.find(root, split)
    if not records:
        raise OutmaskError(f"{name}: no images of split {split!r} under {root}; expected {layout.expected}")
    if missing := [record.labels for record in records if not record.labels.is_file()]:
        raise OutmaskError(
            f"{name}: {len(missing)} of {len(records)} images of split {split!r} have no labels, "
            f"the first at {missing[0]}; expected {layout.expected}"
        )
    own = layout.taxonomy if layout.taxonomy is not None else _read_taxonomy(root / "taxonomy.yaml")
    mapped = own if target is None else taxonomy(target)
    table = lookup_table(
        own,
        mapped,
        _mapping(name, own, target),
        unlabelled_ids=layout.unlabelled_ids,
        unlabelled=layout.unlabelled if unlabelled is None else unlabelled,
        ignore_classes=ignore_classes,
    )
    return SegmentationDataset(records, table, mapped, name, cache=cache)


def lookup_table(
    source: Taxonomy,
    target: Taxonomy,
    mapping: Mapping[str, str],
    *,
    unlabelled_ids: Sequence[int] = (),
    unlabelled: Unlabelled = "ignore",
    ignore_classes: Sequence[str] = (),
) -> NDArray[np.uint8]:
    """``(256,)`` uint8 that turns the ids in a dataset's files into labels.

    Args:
        source: taxonomy of the files, whose ``evaluation_ids`` they hold.
        target: taxonomy of the labels.
        mapping: for each source class the name of a target class, ``"void"`` or ``"ignore"``.
        unlabelled_ids: ids of pixels without a class.
        unlabelled: what these become.
        ignore_classes: source classes that become ``IGNORE``, whatever the mapping says.

    Raises:
        OutmaskError: on class names that are not in the taxonomies, or an unknown ``unlabelled``.
    """
    if unlabelled not in _SPECIAL:
        raise OutmaskError(f"unlabelled must be 'ignore' or 'void', got {unlabelled!r}")
    if strangers := sorted(set(ignore_classes) - set(source.names)):
        raise OutmaskError(
            f"ignore_classes {strangers} are no classes of the dataset: choose from {', '.join(source.names)}"
        )
    values = {**{name: index for index, name in enumerate(target.names)}, **_SPECIAL}
    table = np.full(256, NO_SUCH_ID, dtype=np.uint8)
    table[list(unlabelled_ids)] = _SPECIAL[unlabelled]
    for name, id_ in zip(source.names, source.evaluation_ids, strict=True):
        if mapping.get(name) not in values:
            raise OutmaskError(
                f"class {name!r} is mapped to {mapping.get(name)!r}, which is no class of the target taxonomy"
            )
        table[id_] = IGNORE if name in ignore_classes else values[mapping[name]]
    return table


def _mapping(name: str, own: Taxonomy, target: str | None) -> Mapping[str, str]:
    if target is None:
        return {class_name: class_name for class_name in own.names}
    if name != "folder":
        return class_mapping(name, target)
    if strangers := [class_name for class_name in own.names if class_name not in taxonomy(target).names]:
        raise OutmaskError(
            f"taxonomy.yaml: classes {strangers} are no classes of {target}; name them as there, or give no target"
        )
    return {class_name: class_name for class_name in own.names}


def _read_taxonomy(path: Path) -> Taxonomy:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        return Taxonomy.from_json(values)
    except OSError:
        raise OutmaskError(
            f"{path} not found: a folder dataset needs it, with 'names' and 'colors' of its classes"
        ) from None
    except yaml.YAMLError as error:
        raise OutmaskError(f"{path}: not a YAML file ({str(error).splitlines()[0]})") from None
    except OutmaskError as error:
        raise OutmaskError(f"{path}: {error}") from None
    except (KeyError, TypeError, ValueError) as error:
        raise OutmaskError(
            f"{path}: expected 'names' (a list) and 'colors' (RGB triples), got trouble with {error}"
        ) from None


def _spans(ids: Sequence[int]) -> str:
    """Rising ids as ``0-10, 255``."""
    spans: list[list[int]] = []
    for id_ in ids:
        if spans and id_ == spans[-1][1] + 1:
            spans[-1][1] = id_
        else:
            spans.append([id_, id_])
    return ", ".join(f"{first}" if first == last else f"{first}-{last}" for first, last in spans)
