"""Panoptic segmentation against a literal implementation of Mask2Former's rule, and what holds of every partition."""

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
from torch.profiler import ProfilerActivity, profile

from outmask import scores
from outmask.errors import OutmaskError
from outmask.metrics import PanopticQuality
from outmask.openset import tiles
from outmask.openset.panoptic import Panoptic, known_segments, open_set_panoptic
from outmask.openset.unknown_objects import Components, Finder, Mining, NegativeClass, PreferredMask
from outmask.types import MaskPrediction, Taxonomy

Scenes = Callable[..., MaskPrediction]
SIZES = st.tuples(st.integers(1, 60), st.integers(1, 60))
WAYS: tuple[Finder, ...] = (
    PreferredMask(20),
    Mining(0.3, 3, 0.2),
    Mining(0.3, 3, overlap=0),
    Mining(0.3, 3, 0.2, compare_entropy=False),
    Components(20),
    NegativeClass(),
)


@st.composite
def ways_and_seeds(draw: st.DrawFn) -> tuple[Finder, int, bool]:
    """A way, a scene's seed, and whether the scene is of a model with the class *negative*, as one way asks for."""
    way = draw(st.sampled_from(WAYS))
    return way, draw(st.integers(0, 2**20)), isinstance(way, NegativeClass) or draw(st.booleans())


def literal(
    prediction: MaskPrediction, taxonomy: Taxonomy, size: tuple[int, int]
) -> tuple[NDArray[np.int32], dict[int, int]]:
    """Mask2Former's ``panoptic_inference``, step by step: the map, and each id's class; *negative* is a thing."""
    masks = F.interpolate(prediction.mask_logits, size, mode="bilinear", align_corners=False)[0].sigmoid().numpy()
    probabilities = prediction.class_logits[0].softmax(-1).numpy()
    no_object = probabilities.shape[1] - 1
    queries = [query for query, row in enumerate(probabilities) if row.argmax() != no_object and row.max() > 0.8]
    ids, classes, stuff = np.zeros(size, np.int32), {}, {}
    if not queries:
        return ids, classes
    preferred = np.argmax([probabilities[query].max() * masks[query] for query in queries], axis=0)
    for index, query in enumerate(queries):
        held = masks[query] >= 0.5
        mask = (preferred == index) & held
        if not mask.any() or (preferred == index).sum() / held.sum() < 0.8:
            continue
        class_ = int(probabilities[query].argmax())
        if class_ in stuff:
            ids[mask] = stuff[class_]
            continue
        assert taxonomy.things is not None
        classes[len(classes) + 1] = class_
        if not (*taxonomy.things, True)[class_]:
            stuff[class_] = len(classes)
        ids[mask] = len(classes)
    return ids, classes


def same_partition(one: NDArray[np.int32], other: NDArray[np.int32]) -> bool:
    """Whether two maps differ by a renaming of their ids at most; 0 is 0."""
    pairs = {(0, 0), *zip(one.ravel().tolist(), other.ravel().tolist(), strict=True)}
    return len(pairs) == len({first for first, _ in pairs}) == len({second for _, second in pairs})


def permuted(prediction: MaskPrediction, seed: int) -> MaskPrediction:
    order = torch.randperm(prediction.class_logits.shape[1], generator=torch.Generator().manual_seed(seed))
    return replace(
        prediction, class_logits=prediction.class_logits[:, order], mask_logits=prediction.mask_logits[:, order]
    )


def anomaly(prediction: MaskPrediction, size: tuple[int, int]) -> NDArray[np.float32]:
    score: NDArray[np.float32] = scores.score(prediction, "eam", size)[0].numpy()
    return score


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**20), masks=st.integers(1, 20), size=SIZES)
def test_known_segments_are_the_literal_ones_at_any_size(
    scene: Scenes, taxonomy: Taxonomy, seed: int, masks: int, size: tuple[int, int]
) -> None:
    prediction = scene(seed, masks)
    known = known_segments(prediction, taxonomy, size)
    ids, classes = literal(prediction, taxonomy, size)
    assert known.ids.dtype == np.int32
    assert same_partition(known.ids, ids)
    for id_, (class_, probability) in enumerate(known.classes, 1):
        assert classes[int(ids[known.ids == id_][0])] == class_
        assert 0.8 < probability <= 1


