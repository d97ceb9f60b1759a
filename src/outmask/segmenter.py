"""The segmenter: a model, what its classes mean and how its images are prepared, ready to run; and several as one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, get_args, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from outmask import scores
from outmask.checkpoints import load_bundle
from outmask.data.images import ImageSource, read_image
from outmask.detectors import Statistics
from outmask.errors import OutmaskError
from outmask.export import FORMATS, RUNTIMES, Runtime, export, is_exported, open_exported
from outmask.models.inference import prepare_for_inference
from outmask.openset import inference
from outmask.openset.panoptic import Panoptic, open_set_panoptic
from outmask.openset.semantic import open_labels
from outmask.openset.unknown_objects import Finder, finder
from outmask.preprocessing import Preprocessing
from outmask.types import MaskPrediction, OpenSetResult, Task, Taxonomy, Unknown


class Predictor(ABC):
    """One model or several, ready to run on images.

    Attributes:
        name: what it was loaded from.
        taxonomy: its classes.
        operating_points: a score's name -> ``{"threshold": float, "origin": where the threshold was chosen}``.
    """

    name: str
    taxonomy: Taxonomy
    operating_points: Mapping[str, Mapping[str, Any]]

    @property
    @abstractmethod
    def members(self) -> Sequence[Segmenter]:
        """The models: at least one."""

    def maps(
        self,
        image: NDArray[np.uint8],
        names: Sequence[str],
        size: tuple[int, int],
        refine_by: Taxonomy | None = None,
        flip: bool = False,
        remove: Literal["stuff", "things"] = "stuff",
        window: inference.Window | None = None,
    ) -> dict[str, Tensor]:
        """Scores and ``"labels"`` of one image by name; see :func:`outmask.openset.inference.score_maps`."""
        return inference.score_maps(self.members, image, names, size, refine_by, flip, remove, window=window)

    def masks_and_maps(
        self,
        image: NDArray[np.uint8],
        names: Sequence[str],
        size: tuple[int, int],
        refine_by: Taxonomy | None = None,
        flip: bool = False,
        window: inference.Window | None = None,
    ) -> tuple[MaskPrediction, dict[str, Tensor]]:
        """Masks and maps of one image from one pass; see :func:`outmask.openset.inference.masks_and_maps`."""
        return inference.masks_and_maps(self.members, image, names, size, refine_by, flip, window)

    def display_range(self, score: str) -> tuple[float, float]:
        """The values of a score that pictures show as certainly known and certainly unknown."""
        return inference.display_range(self.members[0], score)

    @overload
    def predict(
        self,
        image: ImageSource,
        task: Task = ...,
        score: str = ...,
        threshold: float | None = ...,
        refine: bool = ...,
        flip: bool = ...,
        unknown: Unknown | Finder = ...,
        window: inference.Window | None = ...,
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
        unknown: Unknown | Finder = ...,
        window: inference.Window | None = ...,
    ) -> list[OpenSetResult]: ...

    def predict(
        self,
        image: ImageSource | list[ImageSource],
        task: Task = "anomaly",
        score: str = "eam",
        threshold: float | None = None,
        refine: bool = False,
        flip: bool = False,
        unknown: Unknown | Finder = "preferred_mask",
        window: inference.Window | None = None,
    ) -> OpenSetResult | list[OpenSetResult]:
        """Known classes and anomaly scores of one image, or of a list of them.

        Args:
            image: path, PIL image, ``(H, W, 3)`` RGB uint8 array, or a list of them.
            task: ``"anomaly"`` for scores; ``"semantic"`` also needs open labels, hence a threshold; ``"panoptic"``
                also gives segments, and needs a mask classifier.
            score: a score or a detector, one of ``outmask.openset.inference.available()``.
            threshold: scores above it are unknown; by default the model's operating point for this score, if any.
            refine: lower the scores in confident masks of stuff other than ground (Mask2Anomaly eq. 13).
            flip: average the scores with those of the mirrored image; takes twice the time.
            unknown: how the panoptic task finds unknown objects: ``"preferred_mask"`` (M2F-EAM) and ``"components"``
                (RbA) above the threshold, ``"mining"`` (Mask2Anomaly) and ``"negative_class"`` (of a model that has
                learned that class) without one; or one of ``outmask.openset.unknown_objects`` with settings of its own.
            window: see the image through overlapping windows of ``(height, width)`` pixels, or of one side. Each is
                prepared like an image of its own: what the model gets of it bounds memory, and a model that resizes to
                a ``short_side`` may get more of a small or narrow window than of the whole image. By default where the
                model's input would have more than 8 megapixels. For the panoptic task, one that covers the image.

        Returns:
            one result at the image's own resolution; a list for a list.

        Raises:
            OutmaskError: on an unreadable image, an unknown task or score, a score that the model does not have or has
                no statistics for, a semantic or panoptic task without the threshold that it needs, refinement or
                segments where the taxonomy does not tell things from stuff, or segments of what predicts no masks; on a
                window that is none, or segments of an image that would be seen through windows.
        """
        if isinstance(image, list):
            return [self.predict(one, task, score, threshold, refine, flip, unknown, window) for one in image]
        if task not in get_args(Task):
            raise OutmaskError(f"unknown task {task!r}: choose from {', '.join(get_args(Task))}")
        inference.check(score)
        find = finder(unknown)
        if threshold is None and score in self.operating_points:
            threshold = float(self.operating_points[score]["threshold"])
        if threshold is None and (task == "semantic" or (task == "panoptic" and find.needs_threshold)):
            raise OutmaskError(
                f"task {task!r} needs a threshold: {self.name} has no operating point for {score!r}, give one"
            )

        pixels = read_image(image)
        size, refine_by = (pixels.shape[0], pixels.shape[1]), self.taxonomy if refine else None
        panoptic: Panoptic | None = None
        if task == "panoptic":
            masks, maps = self.masks_and_maps(pixels, [score], size, refine_by, flip, window)
            panoptic = open_set_panoptic(masks, self.taxonomy, maps[score][0].cpu().numpy(), threshold, find)
        else:
            maps = self.maps(pixels, [score], size, refine_by, flip, window=window)
        anomaly = maps[score][0].cpu().numpy()
        labels = maps["labels"][0].cpu().numpy().astype(np.int32)
        return OpenSetResult(
            image=pixels,
            score=anomaly,
            labels=labels,
            taxonomy=self.taxonomy,
            score_name=score,
            display_range=self.display_range(score),
            threshold=threshold,
            open_labels=None
            if threshold is None
            else open_labels(labels, anomaly, threshold, self.taxonomy.unknown_id),
            panoptic=None if panoptic is None else panoptic.ids,
            segments=None if panoptic is None else panoptic.segments,
            source=Path(image) if isinstance(image, str | Path) else None,
        )


@dataclass
class Segmenter(Predictor):
    """A model ready to run on images.

    Attributes:
        model: ``(B, 3, H, W)`` -> :class:`MaskPrediction` or :class:`PixelPrediction`, in eval mode.
        taxonomy: its classes.
        preprocessing: resizing and normalisation of its inputs.
        name: what it was loaded from.
        operating_points: a score's name -> ``{"threshold": float, "origin": where the threshold was chosen}``.
        statistics: a detector's name -> what it has learned from the training set (``outmask fit``).
    """

    model: nn.Module
    taxonomy: Taxonomy
    preprocessing: Preprocessing
    name: str
    operating_points: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    statistics: Mapping[str, Statistics] = field(default_factory=dict)

    @property
    def members(self) -> Sequence[Segmenter]:
        """Itself."""
        return (self,)

    @property
    def device(self) -> torch.device:
        """Where the model's weights are; an exported model has none of its own and runs on the CPU."""
        return next((weight.device for weight in self.model.parameters()), torch.device("cpu"))

    @property
    def dtype(self) -> torch.dtype:
        """Of the model's weights and its input: float32, if it was not loaded in half precision."""
        return next((weight.dtype for weight in self.model.parameters()), torch.float32)

    def preprocess(self, image: ImageSource) -> Tensor:
        """``(1, 3, h, w)`` on the model's device and in its dtype: the image, resized and normalised as it wants it."""
        return self.preprocessing(read_image(image)).to(self.device, self.dtype)

    @torch.inference_mode()
    def prediction(self, image: ImageSource) -> scores.Prediction:
        """The model's masks or logits of one image (batch of 1), on the model's device."""
        prediction: scores.Prediction = self.model(self.preprocess(image))
        return prediction


