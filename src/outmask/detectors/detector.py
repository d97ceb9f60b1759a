"""What a detector is, and what it may ask of a model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

from torch import Tensor, nn

from outmask import scores
from outmask.errors import OutmaskError
from outmask.preprocessing import Preprocessing
from outmask.types import PixelPrediction

Statistics = Mapping[str, Tensor]
"""What a detector has learned from the training set, by name; kept in the model's folder."""


class Subject(Protocol):
    """What detectors need of a segmenter."""

    @property
    def name(self) -> str: ...

    @property
    def model(self) -> nn.Module: ...

    @property
    def preprocessing(self) -> Preprocessing: ...

    @property
    def statistics(self) -> Mapping[str, Statistics]:
        """By detector."""


class Detector(ABC):
    """An anomaly score that is not a function of one prediction: it needs gradients, features or several passes.

    Attributes:
        name: as users write it, unique among detectors and scores.
        equation: what is computed, in the notation of ``outmask.scores.pixelwise``.
        source: who proposed it.
    """

    name: ClassVar[str]
    equation: ClassVar[str]
    source: ClassVar[str]

    @abstractmethod
    def __call__(self, segmenter: Subject, pixels: Tensor) -> Tensor:
        """Anomaly of every pixel.

        Args:
            segmenter: the model and what belongs to it.
            pixels: ``(B, 3, H, W)`` normalised, as ``segmenter.preprocess`` gives them.

        Returns:
            ``(B, H, W)`` float32 on the pixels' device, larger = more anomalous, without gradients.

        Raises:
            OutmaskError: where the model lacks what the detector needs.
        """

    @abstractmethod
    def display_range(self, segmenter: Subject, num_classes: int) -> tuple[float, float]:
        """The values that pictures show as certainly known and certainly unknown; scores may go beyond them."""


@dataclass(frozen=True)
class Observation:
    """What a detector may learn from of one training image.

    Attributes:
        prediction: the model's, batch of 1.
        size: ``(H, W)`` of the pixels that the model saw.
        features: ``(1, D, h, w)`` of the model, where :attr:`FittedDetector.needs_features`.
        labels: ``(h', w')`` int64 class ids at the training set's own resolution; K and above are no class.
    """

    prediction: PixelPrediction
    size: tuple[int, int]
    features: Tensor | None
    labels: Tensor


class Fitting(Protocol):
    """Statistics in the making, in bounded memory."""

    def update(self, observation: Observation) -> None:
        """Take one image in."""

    def compute(self) -> dict[str, Tensor]:
        """The statistics of all images so far, on the CPU.

        Raises:
            OutmaskError: where they held nothing to learn from.
        """


class FittedDetector(Detector):
    """A detector with statistics from the training set.

    Attributes:
        needs_features: whether it learns from features, beside predictions.
    """

    needs_features: ClassVar[bool]

    @abstractmethod
    def fitting(self, num_classes: int) -> Fitting:
        """Statistics of no image yet."""

    def statistics(self, segmenter: Subject) -> Statistics:
        """The model's own.

        Raises:
            OutmaskError: where it has none; names the command that makes them.
        """
        if self.name not in segmenter.statistics:
            raise OutmaskError(
                f"score {self.name!r} needs statistics of the training set, and {segmenter.name} has none: "
                f"make them with outmask fit --model DIR --detector {self.name} --config RECIPE"
            )
        return segmenter.statistics[self.name]


@runtime_checkable
class FeatureClassifier(Protocol):
    """A network whose head classifies each pixel's features, such as PerPixel and DeepLabV3+."""

    head: nn.Module

    def features(self, pixels: Tensor) -> Tensor:
        """``(B, 3, H, W)`` -> ``(B, D, h, w)``."""


def pixel_prediction(segmenter: Subject, pixels: Tensor, name: str) -> PixelPrediction:
    """The model's class logits of every pixel.

    Raises:
        OutmaskError: where it predicts masks; says what its scores are.
    """
    prediction = segmenter.model(pixels)
    if not isinstance(prediction, PixelPrediction):
        raise OutmaskError(
            f"score {name!r} needs class logits of every pixel, and {segmenter.name} predicts masks: "
            f"choose from {', '.join(scores.available(prediction))}"
        )
    return prediction


def feature_classifier(segmenter: Subject, name: str) -> FeatureClassifier:
    """The model, if a head of it classifies features.

    A mask transformer's pixel embeddings would be of no use: they are learned to say to which *mask* a pixel belongs,
    by their product with that mask's query, and two cars must differ in them.

    Raises:
        OutmaskError: where none does.
    """
    model = segmenter.model
    if not isinstance(model, FeatureClassifier):
        raise OutmaskError(
            f"score {name!r} needs features that a head classifies pixel by pixel, as PerPixel and DeepLabV3+ have "
            f"them; {segmenter.name} is a {type(model).__name__}"
        )
    return model
