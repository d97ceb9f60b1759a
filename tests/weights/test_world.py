"""The bundled model ``world`` on streets that no training showed."""

from __future__ import annotations

import numpy as np
import pytest

import outmask
from outmask.data.world import World
from outmask.data.world.samples import CATEGORIES
from outmask.metrics import PanopticQuality
from outmask.openset.unknown_objects import finder
from outmask.types import Unknown

WAYS: tuple[Unknown, ...] = ("preferred_mask", "components", "mining", "negative_class")


@pytest.fixture(scope="module")
def segmenter() -> outmask.Segmenter:
    loaded = outmask.load("world")
    assert isinstance(loaded, outmask.Segmenter)
    return loaded


def test_it_knows_streets_of_a_town_it_has_not_seen(segmenter: outmask.Segmenter) -> None:
    quality = PanopticQuality(CATEGORIES)
    for index in (0, 1):
        scene = World("t5", "test").scene(index)
        result = segmenter.predict(scene.image, task="panoptic")
        assert result.panoptic is not None
        assert result.segments is not None
        quality.update(result.panoptic, result.segments, scene.panoptic, scene.segments)
    assert quality.compute()["PQ_known_stuff"] > 30  # 56 over a hundred scenes; a model that knows nothing has 0


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_find_unknown_objects_can_be_tried_on_it(segmenter: outmask.Segmenter, way: Unknown) -> None:
    scene = World("t1", "validation").scene(1_000_003, (256, 512))
    result = segmenter.predict(scene.image, task="panoptic", unknown=way)
    assert result.panoptic is not None
    assert result.segments is not None
    assert [segment.id for segment in result.segments] == list(range(1, len(result.segments) + 1))
    assert set(np.unique(result.panoptic)) <= {0, *(segment.id for segment in result.segments)}
    assert any(not segment.is_unknown for segment in result.segments)
    if finder(way).needs_threshold:
        assert result.threshold == segmenter.operating_points["eam"]["threshold"]
