"""The class lists of all datasets, by name, and how the classes of one are named in another."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from outmask.data.ade20k import ADE20K
from outmask.data.coco_classes import COCO_OPEN_PANOPTIC, COCO_PANOPTIC
from outmask.data.vistas import (
    MAPILLARY_VISTAS,
    MAPILLARY_VISTAS_V2,
    VISTAS_TO_CITYSCAPES,
    VISTAS_V2_TO_CITYSCAPES,
)
from outmask.errors import OutmaskError
from outmask.types import Color, Taxonomy


def _taxonomy(rows: list[tuple[str, Color, bool]], ground: tuple[str, ...], ids: tuple[int, ...] = ()) -> Taxonomy:
    names, colors, things = zip(*rows, strict=True)
    return Taxonomy(names=names, colors=colors, things=things, ground=ground, evaluation_ids=ids)


CITYSCAPES = _taxonomy(
    [
        ("road", (128, 64, 128), False),
        ("sidewalk", (244, 35, 232), False),
        ("building", (70, 70, 70), False),
        ("wall", (102, 102, 156), False),
        ("fence", (190, 153, 153), False),
        ("pole", (153, 153, 153), False),
        ("traffic light", (250, 170, 30), False),
        ("traffic sign", (220, 220, 0), False),
        ("vegetation", (107, 142, 35), False),
        ("terrain", (152, 251, 152), False),
        ("sky", (70, 130, 180), False),
        ("person", (220, 20, 60), True),
        ("rider", (255, 0, 0), True),
        ("car", (0, 0, 142), True),
        ("truck", (0, 0, 70), True),
        ("bus", (0, 60, 100), True),
        ("train", (0, 80, 100), True),
        ("motorcycle", (0, 0, 230), True),
        ("bicycle", (119, 11, 32), True),
    ],
    ground=("road", "sidewalk"),
    ids=(7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33),
)
"""The 19 training classes; evaluation ids are Cityscapes' label ids (cityscapesScripts, ``labels.py``)."""

CAMVID = _taxonomy(
    [
        ("sky", (128, 128, 128), False),
        ("building", (128, 0, 0), False),
        ("pole", (192, 192, 128), False),
        ("road", (128, 64, 128), False),
        ("sidewalk", (60, 40, 222), False),
        ("tree", (128, 128, 0), False),
        ("sign", (192, 128, 128), False),
        ("fence", (64, 64, 128), False),
        ("car", (64, 0, 128), True),
        ("pedestrian", (64, 64, 0), True),
        ("bicyclist", (0, 128, 192), True),
    ],
    ground=("road", "sidewalk"),
)
"""The 11 classes of the SegNet layout, in its colours."""

IDD_LITE = _taxonomy(
    [
        ("drivable", (128, 64, 128), False),
        ("non-drivable", (244, 35, 232), False),
        ("living things", (220, 20, 60), True),
        ("vehicles", (0, 0, 142), True),
        ("roadside objects", (220, 190, 40), False),
        ("far objects", (107, 142, 35), False),
        ("sky", (70, 130, 180), False),
    ],
    ground=("drivable", "non-drivable"),
)
"""The 7 coarse classes of IDD-Lite."""

STREETHAZARDS = _taxonomy(
    [
        ("background", (0, 0, 0), False),
        ("building", (70, 70, 70), False),
        ("fence", (190, 153, 153), False),
        ("pedestrian", (220, 20, 60), True),
        ("pole", (153, 153, 153), False),
        ("road line", (157, 234, 50), False),
        ("road", (128, 64, 128), False),
        ("sidewalk", (244, 35, 232), False),
        ("vegetation", (107, 142, 35), False),
        ("car", (0, 0, 142), True),
        ("wall", (102, 102, 156), False),
        ("traffic sign", (220, 220, 0), False),
    ],
    ground=("road line", "road", "sidewalk"),
    ids=(1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13),
)
"""The 12 training classes in the dataset's names, order and colours (hendrycks/anomaly-seg).

*background* is the simulator's "unlabeled" (the sky among others), which is trained as a class; id 4 (*other*) is left
out (DenseHybrid), id 14 is the anomaly."""

WORLD = _taxonomy(
    [
        ("road", (128, 64, 128), False),
        ("lane mark", (157, 234, 50), False),
        ("sidewalk", (244, 35, 232), False),
        ("terrain", (152, 251, 152), False),
        ("building", (70, 70, 70), False),
        ("fence", (190, 153, 153), False),
        ("vegetation", (107, 142, 35), False),
        ("pole", (153, 153, 153), False),
        ("traffic sign", (220, 220, 0), False),
        ("traffic light", (250, 170, 30), False),
        ("sky", (70, 130, 180), False),
        ("person", (220, 20, 60), True),
        ("cyclist", (119, 11, 32), True),
        ("car", (0, 0, 142), True),
        ("truck", (0, 0, 70), True),
        ("bus", (0, 60, 100), True),
    ],
    ground=("road", "lane mark", "sidewalk", "terrain"),
)
"""The 16 known classes of the synthetic world (``outmask.data.world``), in Cityscapes' colours."""

WORLD_UNKNOWN_CLASSES: Mapping[int, tuple[str, ...]] = MappingProxyType(
    {20: ("truck", "bus", "cyclist"), 10: ("truck", "bus"), 5: ("truck",)}
)
"""Names of the world's classes that are unknown at K = 20, 10, 5 % of its 16, after COCO's open-set splits.

Things only, each set holding the smaller ones. Cars and people, which nearly every scene shows, stay known: what is
unknown then looks like something known (a truck and a bus like a car, a cyclist like a person), unlike the objects of
no known class, and shows in training, where it is void, in more than a third of the scenes."""


