import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from outmask.scores.upsampling import upsampled_tiles


def whole(masks: Tensor, size: tuple[int, int], tile_rows: int, dtype: torch.dtype) -> Tensor:
    """The tiles, put together again."""
    return torch.cat([tile.clone() for _, tile in upsampled_tiles(masks, size, tile_rows, dtype)], 1)


SIZES = [
    ((8, 16), (32, 64)),  # the usual factor of four
    ((8, 16), (8, 16)),
    ((7, 5), (23, 31)),
    ((7, 5), (3, 2)),  # smaller
    ((20, 3), (3, 20)),  # smaller in one direction, larger in the other
    ((1, 1), (5, 4)),
    ((5, 4), (1, 1)),
    ((3, 2), (97, 2)),
]


@pytest.mark.parametrize(("in_size", "size"), SIZES)
@pytest.mark.parametrize("tile_rows", [1, 3, 1000])
def test_tiles_are_those_of_torch_interpolate(in_size: tuple[int, int], size: tuple[int, int], tile_rows: int) -> None:
    masks = torch.randn(3, *in_size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = F.interpolate(masks[None], size, mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(whole(masks, size, tile_rows, torch.float64), expected, rtol=0, atol=1e-13)


def test_float32_rows_are_placed_as_torch_places_them() -> None:
    # Coordinates rounded otherwise put rows 3e-5 of a row away, and values with them.
    masks = torch.randn(1, 333, 1, generator=torch.Generator().manual_seed(0))
    expected = F.interpolate(masks[None], (1999, 1), mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(whole(masks, (1999, 1), 7, torch.float32), expected, rtol=0, atol=2e-6)


def test_tiles_do_not_depend_on_their_size() -> None:
    masks = torch.randn(4, 9, 6, generator=torch.Generator().manual_seed(0))
    at_once = whole(masks, (31, 17), 31, torch.float32)
    for tile_rows in (1, 2, 5, 30):
        assert torch.equal(whole(masks, (31, 17), tile_rows, torch.float32), at_once)


def test_a_consumer_may_overwrite_its_tile() -> None:
    masks = torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(0))
    expected = whole(masks, (16, 16), 16, torch.float32)
    for rows, tile in upsampled_tiles(masks, (16, 16), 3, torch.float32):
        assert torch.equal(tile, expected[:, rows])
        tile.fill_(torch.nan)


def test_half_precision_masks_are_resized_in_the_type_asked_for() -> None:
    masks = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert torch.equal(whole(masks, (16, 9), 4, torch.float32), whole(masks.float(), (16, 9), 4, torch.float32))
