import pytest

from outmask.data.taxonomies import CAMVID, CITYSCAPES, IDD_LITE, class_mapping, taxonomy
from outmask.errors import OutmaskError


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
    with pytest.raises(OutmaskError, match=r"'ade'.*camvid, cityscapes, idd_lite"):
        taxonomy("ade")
    with pytest.raises(OutmaskError, match="unknown taxonomy 'ade'"):
        class_mapping("camvid", "ade")
    with pytest.raises(OutmaskError, match="no mapping of idd_lite classes to camvid"):
        class_mapping("idd_lite", "camvid")
