"""What pictures show of a score."""

from dataclasses import replace

import numpy as np
import pytest

from outmask.errors import OutmaskError
from outmask.output.pictures import UNKNOWN_COLOR, class_map, heat_map, open_map, outline, overlay, segment_map
from outmask.types import OpenSetResult, Segment, Taxonomy

TAXONOMY = Taxonomy(("road", "sky"), ((128, 64, 128), (70, 130, 180)))


def make_result(score: np.ndarray, image: np.ndarray | None = None, threshold: float | None = None) -> OpenSetResult:
    score = score.astype(np.float32)
    labels = np.zeros(score.shape, np.int32)
    return OpenSetResult(
        image=np.full((*score.shape, 3), 90, np.uint8) if image is None else image,
        score=score,
        labels=labels,
        taxonomy=TAXONOMY,
        score_name="eam",
        display_range=(-1.0, 0.0),
        threshold=threshold,
        open_labels=None if threshold is None else np.where(score > threshold, 2, labels).astype(np.int32),
    )


def luminance(rgb: np.ndarray) -> np.ndarray:
    return rgb @ np.array([0.2126, 0.7152, 0.0722])


def test_heat_grows_brighter_with_the_score() -> None:
    picture = heat_map(np.linspace(-1, 0, 256, dtype=np.float32)[None], (-1.0, 0.0))
    assert picture.shape == (1, 256, 3)
    assert picture.dtype == np.uint8
    assert (np.diff(luminance(picture[0].astype(float))) > -1).all()  # 8-bit colours round
    assert luminance(picture[0, 0]) < 5
    assert luminance(picture[0, -1]) > 230


def test_heat_beyond_the_range_is_the_ranges_end() -> None:
    picture = heat_map(np.array([[-np.inf, -7, -1, 0, 3, np.inf]], np.float32), (-1.0, 0.0))
    assert (picture[0, :3] == picture[0, 0]).all()
    assert (picture[0, 3:] == picture[0, 3]).all()


def test_overlay_leaves_known_pixels_as_they_are_and_tints_unknown_ones() -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    score = np.full((20, 30), -1.0)
    score[5:10, 5:10] = 0.0
    picture = np.asarray(overlay(make_result(score, image)))
    known = score < 0
    np.testing.assert_array_equal(picture[known], image[known])
    # The tint is the heat map's brightest colour and outweighs the photo, which it leaves visible.
    assert luminance(picture[~known]).min() > 150


def test_overlay_does_not_draw_on_the_results_own_image() -> None:
    result = make_result(np.zeros((8, 8)))
    before = result.image.copy()
    overlay(result)
    np.testing.assert_array_equal(result.image, before)


def test_open_labels_are_outlined() -> None:
    score = np.full((60, 60), -0.9)
    score[20:40, 20:40] = -0.2
    plain = np.asarray(overlay(make_result(score))).astype(int)
    outlined = np.asarray(overlay(make_result(score, threshold=-0.5))).astype(int)
    changed = (plain != outlined).any(axis=-1)
    assert changed[20, 20:40].all()
    assert not changed[25:35, 25:35].any()
    assert not changed[:15].any()


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (1100, 1000)])
def test_pictures_of_any_size_are_drawn_in_full(size: tuple[int, int]) -> None:
    score = np.random.default_rng(0).uniform(-1, 0, size).astype(np.float32)
    whole = heat_map(score, (-1.0, 0.0))
    assert whole.shape == (*size, 3)
    np.testing.assert_array_equal(whole[-1:], heat_map(score[-1:], (-1.0, 0.0)))
    assert overlay(make_result(score, threshold=-0.5)).size == size[::-1]


def test_class_map_tints_with_the_classes_colours() -> None:
    result = make_result(np.zeros((4, 6)))
    result.labels[:, 3:] = 1
    picture = np.asarray(class_map(result)).astype(float)
    expected = 0.4 * 90 + 0.6 * np.array(TAXONOMY.colors)
    np.testing.assert_allclose(picture[:, :3], np.broadcast_to(expected[0], (4, 3, 3)), atol=0.5)
    np.testing.assert_allclose(picture[:, 3:], np.broadcast_to(expected[1], (4, 3, 3)), atol=0.5)


def test_open_map_tints_unknown_as_the_heat_map_does_and_outlines_it() -> None:
    score = np.full((60, 60), -0.9)
    score[20:40, 20:40] = -0.2
    picture = np.asarray(open_map(make_result(score, threshold=-0.5))).astype(float)
    np.testing.assert_allclose(picture[5, 5], 0.4 * 90 + 0.6 * np.array(TAXONOMY.colors[0]), atol=0.5)
    brightest = heat_map(np.zeros((1, 1), np.float32), (-1.0, 0.0))[0, 0]
    np.testing.assert_array_equal(UNKNOWN_COLOR, brightest)
    np.testing.assert_allclose(picture[30, 30], 0.4 * 90 + 0.6 * brightest.astype(float), atol=0.5)
    assert (picture[20, 20:40] == 255).all()


def test_open_map_needs_open_labels() -> None:
    with pytest.raises(OutmaskError, match="no open labels: predict with a threshold"):
        open_map(make_result(np.zeros((4, 4))))


def test_an_outline_follows_the_mask_and_its_holes() -> None:
    mask = np.zeros((60, 60), np.bool_)
    mask[10:50, 10:50] = True
    mask[25:35, 25:35] = False
    picture = np.full((60, 60, 3), 90, np.uint8)
    outline(picture, mask)
    assert (picture[10, 10:50] == 255).all()
    assert (picture[24, 25:35] == 255).all()  # of a hole, the mask's pixels around it
    for row, column in ((0, 0), (17, 17), (30, 30)):
        assert (picture[row, column] == 90).all()


def test_nothing_is_drawn_of_an_empty_mask() -> None:
    picture = np.full((6, 6, 3), 90, np.uint8)
    outline(picture, np.zeros((6, 6), np.bool_))
    assert (picture == 90).all()


def test_segments_are_tinted_divided_and_unknown_ones_outlined() -> None:
    result = make_result(np.zeros((60, 90)))
    ids = np.ones((60, 90), np.int32)
    ids[:, 30:] = 2
    ids[20:40, 50:70] = 3
    ids[:, 80:] = 0
    segments = [
        Segment(id_, class_id, "", class_id == 2, int((ids == id_).sum()), 0.9, (0, 0, 1, 1))
        for id_, class_id in ((1, 0), (2, 1), (3, 2))
    ]
    picture = np.asarray(segment_map(replace(result, panoptic=ids, segments=segments))).astype(float)
    for column, color in ((10, TAXONOMY.colors[0]), (40, TAXONOMY.colors[1])):
        np.testing.assert_allclose(picture[5, column], 0.4 * 90 + 0.6 * np.array(color), atol=0.5)
    assert (picture[5, 85] == 90).all()
    assert (picture[:, 30] == 0).all()
    assert (picture[20, 50:70] == 255).all()
    assert not (picture[30, 60] == picture[5, 40]).all()
    with pytest.raises(OutmaskError, match="no segments: predict with task='panoptic'"):
        segment_map(result)
