"""The embedded street."""

import numpy as np
import pytest

from outmask.app.scene import Scene, draw_scene


@pytest.fixture(scope="module")
def scene() -> Scene:
    return draw_scene((180, 320))


def test_the_scene_holds_one_unknown_object_on_the_road(scene: Scene) -> None:
    assert scene.image.shape == (180, 320, 3)
    assert scene.image.dtype == np.uint8
    assert scene.unknown.shape == (180, 320)
    assert 0.02 < scene.unknown.mean() < 0.1
    rows, columns = np.nonzero(scene.unknown)
    assert rows.min() > 180 * 0.3
    assert rows.max() < 180 * 0.75
    assert 320 * 0.3 < columns.mean() < 320 * 0.7


def test_the_object_differs_from_the_road_beside_it(scene: Scene) -> None:
    """Legs, shadow and horns aside, a brown and white hide is no grey asphalt."""
    image = scene.image.astype(float)
    road = image[150:175, 100:200].mean(axis=(0, 1))
    assert np.abs(image[scene.unknown].mean(axis=0) - road).max() > 20


def test_sky_is_above_and_road_below(scene: Scene) -> None:
    sky, road = scene.image[:20, 140:180].mean(axis=(0, 1)), scene.image[160:, 140:180].mean(axis=(0, 1))
    assert sky[2] > sky[0] + 20
    assert np.ptp(road) < 15
    assert sky.mean() > road.mean() + 30


def test_the_same_seed_draws_the_same_scene(scene: Scene) -> None:
    again = draw_scene((180, 320))
    np.testing.assert_array_equal(again.image, scene.image)
    np.testing.assert_array_equal(again.unknown, scene.unknown)
    assert (draw_scene((180, 320), seed=1).image != scene.image).any()
