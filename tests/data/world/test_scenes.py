import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from outmask.data.labels import VOID
from outmask.data.taxonomies import WORLD
from outmask.data.world import FAMILIES, TEST_TOWNS, TRAIN_TOWNS, World, WorldScene
from outmask.data.world.geometry import Geometry
from outmask.data.world.scenes import Unknowns
from outmask.data.world.towns import TOWNS
from outmask.errors import OutmaskError
from outmask.metrics import PanopticQuality

SMALL = (96, 192)

HASHES = """
import cv2, hashlib, sys
from outmask.data.world import World
cv2.setNumThreads(int(sys.argv[1]))
for town, unknowns, index, size in {cases}:
    scene = World(town, unknowns).scene(index, size)
    print(hashlib.sha256(scene.jpeg + scene.image.tobytes() + scene.panoptic.tobytes()).hexdigest())
"""
CASES: list[tuple[str, Unknowns, int, tuple[int, int]]] = [
    ("t2", "none", 3, (128, 256)),
    ("t5", "test", 11, (512, 1024)),
]


def fingerprint(scene: WorldScene) -> str:
    return hashlib.sha256(scene.jpeg + scene.image.tobytes() + scene.panoptic.tobytes()).hexdigest()


def check(scene: WorldScene, size: tuple[int, int]) -> None:
    """Everything that holds for every scene."""
    assert scene.image.shape == (*size, 3)
    assert scene.image.dtype == np.uint8
    assert scene.labels.shape == scene.panoptic.shape == scene.unknown.shape == size
    assert [segment.id for segment in scene.segments] == list(range(1, len(scene.segments) + 1))
    assert set(np.unique(scene.panoptic)) == {segment.id for segment in scene.segments}
    for segment in scene.segments:
        rows, columns = np.nonzero(scene.panoptic == segment.id)
        assert segment.area == len(rows)
        box = (columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1)
        assert segment.bbox == box
        label = VOID if segment.is_unknown else segment.class_id
        assert (scene.labels[rows, columns] == label).all()
        assert segment.class_id == (WORLD.unknown_id if segment.is_unknown else WORLD.names.index(segment.name))
    stuff = [segment.class_id for segment in scene.segments if not is_thing(segment.class_id)]
    assert len(set(stuff)) == len(stuff)
    assert set(scene.families) == {segment.id for segment in scene.segments if segment.is_unknown}
    things = [segment.id for segment in scene.segments if is_thing(segment.class_id)]
    np.testing.assert_array_equal(scene.instances, np.where(np.isin(scene.panoptic, things), scene.panoptic, 0))


def is_thing(class_id: int) -> bool:
    assert WORLD.things is not None
    return class_id == WORLD.unknown_id or WORLD.things[class_id]


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(list(TOWNS)),
    st.sampled_from(["none", "test", "validation", "negatives"]),
    st.integers(0, 2**40),
    st.tuples(st.integers(16, 130), st.integers(16, 200)),
)
def test_the_truth_of_any_scene_is_a_partition_that_its_lists_describe(
    town: str, unknowns: Unknowns, index: int, size: tuple[int, int]
) -> None:
    scene = World(town, unknowns).scene(index, size)
    check(scene, size)
    assert unknowns != "none" or not scene.unknown.any()
    assert {FAMILIES[name].use for name in scene.families.values()} <= {unknowns}


