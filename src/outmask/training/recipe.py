"""A recipe: everything that a training run depends on, as YAML of 20-40 lines."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

from PIL import Image
from torch import nn
from torch.utils.data import ConcatDataset

from outmask.data.broken import UsableImages
from outmask.data.datasets import SegmentationDataset, open_dataset
from outmask.data.flow import PatchFlow
from outmask.data.labels import Sample
from outmask.data.negatives import (
    CocoInstances,
    FlowSamples,
    FolderObjects,
    InlierPatches,
    LabelMapObjects,
    MixedObjects,
    NegativeSource,
    PasteNegatives,
    WorldObjects,
)
from outmask.data.taxonomies import taxonomy
from outmask.data.transforms import (
    DrawnSamples,
    PastedValidation,
    RandomFlip,
    RandomScaleCrop,
    SampleSource,
    Transform,
    TreatVoid,
)
from outmask.errors import OutmaskError
from outmask.losses import (
    MaskContrastiveLoss,
    OutlierCrossEntropyLoss,
    OutlierLoss,
    RbALoss,
    SetCriterion,
    SuppressionLoss,
)
from outmask.losses.per_pixel import (
    DenseHybrid,
    EnergyMargin,
    MaximisedEntropy,
    OutlierHead,
    PixelCriterion,
    PixelCrossEntropy,
    VoidClassifier,
)
from outmask.models import load_pretrained
from outmask.models.architectures import (
    HEADS,
    MASK2FORMER,
    Model,
    build_architecture,
    configure,
    describe_architecture,
    with_head,
)
from outmask.models.semantic_segmentation import SemanticSegmentationModel
from outmask.types import Taxonomy
from outmask.weights import bundled_models


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


def build_taxonomy(recipe: Recipe) -> Taxonomy:
    """The target classes."""
    return taxonomy(recipe.taxonomy)


def build_model(recipe: Recipe) -> Model:
    """The model with its first weights: pre-trained backbone, or those of ``start_from``.

    Raises:
        OutmaskError: on an architecture or weights that don't fit the recipe.
    """
    model = _fresh_model(recipe) if recipe.start_from is None else _earlier_model(recipe, recipe.start_from)
    if recipe.freeze_backbone:
        backbone_of(model).requires_grad_(False)
    return model


def backbone_of(model: Model) -> nn.Module:
    """The part that comes pre-trained."""
    return model.get_submodule(model.backbone_prefix.removesuffix("."))


def _fresh_model(recipe: Recipe) -> Model:
    if not recipe.model:  # as of a second stage, which is not meant to be trained from nothing
        raise OutmaskError("the recipe has neither a 'model' nor a model to fine-tune: give --start_from or --model")
    source = recipe.pretrained
    if source is not None and (local := Path(recipe.data_root) / source).exists():
        source = str(local)
    if source is not None and recipe.model.get("kind") == "semantic_segmentation":
        if "network" in recipe.model:
            raise OutmaskError("model: 'network' is what 'pretrained' holds: give one of the two")
        return SemanticSegmentationModel.from_pretrained(source, **_outputs(recipe, of_masks=False))
    model = build_architecture(_architecture(recipe))
    if source is not None:
        _load_backbone(backbone_of(model), source)
    return model


def _load_backbone(backbone: nn.Module, source: str) -> None:
    from outmask.checkpoints import load_bundle

    if source not in bundled_models():
        load_pretrained(backbone, source)
        return
    try:
        backbone.load_state_dict(backbone_of(load_bundle(source).model).state_dict())
    except RuntimeError:
        raise OutmaskError(f"pretrained: the model {source} has another backbone than this recipe's 'model'") from None


def _earlier_model(recipe: Recipe, start_from: str) -> Model:
    from outmask.checkpoints import load_bundle

    try:
        model = load_bundle(start_from).model
    except OutmaskError as error:
        raise OutmaskError(f"start_from: {error}") from error
    description = describe_architecture(model)
    kind = description["kind"]
    outputs = _outputs(recipe, of_masks=kind == MASK2FORMER)
    if description["num_classes"] != outputs["num_classes"]:
        raise OutmaskError(
            f"start_from: {start_from} knows {description['num_classes']} classes, "
            f"taxonomy {recipe.taxonomy} has {outputs['num_classes']}"
        )
    if stranger := next((head for head in HEADS if description.get(head) and not outputs.get(head)), None):
        raise OutmaskError(
            f"start_from: {start_from} has the head {stranger}, which this recipe's loss does not train: "
            "set the loss.outlier that does, or start from a model without it"
        )
    if recipe.model and (
        recipe.model.get("kind", MASK2FORMER) != kind
        or configure(_architecture(recipe)) != configure({**description, **outputs})
    ):
        raise OutmaskError(f"start_from: {start_from} holds another architecture than the recipe's 'model'")
    return with_head(model, {**description, **outputs}) if {**description, **outputs} != description else model


def _architecture(recipe: Recipe) -> dict[str, Any]:
    """The description of the model's architecture, with the outputs that its loss needs."""
    outputs = _outputs(recipe, recipe.model.get("kind", MASK2FORMER) == MASK2FORMER)
    for name in ("num_classes", *HEADS):
        expected = outputs.get(name, False)
        if recipe.model.get(name, expected) != expected:
            raise OutmaskError(
                f"model: {name} follows from {'taxonomy' if name == 'num_classes' else 'loss.outlier'}, where it is "
                f"{expected}, got {recipe.model[name]}: leave it out"
            )
    return {**recipe.model, **outputs}


