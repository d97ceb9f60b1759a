import csv
from pathlib import Path

import pytest

from outmask.data.ade20k import ADE20K
from outmask.data.coco_classes import COCO_OPEN_PANOPTIC, COCO_PANOPTIC, UNKNOWN_CLASSES
from outmask.data.taxonomies import (
    CAMVID,
    CITYSCAPES,
    IDD_LITE,
    WORLD,
    WORLD_OPEN,
    WORLD_UNKNOWN_CLASSES,
    class_mapping,
    taxonomy,
)
from outmask.data.vistas import MAPILLARY_VISTAS, MAPILLARY_VISTAS_V2
from outmask.errors import OutmaskError
from outmask.types import Taxonomy


def test_the_taxonomies_have_the_datasets_own_order() -> None:
    assert CAMVID.names == (
        *("sky", "building", "pole", "road", "sidewalk", "tree", "sign", "fence", "car", "pedestrian", "bicyclist"),
    )
    assert IDD_LITE.names == (
        *("drivable", "non-drivable", "living things", "vehicles", "roadside objects", "far objects", "sky"),
    )
    assert CITYSCAPES.num_classes == 19
    by_id = dict(zip(CITYSCAPES.evaluation_ids, CITYSCAPES.names, strict=True))
    # Spot checks of cityscapesScripts' labels.py around its gaps.
    expected = {7: "road", 11: "building", 17: "pole", 19: "traffic light", 23: "sky", 28: "bus", 31: "train"}
    assert {id_: by_id[id_] for id_ in expected} == expected


@pytest.mark.parametrize("name", ["camvid", "cityscapes", "idd_lite"])
def test_ground_is_stuff_and_colours_tell_the_classes_apart(name: str) -> None:
    classes = taxonomy(name)
    assert classes.things is not None
    things = {class_name for class_name, thing in zip(classes.names, classes.things, strict=True) if thing}
    assert things
    assert len(classes.ground) == 2
    assert not things & set(classes.ground)
    assert len(set(classes.colors)) == classes.num_classes


@pytest.mark.parametrize(("source", "target"), [("camvid", "idd_lite"), ("cityscapes", "idd_lite")])
def test_a_mapping_names_every_source_class_and_reaches_every_target_class(source: str, target: str) -> None:
    mapping = class_mapping(source, target)
    assert tuple(mapping) == taxonomy(source).names
    assert set(mapping.values()) == set(taxonomy(target).names)


def test_things_and_ground_stay_things_and_ground_when_mapped() -> None:
    for source in ("camvid", "cityscapes"):
        origin, mapping = taxonomy(source), class_mapping(source, "idd_lite")
        assert origin.things is not None
        assert IDD_LITE.things is not None
        for name, thing in zip(origin.names, origin.things, strict=True):
            assert IDD_LITE.things[IDD_LITE.names.index(mapping[name])] is thing, name
        assert {mapping[name] for name in origin.ground} == set(IDD_LITE.ground)


def test_riders_live_and_their_bicycles_drive() -> None:
    assert class_mapping("camvid", "idd_lite")["bicyclist"] == "living things"
    cityscapes = class_mapping("cityscapes", "idd_lite")
    assert (cityscapes["rider"], cityscapes["bicycle"]) == ("living things", "vehicles")
    assert (cityscapes["motorcycle"], cityscapes["terrain"]) == ("vehicles", "non-drivable")


def test_a_taxonomy_is_mapped_to_itself_unchanged() -> None:
    assert class_mapping("cityscapes", "cityscapes") == {name: name for name in CITYSCAPES.names}


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(OutmaskError, match=r"'ade'.*ade20k, camvid, cityscapes, .*idd_lite"):
        taxonomy("ade")
    with pytest.raises(OutmaskError, match="unknown taxonomy 'ade'"):
        class_mapping("camvid", "ade")
    with pytest.raises(OutmaskError, match="no mapping of idd_lite classes to camvid"):
        class_mapping("idd_lite", "camvid")


@pytest.mark.parametrize(
    ("classes", "count", "things"),
    [
        # Published counts: Vistas' config.json (37 of 65; 72 of 123), Mask2Former's ADE20K panoptic, COCO panoptic.
        (MAPILLARY_VISTAS, 65, 37),
        (MAPILLARY_VISTAS_V2, 123, 72),
        (ADE20K, 150, 100),
        (COCO_PANOPTIC, 133, 80),
        (COCO_OPEN_PANOPTIC[5], 129, 76),
        (COCO_OPEN_PANOPTIC[10], 125, 72),
        (COCO_OPEN_PANOPTIC[20], 117, 64),
    ],
)
def test_the_large_taxonomies_have_the_published_number_of_classes_and_things(
    classes: Taxonomy, count: int, things: int
) -> None:
    assert classes.things is not None
    assert (classes.num_classes, sum(classes.things)) == (count, things)
    stuff = {name for name, thing in zip(classes.names, classes.things, strict=True) if not thing}
    assert set(classes.ground) <= stuff
    assert classes.ground


