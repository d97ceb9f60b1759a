from __future__ import annotations

import math

import torch

from outmask.models.positions import sine_positions


def test_positions_are_the_sines_and_cosines_of_the_paper() -> None:
    """DETR A.4 with coordinates normalised to (0, 2 pi]: y in the first half, x in the second, interleaved."""
    height, width, dim = 3, 5, 8
    encoded = sine_positions((height, width), dim, torch.zeros(())).view(height, width, dim)
    for y in range(height):
        for x in range(width):
            expected = []
            for place, length in ((y + 1, height), (x + 1, width)):
                for pair in range(dim // 4):
                    angle = place / (length + 1e-6) * 2 * math.pi / 10000 ** (2 * pair / (dim // 2))
                    expected += [math.sin(angle), math.cos(angle)]
            torch.testing.assert_close(encoded[y, x], torch.tensor(expected), atol=1e-5, rtol=1e-5)


def test_positions_take_the_type_of_their_map() -> None:
    assert sine_positions((2, 3), 8, torch.zeros(1, dtype=torch.bfloat16)).dtype == torch.bfloat16
