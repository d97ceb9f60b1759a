import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outmask.data.world.geometry import NEAR, Camera, Faces, Geometry, Sun, paint

CAMERA = Camera(height=60, width=100, focal=80.0, horizon=25.0, center=50.0, eye=1.5)
SUN = Sun((0.0, 1.0, 0.0), 0.6, 0.4)
GREY = paint((100, 100, 100), 0)

WALL = [(-1.0, 0.0), (1.0, 0.0), (1.0, 2.0), (-1.0, 2.0)]


def at(z: float) -> list[tuple[float, float, float]]:
    return [(x, y, z) for x, y in WALL]


def faces_of(*additions: tuple[list[tuple[float, float, float]], float, int], curve: float = 0.0) -> Faces:
    geometry = Geometry(SUN, curve=curve)
    for points, key, segment in additions:
        geometry.add(points, GREY, segment=segment, key=key, light=1.0)
    return geometry.faces(CAMERA)


def depth(faces: Faces, face: int, column: float, row: float) -> float:
    right, down = (column - CAMERA.center) / CAMERA.focal, (row - CAMERA.horizon) / CAMERA.focal
    return float(1 / (faces.inverse_depth[face] @ (1, right, down)))


def test_a_point_is_seen_where_its_ray_meets_the_picture() -> None:
    points = np.array([(0.0, 1.5, 7.0), (1.0, 1.5, 8.0), (0.0, 0.0, 4.0)], np.float32)
    # Straight ahead; a metre to the right at 8 m is 10 pixels; the ground at 4 m lies 1.5 m = 30 pixels down.
    np.testing.assert_allclose(CAMERA.project(points), [(50, 25), (60, 25), (50, 55)])


def test_the_nearer_of_two_walls_is_seen_in_whatever_order_they_come() -> None:
    near, far = (at(8.0), 8.0, 3), (at(4.0), 4.0, 7)
    for order in ((near, far), (far, near)):
        faces = faces_of(*order)
        seen = faces.segment[faces.draw(60, 100)]
        assert seen[40, 50] == 7
        assert set(np.unique(seen)) == {0, 7}  # the far one stands behind it, whole
    assert faces_of(near).segment.tolist() == [0, 3]


def test_a_rectangle_covers_the_pixels_whose_middles_lie_in_it() -> None:
    seen = faces_of((at(8.0), 8.0, 1)).draw(60, 100) > 0
    # 2 m at 8 m are 20 pixels: columns 40 to 59; its top half a metre above the eye is 5 pixels above row 25. OpenCV
    # draws outlines as well: a pixel more at each side at most.
    assert seen[20:40, 40:60].all()
    outside = seen.copy()
    outside[19:41, 39:61] = False
    assert not outside.any()


def test_the_depth_of_the_ground_is_that_of_its_rays() -> None:
    faces = faces_of(([(-9, 0, 1), (9, 0, 1), (9, 0, 60), (-9, 0, 60)], 1e6, 1))
    for row in (30.0, 41.5, 59.0):
        assert depth(faces, 1, 33.0, row) == pytest.approx(1.5 * 80 / (row - 25), rel=1e-5)


@settings(deadline=None)
@given(
    st.tuples(*[st.floats(-3, 3)] * 3),
    st.tuples(*[st.floats(-3, 3)] * 3),
    st.tuples(st.floats(-4, 4), st.floats(-1, 4), st.floats(8, 30)),
)
def test_the_plane_of_a_polygon_goes_through_its_corners(
    one: tuple[float, float, float], other: tuple[float, float, float], corner: tuple[float, float, float]
) -> None:
    start, u, v = (np.asarray(vector, np.float32) for vector in (corner, one, other))
    points = np.stack([start, start + u, start + u + v, start + v])
    normal = np.cross(u, v)
    to_eye = points.mean(0) - (0, CAMERA.eye, 0)
    if abs(normal @ to_eye) < 0.05 * np.linalg.norm(normal) * np.linalg.norm(to_eye) or np.linalg.norm(normal) < 0.1:
        return  # seen on its edge, or no polygon
    faces = faces_of((points.tolist(), 1.0, 1))
    if len(faces.segment) == 1:
        return  # outside of the picture
    for (column, row), (_, _, z) in zip(CAMERA.project(points), points, strict=True):
        assert depth(faces, 1, column, row) == pytest.approx(z, rel=2e-3)


def test_what_reaches_behind_the_camera_is_cut_off() -> None:
    road = [(-2.0, 0.0, -10.0), (2.0, 0.0, -10.0), (2.0, 0.0, 50.0), (-2.0, 0.0, 50.0)]
    behind = [(x, y, -z) for x, y, z in at(5.0)]
    faces = faces_of((road, 1e6, 1), (behind, -5.0, 2))
    assert faces.segment.tolist() == [0, 1]
    nearest = faces.corners[:, 1].max() / 16 + 0.5
    assert nearest == pytest.approx(25 + 80 * 1.5 / NEAR, abs=0.1)


def test_a_curve_shifts_by_the_square_of_the_distance() -> None:
    columns = [faces_of((at(z), z, 1), curve=0.01).corners[:, 0].mean() / 16 + 0.5 for z in (10.0, 20.0)]
    # x = 0.01 / 2 * z^2, seen at 80 x / z.
    assert columns == pytest.approx([50 + 4, 50 + 8], abs=0.1)


def test_shadows_fall_away_from_the_sun_and_only_what_casts_them_does() -> None:
    slanted = Sun((-0.6, 0.8, 0.0), 0.6, 0.4)
    shades = []
    for casts in (True, False):
        geometry = Geometry(slanted)
        geometry.add(
            [(0.0, 1.0, 6.0), (0.4, 1.0, 6.0), (0.4, 1.0, 7.0), (0.0, 1.0, 7.0)],
            GREY,
            segment=1,
            key=6.0,
            light=1.0,
            casts=casts,
        )
        shades.append(geometry.shadows(CAMERA))
    assert (shades[1] == 255).all()
    rows, columns = np.nonzero(shades[0] < 200)
    # A metre up is 0.75 m to the right: x from 0.75 to 1.15 at 6 to 7 m.
    assert (columns.min(), columns.max()) == pytest.approx((50 + 80 * 0.75 / 7, 50 + 80 * 1.15 / 6), abs=2)
    assert (rows.min(), rows.max()) == pytest.approx((25 + 80 * 1.5 / 7, 25 + 80 * 1.5 / 6), abs=2)
    # In the shade there is the light of the sky alone.
    assert shades[0].min() == pytest.approx(255 * 0.4 / (0.4 + 0.6 * 0.8), abs=2)


def test_a_surface_that_faces_the_sun_is_lit_most_and_one_that_turns_away_by_the_sky_alone() -> None:
    sun = Sun((0.6, 0.8, 0.0), 0.5, 0.4)
    towards, away = sun.on([(0.6, 0.8, 0.0), (-1.0, 0.0, 0.0)])
    assert towards == pytest.approx(0.4 * (0.9 + 0.2 * 0.8) + 0.5)
    assert away == pytest.approx(0.4 * 0.9)
