import numpy as np
import pytest

from outmask.data.world.textures import INDEX, MARGIN, SIDE, TEXTURES, atlas

WHOLE = SIDE + 2 * MARGIN


@pytest.mark.parametrize("name", list(TEXTURES))
def test_a_texture_is_a_pattern_that_lies_in_the_atlas_with_its_neighbouring_periods(name: str) -> None:
    start = INDEX[name] * WHOLE
    part = atlas()[:, start : start + WHOLE].astype(int)
    inner = part[MARGIN:-MARGIN, MARGIN:-MARGIN]
    np.testing.assert_array_equal(part, np.pad(inner, MARGIN, mode="wrap"))
    assert inner.std() > 10  # not one tone
    assert 40 < inner.mean() < 215


def test_all_textures_differ() -> None:
    parts = [atlas()[:, index * WHOLE : (index + 1) * WHOLE].tobytes() for index in INDEX.values()]
    assert len(set(parts)) == len(TEXTURES)
