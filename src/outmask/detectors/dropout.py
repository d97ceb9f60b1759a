"""Monte Carlo dropout (Gal and Ghahramani 2016)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from outmask.detectors.detector import Detector, Subject, feature_classifier, pixel_prediction
from outmask.errors import OutmaskError


@dataclass(frozen=True)
class MonteCarloDropout(Detector):
    """Mutual information between a pixel's class and the network's weights, by dropout at inference.

    ``MI = H(mean_t P_t) - mean_t H(P_t) = mean_t KL(P_t || mean_s P_s)`` over the softmaxes ``P_t`` of T passes with
    other units dropped in each (Gal and Ghahramani 2016; Mukhoti and Gal 2018 for DeepLabV3+). It leaves out what every
    pass agrees to be uncertain of, such as a border, which the predictive entropy ``H(mean_t P_t)`` would count as
    well; Fishyscapes' (Blum et al. 2021) Bayesian DeepLab reports it too.

    A network that was trained with dropout layers (DeepLabV3+, SegFormer's head) has these switched on and nothing
    else; one without gets a dropout of ``rate`` before its head, of which the weights know nothing: the "dropout
    injection" of Ledda et al. 2023, an approximation. The softmaxes are those of the network's own resolution, and the
    map is then resized.

    Attributes:
        passes: T, at least 2.
        rate: of the inserted dropout, in (0, 1); DeepLabV3+'s own by default.
        seed: of the units that are dropped, the same for every image.

    Raises:
        OutmaskError: on values out of range.
    """

    name: ClassVar[str] = "mcdropout"
    equation: ClassVar[str] = "H(mean_t P_t) - mean_t H(P_t), P_t the softmax of pass t with dropout"
    source: ClassVar[str] = "Monte Carlo dropout, mutual information (Gal and Ghahramani 2016; Mukhoti and Gal 2018)"

    passes: int = 10
    rate: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.passes < 2 or not 0 < self.rate < 1:
            raise OutmaskError(
                "Monte Carlo dropout needs at least 2 passes and a rate between 0 and 1, "
                f"got {self.passes} and {self.rate}"
            )

    @torch.no_grad()
    def __call__(self, segmenter: Subject, pixels: Tensor) -> Tensor:
        """See :class:`Detector`; the random state of the caller stays as it is."""
        on_cuda = [pixels.device] if pixels.device.type == "cuda" else []
        with torch.random.fork_rng(on_cuda):
            torch.manual_seed(self.seed)
            information = mutual_information([logits.log_softmax(1) for logits in self._logits(segmenter, pixels)])
        return F.interpolate(information[:, None], size=pixels.shape[-2:], mode="bilinear", align_corners=False)[:, 0]

    def _logits(self, segmenter: Subject, pixels: Tensor) -> Iterator[Tensor]:
        """Class logits of every pass, ``(B, K, h, w)`` float32."""
        layers = [
            module
            for module in segmenter.model.modules()
            if isinstance(module, nn.Dropout | nn.Dropout1d | nn.Dropout2d | nn.Dropout3d) and module.p > 0
        ]
        if layers:
            with switched_on(layers):
                for _ in range(self.passes):
                    yield pixel_prediction(segmenter, pixels, self.name).logits.float()
            return
        model = feature_classifier(segmenter, self.name)
        features = model.features(pixels)
        for _ in range(self.passes):
            yield model.head(F.dropout(features, self.rate)).logits.float()

    def display_range(self, segmenter: Subject, num_classes: int) -> tuple[float, float]:
        """All passes agree; half of them are sure of one class, half of another."""
        return 0.0, math.log(2)


@contextmanager
def switched_on(layers: Sequence[nn.Module]) -> Iterator[None]:
    """Within the block these layers are in train mode, and only they."""
    before = [layer.training for layer in layers]
    try:
        for layer in layers:
            layer.train()
        yield
    finally:
        for layer, mode in zip(layers, before, strict=True):
            layer.train(mode)


def mutual_information(log_probabilities: list[Tensor]) -> Tensor:
    """``mean_t KL(P_t || mean_s P_s)`` of T tensors ``log P_t``, ``(B, K, h, w)`` -> ``(B, h, w)``.

    As divergences, so that where all passes agree nothing but zeros are added.
    """
    passes = len(log_probabilities)
    mean = torch.stack(log_probabilities).logsumexp(0) - math.log(passes)
    return torch.stack([(one.exp() * (one - mean)).sum(1) for one in log_probabilities]).mean(0)