def _outputs(recipe: Recipe, of_masks: bool) -> dict[str, Any]:
    """The known classes, and a head beside them where the loss on pasted pixels trains one."""
    outputs: dict[str, Any] = {"num_classes": build_taxonomy(recipe).num_classes}
    kind = None if recipe.loss.outlier is None else recipe.loss.outlier.kind
    if kind is not None and (kind in _OF_PIXELS) == of_masks:
        raise OutmaskError(
            f"loss.outlier: {kind} is no loss of {'mask' if of_masks else 'per-pixel'} models: choose from "
            + ", ".join(_OF_MASKS if of_masks else _OF_PIXELS)
        )
    if recipe.panoptic and not of_masks:
        raise OutmaskError("panoptic: per-pixel models tell no objects apart: leave it out, or train a mask2former")
    if kind == "negative_class":
        outputs["negative_class"] = True
    if kind in _OF_PIXELS and _OF_PIXELS[kind].needs_outlier_logits:
        outputs["outlier_head"] = True
    return outputs


_OF_PIXELS: dict[str, type[PixelCriterion]] = {
    "void_classifier": VoidClassifier,
    "outlier_head": OutlierHead,
    "maximised_entropy": MaximisedEntropy,
    "energy_margin": EnergyMargin,
    "densehybrid": DenseHybrid,
}
_OF_MASKS = [kind for kind in get_args(get_type_hints(OutlierLossRecipe)["kind"]) if kind not in _OF_PIXELS]


def build_criterion(recipe: Recipe, of_masks: bool) -> SetCriterion | PixelCriterion:
    """The losses, but for what is added to those of masks (:func:`build_outlier_loss`).

    Args:
        recipe: of the run.
        of_masks: whether the model predicts masks, or a class for each pixel.
    """
    loss = recipe.loss
    num_classes = build_taxonomy(recipe).num_classes
    kind = None if loss.outlier is None else loss.outlier.kind
    if not of_masks:
        return (PixelCrossEntropy if kind is None else _OF_PIXELS[kind])(num_classes)
    return SetCriterion(
        num_classes,
        class_weight=loss.class_weight,
        mask_weight=loss.mask_weight,
        dice_weight=loss.dice_weight,
        no_object_weight=loss.no_object_weight,
        num_points=loss.num_points,
        negative_class=kind == "negative_class",
    )


def build_outlier_loss(recipe: Recipe) -> OutlierLoss | None:
    """The loss that is added to those of masks, if there is one."""
    outlier = recipe.loss.outlier
    if outlier is None:
        return None
    if outlier.kind == "contrastive":
        return MaskContrastiveLoss("released" if outlier.released else "margin", outlier.margin)
    if outlier.kind == "bce":
        return OutlierCrossEntropyLoss("released" if outlier.released else "probability")
    if outlier.kind == "rba":
        return RbALoss()
    return SuppressionLoss() if outlier.kind == "suppression" else None


def build_negatives(recipe: NegativesRecipe, data_root: str) -> NegativeSource:
    """The mixture of a recipe's object sources."""
    sources = [_build_source(objects, Path(data_root)) for objects in recipe.sources]
    return MixedObjects(sources, [objects.weight for objects in recipe.sources])


