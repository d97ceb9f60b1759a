"""What a recipe says, built: the model, its losses, and the images that it learns from."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args, get_type_hints

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
from outmask.training.recipe import DatasetRecipe, NegativesRecipe, ObjectsRecipe, OutlierLossRecipe, Recipe
from outmask.types import Taxonomy
from outmask.weights import bundled_models


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