def test_random_scenes_have_what_the_rule_is_about(scene: Scenes, taxonomy: Taxonomy) -> None:
    """Otherwise the comparison above would say little: merged stuff, vanished masks, void, several things."""
    merged = vanished = void = several = 0
    for seed in range(40):
        prediction = scene(seed)
        probability, class_id = prediction.class_logits[0].softmax(-1).max(-1)
        sure = class_id[(class_id < 5) & (probability > 0.8)].tolist()
        known = known_segments(prediction, taxonomy, (24, 32))
        shown = [class_ for class_, _ in known.classes]
        merged += len([class_ for class_ in sure if class_ < 3]) > len([class_ for class_ in shown if class_ < 3]) > 0
        vanished += any(sure.count(class_) > shown.count(class_) for class_ in (3, 4))
        void += bool((known.ids == 0).any())
        several += max(shown.count(3), shown.count(4)) > 1
    assert min(merged, vanished, void, several) >= 5


def bands(*logits: list[float], lead: float = 9.0, classes: tuple[int, ...] = ()) -> MaskPrediction:
    """One row of pixels; mask q has the class ``classes[q]``, by default 0."""
    class_logits = torch.zeros(1, len(logits), 6, dtype=torch.float64)
    class_logits[0, range(len(logits)), classes or [0] * len(logits)] = lead
    return MaskPrediction(class_logits, torch.tensor(logits, dtype=torch.float64)[None, :, None])


def test_a_pixel_is_painted_from_a_mask_probability_of_one_half_on(taxonomy: Taxonomy) -> None:
    prediction = bands([0.0, 9.0, 9.0, -1e-9, -9.0])
    # All five prefer the only mask, which holds three of them: 5 / 3 >= 0.8.
    assert known_segments(prediction, taxonomy, (1, 5)).ids.tolist() == [[1, 1, 1, 0, 0]]


@pytest.mark.parametrize(("lost", "shown"), [(2, True), (3, False)])
def test_a_mask_vanishes_where_it_loses_more_than_a_fifth_of_its_area(
    taxonomy: Taxonomy, lost: int, shown: bool
) -> None:
    # A car of 10 pixels loses 2 or 3 to a surer person; it is not painted where it is not preferred.
    car, person = [2.0] * 10, [9.0] * lost + [-9.0] * (10 - lost)
    known = known_segments(bands(car, person, classes=(3, 4)), taxonomy, (1, 10))
    names = [class_ for class_, _ in known.classes]
    assert names == ([3, 4] if shown else [4])
    assert (known.ids > 0).sum() == (10 if shown else lost)


def test_stuff_is_merged_and_things_are_not(taxonomy: Taxonomy) -> None:
    halves = ([9.0] * 3 + [-9.0] * 3, [-9.0] * 3 + [9.0] * 3)
    assert known_segments(bands(*halves, classes=(1, 1)), taxonomy, (1, 6)).ids.tolist() == [[1] * 6]
    known = known_segments(bands(*halves, classes=(3, 3)), taxonomy, (1, 6))
    assert known.ids.tolist() == [[1] * 3 + [2] * 3]
    assert [class_ for class_, _ in known.classes] == [3, 3]