def _build_source(objects: ObjectsRecipe, data_root: Path) -> NegativeSource:
    if objects.kind == "inlier_patches":
        return InlierPatches(objects.side)
    if objects.kind == "world":
        return WorldObjects(objects.side)
    root = data_root / objects.root
    if objects.kind == "flow":  # of one's own training, seldom among the data
        return FlowSamples(PatchFlow.load(root if root.exists() else objects.root), objects.side)
    if objects.kind == "folder":
        return FolderObjects(root, sequences=objects.sequences)
    if objects.kind == "label_maps":
        return LabelMapObjects(
            root,
            objects.images,
            objects.annotations or "annotations/training",
            longest_side=objects.longest_side,
            exclude=objects.exclude_ids,
        )
    if objects.annotations is None:
        raise OutmaskError(f"objects of kind coco need 'annotations', the instance JSON of {objects.root}")
    return CocoInstances(
        data_root / objects.annotations,
        root,
        exclude=objects.exclude,
        minimum_area=objects.minimum_area,
        joint=objects.joint,
        minimum_side=objects.minimum_side,
        images=objects.subset,
        seed=objects.subset_seed,
    )


def build_training_set(recipe: Recipe) -> DrawnSamples:
    """All draws of the run, in order; draw i is the same whenever and wherever it is made."""
    # Once, so that an image that is broken is so too where a patch is cut from it.
    datasets = [UsableImages.of(images) for images in open_training_images(recipe)]
    transforms: list[Transform] = [] if recipe.void == "background" else [TreatVoid(recipe.void)]
    if recipe.negatives is not None:
        negatives = recipe.negatives
        source = build_negatives(negatives, recipe.data_root)
        # Before the crop, as both papers do, so that objects are cut and scaled with their host.
        transforms.append(
            PasteNegatives(
                source,
                negatives.probability,
                negatives.count,
                negatives.relative_size,
                others=ConcatDataset(datasets),
            )
        )
    transforms += [RandomScaleCrop(recipe.crop, recipe.short_side), RandomFlip()]
    return DrawnSamples(
        datasets,
        transforms,
        seed=recipe.seed,
        length=recipe.iterations * recipe.batch_size,
    )


def open_training_images(recipe: Recipe) -> list[SegmentationDataset]:
    """The labelled images to train on as they are, nothing pasted, dataset by dataset."""
    return [_open(dataset, recipe) for dataset in recipe.train]


def build_validation(recipe: Recipe) -> list[Sample]:
    """The validation images, with objects pasted where the recipe says so; the same at every call."""
    samples: list[Sample] = []
    objects = recipe.validation_negatives
    source = None if objects is None else build_negatives(objects, recipe.data_root)
    datasets = [_open(dataset, recipe) for dataset in recipe.validation]
    total = sum(len(dataset) for dataset in datasets)
    share = min(1.0, recipe.validation_images / total) if recipe.validation_images and total else 1.0
    for dataset in datasets:
        images: SampleSource = dataset
        if objects is not None and source is not None:
            images = PastedValidation(
                dataset, source, seed=recipe.seed, count=objects.count, relative_size=objects.relative_size
            )
        count = max(1, round(share * len(dataset)))
        samples += [images[index * len(dataset) // count] for index in range(count)]
    return samples


CACHED_BYTES = 2 << 30
"""Most memory that one dataset's decoded images may take."""


def _open(dataset: DatasetRecipe, recipe: Recipe) -> SegmentationDataset:
    def opened(cache: bool) -> SegmentationDataset:
        return open_dataset(
            dataset.name,
            Path(recipe.data_root) / dataset.root,
            dataset.split,
            target=recipe.taxonomy,
            ignore_classes=dataset.ignore_classes,
            panoptic=recipe.panoptic,
            cache=cache,
        )

    images = opened(cache=False)
    return opened(cache=True) if _decoded_bytes(images) <= CACHED_BYTES else images


def _decoded_bytes(images: SegmentationDataset) -> int:
    """About what all samples take in memory: as many times as the first image's file says of its own size."""
    try:
        with Image.open(images.records[0].image) as first:
            return len(images) * 7 * first.width * first.height  # image, labels, outliers and instances
    except OSError:  # not the place to complain: the run leaves out what it can't read
        return CACHED_BYTES + 1