def _open_world(unknown: tuple[str, ...]) -> Taxonomy:
    assert WORLD.things is not None
    rows = zip(WORLD.names, WORLD.colors, WORLD.things, strict=True)
    left = [(id_, row) for id_, row in enumerate(rows) if row[0] not in unknown]
    return _taxonomy([row for _, row in left], WORLD.ground, tuple(id_ for id_, _ in left))


WORLD_OPEN: Mapping[int, Taxonomy] = MappingProxyType(
    {percent: _open_world(unknown) for percent, unknown in WORLD_UNKNOWN_CLASSES.items()}
)
"""The world's classes without the unknown ones; evaluation ids are the world's ids."""

_COCO_OPEN = {f"coco_panoptic_open{percent}": classes for percent, classes in COCO_OPEN_PANOPTIC.items()}
_WORLD_OPEN = {f"world_open{percent}": classes for percent, classes in WORLD_OPEN.items()}

_TAXONOMIES: Mapping[str, Taxonomy] = MappingProxyType(
    {
        "ade20k": ADE20K,
        "camvid": CAMVID,
        "cityscapes": CITYSCAPES,
        "coco_panoptic": COCO_PANOPTIC,
        "idd_lite": IDD_LITE,
        "mapillary_vistas": MAPILLARY_VISTAS,
        "mapillary_vistas_v2": MAPILLARY_VISTAS_V2,
        "streethazards": STREETHAZARDS,
        "world": WORLD,
        **_COCO_OPEN,
        **_WORLD_OPEN,
    }
)

# IDD's own hierarchy: riders are living things, their bicycles and motorcycles vehicles; vegetation and buildings far.
_MAPPINGS: Mapping[tuple[str, str], Mapping[str, str]] = MappingProxyType(
    {
        ("camvid", "idd_lite"): {
            "sky": "sky",
            "building": "far objects",
            "pole": "roadside objects",
            "road": "drivable",
            "sidewalk": "non-drivable",
            "tree": "far objects",
            "sign": "roadside objects",
            "fence": "roadside objects",
            "car": "vehicles",
            "pedestrian": "living things",
            # CamVid labels rider and bicycle as one.
            "bicyclist": "living things",
        },
        ("cityscapes", "idd_lite"): {
            "road": "drivable",
            "sidewalk": "non-drivable",
            "building": "far objects",
            "wall": "roadside objects",
            "fence": "roadside objects",
            "pole": "roadside objects",
            "traffic light": "roadside objects",
            "traffic sign": "roadside objects",
            "vegetation": "far objects",
            "terrain": "non-drivable",
            "sky": "sky",
            "person": "living things",
            "rider": "living things",
            "car": "vehicles",
            "truck": "vehicles",
            "bus": "vehicles",
            "train": "vehicles",
            "motorcycle": "vehicles",
            "bicycle": "vehicles",
        },
        ("mapillary_vistas", "cityscapes"): VISTAS_TO_CITYSCAPES,
        ("mapillary_vistas_v2", "cityscapes"): VISTAS_V2_TO_CITYSCAPES,
        # The world's cyclists are one with their bicycles, as CamVid's; Cityscapes tells them apart.
        ("world", "cityscapes"): {
            **{name: name for name in WORLD.names if name not in ("lane mark", "cyclist")},
            "lane mark": "road",
            "cyclist": "ignore",
        },
        ("world", "idd_lite"): {
            "road": "drivable",
            "lane mark": "drivable",
            "sidewalk": "non-drivable",
            "terrain": "non-drivable",
            "building": "far objects",
            "fence": "roadside objects",
            "vegetation": "far objects",
            "pole": "roadside objects",
            "traffic sign": "roadside objects",
            "traffic light": "roadside objects",
            "sky": "sky",
            "person": "living things",
            "cyclist": "living things",
            "car": "vehicles",
            "truck": "vehicles",
            "bus": "vehicles",
        },
        # Open-set training knows nothing of the unknown classes: they are void.
        **{
            (whole, name): {known: known if known in left.names else "void" for known in names}
            for whole, names, parts in (
                ("coco_panoptic", COCO_PANOPTIC.names, _COCO_OPEN),
                ("world", WORLD.names, _WORLD_OPEN),
            )
            for name, left in parts.items()
        },
    }
)


def taxonomy(name: str) -> Taxonomy:
    """The taxonomy called ``name``.

    Raises:
        OutmaskError: on an unknown name; lists the known ones.
    """
    if name not in _TAXONOMIES:
        raise OutmaskError(f"unknown taxonomy {name!r}: choose from {', '.join(sorted(_TAXONOMIES))}")
    return _TAXONOMIES[name]


def class_mapping(source: str, target: str) -> Mapping[str, str]:
    """What the classes of taxonomy ``source`` are called in taxonomy ``target``.

    Returns:
        one entry per source class: a target class, ``"void"`` or ``"ignore"``.

    Raises:
        OutmaskError: on an unknown name, or where no mapping between the two is known.
    """
    known = taxonomy(source)
    if source == target:
        return {name: name for name in known.names}
    taxonomy(target)
    if (source, target) not in _MAPPINGS:
        pairs = ", ".join(f"{one} to {other}" for one, other in _MAPPINGS)
        raise OutmaskError(f"no mapping of {source} classes to {target} classes is known, only {pairs}")
    return _MAPPINGS[source, target]


def mapping_between(source: Taxonomy, target: Taxonomy) -> Mapping[str, str] | None:
    """As :func:`class_mapping`, for taxonomies rather than their names; None where no mapping is known.

    Taxonomies with the same class names map to each other, whatever they are called.
    """
    if source.names == target.names:
        return {name: name for name in source.names}
    for (one, other), mapping in _MAPPINGS.items():
        if (taxonomy(one).names, taxonomy(other).names) == (source.names, target.names):
            return mapping
    return None
