"""Statistics of the training set, one pass for any number of detectors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from outmask.detectors.detector import (
    FittedDetector,
    Observation,
    Subject,
    feature_classifier,
    pixel_prediction,
)
from outmask.errors import OutmaskError


class Trained(Subject, Protocol):
    """A segmenter that is asked for its own preprocessing."""

    def preprocess(self, image: NDArray[np.uint8]) -> Tensor:
        """``(H, W, 3)`` -> ``(1, 3, h, w)``."""


@torch.no_grad()
def fit(
    segmenter: Trained,
    detectors: Sequence[FittedDetector],
    images: Iterable[tuple[NDArray[np.uint8], NDArray[np.uint8]]],
    num_classes: int,
) -> dict[str, dict[str, Tensor]]:
    """Statistics of detectors, from images as they were trained on but neither cropped nor changed.

    Args:
        segmenter: the trained model; it is asked once for each image.
        detectors: whose statistics are wanted.
        images: ``(H, W, 3)`` RGB and ``(H, W)`` class ids, both uint8; ids from ``num_classes`` on are no class.
        num_classes: K.

    Returns:
        a detector's name -> its statistics, on the CPU: what a segmenter's ``statistics`` holds.

    Raises:
        OutmaskError: where the model has no logits of pixels, or no features that a detector needs; where the images
            hold nothing to learn from.
    """
    makers = {detector.name: detector.fitting(num_classes) for detector in detectors}
    hungry = [detector.name for detector in detectors if detector.needs_features]
    model = feature_classifier(segmenter, hungry[0]) if hungry else None
    count = 0
    for image, labels in images:
        pixels = segmenter.preprocess(image)
        if model is None:
            features, prediction = None, pixel_prediction(segmenter, pixels, detectors[0].name)
        else:
            features = model.features(pixels)
            prediction = model.head(features)
        seen = Observation(
            prediction, (pixels.shape[-2], pixels.shape[-1]), features, torch.from_numpy(labels.astype(np.int64))
        )
        for maker in makers.values():
            maker.update(seen)
        count += 1
    if not count:
        raise OutmaskError("no training images to learn from")
    return {name: maker.compute() for name, maker in makers.items()}
