from itertools import combinations
from typing import get_args

import numpy as np
import pytest

from outmask.data.world.objects import draw_object
from outmask.data.world.textures import TEXTURES
from outmask.data.world.unknowns import FAMILIES, Use, families
from outmask.errors import OutmaskError

USES: tuple[Use, ...] = get_args(Use)


def test_families_of_different_uses_share_neither_shape_nor_texture() -> None:
    assert sorted(name for use in USES for name in families(use)) == sorted(FAMILIES)
    assert len({family.draw for family in FAMILIES.values()}) == len(FAMILIES)
    for one, other in combinations(USES, 2):
        textures = [
            {texture for family in families(use).values() for texture in family.textures} for use in (one, other)
        ]
        assert all(textures)
        assert not textures[0] & textures[1]
    assert {texture for family in FAMILIES.values() for texture in family.textures} <= set(TEXTURES)


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("side", [24, 150])
def test_an_object_fills_its_box_and_is_as_large_as_asked(use: Use, side: int) -> None:
    for seed in range(15):
        rgb, mask = draw_object(np.random.default_rng(seed), use, side)
        assert rgb.shape == (*mask.shape, 3)
        assert all(edge.any() for edge in (mask[0], mask[-1], mask[:, 0], mask[:, -1]))
        # Outlines are drawn to the pixel that they touch, in the rough picture and in the final one.
        assert max(mask.shape) == pytest.approx(side, rel=0.12, abs=3)
        assert rgb[mask].std() > 3


def test_objects_are_drawn_from_the_generator_alone() -> None:
    first, again, other = (draw_object(np.random.default_rng(seed), "negatives", 60) for seed in (4, 4, 5))
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert first[0].shape != other[0].shape or (first[0] != other[0]).any()


def test_an_unknown_use_is_refused() -> None:
    with pytest.raises(OutmaskError, match="for test, validation, negatives, got 'training'"):
        families("training")  # type: ignore[arg-type]
