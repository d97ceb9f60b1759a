"""Labelled datasets in their official folder layouts, mapped to any taxonomy that knows their classes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray
from torch.utils.data import Dataset

from outmask.data.images import read_image, read_values
from outmask.data.labels import IGNORE, VOID, Sample
from outmask.data.layouts import LAYOUTS
from outmask.data.records import DrawSample, ReadLabels, ReadObjects, Record, Unlabelled
from outmask.data.taxonomies import class_mapping, taxonomy
from outmask.errors import OutmaskError
from outmask.types import Taxonomy

NO_SUCH_ID = 253
"""Entry of a lookup table for ids that a dataset's labels must not hold."""

_SPANS = 20
"""Most ids and spans of ids in a message; no protocol here allows more."""

_SPECIAL = {"ignore": IGNORE, "void": VOID}


class SegmentationDataset(Dataset[Sample]):
    """Labelled images, read when they are asked for.

    Args:
        records: the files.
        table: ``(256,)`` uint8: for each id in the files a class id, ``VOID``, ``IGNORE`` or :data:`NO_SUCH_ID`.
        taxonomy: what the class ids after the table mean.
        name: the dataset's name, for messages.
        cache: keep the decoded samples in memory (5 bytes a pixel, 7 with instances).
        read: how a record's labels are read; :func:`read_labels` by default.
        objects: how a record's objects are told apart, for panoptic training; None = they are not.
        draw: how a record's sample is made, objects told apart, where there are no files to read.
        panoptic: whether samples have instances, those of things.

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
        read: ReadLabels | None = None,
        objects: ReadObjects | None = None,
        draw: DrawSample | None = None,
        panoptic: bool = False,
    ) -> None:
        if table.shape != (256,) or table.dtype != np.uint8:
            raise OutmaskError(f"{name}: the lookup table must be (256,) uint8, got {table.shape} {table.dtype}")
        self.records = tuple(records)
        self.table = table
        self.taxonomy = taxonomy
        self.name = name
        self._read_labels = read_labels if read is None else read
        self._read_objects = objects
        self._draw = draw
        self._panoptic = panoptic
        self._cache: dict[int, Sample] | None = {} if cache else None

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Sample:
        if self._cache is None:
            return self._read(self.records[index])
        if index not in self._cache:
            sample = self._read(self.records[index])
            for array in (sample.image, sample.labels, sample.outlier, sample.instances):
                if array is not None:
                    array.setflags(write=False)
            self._cache[index] = sample
        return self._cache[index]

    def _read(self, record: Record) -> Sample:
        sample = self._read_files(record) if self._draw is None else self._draw(record, self.table)
        return of_things(sample, self.taxonomy) if self._panoptic else replace(sample, instances=None)

    def _read_files(self, record: Record) -> Sample:
        image = read_image(record.image)
        labels = self._read_labels(record, self.table)
        if image.shape[:2] != labels.shape:
            raise OutmaskError(
                f"{record.labels}: labels are {labels.shape[1]}x{labels.shape[0]} but the image {record.image.name} is "
                f"{image.shape[1]}x{image.shape[0]}; they must be of one size"
            )
        instances = self._read_objects(record) if self._panoptic and self._read_objects is not None else None
        return Sample(image, labels, np.zeros(labels.shape, dtype=np.bool_), record.name, instances)


def of_things(sample: Sample, taxonomy: Taxonomy) -> Sample:
    """The sample with instances of things and outliers only: each class of stuff is one.

    Pixels of a thing that are of no instance are a group of objects that nobody told apart, and become ``IGNORE``.

    Args:
        sample: with instances.
        taxonomy: of its labels, with ``things``.

    Raises:
        OutmaskError: without either.
    """
    if sample.instances is None or taxonomy.things is None:
        raise OutmaskError(f"{sample.name}: panoptic training needs instances, and to know things from stuff")
    table = np.zeros(256, dtype=np.bool_)
    table[: len(taxonomy.things)] = taxonomy.things
    thing = table[sample.labels] & ~sample.outlier
    instances = np.where(thing | sample.outlier, sample.instances, np.uint16(0))
    labels = np.where(thing & (instances == 0), np.uint8(IGNORE), sample.labels)
    return replace(sample, labels=labels, instances=instances)


def read_labels(record: Record, table: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """``(H, W)`` uint8 labels of a file with one id a pixel; see :func:`read_ids` and :func:`apply_table`."""
    return apply_table(table, read_ids(record.labels), record.labels)


def read_ids(path: Path) -> NDArray[np.uint8]:
    """``(H, W)`` uint8 ids of an 8-bit, one-channel or palette, PNG.

    Raises:
        OutmaskError: where the file is missing, can't be decoded or has another format.
    """
    ids = read_values(path, "labels")
    if ids.dtype == np.bool_:
        ids = ids.astype(np.uint8)
    if ids.ndim != 2 or ids.dtype != np.uint8:
        raise OutmaskError(
            f"{path}: labels must be an 8-bit PNG of class ids with one channel, got {ids.shape} {ids.dtype}"
        )
    return ids


def available() -> list[str]:
    """Names of the datasets that :func:`open_dataset` knows."""
    return list(LAYOUTS)


def open_dataset(
    name: str,
    root: str | Path,
    split: str,
    *,
    target: str | None = None,
    unlabelled: Unlabelled | None = None,
    ignore_classes: Sequence[str] = (),
    panoptic: bool = False,
    cache: bool = False,
) -> SegmentationDataset:
    """Open a dataset that lies under ``root`` in its official layout.

    Args:
        name: one of :func:`available`, in its official layout (of CamVid SegNet's, of ADE20K SceneParsing's); or
            ``"folder"``: ``images/*`` and ``labels/SAME_STEM.png`` with class ids (255 = unlabelled), and
            ``taxonomy.yaml`` with the fields of :class:`~outmask.types.Taxonomy`.
        root: the dataset's folder; of ``"world"``, which is drawn, it does not matter.
        split: ``"train"``, ``"val"``, ...; of ``"folder"`` a sub-folder of images and labels, or ``"all"`` for none.
        target: taxonomy to map the classes to; by default the dataset's own.
        unlabelled: what pixels without a class become: left out of the losses, or counted as claimed by no mask. By
            default ``"ignore"`` for CamVid, IDD-Lite and folders, else ``"void"``, as Mask2Former does.
        ignore_classes: classes of the dataset's own taxonomy that every loss leaves out.
        panoptic: tell the objects of a class apart, where the dataset does: samples have instances of things.
        cache: keep decoded samples in memory.

    Raises:
        OutmaskError: on an unknown name, split, class or mapping; where the folder has another layout; where images
            have no labels; on ``panoptic`` where objects, or things and stuff, can't be told apart.
    """
    if name not in LAYOUTS:
        raise OutmaskError(f"unknown dataset {name!r}: choose from {', '.join(LAYOUTS)}")
    layout, root = LAYOUTS[name], Path(root)
    if layout.splits is not None and split not in layout.splits:
        raise OutmaskError(f"{name} has no split {split!r}: choose from {', '.join(layout.splits)}")
    records = layout.find(root, split)
    if not records:
        raise OutmaskError(f"{name}: no images of split {split!r} under {root}; expected {layout.expected}")
    if layout.draw is None and (missing := [record.labels for record in records if not record.labels.is_file()]):
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
    if panoptic and layout.objects is None and layout.draw is None:
        able = [name for name, each in LAYOUTS.items() if each.objects is not None or each.draw is not None]
        raise OutmaskError(f"{name} does not tell objects apart, as panoptic training needs; {', '.join(able)} do")
    if panoptic and mapped.things is None:
        raise OutmaskError(f"{name}: panoptic training needs a taxonomy with 'things', to know them from stuff")
    return SegmentationDataset(
        records,
        table,
        mapped,
        name,
        cache=cache,
        read=layout.read,
        objects=layout.objects,
        draw=layout.draw,
        panoptic=panoptic,
    )


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
        OutmaskError: on class names that are not in the taxonomies, an unknown ``unlabelled``, or taxonomies that
            8-bit labels can't hold.
    """
    if unlabelled not in _SPECIAL:
        raise OutmaskError(f"unlabelled must be 'ignore' or 'void', got {unlabelled!r}")
    if strangers := sorted(set(ignore_classes) - set(source.names)):
        raise OutmaskError(
            f"ignore_classes {strangers} are no classes of the dataset: choose from {', '.join(source.names)}"
        )
    if target.num_classes > NO_SUCH_ID:
        raise OutmaskError(
            f"labels are 8-bit: a taxonomy may have {NO_SUCH_ID} classes at most, got {target.num_classes}"
        )
    if not all(0 <= id_ <= 255 for id_ in source.evaluation_ids):
        raise OutmaskError(
            f"labels are 8-bit: the ids of the classes in a dataset's files must be from 0 to 255, got evaluation_ids "
            f"{spans(sorted(id_ for id_ in source.evaluation_ids if not 0 <= id_ <= 255))}"
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


def apply_table(table: NDArray[np.uint8], ids: NDArray[np.uint8], path: Path, hint: str = "") -> NDArray[np.uint8]:
    """``(H, W)`` uint8: what the ids of a file mean.

    Args:
        table: ``(256,)`` uint8, as of :func:`lookup_table`.
        ids: ``(H, W)`` uint8, as of :func:`read_ids`.
        path: the file, for messages.
        hint: what to do about ids that the table does not allow.

    Raises:
        OutmaskError: on these ids, which it lists.
    """
    labels: NDArray[np.uint8] = table[ids]
    strange = labels == NO_SUCH_ID
    if strange.any():
        allowed = np.flatnonzero(table != NO_SUCH_ID)
        raise OutmaskError(
            f"the label {path} holds {spans(np.unique(ids[strange]))}; expected only {spans(allowed)}{hint}"
        )
    return labels


def spans(ids: Iterable[int]) -> str:
    """Rising ids in words, ``0-10, 255``; of many only the first ones, so that a message stays readable."""
    found: list[list[int]] = []
    for id_ in map(int, ids):
        if found and id_ == found[-1][1] + 1:
            found[-1][1] = id_
        else:
            found.append([id_, id_])
    words = [f"{first}" if first == last else f"{first}-{last}" for first, last in found]
    return ", ".join(words if len(words) <= _SPANS else [*words[:_SPANS], "..."])


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