@dataclass
class Ensemble(Predictor):
    """A deep ensemble: several models of the same classes, all of masks or all of pixels, that answer as one.

    What their scores and labels are is said by :func:`outmask.detectors.ensemble_maps`; each model prepares the image
    in its own way. An ensemble has no operating points: those of its members are for other scores.

    Attributes:
        models: at least two.
        operating_points: a score's name -> its threshold, if one is known.

    Raises:
        OutmaskError: on fewer models, or models whose classes differ.
    """

    models: Sequence[Segmenter]
    operating_points: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.models) < 2:
            raise OutmaskError(f"an ensemble needs at least two models, got {len(self.models)}")
        self.taxonomy = self.models[0].taxonomy
        self.name = " + ".join(model.name for model in self.models)
        for other in self.models[1:]:
            if other.taxonomy.names != self.taxonomy.names:
                raise OutmaskError(
                    f"the models of an ensemble must have the same classes, in the same order: those of {other.name} "
                    f"are not those of {self.models[0].name}"
                )

    @property
    def members(self) -> Sequence[Segmenter]:
        """The models."""
        return self.models


@overload
def load(
    source: str | Path = ...,
    device: str | torch.device | None = ...,
    runtime: Runtime | None = ...,
    dtype: torch.dtype = ...,
) -> Segmenter: ...


