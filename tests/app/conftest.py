"""A segmenter that needs no weights, in the place of the real ones."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch

import outmask
from outmask import scores
from outmask.data.images import ImageSource, read_image
from outmask.errors import OutmaskError
from outmask.types import MaskPrediction, OpenSetResult, Taxonomy

TAXONOMY = Taxonomy(("road", "sky"), ((128, 64, 128), (70, 130, 180)))


class FakeSegmenter:
    """Calls dark pixels road, by one mask whose logit falls with the brightness."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.taxonomy = TAXONOMY
        self.operating_points: dict[str, dict[str, object]] = {}
        self.calls = 0
        self.before_each: Callable[[int], None] = lambda call: None
        self.window: tuple[int, int] | None = None

    def prediction(self, image: ImageSource) -> MaskPrediction:
        grey = torch.from_numpy(read_image(image)).float().mean(dim=2)
        return MaskPrediction(torch.tensor([[[5.0, 0.0, 0.0]]]), ((128 - grey) / 16)[None, None])

    def maps(
        self, image: ImageSource, names: Sequence[str], size: tuple[int, int], *options: object
    ) -> dict[str, torch.Tensor]:
        return scores.evaluate(self.prediction(image), names, size)

    def display_range(self, score: str) -> tuple[float, float]:
        return scores.display_range(score, 2)

    def predict(
        self,
        image: ImageSource,
        task: str = "anomaly",
        score: str = "eam",
        threshold: float | None = None,
        refine: bool = False,
        flip: bool = False,
        unknown: str = "preferred_mask",
        window: tuple[int, int] | None = None,
    ) -> OpenSetResult:
        self.before_each(self.calls)
        self.calls += 1
        self.window = window
        if task == "semantic" and threshold is None:
            raise OutmaskError("task 'semantic' needs a threshold")
        pixels = read_image(image)
        maps = self.maps(pixels, [score], pixels.shape[:2])
        anomaly, labels = maps[score][0].numpy(), maps["labels"][0].numpy().astype(np.int32)
        open_labels = None if threshold is None else np.where(anomaly > threshold, 2, labels).astype(np.int32)
        return OpenSetResult(
            pixels, anomaly, labels, TAXONOMY, score, self.display_range(score), threshold, open_labels
        )


@pytest.fixture
def segmenter(monkeypatch: pytest.MonkeyPatch) -> FakeSegmenter:
    """What ``outmask.load("street")`` gives during a test; other names are unknown models."""
    fake = FakeSegmenter("street")

    def load(name: str, runtime: str | None = None) -> FakeSegmenter:
        if name != "street":
            raise OutmaskError(f"unknown model {name!r}: expected a bundled model, a folder or a file")
        return fake

    monkeypatch.setattr(outmask, "load", load, raising=False)
    return fake
