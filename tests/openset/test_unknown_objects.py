"""The ways to find unknown objects against literal implementations, and their rules one at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from outmask.errors import OutmaskError
from outmask.openset.unknown_objects import Components, Finder, Mining, NegativeClass, PreferredMask, finder
from outmask.types import MaskPrediction, Taxonomy

Scenes = Callable[..., MaskPrediction]
Mask = NDArray[np.bool_]
Ids = NDArray[np.int32]


def full_size(prediction: MaskPrediction, size: tuple[int, int]) -> NDArray[np.float64]:
    logits = F.interpolate(prediction.mask_logits.double(), size, mode="bilinear", align_corners=False)
    array: NDArray[np.float64] = logits[0].sigmoid().numpy()
    return array


def literal_preferred(prediction: MaskPrediction, free: Mask, anomalous: Mask, minimum_area: int) -> list[Mask]:
    masks = full_size(prediction, (free.shape[0], free.shape[1]))
    objects = [(masks.argmax(0) == query) & free & anomalous for query in range(len(masks))]
    return [each for each in objects if each.sum() >= minimum_area]


def literal_components(free: Mask, anomalous: Mask, minimum_area: int) -> list[Mask]:
    square = np.ones((3, 3))
    eroded = ndimage.binary_erosion(anomalous, square, border_value=1)
    opened = ndimage.binary_dilation(eroded, square)
    closed = ndimage.binary_erosion(ndimage.binary_dilation(opened, square), square, border_value=1)
    found, count = ndimage.label(closed)  # 4-connected
    objects = [(found == number) & free for number in range(1, count + 1)]
    return [each for each in objects if each.sum() >= minimum_area]


def literal_mining(prediction: MaskPrediction, taxonomy: Taxonomy, free: Mask, settings: Mining) -> list[Mask]:
    masks = full_size(prediction, (free.shape[0], free.shape[1]))
    probabilities = prediction.class_logits[0].double().softmax(-1).numpy()
    background = np.ones(free.shape)
    for mask, row in zip(masks, probabilities, strict=True):
        if row.argmax() < prediction.num_classes:
            background -= row.max() * mask
    found, count = ndimage.label((background > settings.background) & free, np.ones((3, 3)))
    components = sorted((found == number for number in range(1, count + 1)), key=np.sum, reverse=True)
    objects = []
    for component in components[: settings.components]:
        overlaps = [(component & (mask >= 0.5)).sum() / (component | (mask >= 0.5)).sum() for mask in masks]
        if max(overlaps) < settings.overlap:
            continue
        if not settings.compare_entropy:
            objects.append(component)
            continue
        if max(overlaps) == 0:
            continue
        for row, overlap in zip(probabilities, overlaps, strict=True):
            entropy = -row * np.log(row)
            things = [entropy[class_] for class_ in range(5) if taxonomy.things and taxonomy.things[class_]]
            stuff = [entropy[class_] for class_ in range(5) if taxonomy.things and not taxonomy.things[class_]]
            if overlap == max(overlaps) and np.mean(things) > np.mean(stuff):
                objects.append(component)
                break
    return objects


def regions(seed: int, size: tuple[int, int]) -> Mask:
    """A random mask of blobs."""
    noise = np.random.default_rng(seed).normal(size=size)
    blobs: Mask = ndimage.gaussian_filter(noise, 1.5) > 0
    return blobs


def as_set(objects: list[Mask]) -> set[bytes]:
    return {each.tobytes() for each in objects}


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 2**20),
    size=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    area=st.integers(1, 60),
    mining=st.builds(
        Mining,
        background=st.just(0.3),
        components=st.integers(1, 4),
        overlap=st.sampled_from([0, 0.1]),
        compare_entropy=st.booleans(),
    ),
)
def test_each_way_is_the_literal_one(
    scene: Scenes, taxonomy: Taxonomy, seed: int, size: tuple[int, int], area: int, mining: Mining
) -> None:
    prediction = scene(seed)
    free, anomalous = regions(seed, size), regions(seed + 1, size)
    for way, expected in (
        (PreferredMask(area), literal_preferred(prediction, free, anomalous, area)),
        (Components(area), literal_components(free, anomalous, area)),
        (mining, literal_mining(prediction, taxonomy, free, mining)),
    ):
        ids = way(prediction, taxonomy, free, anomalous)
        assert ids.dtype == np.int32
        found = [ids == number for number in range(1, ids.max() + 1)]
        if isinstance(way, Mining):
            # Of components of equal area either may be among the largest.
            areas = sorted(int(each.sum()) for each in expected)
            if sorted(int(each.sum()) for each in found) == areas and len(set(areas)) < len(areas):
                continue
        assert as_set(found) == as_set(expected), way


def test_random_scenes_have_objects_to_mine(scene: Scenes, taxonomy: Taxonomy) -> None:
    """Otherwise the comparison above would say little: found, without overlap, and like stuff."""
    everywhere = np.ones((24, 32), np.bool_)
    ways = (Mining(0.3, 9, 0.9), Mining(0.3, 9, 0.1), Mining(0.3, 9, 0), Mining(0.3, 9, 0, compare_entropy=False))
    counts = np.zeros(len(ways) + 1, int)
    for seed in range(40):
        for index, mining in enumerate(ways):
            counts[index] += mining(scene(seed), taxonomy, everywhere, everywhere).max()
        swapped = replace(taxonomy, things=tuple(not thing for thing in taxonomy.things or ()))
        counts[-1] += Mining(0.3, 9, 0.1)(scene(seed), swapped, everywhere, everywhere).max()
    assert counts[1] >= 10
    assert counts[0] < counts[1] < counts[2] < counts[3]  # each step takes some away
    assert counts[-1] >= 10


def boxes(*logits: NDArray[np.float64], classes: tuple[tuple[float, ...], ...]) -> MaskPrediction:
    probabilities = torch.tensor(classes, dtype=torch.float64)
    return MaskPrediction(probabilities.log()[None], torch.from_numpy(np.array(logits))[None])


def box(left: int, right: int, width: int = 20) -> NDArray[np.float64]:
    """Logits of a mask over the columns ``left`` to ``right`` of a picture 10 pixels high."""
    inside = np.arange(width)
    return np.where((inside >= left) & (inside < right), 9.0, -9.0)[None].repeat(10, 0)


EVERYWHERE = np.ones((10, 20), np.bool_)
NOTHING = ~EVERYWHERE
ROAD = (0.95, 0.01, 0.01, 0.01, 0.01, 0.01)
# No object, otherwise a thing rather than stuff; and the reverse.
THING = (0.0001, 0.0001, 0.0001, 0.02, 0.02, 0.9597)
STUFF = (0.02, 0.02, 0.02, 0.0001, 0.0001, 0.9398)


def test_a_mask_is_an_object_from_its_least_area_on(taxonomy: Taxonomy) -> None:
    prediction = boxes(box(0, 8), box(8, 20), classes=(ROAD, ROAD))
    assert finder("preferred_mask") == PreferredMask(201)  # the paper: more than 200
    ids = PreferredMask(80)(prediction, taxonomy, EVERYWHERE, EVERYWHERE)
    assert ids[0].tolist() == [1] * 8 + [2] * 12
    ids = PreferredMask(81)(prediction, taxonomy, EVERYWHERE, EVERYWHERE)
    assert ids[0].tolist() == [0] * 8 + [1] * 12


def test_an_anomalous_pixel_goes_to_a_mask_of_any_class_even_where_none_holds_it(taxonomy: Taxonomy) -> None:
    weak = np.full((10, 20), -5.0)
    prediction = boxes(box(0, 8), weak, classes=(ROAD, THING))
    assert PreferredMask(1)(prediction, taxonomy, EVERYWHERE, EVERYWHERE)[0].tolist() == [1] * 8 + [2] * 12


def test_components_are_cleaned_before_they_are_told_apart_and_cut_by_known_segments(taxonomy: Taxonomy) -> None:
    prediction = boxes(box(0, 8), classes=(ROAD,))
    anomalous = NOTHING.copy()
    anomalous[2:8, 2:8] = anomalous[2:8, 9:17] = True  # the gap of one pixel is closed
    anomalous[0, 19] = True  # opened away
    free = EVERYWHERE.copy()
    free[:, 4:6] = False
    ids = Components(1)(prediction, taxonomy, free, anomalous)
    assert ids[4].tolist() == [0] * 2 + [1] * 2 + [0] * 2 + [1] * 11 + [0] * 3  # one object in two parts
    assert (ids > 0).sum() == 6 * 13
    assert Components(6 * 13)(prediction, taxonomy, free, anomalous).max() == 1
    assert Components(6 * 13 + 1)(prediction, taxonomy, free, anomalous).max() == 0


def test_a_candidate_is_an_object_where_its_mask_is_like_a_thing(taxonomy: Taxonomy) -> None:
    for classes, found in ((THING, True), (STUFF, False)):
        prediction = boxes(box(0, 8), box(8, 20), classes=(ROAD, classes))
        ids = Mining()(prediction, taxonomy, EVERYWHERE, NOTHING)
        assert ids[0].tolist() == [0] * 8 + [int(found)] * 12


@pytest.mark.parametrize(("right", "found"), [(14, True), (13, False)])
def test_a_candidate_needs_a_mask_that_overlaps_it(taxonomy: Taxonomy, right: int, found: bool) -> None:
    # The background has 12 columns, its mask 6 of them (an IoU of 0.5), or 5.
    prediction = boxes(box(0, 8), box(8, right), classes=(ROAD, THING))
    assert Mining(overlap=0.5)(prediction, taxonomy, EVERYWHERE, NOTHING).max() == found


def test_each_step_of_mining_can_be_left_out(taxonomy: Taxonomy) -> None:
    """A candidate that one mask of STUFF overlaps little, and one that no mask touches."""
    prediction = boxes(box(8, 11), box(0, 2), classes=(ROAD, STUFF))
    for way, expected in (
        (Mining(), []),
        (Mining(overlap=0), []),
        (Mining(overlap=0.25, compare_entropy=False), [1] * 8 + [0] * 12),
        (Mining(overlap=0.26, compare_entropy=False), []),
        (Mining(overlap=0, compare_entropy=False), [2] * 8 + [0] * 3 + [1] * 9),
        (Mining(overlap=0, compare_entropy=False, components=1), [0] * 11 + [1] * 9),
    ):
        ids = way(prediction, taxonomy, EVERYWHERE, NOTHING)
        assert ids[0].tolist() == (expected or [0] * 20), way
    prediction = boxes(box(8, 11), box(0, 2), classes=(ROAD, THING))
    assert Mining(overlap=0)(prediction, taxonomy, EVERYWHERE, NOTHING)[0].tolist() == [1] * 8 + [0] * 12
    for things in (None, (True,) * 5):  # nothing to compare, and nothing is
        replaced = replace(taxonomy, things=things)
        assert Mining(overlap=0, compare_entropy=False)(prediction, replaced, EVERYWHERE, NOTHING).max() == 2


def test_of_equally_good_masks_one_like_a_thing_is_enough(taxonomy: Taxonomy) -> None:
    for classes in ((ROAD, THING, STUFF), (ROAD, STUFF, THING)):
        prediction = boxes(box(0, 8), box(8, 20), box(8, 20), classes=classes)
        assert Mining()(prediction, taxonomy, EVERYWHERE, NOTHING)[0].tolist() == [0] * 8 + [1] * 12


def test_objects_of_the_negative_class_lie_where_no_known_segment_does(taxonomy: Taxonomy) -> None:
    # Two masks of the class, the first of which known segments hold whole, and one that is unsure of it.
    sure, unsure = (0.01, 0.01, 0.01, 0.01, 0.01, 0.94, 0.01), (0.05, 0.05, 0.05, 0.05, 0.05, 0.75, 0.0)
    logits = np.array([box(0, 5), box(5, 12), box(12, 20)])
    prediction = MaskPrediction(
        torch.tensor([[sure, sure, unsure]], dtype=torch.float64).log(), torch.from_numpy(logits)[None], (), True
    )
    free = EVERYWHERE.copy()
    free[:, :6] = False
    ids = NegativeClass()(prediction, taxonomy, free, NOTHING)
    assert ids[0].tolist() == [0] * 6 + [1] * 6 + [0] * 8
    assert NegativeClass()(prediction, taxonomy, EVERYWHERE, NOTHING)[0].tolist() == [1] * 5 + [2] * 7 + [0] * 8
    assert finder("negative_class") == NegativeClass()
    with pytest.raises(OutmaskError, match="this model has none: find them by preferred_mask, mining or components"):
        NegativeClass()(boxes(box(0, 20), classes=(THING,)), taxonomy, EVERYWHERE, NOTHING)


def test_only_the_largest_components_are_candidates(taxonomy: Taxonomy) -> None:
    prediction = boxes(box(5, 8), box(0, 5), box(8, 20), classes=(ROAD, THING, THING))
    assert Mining(components=2)(prediction, taxonomy, EVERYWHERE, NOTHING)[0].tolist() == [2] * 5 + [0] * 3 + [1] * 12
    assert Mining(components=1)(prediction, taxonomy, EVERYWHERE, NOTHING)[0].tolist() == [0] * 8 + [1] * 12


def test_components_of_the_background_touch_at_corners(taxonomy: Taxonomy) -> None:
    prediction = boxes(box(0, 0), box(0, 20), classes=(ROAD, THING))
    free = NOTHING.copy()
    free[:5, :10] = free[5:, 10:] = True
    assert Mining(overlap=0.4, components=1)(prediction, taxonomy, free, NOTHING).astype(bool).tolist() == free.tolist()


def test_where_nothing_is_known_everything_is_background(taxonomy: Taxonomy) -> None:
    prediction = boxes(box(0, 20), classes=(THING,))
    assert (Mining()(prediction, taxonomy, EVERYWHERE, NOTHING) == 1).all()


@pytest.mark.parametrize("way", [PreferredMask(1), Components(1), Mining(), Mining(overlap=0), NegativeClass()])
def test_nothing_is_found_where_nothing_is_free(scene: Scenes, taxonomy: Taxonomy, way: Finder) -> None:
    assert not way(scene(1, negative=True), taxonomy, NOTHING, EVERYWHERE).any()


def test_settings_out_of_range_and_classes_of_one_kind_are_refused(scene: Scenes, taxonomy: Taxonomy) -> None:
    for make in (lambda: PreferredMask(0), lambda: Components(0)):
        with pytest.raises(OutmaskError, match="at least 1 pixel, got minimum_area 0"):
            make()
    for make in (lambda: Mining(background=1), lambda: Mining(components=0), lambda: Mining(overlap=-0.1)):
        with pytest.raises(OutmaskError, match="mining needs"):
            make()
    for things in (None, (True,) * 5):
        with pytest.raises(OutmaskError, match="not known to be some of each"):
            Mining()(scene(1), replace(taxonomy, things=things), EVERYWHERE, NOTHING)
