"""Random predictions and targets, and points that are the same for every mask."""

from collections.abc import Callable

import pytest
import torch

from outmask.data.labels import Target
from outmask.types import MaskPrediction

CLASSES = 4


@pytest.fixture
def random_prediction() -> Callable[..., MaskPrediction]:
    def make(
        seed: int = 0, *, batch: int = 2, queries: int = 6, size: tuple[int, int] = (8, 12), auxiliary: int = 0
    ) -> MaskPrediction:
        generator = torch.Generator().manual_seed(seed)
        layers = [
            MaskPrediction(
                torch.randn(batch, queries, CLASSES + 1, generator=generator).requires_grad_(),
                (3 * torch.randn(batch, queries, *size, generator=generator)).requires_grad_(),
            )
            for _ in range(auxiliary + 1)
        ]
        return MaskPrediction(layers[-1].class_logits, layers[-1].mask_logits, tuple(layers[:-1]))

    return make


@pytest.fixture
def random_target() -> Callable[..., Target]:
    def make(seed: int, count: int, *, size: tuple[int, int] = (32, 48), ignored_rows: int = 0) -> Target:
        """``count`` masks of 4 x 4 blocks, disjoint, with void between them and the last rows ignored."""
        generator = torch.Generator().manual_seed(seed)
        blocks = torch.randint(count + 1, (size[0] // 4, size[1] // 4), generator=generator)
        owner = blocks.repeat_interleave(4, 0).repeat_interleave(4, 1)
        ignore = torch.zeros(size, dtype=torch.bool)
        ignore[size[0] - ignored_rows :] = True
        masks = (owner == torch.arange(count)[:, None, None]) & ~ignore
        return Target(
            torch.randint(CLASSES, (count,), generator=generator), masks, ignore, torch.zeros_like(ignore)[None]
        )

    return make


@pytest.fixture
def fixed_points(monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    """Replaces ``torch.rand``: every row of points is the beginning of this one table ``(4096, 2)``."""
    table = torch.rand(4096, 2, generator=torch.Generator().manual_seed(7))

    def rand(*size: int, device: torch.device | None = None, generator: torch.Generator | None = None) -> torch.Tensor:
        return table[: size[-2]].expand(*size).to(device)

    monkeypatch.setattr(torch, "rand", rand)
    return table
