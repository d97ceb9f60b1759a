"""The segmenter: a model, what its classes mean and how its images are prepared, ready to run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args, overload

import numpy as np
import torch
from torch import Tensor, nn

from outmask import scores
from outmask.checkpoints import load_bundle
from outmask.data.images import ImageSource, read_image
from outmask.errors import OutmaskError
from outmask.openset.inference import score_maps
from outmask.openset.semantic import open_labels
from outmask.preprocessing import Preprocessing
from outmask.types import OpenSetResult, Task, Taxonomy


@dataclass
class Segmenter:
    """A model ready to run on images.

    Attributes:
        model: ``(B, 3, H, W)`` -> :class:`MaskPrediction` or :class:`PixelPrediction`, in eval mode.
        taxonomy: its classes.
        preprocessing: resizing and normalisation of its inputs.
        name: what it was loaded from.
        operating_points: a score's name -> ``{"threshold": float, "origin": where the threshold was chosen}``.
    """

    model: nn.Module
    taxonomy: Taxonomy
    preprocessing: Preprocessing
    name: str
    operating_points: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        """Where the model's weights are."""
        return next(self.model.parameters()).device

    def preprocess(self, image: ImageSource) -> Tensor:
        """``(1, 3, h, w)`` float32 on the model's device: the image, resized and normalised as its config says."""
        return self.preprocessing(read_image(image)).to(self.device)

    @torch.inference_mode()
    def prediction(self, image: ImageSource) -> scores.Prediction:
        """The model's masks or logits of one image (batch of 1), on the model's device."""
        prediction: scores.Prediction = self.model(self.preprocess(image))
        return prediction

    @overload
    def predict(
        self,
        image: ImageSource,
        task: Task = ...,
        score: str = ...,
        threshold: float | None = ...,
        refine: bool = ...,
        flip: bool = ...,
    ) -> OpenSetResult: ...

    @overload
    def predict(
        self,
        image: list[ImageSource],
        task: Task = ...,
        score: str = ...,
        threshold: float | None = ...,
        refine: bool = ...,
        flip: bool = ...,
    ) -> list[OpenSetResult]: ...

    def predict(
        self,
        image: ImageSource | list[ImageSource],
        task: Task = "anomaly",
        score: str = "eam",
        threshold: float | None = None,
        refine: bool = False,
        flip: bool = False,
    ) -> OpenSetResult | list[OpenSetResult]:
        """Known classes and anomaly scores of one image, or of a list of them.

        Args:
            image: path, PIL image, ``(H, W, 3)`` RGB uint8 array, or a list of them.
            task: ``"anomaly"`` for scores; ``"semantic"`` also needs open labels, hence a threshold.
            score: one of ``outmask.scores.available()``.
            threshold: scores above it are unknown; by default the model's operating point for this score, if any.
            refine: lower the scores in confident masks of stuff other than ground (Mask2Anomaly eq. 13).
            flip: average the scores with those of the mirrored image; takes twice the time.

        Returns:
            one result at the image's own resolution; a list for a list.

        Raises:
            OutmaskError: on an unreadable image, an unknown task or score, a semantic task without a threshold, or
                refinement where the taxonomy does not tell things from stuff.
        """
        if isinstance(image, list):
            return [self.predict(one, task, score, threshold, refine, flip) for one in image]
        if task not in get_args(Task):
            raise OutmaskError(f"unknown task {task!r}: choose from {', '.join(get_args(Task))}")
        scores.check(score)
        if threshold is None and score in self.operating_points:
            threshold = float(self.operating_points[score]["threshold"])
        if threshold is None and task == "semantic":
            raise OutmaskError(
                f"task 'semantic' needs a threshold: {self.name} has no operating point for {score!r}, give one"
            )

        pixels = read_image(image)
        height, width = pixels.shape[:2]
        refine_by = self.taxonomy if refine else None
        maps = score_maps(self.prediction, pixels, [score], (height, width), refine_by, flip)
        anomaly = maps[score][0].cpu().numpy()
        labels = maps["labels"][0].cpu().numpy().astype(np.int32)
        return OpenSetResult(
            image=pixels,
            score=anomaly,
            labels=labels,
            taxonomy=self.taxonomy,
            score_name=score,
            display_range=scores.display_range(score, self.taxonomy.num_classes),
            threshold=threshold,
            open_labels=None
            if threshold is None
            else open_labels(labels, anomaly, threshold, self.taxonomy.unknown_id),
            source=Path(image) if isinstance(image, str | Path) else None,
        )


def load(source: str | Path = "street", device: str | torch.device | None = None) -> Segmenter:
    """Load a model, in eval mode and ready to run.

    Args:
        source: a bundled model's name, a hub id, a folder (ours or transformers'), an original ``.pkl`` or ``.pth``.
        device: where to run; by default CUDA where there is one, else the CPU.

    Raises:
        OutmaskError: where nothing can be loaded from ``source``; says what was tried.
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    bundle = load_bundle(str(source))
    return Segmenter(
        bundle.model.to(device).eval().requires_grad_(False),
        bundle.taxonomy,
        bundle.preprocessing,
        bundle.name,
        bundle.operating_points,
    )
