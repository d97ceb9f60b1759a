import numpy as np
import pytest

from outmask.data.labels import VOID, Sample
from outmask.data.negatives import PasteNegatives, WorldObjects
from outmask.errors import OutmaskError


def test_a_draw_is_one_object_of_a_size_in_the_range_and_comes_from_the_generator() -> None:
    source = WorldObjects(side=(30, 60))
    for seed in range(8):
        (cutout,) = source.sample(np.random.default_rng(seed), ())
        (again,) = source.sample(np.random.default_rng(seed), ())
        np.testing.assert_array_equal(cutout.rgb, again.rgb)
        assert 25 <= max(cutout.mask.shape) <= 68


def test_it_can_be_pasted() -> None:
    grey = np.full((80, 160, 3), 77, np.uint8)
    host = Sample(grey, np.zeros((80, 160), np.uint8), np.zeros((80, 160), bool), "host")
    pasted = PasteNegatives(WorldObjects(), 1.0)(host, np.random.default_rng(0))
    assert pasted.outlier.any()
    assert (pasted.labels[pasted.outlier] == VOID).all()
    assert (pasted.image[~pasted.outlier] == 77).all()


@pytest.mark.parametrize("side", [(4, 20), (50, 40)])
def test_sides_that_are_no_range_are_refused(side: tuple[int, int]) -> None:
    with pytest.raises(OutmaskError, match="side must be a rising pair of pixels from 8"):
        WorldObjects(side)
