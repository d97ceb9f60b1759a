"""Whether an exported file computes what the model computes, output by output."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from outmask import scores
from outmask.export.graph import LABELS, literal
from outmask.export.runtime import ExportedModel
from outmask.types import MaskPrediction

TOLERANCE = 1e-4
"""The largest difference, in float32, that rounding in another order is taken to explain."""


@dataclass(frozen=True)
class Parity:
    """The largest difference of each output on one input.

    Attributes:
        differences: by the output's name. Of labels, by how much less than the best class of the model's the file's has
            at a pixel: classes that tie to rounding may change places.
    """

    differences: dict[str, float]

    @property
    def worst(self) -> float:
        """The largest of all; not a number where one is."""
        return float(np.max([*self.differences.values()]))


@torch.inference_mode()
def compare(model: nn.Module, exported: ExportedModel, pixels: Tensor) -> Parity:
    """Run both on an input.

    The scores are compared with the engine's (``outmask.scores``), the logits with the model's own.

    Args:
        model: the PyTorch model, in eval mode.
        exported: its file.
        pixels: ``(B, 3, H, W)`` normalised.
    """
    prediction = model(pixels)
    size = (pixels.shape[2], pixels.shape[3])
    logits = ("class_logits", "mask_logits") if isinstance(prediction, MaskPrediction) else ("logits", "outlier_logits")
    names = [name for name in exported.output_names if name not in (LABELS, *logits)]
    expected = {name: getattr(prediction, name) for name in logits if name in exported.output_names}
    expected |= {name: value for name, value in scores.evaluate(prediction, names, size).items() if name != LABELS}
    found = exported.outputs(pixels, exported.output_names)
    differences = {name: float((found[name] - value).abs().max()) for name, value in expected.items()}
    _, class_scores = literal(prediction, (), size)
    chosen = class_scores.gather(1, found[LABELS][:, None])[:, 0]
    differences[LABELS] = float((class_scores.amax(1) - chosen).max())
    return Parity({name: differences[name] for name in exported.output_names})
