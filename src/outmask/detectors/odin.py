"""ODIN: temperature and input perturbation (Liang et al. 2018)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from outmask import scores
from outmask.detectors.detector import Detector, Subject, pixel_prediction
from outmask.errors import OutmaskError
from outmask.types import PixelPrediction


@dataclass(frozen=True)
class Odin(Detector):
    """Softmax of high temperature on an image that was moved towards what the network believes (Liang et al. 2018).

    ``ODIN = -max_k S_k(x'; T)`` with ``S(x; T) = softmax(C(x) / T)`` (eq. 1) and ``x' = x - eps sign(-grad_x log S_y(x;
    T))``, ``y = argmax_k C_k(x)`` (eq. 2). The gradient is that of the **sum** over all pixels of the network's
    prediction, each with its own y: an image has one perturbation, not one for every pixel. The defaults are the
    paper's; the baseline of SegmentMeIfYouCan has T = 3 and eps = 0.0001 in normalised units, tuned on Lost and Found.

    Memory and time of a training step of the whole image.

    Attributes:
        temperature: T, above 0.
        epsilon: step on images with values in [0, 1], before normalisation (as the authors' code counts it); at least
            0.

    Raises:
        OutmaskError: on values out of range.
    """

    name: ClassVar[str] = "odin"
    equation: ClassVar[str] = "-max_k S_k(x'), S = softmax(C / T), x' = x + eps sign(grad_x sum of log max_k S_k(x))"
    source: ClassVar[str] = "ODIN (Liang et al. 2018), T = 1000, eps = 0.0014"

    temperature: float = 1000.0
    epsilon: float = 0.0014

    def __post_init__(self) -> None:
        if not (self.temperature > 0 and self.epsilon >= 0):
            raise OutmaskError(
                "ODIN's temperature must be above 0 and its epsilon not negative, "
                f"got {self.temperature} and {self.epsilon}"
            )

    def __call__(self, segmenter: Subject, pixels: Tensor) -> Tensor:
        """See :class:`Detector`."""
        # Under inference_mode no gradient could be taken, whatever is asked for inside of it.
        with torch.inference_mode(False):
            moved = pixels + self._step(segmenter, pixels.clone())
            with torch.no_grad():
                softened = PixelPrediction(pixel_prediction(segmenter, moved, self.name).logits / self.temperature)
                return scores.score(softened, "msp", (pixels.shape[-2], pixels.shape[-1]))

    def _step(self, segmenter: Subject, pixels: Tensor) -> Tensor:
        """``-eps sign(-grad_x log S_y)`` in the units of normalised pixels, ``(B, 3, H, W)``."""
        std = torch.tensor(segmenter.preprocessing.std, device=pixels.device, dtype=pixels.dtype)
        with torch.enable_grad():
            pixels.requires_grad_()
            logits = pixel_prediction(segmenter, pixels, self.name).logits
            certainty = (logits / self.temperature).log_softmax(1).amax(1).sum()
            (gradient,) = torch.autograd.grad(certainty, pixels)
        return gradient.sign() * (255 * self.epsilon / std).view(1, 3, 1, 1)

    def display_range(self, segmenter: Subject, num_classes: int) -> tuple[float, float]:
        """One class at probability 0.99 before the temperature, the others' logits at 0; all logits at 0."""
        others = max(num_classes, 2) - 1
        return -1 / (1 + others * math.exp(-math.log(99 * others) / self.temperature)), -1 / (1 + others)