def test_masks_that_are_unsure_or_of_no_object_are_dropped(taxonomy: Taxonomy) -> None:
    least = np.log(0.8 / 0.2 * 5)  # against five others at 0
    for lead, found in ((least - 1e-6, 0), (least + 1e-6, 1)):
        assert len(known_segments(bands([9.0], lead=lead), taxonomy, (1, 1)).classes) == found
    assert known_segments(bands([9.0], classes=(5,)), taxonomy, (2, 3)).ids.tolist() == [[0] * 3] * 2


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**20), masks=st.integers(1, 20), size=SIZES)
def test_masks_of_the_negative_class_are_unknown_by_the_same_rule(
    scene: Scenes, taxonomy: Taxonomy, seed: int, masks: int, size: tuple[int, int]
) -> None:
    """Mask2Former's rule where *negative* is one class of things more, class 5."""
    prediction = scene(seed, masks, negative=True)
    ids, classes = literal(prediction, taxonomy, size)
    found = open_set_panoptic(prediction, taxonomy, np.zeros(size, np.float32), unknown="negative_class")
    assert same_partition(found.ids, ids)
    for segment in found.segments:
        expected = classes[int(ids[found.ids == segment.id][0])]
        assert (segment.class_id, segment.is_unknown) == (expected, expected == 5)


def test_random_scenes_have_negative_masks_that_compete(scene: Scenes, taxonomy: Taxonomy) -> None:
    """Otherwise the comparison above would say little: found, several in a scene, and pixels that known ones lose."""
    found = several = lost = 0
    for seed in range(100):
        prediction, size = scene(seed, negative=True), (24, 32)
        objects = open_set_panoptic(prediction, taxonomy, np.zeros(size, np.float32), unknown="negative_class")
        count = sum(segment.is_unknown for segment in objects.segments)
        without = MaskPrediction(prediction.known_class_logits(), prediction.mask_logits)
        alone = known_segments(without, taxonomy, size).ids > 0
        found += count > 0
        several += count > 1
        lost += bool((alone & unknown(objects)).any())
    assert min(found, several, lost) >= 5


def test_a_negative_mask_competes_for_pixels_and_what_it_wins_is_void_or_an_unknown_object(taxonomy: Taxonomy) -> None:
    # A car of 10 pixels loses 2 of them, or 3 and so itself, to a negative mask, which needs the same probability.
    for won, lead, expected in ((2, 9.0, [2] * 2 + [1] * 8), (3, 9.0, [1] * 3 + [0] * 7), (3, 2.0, [1] * 10)):
        class_logits = torch.zeros(1, 2, 7, dtype=torch.float64)
        class_logits[0, 0, 3], class_logits[0, 1, 5] = 6, lead
        mask_logits = bands([2.0] * 10, [9.0] * won + [-9.0] * (10 - won)).mask_logits
        prediction = MaskPrediction(class_logits, mask_logits, negative_class=True)
        score = np.arange(10, dtype=np.float32)[None]
        found = open_set_panoptic(prediction, taxonomy, score, unknown="negative_class")
        assert found.ids.tolist() == [expected]
        known = known_segments(prediction, taxonomy, (1, 10)).ids
        np.testing.assert_array_equal(known, np.where(unknown(found), 0, found.ids))
        assert [segment.score for segment in found.segments if segment.is_unknown] == ([(won - 1) / 2] * (lead > 6))


@settings(max_examples=40, deadline=None)
@given(case=ways_and_seeds(), size=SIZES, share=st.floats(0, 1))
def test_every_pixel_has_one_segment_or_void_and_known_ones_stay(
    scene: Scenes, taxonomy: Taxonomy, case: tuple[Finder, int, bool], size: tuple[int, int], share: float
) -> None:
    way, seed, negative = case
    prediction = scene(seed, negative=negative)
    score = anomaly(prediction, size)
    threshold = float(np.quantile(score, share))
    found = open_set_panoptic(prediction, taxonomy, score, threshold, way)
    known = known_segments(prediction, taxonomy, size)
    assert found.ids.dtype == np.int32
    np.testing.assert_array_equal(found.ids[known.ids > 0], known.ids[known.ids > 0])
    assert [segment.id for segment in found.segments] == list(range(1, len(found.segments) + 1))
    assert set(np.unique(found.ids).tolist()) - {0} == {segment.id for segment in found.segments}
    for segment in found.segments:
        rows, columns = np.nonzero(found.ids == segment.id)
        assert segment.area == len(rows)
        x, y, width, height = segment.bbox
        assert (x, y, x + width, y + height) == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert segment.is_unknown == (segment.id > len(known.classes))
        if segment.is_unknown:
            assert (segment.class_id, segment.name) == (taxonomy.unknown_id, "unknown")
            assert segment.score == pytest.approx(score[rows, columns].mean(dtype=np.float64))
        else:
            assert (segment.class_id, segment.score) == known.classes[segment.id - 1]
            assert segment.name == taxonomy.names[segment.class_id]