@overload
def load(
    source: list[str] | list[Path] | list[str | Path],
    device: str | torch.device | None = ...,
    runtime: Runtime | None = ...,
    dtype: torch.dtype = ...,
) -> Ensemble: ...


def load(
    source: str | Path | list[str] | list[Path] | list[str | Path] = "street",
    device: str | torch.device | None = None,
    runtime: Runtime | None = None,
    dtype: torch.dtype = torch.float32,
) -> Segmenter | Ensemble:
    """Load a model, in eval mode and ready to run; or several, as an ensemble.

    Args:
        source: a bundled model's name, a hub id, a folder (ours or transformers'), an original ``.pkl`` or ``.pth``, a
            file of ``outmask export`` (``.onnx``, ``.xml``); or a list of these.
        device: where to run; by default CUDA where there is one, else the CPU. Exported files run on the CPU.
        runtime: ``"onnxruntime"`` or ``"openvino"`` instead of PyTorch: what is no exported file is exported first, to
            a temporary one.
        dtype: of weights and pixels; ``torch.bfloat16`` and ``torch.float16`` are for GPUs. Scores of their logits are
            still computed in float32.

    Raises:
        OutmaskError: where nothing can be loaded from ``source``; says what was tried. On models that are no ensemble,
            a runtime that is not installed or not the file's, or a model that can only be exported for one size.
    """
    if isinstance(source, list):
        return Ensemble([load(one, device, runtime, dtype) for one in source])
    if runtime is not None or is_exported(source):
        if device is not None and torch.device(device).type != "cpu":
            raise OutmaskError(f"exported models run on the CPU, not on {device}: leave the device out")
        if dtype != torch.float32:
            raise OutmaskError(f"exported models compute as they were exported, not in {dtype}: leave the dtype out")
        return _exported(source, runtime)
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    bundle = load_bundle(str(source))
    return Segmenter(
        prepare_for_inference(bundle.model).to(device, dtype),
        bundle.taxonomy,
        bundle.preprocessing,
        bundle.name,
        bundle.operating_points,
        bundle.statistics,
    )


def _exported(source: str | Path, runtime: Runtime | None) -> Segmenter:
    if is_exported(source):
        model, name = open_exported(Path(source), runtime), Path(source).name
    else:
        assert runtime is not None
        format_ = RUNTIMES[runtime]
        bundle = load_bundle(str(source))
        with TemporaryDirectory(prefix="outmask-", ignore_cleanup_errors=True) as folder:
            path = Path(folder) / f"model{FORMATS[format_]}"
            export(bundle, path, format_, names=())
            model, name = open_exported(path), bundle.name
    description = model.description
    return Segmenter(model.eval(), description.taxonomy, description.preprocessing, name, description.operating_points)
