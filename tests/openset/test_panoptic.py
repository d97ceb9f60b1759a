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
from outmask.openset.panoptic import Panoptic, known_segments, open_set_panoptic
from outmask.openset.unknown_objects import Components, Finder, Mining, PreferredMask
from outmask.types import MaskPrediction, Taxonomy

Scenes = Callable[..., MaskPrediction]
SIZES = st.tuples(st.integers(1, 60), st.integers(1, 60))
WAYS: tuple[Finder, ...] = (PreferredMask(20), Mining(0.3, 3, 0.2), Components(20))


def literal(
    prediction: MaskPrediction, taxonomy: Taxonomy, size: tuple[int, int]
) -> tuple[NDArray[np.int32], dict[int, int]]:
    """Mask2Former's ``panoptic_inference``, step by step: the map, and each id's class."""
    masks = F.interpolate(prediction.mask_logits, size, mode="bilinear", align_corners=False)[0].sigmoid().numpy()
    probabilities = prediction.class_logits[0].softmax(-1).numpy()
    queries = [
        query for query, row in enumerate(probabilities) if row.argmax() != prediction.num_classes and row.max() > 0.8
    ]
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
        if not taxonomy.things[class_]:
            stuff[class_] = len(classes)
        ids[mask] = len(classes)
    return ids, classes


def same_partition(one: NDArray[np.int32], other: NDArray[np.int32]) -> bool:
    """Whether two maps differ by a renaming of their ids at most; 0 is 0."""
    pairs = {(0, 0), *zip(one.ravel().tolist(), other.ravel().tolist(), strict=True)}
    return len(pairs) == len({first for first, _ in pairs}) == len({second for _, second in pairs})


def permuted(prediction: MaskPrediction, seed: int) -> MaskPrediction:
    order = torch.randperm(prediction.class_logits.shape[1], generator=torch.Generator().manual_seed(seed))
    return MaskPrediction(prediction.class_logits[:, order], prediction.mask_logits[:, order])


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


def test_a_negative_class_is_no_object(taxonomy: Taxonomy) -> None:
    class_logits = torch.zeros(1, 2, 7)
    class_logits[0, 0, 5] = class_logits[0, 1, 3] = 9
    prediction = MaskPrediction(class_logits, torch.ones(1, 2, 2, 2), negative_class=True)
    assert known_segments(prediction, taxonomy, (2, 2)).classes == [(3, pytest.approx(1, abs=1e-3))]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**20), size=SIZES, way=st.sampled_from(WAYS), share=st.floats(0, 1))
def test_every_pixel_has_one_segment_or_void_and_known_ones_stay(
    scene: Scenes, taxonomy: Taxonomy, seed: int, size: tuple[int, int], way: Finder, share: float
) -> None:
    prediction = scene(seed)
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
@given(seed=st.integers(0, 2**20), size=SIZES, way=st.sampled_from(WAYS), order=st.integers(0, 2**20))
def test_the_order_of_the_masks_changes_nothing(
    scene: Scenes, taxonomy: Taxonomy, seed: int, size: tuple[int, int], way: Finder, order: int
) -> None:
    prediction = scene(seed)
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
    seed=st.integers(0, 2**20),
    size=SIZES,
    way=st.sampled_from(WAYS),
    thresholds=st.lists(st.floats(-1.5, 0.1), min_size=2, max_size=2).map(sorted),
)
def test_a_higher_threshold_never_adds_an_unknown_pixel(
    scene: Scenes, taxonomy: Taxonomy, seed: int, size: tuple[int, int], way: Finder, thresholds: list[float]
) -> None:
    prediction = scene(seed)
    score = anomaly(prediction, size)
    low, high = (unknown(open_set_panoptic(prediction, taxonomy, score, each, way)) for each in thresholds)
    assert not (high & ~low).any()


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
    open_set_panoptic(prediction, taxonomy, score, unknown="mining")