@settings(max_examples=40, deadline=None)
@given(case=ways_and_seeds(), size=SIZES, order=st.integers(0, 2**20))
def test_the_order_of_the_masks_changes_nothing(
    scene: Scenes, taxonomy: Taxonomy, case: tuple[Finder, int, bool], size: tuple[int, int], order: int
) -> None:
    way, seed, negative = case
    prediction = scene(seed, negative=negative)
    score = anomaly(prediction, size)
    one, other = (
        open_set_panoptic(each, taxonomy, score, -0.5, way) for each in (prediction, permuted(prediction, order))
    )
    np.testing.assert_array_equal(one.ids, other.ids)
    assert one.segments == other.segments


def test_saturated_masks_tie_in_favour_of_the_surer_class(taxonomy: Taxonomy) -> None:
    """In float32, both probabilities and both masks are 1."""
    class_logits = torch.zeros(1, 2, 6)
    class_logits[0, 0, 3], class_logits[0, 1, 4] = 40, 50
    prediction = MaskPrediction(class_logits, torch.full((1, 2, 2, 2), 99.0))
    for each in (prediction, permuted(prediction, 1)):
        assert [class_ for class_, _ in known_segments(each, taxonomy, (2, 2)).classes] == [4]


@settings(max_examples=40, deadline=None)
@given(
    case=ways_and_seeds(),
    size=SIZES,
    thresholds=st.lists(st.floats(-1.5, 0.1), min_size=2, max_size=2).map(sorted),
)
def test_a_higher_threshold_never_adds_an_unknown_pixel(
    scene: Scenes, taxonomy: Taxonomy, case: tuple[Finder, int, bool], size: tuple[int, int], thresholds: list[float]
) -> None:
    way, seed, negative = case
    prediction = scene(seed, negative=negative)
    score = anomaly(prediction, size)
    low, high = (unknown(open_set_panoptic(prediction, taxonomy, score, each, way)) for each in thresholds)
    assert not (high & ~low).any()


def framed(prediction: MaskPrediction, rows: int, columns: int) -> MaskPrediction:
    """A scene's 12 x 16 mask pixels in 40 x 48, from there on; all around it is sure road, which no mask else holds."""
    masks = torch.full((1, prediction.mask_logits.shape[1] + 1, 40, 48), -30.0, dtype=torch.float64)
    masks[:, -1] = 30
    masks[:, :-1, rows : rows + 12, columns : columns + 16] = prediction.mask_logits
    masks[:, -1, rows : rows + 12, columns : columns + 16] = -30
    road = torch.zeros_like(prediction.class_logits[:, :1])
    road[..., 0] = 60
    return replace(prediction, class_logits=torch.cat([prediction.class_logits, road], 1), mask_logits=masks)


@settings(max_examples=40, deadline=None)
@given(case=ways_and_seeds(), down=st.integers(0, 26), right=st.integers(0, 30))
def test_a_scene_that_moves_by_whole_pixels_of_its_masks_keeps_its_segments(
    scene: Scenes, taxonomy: Taxonomy, case: tuple[Finder, int, bool], down: int, right: int
) -> None:
    """Whole tiles among them, which are 8 rows of the output and more: the fewer masks, the more."""
    way, seed, negative = case
    size = (80, 96)
    prediction = scene(seed, negative=negative)
    first, moved = (framed(prediction, 1 + rows, 1 + columns) for rows, columns in ((0, 0), (down, right)))
    score, by = anomaly(first, size), (2 * down, 2 * right)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, "_TILE_BYTES", 8 * 13 * 96 * 8)
        one = open_set_panoptic(first, taxonomy, score, -0.5, way)
        other = open_set_panoptic(moved, taxonomy, np.roll(score, by, (0, 1)), -0.5, way)
    np.testing.assert_array_equal(np.roll(one.ids, by, (0, 1)), other.ids)
    for segment, after in zip(one.segments, other.segments, strict=True):
        assert after.score == pytest.approx(segment.score)
        x, y, *extent = segment.bbox
        if segment.class_id != 0:  # the road is everywhere
            assert after.bbox == (x + by[1], y + by[0], *extent)
        assert replace(after, bbox=segment.bbox, score=segment.score) == segment


