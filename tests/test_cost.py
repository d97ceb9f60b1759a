"""A guard of what the code costs, in counts: multiply-adds, bytes, full-resolution tensors. No clock is looked at."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from outmask.models import build_architecture
from outmask.models.counting import count_multiply_adds
from outmask.openset.panoptic import known_segments
from outmask.scores import evaluate
from outmask.types import MaskPrediction, Taxonomy

SIZE, MASKS, CLASSES = (1024, 2048), 100, 19
MODEL_SIZE = (512, 1024)
ALL_MASKS = MASKS * SIZE[0] * SIZE[1] * 4
"""Bytes of all masks at full resolution, which nothing may ever hold."""


class Storages(TorchDispatchMode):
    """Counts the bytes of the storages that operators make, and the storages that can hold a map of the output.

    Attributes:
        peak: the most bytes alive at once, those that were there before not counted.
        full_resolution: how many storages as large as a float32 map of the output were made.
    """

    def __init__(self, pixels: int) -> None:
        super().__init__()
        self.pixels, self.alive, self.peak, self.full_resolution = pixels, 0, 0, 0
        self._seen: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = [leaf.untyped_storage() for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        known = {storage.data_ptr() for storage in given}
        output = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(output):
            if not isinstance(leaf, torch.Tensor):
                continue
            storage = leaf.untyped_storage()
            if storage in self._seen or storage.data_ptr() in known or storage.nbytes() == 0:
                continue
            self._seen.add(storage)
            self.alive += storage.nbytes()
            self.peak = max(self.peak, self.alive)
            self.full_resolution += storage.nbytes() >= 4 * self.pixels
            weakref.finalize(storage, self._freed, storage.nbytes())
        return output

    def _freed(self, count: int) -> None:
        self.alive -= count


def prediction(classes: int = CLASSES) -> MaskPrediction:
    generator = torch.Generator().manual_seed(0)
    return MaskPrediction(
        torch.randn(1, MASKS, classes + 1, generator=generator) * 5,
        torch.randn(1, MASKS, SIZE[0] // 4, SIZE[1] // 4, generator=generator) * 4,
    )


def watched(run: Callable[[], object]) -> Storages:
    with torch.inference_mode(), Storages(SIZE[0] * SIZE[1]) as storages:
        run()
    return storages


def test_the_guard_sees_what_the_plain_way_holds() -> None:
    given = prediction()

    def plain() -> None:
        masks = torch.nn.functional.interpolate(given.mask_logits, SIZE, mode="bilinear").sigmoid()
        torch.einsum("bqk,bqhw->bkhw", given.class_logits.softmax(-1), masks)

    storages = watched(plain)
    assert storages.peak >= 2 * ALL_MASKS
    assert storages.full_resolution >= 3


@pytest.mark.parametrize(
    ("names", "maps"), [(["eam", "aem"], 2), (["eam"], 1), (["am", "ahm", "eam", "rba", "unclaimed"], 5)]
)
def test_the_score_engine_holds_its_maps_and_a_twentieth_of_the_plain_way(names: list[str], maps: int) -> None:
    given = prediction()
    storages = watched(lambda: evaluate(given, names, SIZE))
    results = SIZE[0] * SIZE[1] * (4 * maps + 8)  # labels are int64
    assert storages.peak - results < 0.05 * 2 * ALL_MASKS
    assert storages.full_resolution == maps + 1


def test_panoptic_segmentation_holds_no_masks() -> None:
    classes = 5
    given = prediction(classes)
    names = tuple("abcde")
    taxonomy = Taxonomy(names, ((1, 1, 1),) * classes, things=(True,) * classes, unknown_id=classes)
    storages = watched(lambda: known_segments(given, taxonomy, SIZE))
    assert storages.peak < 0.05 * 2 * ALL_MASKS
    # The ids, and a copy of the masks that count, which at a quarter of the resolution is as large.
    assert storages.full_resolution == 2


@pytest.mark.parametrize(
    ("backbone", "expected"),
    [("resnet50", 123_038_265_344), ("swin-large", 483_714_461_696), ("mobilenet_v2", 79_585_734_656)],
)
def test_multiply_adds_of_the_default_models(backbone: str, expected: int) -> None:
    """Where a change makes the model cheaper, lower the number; a change that makes it dearer must be meant."""
    build = partial(build_architecture, {"num_classes": CLASSES, "backbone": backbone})
    assert count_multiply_adds(build, MODEL_SIZE) == expected
