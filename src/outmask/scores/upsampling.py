"""Bilinear resizing of a stack of masks, one tile of output rows at a time.

``F.interpolate`` gives all ``N x H x W`` values at once (0.84 GB for 100 masks at 1024 x 2048). Bilinear resizing is
separable, so a tile needs only the few input rows around it: they are widened once, each is kept while output rows
lie between it and the next, and an output row is one interpolation between two of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor


def upsampled_tiles(
    masks: Tensor, size: tuple[int, int], tile_rows: int, dtype: torch.dtype
) -> Iterator[tuple[slice, Tensor]]:
    """Walk ``F.interpolate(masks, size, mode="bilinear", align_corners=False)`` in tiles of whole rows, top to bottom.

    Args:
        masks: ``(N, h, w)`` floating; converted to ``dtype`` tile by tile.
        size: ``(H, W)``, larger or smaller than ``(h, w)`` in either direction.
        tile_rows: output rows of a tile; the last one may have fewer.
        dtype: float32 or float64, that of the tiles.

    Yields:
        the tile's output rows and its ``(N, rows, W)`` values, contiguous. They lie in one workspace: the consumer may
        overwrite them, and the next tile does.
    """
    count, in_height, _ = masks.shape
    height, width = size
    upper, fraction = _row_coordinates(in_height, height, dtype)
    fraction = fraction.to(masks.device)
    workspace = torch.empty(count * min(tile_rows, height) * width, dtype=dtype, device=masks.device)
    widened: dict[int, Tensor] = {}

    for start in range(0, height, tile_rows):
        stop = min(start + tile_rows, height)
        first, last = upper[start], min(upper[stop - 1] + 1, in_height - 1)
        widened = {row: values for row, values in widened.items() if row >= first}
        new = range(max(widened, default=first - 1) + 1, last + 1)
        if new:
            # (rows, N, w): every widened row is contiguous, and the conversion copies no more than these rows.
            source = masks[:, new.start : new.stop].transpose(0, 1).to(dtype)
            widened.update(zip(new, F.interpolate(source, size=width, mode="linear"), strict=True))

        tile = workspace[: count * (stop - start) * width].view(count, stop - start, width)
        for row, group in groupby(range(start, stop), key=upper.__getitem__):
            between = list(group)
            torch.lerp(
                widened[row][:, None],
                widened[min(row + 1, in_height - 1)][:, None],
                fraction[between[0] : between[-1] + 1, None],
                out=tile[:, between[0] - start : between[-1] + 1 - start],
            )
        yield slice(start, stop), tile


def _row_coordinates(in_height: int, height: int, dtype: torch.dtype) -> tuple[list[int], Tensor]:
    """Of each output row: the input row above it, and how far below that row it lies, in ``[0, 1]``.

    Rounded as ``F.interpolate`` rounds in its kernels' fused multiply-add, once to the type that it computes in: at a
    thousand float32 rows, a coordinate's last place is 6e-5 of a row.
    """
    scale = (torch.tensor(in_height, dtype=dtype) / height).double()
    position = (scale * (torch.arange(height) + 0.5).double() - 0.5).to(dtype).clamp(min=0)
    upper = position.floor().clamp(max=in_height - 1)
    return upper.int().tolist(), (position - upper).clamp(max=1)