def unknown(panoptic: Panoptic) -> NDArray[np.bool_]:
    ids = [segment.id for segment in panoptic.segments if segment.is_unknown]
    return np.isin(panoptic.ids, ids)


def test_a_scene_that_is_found_whole_has_a_pq_of_100(scene: Scenes, taxonomy: Taxonomy) -> None:
    prediction = scene(3)
    score = anomaly(prediction, (48, 64))
    found = open_set_panoptic(prediction, taxonomy, score, -0.5, PreferredMask(20))
    assert any(segment.is_unknown for segment in found.segments)
    categories = [{"id": i, "name": name, "isthing": 1} for i, name in enumerate(taxonomy.names)]
    metric = PanopticQuality([*categories, {"id": 5, "name": "nothing", "isthing": 1, "unknown": True}])
    metric.update(found.ids, found.segments, found.ids, found.segments)
    assert metric.compute()["PQ"] == metric.compute()["PQ_unknown"] == 100


@pytest.mark.parametrize("way", WAYS)
def test_masks_are_never_held_at_full_size(taxonomy: Taxonomy, way: Finder) -> None:
    # 100 masks at 256 x 1024 are 105 MB, a tile of them 4 MB; a map of scores or ids is 1 MB.
    generator = torch.Generator().manual_seed(0)
    class_logits = torch.zeros(1, 100, 6)
    class_logits[0, range(100), [index % 6 for index in range(100)]] = 9
    prediction = MaskPrediction(class_logits, torch.randn(1, 100, 8, 32, generator=generator) * 9)
    if isinstance(way, NegativeClass):
        taxonomy = Taxonomy(taxonomy.names[:4], taxonomy.colors[:4], (False, False, False, True))
        prediction = replace(prediction, negative_class=True)
    score = anomaly(prediction, (256, 1024))
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        open_set_panoptic(prediction, taxonomy, score, -2.0, way)
    assert max(event.cpu_memory_usage for event in recorded.events()) < 10e6


def test_what_does_not_fit_is_refused(scene: Scenes, taxonomy: Taxonomy) -> None:
    prediction = scene(0)
    score = np.zeros((4, 4), np.float32)
    both = MaskPrediction(prediction.class_logits.repeat(2, 1, 1), prediction.mask_logits.repeat(2, 1, 1, 1))
    with pytest.raises(OutmaskError, match="of one image, got a batch of 2"):
        known_segments(both, taxonomy, (4, 4))
    with pytest.raises(OutmaskError, match="needs to know things from stuff"):
        known_segments(prediction, replace(taxonomy, things=None), (4, 4))
    with pytest.raises(OutmaskError, match="of the prediction's 5 classes, got one of 1"):
        known_segments(prediction, Taxonomy(("a",), ((0, 0, 0),), (True,)), (4, 4))
    with pytest.raises(OutmaskError, match="cannot be found by 'minning': choose from preferred_mask, mining, comp"):
        open_set_panoptic(prediction, taxonomy, score, 0.0, "minning")  # type: ignore[arg-type]
    with pytest.raises(OutmaskError, match="above a threshold of the score: give one"):
        open_set_panoptic(prediction, taxonomy, score)
    with pytest.raises(OutmaskError, match="this model has none: find them by preferred_mask, mining or components"):
        open_set_panoptic(prediction, taxonomy, score, unknown="negative_class")
    open_set_panoptic(prediction, taxonomy, score, unknown="mining")
