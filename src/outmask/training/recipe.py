"""A recipe: everything that a training run depends on, as YAML of 20-40 lines."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from outmask.errors import OutmaskError


@dataclass(frozen=True)
class DatasetRecipe:
    """One labelled dataset.

    Attributes:
        name: a dataset of ``outmask.data.datasets``.
        root: its folder, relative to the recipe's ``data_root``.
        split: its split.
        ignore_classes: classes of its own taxonomy that every loss leaves out.
    """

    name: str
    root: str
    split: str
    ignore_classes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class ObjectsRecipe:
    """One source of negatives to paste.

    Attributes:
        kind: ``"folder"`` of images and masks; ``"coco"`` instances; ``"label_maps"``, label regions of images (ADE20K,
            M2F-EAM 3.4); ``"inlier_patches"`` of the other training images, or ``"flow"``, patches that a normalising
            flow makes (M2F-EAM table 8); ``"world"``, drawn objects of the synthetic world's training families.
        root: its folder, relative to ``data_root``; of ``coco`` the images' folder, of ``flow`` the flow's, which may
            also lie elsewhere; ``inlier_patches`` and ``world`` have none.
        annotations: of ``coco``: the instance JSON; of ``label_maps``: the folder of label maps, below ``root``.
        images: of ``label_maps``: the folder of images, below ``root``.
        sequences: of ``folder``: the sequences to take; all of them by default.
        exclude: of ``coco``: leave out whole images that show a street class, or only those instances.
        exclude_ids: of ``label_maps``: label ids that are no negatives.
        joint: of ``coco``: all objects of an image together (AnomalyMix, Mask2Anomaly).
        minimum_area: of ``coco``: smallest object, in pixels.
        minimum_side: of ``coco``: shortest side of an image, in pixels.
        subset: of ``coco``: so many images, drawn by ``subset_seed`` (Mask2Anomaly table IX: 300, S1 and S2).
        longest_side: of ``label_maps``: of the image in pixels, drawn anew each time; None keeps its size.
        side: of ``inlier_patches`` and ``flow``: of a patch, in pixels; of ``world``: of an object's longest side.
        weight: how often this source is drawn, relative to the others.
    """

    kind: Literal["folder", "coco", "label_maps", "inlier_patches", "flow", "world"]
    root: str = ""
    annotations: str | None = None
    images: str = "images/training"
    sequences: list[str] | None = None
    exclude: Literal["image", "instance"] = "image"
    exclude_ids: list[int] = field(default_factory=list)
    joint: bool = False
    minimum_area: int = 1000
    minimum_side: int = 0
    subset: int | None = None
    subset_seed: int = 0
    longest_side: tuple[int, int] | None = (96, 383)
    side: tuple[int, int] = (16, 216)
    weight: float = 1.0


@dataclass(frozen=True)
class NegativesRecipe:
    """Objects pasted on training images and labelled void (M2F-EAM 3.4).

    Attributes:
        sources: where the objects come from.
        probability: share of the images that get objects.
        count: fewest and most draws from the sources that an image gets.
        relative_size: the object's longest side as a fraction of the image's shorter one; None keeps the size that the
            source gives it, in pixels, as both papers do.
    """

    sources: list[ObjectsRecipe]
    probability: float = 1.0
    count: tuple[int, int] = (1, 3)
    relative_size: tuple[float, float] | None = (0.1, 0.8)


@dataclass(frozen=True)
class OutlierLossRecipe:
    """What is learned from pasted pixels, beyond that no mask claims them.

    Attributes:
        kind: of mask models ``"contrastive"`` (Mask2Anomaly eq. 10-12), ``"bce"`` (eq. 26-27), ``"rba"`` (Nayal et al.
            2023), ``"suppression"`` (Hwang et al. 2021) or ``"negative_class"`` (UNO, Delic et al. 2024: the model gets
            that class); of per-pixel models
            ``"void_classifier"``, ``"outlier_head"``, ``"maximised_entropy"``, ``"energy_margin"`` or
            ``"densehybrid"`` (:mod:`outmask.losses.per_pixel`; the model gets an outlier head where the loss needs
            it).
        released: as the released code has it, where that differs from the paper (``contrastive``, ``bce``).
        margin: of ``contrastive``.
    """

    kind: Literal[
        "contrastive",
        "bce",
        "rba",
        "suppression",
        "negative_class",
        "void_classifier",
        "outlier_head",
        "maximised_entropy",
        "energy_margin",
        "densehybrid",
    ]
    released: bool = False
    margin: float = 0.75


@dataclass(frozen=True)
class LossRecipe:
    """Weights and points of the masks' losses; the defaults are Mask2Former's, which both papers keep.

    Per-pixel models have a cross-entropy in their place. ``outlier`` says what pasted pixels teach; None for nothing
    more than void does.
    """

    class_weight: float = 2.0
    mask_weight: float = 5.0
    dice_weight: float = 5.0
    no_object_weight: float = 0.1
    num_points: int = 12544
    outlier: OutlierLossRecipe | None = None


_NOT_NEGATIVE = (
    "learning_rate",
    "backbone_rate",
    "weight_decay",
    "warmup",
    "gradient_clip",
    "validation_images",
    "seed",
    "workers",
)


@dataclass(frozen=True)
class Recipe:
    """A training run.

    Attributes:
        taxonomy: target classes; every dataset is mapped to them.
        train, validation: labelled datasets.
        reproduces: which row of which paper's table, if any.
        model: the architecture: ``kind`` (``mask2former``, ``per_pixel``, ``deeplab_v3_plus`` or
            ``semantic_segmentation``; by default the first) and the fields of its configuration
            (:mod:`outmask.models`), without ``num_classes`` and heads; empty only where ``start_from`` says it.
        panoptic: whether each object of a thing is a mask of its own, or all of a class are one.
        void: what pixels that a dataset leaves void mean: ``"background"``, no mask may claim them; ``"ignore"``, every
            loss leaves them out; ``"outlier"``, ``loss.outlier`` learns from them as from pasted pixels. With the
            losses ``suppression`` and ``negative_class`` the latter is *void-suppression* and *void-train*, the others
            are *void-background* and *void-ignorance* (Hwang et al. 2021).
        negatives: objects to paste while training; none by default.
        validation_negatives: objects pasted on validation images; they should come from other sources.
        data_root: folder that the datasets' and objects' roots are relative to.
        pretrained: backbone weights, relative to ``data_root``: an ``.npz`` (MobileNetV2), a ``.pth`` in torchvision's
            layout (ResNet, such as Barlow Twins'), or a transformers folder; or a hub id; or the name of a bundled
            model, whose backbone is taken. Of ``semantic_segmentation``
            the whole network, which ``model`` then need not describe.
        start_from: model to fine-tune, whatever ``outmask.load`` takes; its architecture must equal ``model``, or is
            taken over where ``model`` is empty. A head that the loss needs and it lacks starts from nothing.
        freeze_backbone: keep the backbone's weights as they are.
        crop: height and width of a training crop.
        short_side: fewest and most pixels of a training image's short side before it is cropped.
        inference_short_side: short side that the trained model resizes its inputs to.
        iterations: steps of the optimiser.
        batch_size: images of one iteration, over all processes and accumulated steps.
        accumulate: forward and backward passes of an iteration, each with its share of the batch and normalised by its
            own masks.
        learning_rate: of AdamW; the backbone's is multiplied by ``backbone_rate``.
        weight_decay: on all weights but norms, embeddings and biases.
        warmup: iterations of linear warm-up; then polynomial decay with power 0.9.
        gradient_clip: largest norm of the gradient of the full model.
        loss: weights and points of the losses.
        chunk: iterations between checkpoints; a killed run continues from the last one.
        validate_every: chunks between validations.
        validation_images: how many images a validation takes, spread evenly; 0 = all.
        seed: of weights, order, augmentation and points.
        precision: Lightning's precision, such as ``32-true`` or ``bf16-mixed``.
        devices, num_nodes: processes that train, on each of so many machines.
        strategy: Lightning's name for how they share the work: ``auto``, ``ddp``, ``fsdp`` ...
        workers: processes that load data, for each that trains.
        licence: of the trained weights.

    Raises:
        OutmaskError: on numbers that make no sense, shares of a batch that are no whole images, or settings that
            contradict each other.
    """

    taxonomy: str
    train: list[DatasetRecipe]
    reproduces: str = ""
    validation: list[DatasetRecipe] = field(default_factory=list)
    model: dict[str, Any] = field(default_factory=dict)
    panoptic: bool = False
    void: Literal["background", "ignore", "outlier"] = "background"
    negatives: NegativesRecipe | None = None
    validation_negatives: NegativesRecipe | None = None
    data_root: str = "."
    pretrained: str | None = None
    start_from: str | None = None
    freeze_backbone: bool = False
    crop: tuple[int, int] = (512, 1024)
    short_side: tuple[int, int] = (512, 2048)
    inference_short_side: int | None = 1024
    iterations: int = 90000
    batch_size: int = 16
    accumulate: int = 1
    learning_rate: float = 1e-4
    backbone_rate: float = 0.1
    weight_decay: float = 0.05
    warmup: int = 0
    gradient_clip: float = 0.01
    loss: LossRecipe = field(default_factory=LossRecipe)
    chunk: int = 1000
    validate_every: int = 5
    validation_images: int = 0
    seed: int = 0
    precision: str = "32-true"
    devices: int = 1
    num_nodes: int = 1
    strategy: str = "auto"
    workers: int = 0
    licence: str = "not stated"

    def __post_init__(self) -> None:
        for name in ("iterations", "batch_size", "accumulate", "chunk", "validate_every", "devices", "num_nodes"):
            if getattr(self, name) < 1:
                raise OutmaskError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in _NOT_NEGATIVE:
            if not getattr(self, name) >= 0:  # NaN is refused too
                raise OutmaskError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.batch_size % (shares := self.accumulate * self.processes):
            raise OutmaskError(
                f"batch_size {self.batch_size} can't be shared by {self.processes} processes (devices x num_nodes) "
                f"in {self.accumulate} accumulated steps: make it a multiple of {shares}"
            )
        if not self.train:
            raise OutmaskError("a recipe needs at least one dataset under 'train'")
        if self.loss.outlier is not None and self.negatives is None and self.void != "outlier":
            raise OutmaskError(
                "loss.outlier is about pasted pixels, but the recipe has no 'negatives' to paste, nor 'void: outlier'"
            )
        if self.loss.outlier is None and self.void == "outlier":
            raise OutmaskError("'void: outlier' is for a loss.outlier to learn from: say which")
        if not 0 < self.short_side[0] <= self.short_side[1]:
            raise OutmaskError(f"short_side must be a rising pair of pixels, got {self.short_side}")

    @property
    def processes(self) -> int:
        """How many train."""
        return self.devices * self.num_nodes