def test_what_vistas_is_in_cityscapes() -> None:
    by_class: dict[str, set[str]] = {name: set() for name in (*CITYSCAPES.names, "void")}
    for name, where in class_mapping("mapillary_vistas", "cityscapes").items():
        by_class[where].add(name)
    lanes = {"Lane Marking - Crosswalk", "Lane Marking - General"}
    # M2F-EAM's released mapping, class by class.
    assert {name: vistas for name, vistas in by_class.items() if name != "void"} == {
        "road": lanes | {"Bike Lane", "Crosswalk - Plain", "Parking", "Rail Track", "Road", "Service Lane"},
        "sidewalk": {"Curb", "Curb Cut", "Pedestrian Area", "Sidewalk"},
        "building": {"Bridge", "Building", "Tunnel"},
        "wall": {"Wall"},
        "fence": {"Fence", "Guard Rail"},
        "pole": {"Pole", "Utility Pole"},
        "traffic light": {"Traffic Light"},
        "traffic sign": {"Traffic Sign (Front)", "Traffic Sign Frame"},
        "vegetation": {"Vegetation"},
        "terrain": {"Sand", "Snow", "Terrain"},
        "sky": {"Sky"},
        "person": {"Person"},
        "rider": {"Bicyclist", "Motorcyclist", "Other Rider"},
        "car": {"Car"},
        "truck": {"Truck"},
        "bus": {"Bus"},
        "train": {"On Rails"},
        "motorcycle": {"Motorcycle"},
        "bicycle": {"Bicycle"},
    }
    assert len(by_class["void"]) == 27


def test_the_versions_of_vistas_agree_on_the_classes_they_share() -> None:
    old, new = (class_mapping(name, "cityscapes") for name in ("mapillary_vistas", "mapillary_vistas_v2"))
    shared = set(old) & set(new)
    assert len(shared) > 50
    assert {name: new[name] for name in shared} == {name: old[name] for name in shared}
    assert set(new.values()) == {*CITYSCAPES.names, "void", "ignore"}


@pytest.mark.parametrize("name", ["mapillary_vistas", "mapillary_vistas_v2"])
def test_classes_of_vistas_have_the_colour_of_the_class_in_cityscapes_that_is_called_the_same(name: str) -> None:
    # Vistas took Cityscapes' colours over where the classes are the same: rows that slipped would show.
    mapping = class_mapping(name, "cityscapes")
    colors = dict(zip(CITYSCAPES.names, CITYSCAPES.colors, strict=True))
    named = dict(zip(taxonomy(name).names, taxonomy(name).colors, strict=True))
    same = [own for own, where in mapping.items() if own.lower() == where]
    assert len(same) >= 14
    for own in same:
        assert named[own] == colors[mapping[own]], own


def test_the_open_coco_taxonomies_leave_the_unknown_classes_out() -> None:
    for percent, unknown in UNKNOWN_CLASSES.items():
        mapping = class_mapping("coco_panoptic", f"coco_panoptic_open{percent}")
        assert {name for name, where in mapping.items() if where == "void"} == set(unknown)
        left = COCO_OPEN_PANOPTIC[percent]
        assert left.names == tuple(name for name in COCO_PANOPTIC.names if name not in unknown)
        ids = dict(zip(COCO_PANOPTIC.names, COCO_PANOPTIC.evaluation_ids, strict=True))
        assert left.evaluation_ids == tuple(ids[name] for name in left.names)


def test_the_open_worlds_leave_a_twentieth_a_tenth_and_a_fifth_of_the_classes_out() -> None:
    hidden: set[str] = set()
    for percent in (5, 10, 20):
        mapping, left = class_mapping("world", f"world_open{percent}"), WORLD_OPEN[percent]
        unknown = {name for name, where in mapping.items() if where == "void"}
        assert unknown == set(WORLD_UNKNOWN_CLASSES[percent])
        assert len(unknown) == round(percent / 100 * WORLD.num_classes)
        assert hidden < unknown
        hidden = unknown
        assert all(WORLD.things and WORLD.things[WORLD.names.index(name)] for name in unknown)
        assert {name: where for name, where in mapping.items() if where != "void"} == {
            name: name for name in left.names
        }
        assert left.names == tuple(name for name in WORLD.names if name not in unknown)
        # What a class is does not change: its id in the files, its colour, whether it is a thing.
        rows = dict(
            zip(WORLD.evaluation_ids, zip(WORLD.names, WORLD.colors, WORLD.things or (), strict=True), strict=True)
        )
        assert list(zip(left.names, left.colors, left.things or (), strict=True)) == [
            rows[id_] for id_ in left.evaluation_ids
        ]
        assert left.unknown_id == left.num_classes
        assert left.ground == WORLD.ground


def test_ade20k_names_are_the_first_of_the_published_ones(real_data: Path) -> None:
    with (real_data / "ade20k_sample/objectInfo150.csv").open(newline="") as file:
        published = [(int(row["Idx"]), row["Name"]) for row in csv.DictReader(file)]
    assert ADE20K.evaluation_ids == tuple(id_ for id_, _ in published)
    for name, (_, names) in zip(ADE20K.names, published, strict=True):
        # The file has lost the difference between two names and two words of one name.
        assert names.replace(";", " ").startswith(name)
