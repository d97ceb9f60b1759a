"""The street of the demo."""

from outmask.app.scene import draw_scene


def test_the_scene_has_something_unknown_on_it_and_is_the_same_each_time() -> None:
    scene, again = draw_scene((90, 180)), draw_scene((90, 180))
    assert scene.image.shape == (90, 180, 3)
    assert 0.02 < scene.unknown.mean() < 0.2
    assert set(scene.families.values()) == {"logs"}
    assert scene.jpeg == again.jpeg