def test_a_scene_is_the_same_in_every_process_whatever_its_threads_and_hashes() -> None:
    expected = [fingerprint(World(town, unknowns).scene(index, size)) for town, unknowns, index, size in CASES]
    for threads, seed in ((1, "1"), (4, "2")):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "OMP_NUM_THREADS": str(threads)}
        command = [sys.executable, "-c", HASHES.format(cases=CASES), str(threads)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        assert done.stdout.split() == expected


def test_scenes_of_other_indices_and_towns_are_others() -> None:
    scenes = [World(town).scene(index, SMALL) for town in ("t1", "t2") for index in (0, 1)]
    assert len({fingerprint(scene) for scene in scenes}) == 4


@pytest.mark.parametrize(("town", "unknowns"), [("t1", "negatives"), ("t4", "validation"), ("t5", "test")])
def test_a_street_is_the_same_without_the_objects_that_stand_in_it(town: str, unknowns: Unknowns) -> None:
    bare, scene = World(town).scene(5, SMALL), World(town, unknowns).scene(5, SMALL)
    assert scene.unknown.any()
    np.testing.assert_array_equal(scene.labels[~scene.unknown], bare.labels[~scene.unknown])


@pytest.mark.parametrize("town", list(TOWNS))
def test_a_scene_shows_the_same_at_half_the_resolution(town: str) -> None:
    unknowns: Unknowns = "test" if town in TEST_TOWNS else "none"
    whole, half = World(town, unknowns).scene(2), World(town, unknowns).scene(2, (256, 512))
    assert (whole.labels[::2, ::2] == half.labels).mean() > 0.95
    averaged = whole.image.reshape(256, 2, 512, 2, 3).mean((1, 3))
    # Noise, blur and the thinnest textures are a matter of pixels; all else is not.
    assert np.abs(averaged - half.image).mean() < 8


def test_every_known_class_is_seen_in_a_third_of_the_scenes_where_it_is_trained_and_where_it_is_tested() -> None:
    for towns in (TRAIN_TOWNS, TEST_TOWNS):
        seen = np.zeros(WORLD.num_classes)
        count = 24 // len(towns)
        for town in towns:
            world = World(town)
            for index in range(count):
                seen += np.bincount(world.scene(index, SMALL).labels.ravel(), minlength=WORLD.num_classes) > 0
        shares = dict(zip(WORLD.names, seen / (count * len(towns)), strict=True))
        assert min(shares.values()) >= 0.3, shares


@pytest.mark.parametrize(
    ("town", "unknowns"), [("t5", "test"), ("t6", "test"), ("t2", "validation"), ("t3", "negatives")]
)
def test_where_there_are_unknown_objects_every_scene_has_one_in_plain_sight(town: str, unknowns: Unknowns) -> None:
    world = World(town, unknowns)
    for index in range(6):
        areas = [segment.area for segment in world.scene(index, SMALL).segments if segment.is_unknown]
        assert areas
        assert max(areas) > 20


def test_nothing_known_carries_a_texture_of_an_unknown_family(monkeypatch: pytest.MonkeyPatch) -> None:
    add = Geometry.add
    carried: dict[int, set[str]] = {}

    def spy(self: Geometry, points: object, covering: object, **options: object) -> None:
        carried.setdefault(options["segment"], set()).add(covering.texture)  # type: ignore[attr-defined, arg-type]
        add(self, points, covering, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Geometry, "add", spy)
    reserved = {texture for family in FAMILIES.values() for texture in family.textures}
    for town in TOWNS:
        for index in range(2):
            World(town).scene(index, SMALL)
    assert not reserved & set().union(*carried.values())
    for unknowns in ("test", "validation", "negatives"):
        carried.clear()
        World("t1", unknowns).scene(3, SMALL)
        allowed = {texture for family in FAMILIES.values() if family.use == unknowns for texture in family.textures}
        objects = [textures for segment, textures in carried.items() if textures & reserved]
        assert objects
        assert all(textures <= allowed for textures in objects)


def test_the_truth_scores_100_against_itself() -> None:
    scene = World("t6", "test").scene(0, SMALL)
    categories = [{"id": index, "name": name, "isthing": is_thing(index)} for index, name in enumerate(WORLD.names)]
    categories.append({"id": WORLD.unknown_id, "name": "any", "isthing": True, "unknown": True})
    metric = PanopticQuality(categories)
    metric.update(scene.panoptic, scene.segments, scene.panoptic, scene.segments)
    values = metric.compute()
    assert (values["PQ"], values["PQ_unknown"]) == (100, 100)


def test_what_is_no_scene_is_refused() -> None:
    with pytest.raises(OutmaskError, match="unknown town 't9': choose from t1, t2, t3, t4, t5, t6"):
        World("t9")
    with pytest.raises(OutmaskError, match="for test, validation, negatives, got 'some'"):
        World("t1", "some")  # type: ignore[arg-type]
    with pytest.raises(OutmaskError, match="numbered from 0, got -1"):
        World("t1").scene(-1)
    with pytest.raises(OutmaskError, match="at least 16 x 16 pixels, got 8 x 1024"):
        World("t1").scene(0, (8, 1024))
