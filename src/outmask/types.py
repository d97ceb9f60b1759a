"""The values that flow through outmask, each checked where it is made.

``MaskPrediction`` is what every mask classifier gives and everything downstream takes, ``PixelPrediction`` its
counterpart of the per-pixel baselines; ``Taxonomy`` says what the class ids mean; ``OpenSetResult`` is what a user gets
for one image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from outmask.errors import OutmaskError

if TYPE_CHECKING:
    from PIL.Image import Image

Color = tuple[int, int, int]
Task = Literal["anomaly", "semantic", "panoptic"]
Unknown = Literal["preferred_mask", "mining", "components", "negative_class"]
"""How unknown objects are found; see ``outmask.openset.unknown_objects``."""


@dataclass(frozen=True)
class MaskPrediction:
    """N masks of a batch of images and what each mask shows (M2F-EAM eq. 1-2).

    Attributes:
        class_logits: ``(B, N, K + 1)`` floating; the last class is *no object*.
        mask_logits: ``(B, N, h, w)`` floating, before the sigmoid, usually at 1/4 of the input's resolution.
        auxiliary: the predictions of the inner decoder layers, first to last; empty in eval mode.
        negative_class: whether the last class before *no object* is UNO's *negative* (Delic et al. 2024), which pasted
            objects were labelled with: ``class_logits`` are ``(B, N, K + 2)`` then.

    Raises:
        OutmaskError: on other ranks, on batch or mask counts that differ, or where no known class is left.
    """

    class_logits: Tensor
    mask_logits: Tensor
    auxiliary: tuple[MaskPrediction, ...] = ()
    negative_class: bool = False

    def __post_init__(self) -> None:
        if self.class_logits.ndim != 3 or self.mask_logits.ndim != 4:
            raise OutmaskError(
                "MaskPrediction expects class_logits (B, N, K+1) and mask_logits (B, N, h, w), "
                f"got {tuple(self.class_logits.shape)} and {tuple(self.mask_logits.shape)}"
            )
        if self.class_logits.shape[:2] != self.mask_logits.shape[:2]:
            raise OutmaskError(
                "class_logits and mask_logits must agree in batch and number of masks, "
                f"got {tuple(self.class_logits.shape[:2])} and {tuple(self.mask_logits.shape[:2])}"
            )
        if self.num_classes < 1:
            raise OutmaskError("class_logits needs at least one known class and 'no object' in its last dimension")

    @property
    def num_classes(self) -> int:
        """K, the known classes (without *negative* and *no object*)."""
        return self.class_logits.shape[2] - 1 - int(self.negative_class)  # of a size that is traced, too

    def known_class_logits(self) -> Tensor:
        """``(B, N, K + 1)``: the class logits where *negative* and *no object* are one class.

        The softmax gives the known classes what it gives them among all K + 2.
        """
        if not self.negative_class:
            return self.class_logits
        rest = self.class_logits[..., self.num_classes :].logsumexp(-1, keepdim=True)
        return torch.cat([self.class_logits[..., : self.num_classes], rest], -1)


@dataclass(frozen=True)
class PixelPrediction:
    """Class logits of every pixel of a batch of images: what a per-pixel classifier gives.

    Attributes:
        logits: ``(B, K, h, w)`` floating, the K known classes before the softmax, usually at 1/4 of the input's
            resolution.
        outlier_logits: ``(B, h, w)`` floating, of an outlier-aware network: the logit of *void* beside the K classes of
            a void classifier, or the second head's, before the sigmoid. The network's loss decides which of the two.

    Raises:
        OutmaskError: on other ranks, on maps that differ in batch or size, or where there is no class.
    """

    logits: Tensor
    outlier_logits: Tensor | None = None

    def __post_init__(self) -> None:
        if self.logits.ndim != 4:
            raise OutmaskError(f"PixelPrediction expects logits (B, K, h, w), got {tuple(self.logits.shape)}")
        if self.logits.shape[1] < 1:
            raise OutmaskError("logits needs at least one known class in its second dimension")
        expected = (self.logits.shape[0], *self.logits.shape[2:])
        if self.outlier_logits is not None and self.outlier_logits.shape != expected:
            raise OutmaskError(
                f"outlier_logits must be (B, h, w) = {expected} like the logits, got {tuple(self.outlier_logits.shape)}"
            )

    @property
    def num_classes(self) -> int:
        """K, the known classes (without *void*)."""
        return self.logits.shape[1]


@dataclass(frozen=True)
class Taxonomy:
    """What the class ids 0 ... K-1 of a model mean.

    Attributes:
        names: K class names, unique.
        colors: K RGB colours, 0-255, for pictures.
        things: K flags, True for countable classes (*things*), False for *stuff*; None where nothing is known.
        ground: names of the stuff classes one drives or walks on (road, sidewalk); refinement keeps them (Mask2Anomaly
            4.4).
        evaluation_ids: K ids of the classes in a benchmark's files (Cityscapes' label ids); default 0 ... K-1.
        unknown_id: id of *unknown* in open labels; default K.
        void_id: id of pixels without any class; default 255.

    Raises:
        OutmaskError: on lengths that differ, repeated names, colours out of range, ids that collide.
    """

    names: tuple[str, ...]
    colors: tuple[Color, ...]
    things: tuple[bool, ...] | None = None
    ground: tuple[str, ...] = ()
    evaluation_ids: tuple[int, ...] = ()
    unknown_id: int = -1
    void_id: int = 255

    def __post_init__(self) -> None:
        count = len(self.names)
        if not self.evaluation_ids:
            object.__setattr__(self, "evaluation_ids", tuple(range(count)))
        if self.unknown_id == -1:
            object.__setattr__(self, "unknown_id", count)
        if count == 0:
            raise OutmaskError("a taxonomy needs at least one class name")
        if len(set(self.names)) != count:
            raise OutmaskError(f"class names must be unique, got {list(self.names)}")
        for what, values in (("colors", self.colors), ("things", self.things), ("evaluation_ids", self.evaluation_ids)):
            if values is not None and len(values) != count:
                raise OutmaskError(f"{what} must have one entry for each of the {count} classes, got {len(values)}")
        if any(len(color) != 3 or not all(0 <= part <= 255 for part in color) for color in self.colors):
            raise OutmaskError("colors must be RGB triples of integers from 0 to 255")
        if strangers := set(self.ground) - set(self.names):
            raise OutmaskError(f"ground names {sorted(strangers)} are no classes of this taxonomy")
        if self.unknown_id < count or self.void_id < count or self.unknown_id == self.void_id:
            raise OutmaskError(
                f"unknown_id and void_id must differ from each other and from the class ids 0 to {count - 1}, "
                f"got {self.unknown_id} and {self.void_id}"
            )

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.names)

    def to_json(self) -> dict[str, Any]:
        """The taxonomy as the ``taxonomy`` entry of a model's ``config.json``."""
        return {
            "names": list(self.names),
            "colors": [list(color) for color in self.colors],
            "things": None if self.things is None else list(self.things),
            "ground": list(self.ground),
            "evaluation_ids": list(self.evaluation_ids),
            "unknown_id": self.unknown_id,
            "void_id": self.void_id,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Taxonomy:
        """Inverse of :meth:`to_json`."""
        return cls(
            names=tuple(values["names"]),
            colors=tuple((int(r), int(g), int(b)) for r, g, b in values["colors"]),
            things=None if values.get("things") is None else tuple(bool(flag) for flag in values["things"]),
            ground=tuple(values.get("ground", ())),
            evaluation_ids=tuple(values.get("evaluation_ids", ())),
            unknown_id=int(values.get("unknown_id", -1)),
            void_id=int(values.get("void_id", 255)),
        )


@dataclass(frozen=True)
class Segment:
    """One segment of a panoptic result.

    Attributes:
        id: its value in ``OpenSetResult.panoptic``, from 1.
        class_id: known class, or the taxonomy's ``unknown_id``.
        name: class name, or ``"unknown"``.
        is_unknown: whether it is an unknown object.
        area: pixels, at least 1.
        score: class probability in [0, 1]; of an unknown object its mean anomaly score.
        bbox: ``(x, y, width, height)`` in pixels.

    Raises:
        OutmaskError: on id or area below 1, or a box without extent.
    """

    id: int
    class_id: int
    name: str
    is_unknown: bool
    area: int
    score: float
    bbox: tuple[int, int, int, int]

    def __post_init__(self) -> None:
        if self.id < 1 or self.area < 1:
            raise OutmaskError(f"a segment needs an id and an area of at least 1, got id {self.id}, area {self.area}")
        if len(self.bbox) != 4 or self.bbox[2] < 1 or self.bbox[3] < 1:
            raise OutmaskError(f"bbox must be (x, y, width, height) with an extent, got {self.bbox}")


@dataclass(frozen=True)
class OpenSetResult:
    """What outmask says of one image of ``H x W`` pixels.

    Attributes:
        image: ``(H, W, 3)`` uint8 RGB, upright.
        score: ``(H, W)`` float32, larger = more anomalous.
        labels: ``(H, W)`` int32 closed-set class ids.
        taxonomy: what the ids mean.
        score_name: which score ``score`` holds.
        display_range: the score's values that pictures show as certainly known and certainly unknown.
        threshold: the anomaly threshold that was applied, if any.
        open_labels: as ``labels``, with ``taxonomy.unknown_id`` where ``score > threshold``; None without a threshold.
        panoptic: ``(H, W)`` int32 segment ids, 0 = void; None unless ``task="panoptic"``.
        segments: the segments of ``panoptic``; None unless ``task="panoptic"``.
        source: the file the image came from, if it came from one.

    Raises:
        OutmaskError: where maps differ in size or type from what is written here.
    """

    image: NDArray[np.uint8]
    score: NDArray[np.float32]
    labels: NDArray[np.int32]
    taxonomy: Taxonomy
    score_name: str
    display_range: tuple[float, float]
    threshold: float | None = None
    open_labels: NDArray[np.int32] | None = None
    panoptic: NDArray[np.int32] | None = None
    segments: Sequence[Segment] | None = None
    source: Path | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        size = self.score.shape
        if self.score.ndim != 2 or self.score.dtype != np.float32:
            raise OutmaskError(f"score must be (H, W) float32, got {size} {self.score.dtype}")
        if self.image.shape != (*size, 3) or self.image.dtype != np.uint8:
            raise OutmaskError(f"image must be {(*size, 3)} uint8, got {self.image.shape} {self.image.dtype}")
        for what in ("labels", "open_labels", "panoptic"):
            map_ = getattr(self, what)
            if map_ is not None and (map_.shape != size or map_.dtype != np.int32):
                raise OutmaskError(f"{what} must be {size} int32, got {map_.shape} {map_.dtype}")
        if (self.panoptic is None) != (self.segments is None):
            raise OutmaskError("panoptic and segments come together: give both or neither")

    def overlay(self) -> Image:
        """The image with its anomaly drawn over it, as a PIL image."""
        from outmask.output.pictures import overlay  # only here does a value know how it is drawn

        return overlay(self)

    def save(self, folder: str | Path) -> list[Path]:
        """Write the same files as ``outmask predict`` into ``folder``; returns their paths."""
        from outmask.output.files import save_result

        return save_result(self, Path(folder))
