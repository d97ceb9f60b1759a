"""Every recipe of the package: what it says, its model in full size, and its run on miniature official datasets."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file

from outmask.data.coco import ids_to_rgb
from outmask.data.flow import FlowConfig, PatchFlow
from outmask.data.labels import IGNORE, VOID, Target
from outmask.data.negatives import STREET_CATEGORIES
from outmask.data.taxonomies import taxonomy
from outmask.models import Mask2Former, Mask2FormerConfig
from outmask.models.backbones import PRESETS
from outmask.training.build import backbone_of, build_model, build_training_set
from outmask.training.inheritance import BUNDLED, bundled_recipes, read_settings
from outmask.training.recipe import Recipe
from outmask.training.run import main, read_recipe, train

NAMES = bundled_recipes()
OF_PAPERS = [name for name in NAMES if name.startswith(("m2f_eam/", "mask2anomaly/", "baselines/"))]

recipe_of = cache(read_recipe)


# ------------------------------------------------------------------------------------------------ what they say


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_is_short_and_says_itself_what_it_reproduces(name: str) -> None:
    text = (BUNDLED / f"{name}.yaml").read_text()
    assert len(text.splitlines()) <= 40
    assert yaml.safe_load(text)["reproduces"], "not what it inherits from"
    assert recipe_of(name).reproduces


def test_no_two_recipes_train_the_same() -> None:
    settings = [{**read_settings(name), "reproduces": ""} for name in NAMES]
    assert not [(NAMES[i], NAMES[j]) for i in range(len(NAMES)) for j in range(i) if settings[i] == settings[j]]


@pytest.mark.parametrize("name", NAMES)
def test_a_second_stage_starts_from_a_recipe_of_the_package_with_the_same_classes(name: str) -> None:
    recipe = recipe_of(name)
    if recipe.start_from is not None:
        first = recipe_of(_first_stage(recipe.start_from))
        assert recipe.taxonomy == first.taxonomy
        assert recipe.pretrained is None
        assert recipe.iterations < first.iterations


# The papers' settings, beside Mask2Former's own where they say nothing: backbone; attention, or kind of model; queries;
# taxonomy; iterations, batch, learning rate; whether the backbone is frozen.
_CITY = ("cityscapes", 90_000, 16, 1e-4, False)
_CITY_18 = ("cityscapes", 90_000, 18, 1e-4, False)
_VOID = ("cityscapes", 2_000, 18, 1e-5, False)
_FROZEN = ("cityscapes", 90_000, 16, 1e-4, True)
_CONTRASTIVE = ("resnet50", "global", 100, "cityscapes", 4_000, 8, 1e-5, True)
SETTINGS: dict[str, tuple[Any, ...]] = {
    "m2f_eam/swin_large": ("swin-large", "masked", 100, *_CITY_18),
    "m2f_eam/swin_large_vistas": ("swin-large", "masked", 100, "cityscapes", 115_000, 18, 1e-4, False),
    "m2f_eam/swin_large_ade20k": ("swin-large", "masked", 100, *_VOID),
    "m2f_eam/swin_large_patches": ("swin-large", "masked", 100, *_VOID),
    "m2f_eam/swin_large_flow": ("swin-large", "masked", 100, *_VOID),
    "m2f_eam/swin_large_19_queries": ("swin-large", "masked", 19, *_CITY_18),
    "m2f_eam/swin_large_50_queries": ("swin-large", "masked", 50, *_CITY_18),
    "m2f_eam/convnext_large": ("convnext-large", "masked", 100, *_CITY_18),
    "m2f_eam/resnet50": ("resnet50", "masked", 100, *_CITY_18),
    "m2f_eam/per_pixel_swin_large": ("swin-large", "per_pixel", None, *_CITY_18),
    "m2f_eam/per_pixel_resnet50": ("resnet50", "per_pixel", None, *_CITY_18),
    "m2f_eam/deeplab_resnet50": ("resnet50", "deeplab_v3_plus", None, *_CITY_18),
    "m2f_eam/coco_open20": ("resnet50", "masked", 100, "coco_panoptic_open20", 368_750, 18, 1e-4, False),
    "mask2anomaly/cityscapes_global": ("resnet50", "global", 100, *_FROZEN),
    "mask2anomaly/cityscapes_masked": ("resnet50", "masked", 100, *_FROZEN),
    "mask2anomaly/cityscapes_cross": ("resnet50", "cross", 100, *_FROZEN),
    "mask2anomaly/contrastive": _CONTRASTIVE,
    "mask2anomaly/contrastive_masked": ("resnet50", "masked", *_CONTRASTIVE[2:]),
    "mask2anomaly/contrastive_s2": _CONTRASTIVE,
    "mask2anomaly/contrastive_released": _CONTRASTIVE,
    "mask2anomaly/contrastive_margin_050": _CONTRASTIVE,
    "mask2anomaly/contrastive_margin_100": _CONTRASTIVE,
    "mask2anomaly/contrastive_probability_010": _CONTRASTIVE,
    "mask2anomaly/contrastive_probability_050": _CONTRASTIVE,
    "mask2anomaly/bce": _CONTRASTIVE,
    "mask2anomaly/streethazards_global": ("swin-base", "global", 100, "streethazards", 50_000, 16, 1e-4, False),
    "mask2anomaly/streethazards_contrastive": ("swin-base", "global", 100, "streethazards", 5_000, 8, 1e-5, True),
    "mask2anomaly/coco_open5": ("resnet50", "global", 100, "coco_panoptic_open5", 370_000, 8, 1e-4, True),
    "mask2anomaly/coco_open10": ("resnet50", "global", 100, "coco_panoptic_open10", 370_000, 8, 1e-4, True),
    "mask2anomaly/coco_open20": ("resnet50", "global", 100, "coco_panoptic_open20", 370_000, 8, 1e-4, True),
    "mask2anomaly/coco_open20_masked": ("resnet50", "masked", 100, "coco_panoptic_open20", 370_000, 8, 1e-4, True),
    "mask2anomaly/mask2former_resnet50": ("resnet50", "masked", 100, *_CITY),
    "mask2anomaly/mask2former_resnet101": ("resnet101", "masked", 100, *_CITY),
    "mask2anomaly/mask2former_swin_tiny": ("swin-tiny", "masked", 100, *_CITY),
    "mask2anomaly/mask2former_swin_small": ("swin-small", "masked", 100, *_CITY),
    "mask2anomaly/ade20k_masked": ("resnet50", "masked", 100, "ade20k", 40_000, 16, 1e-4, False),
    "mask2anomaly/ade20k_global": ("resnet50", "global", 100, "ade20k", 40_000, 16, 1e-4, False),
    "mask2anomaly/vistas_masked": ("resnet50", "masked", 100, "mapillary_vistas", 40_000, 16, 1e-4, False),
    "mask2anomaly/vistas_global": ("resnet50", "global", 100, "mapillary_vistas", 40_000, 16, 1e-4, False),
    "baselines/void_classifier": ("resnet50", "deeplab_v3_plus", None, *_VOID),
    "baselines/outlier_head": ("resnet50", "deeplab_v3_plus", None, *_VOID),
    "baselines/maximised_entropy": ("resnet50", "deeplab_v3_plus", None, *_VOID),
    "baselines/energy_margin": ("resnet50", "deeplab_v3_plus", None, *_VOID),
    "baselines/densehybrid": ("resnet50", "deeplab_v3_plus", None, *_VOID),
    "baselines/densehybrid_s1": ("resnet50", "deeplab_v3_plus", None, *_VOID),
    "baselines/densehybrid_s2": ("resnet50", "deeplab_v3_plus", None, *_VOID),
    "baselines/rba_swin_base": ("swin-base", "masked", 100, *_CITY),
    "baselines/rba": ("swin-base", "masked", 100, "cityscapes", 2_000, 16, 1e-4, True),
    "baselines/uno": ("swin-large", "masked", 100, *_VOID),
    "baselines/void_train_open5": ("resnet50", "masked", 100, "coco_panoptic_open5", 370_000, 8, 1e-4, True),
    "baselines/void_train_open10": ("resnet50", "masked", 100, "coco_panoptic_open10", 370_000, 8, 1e-4, True),
    "baselines/void_train_open20": ("resnet50", "masked", 100, "coco_panoptic_open20", 370_000, 8, 1e-4, True),
    "baselines/void_suppression_open20": ("resnet50", "masked", 100, "coco_panoptic_open20", 370_000, 8, 1e-4, True),
    "baselines/void_ignorance_open20": ("resnet50", "masked", 100, "coco_panoptic_open20", 370_000, 8, 1e-4, True),
}
PRETRAINED = {
    "resnet50": "microsoft/resnet-50",
    "resnet101": "microsoft/resnet-101",
    "swin-tiny": "microsoft/swin-tiny-patch4-window7-224",
    "swin-small": "microsoft/swin-small-patch4-window7-224",
    "swin-base": "microsoft/swin-base-patch4-window12-384-in22k",
    "swin-large": "microsoft/swin-large-patch4-window12-384-in22k",
    "convnext-large": "facebook/convnext-large-224-22k",
}


@pytest.mark.parametrize("name", OF_PAPERS)
def test_a_recipe_of_the_papers_has_their_settings(name: str) -> None:
    recipe = recipe_of(name)
    model = recipe.model
    queries = model["num_queries"] if "kind" not in model else None
    assert SETTINGS[name] == (
        model["backbone"],
        model.get("kind", model.get("attention")),
        queries,
        recipe.taxonomy,
        recipe.iterations,
        recipe.batch_size,
        recipe.learning_rate,
        recipe.freeze_backbone,
    )
    if recipe.start_from is None:
        barlow_twins = recipe.freeze_backbone  # Mask2Anomaly's ResNet-50, whose weights never change
        expected = "backbones/barlow_twins_resnet50.pth" if barlow_twins else PRETRAINED[model["backbone"]]
        assert recipe.pretrained == expected


@pytest.mark.parametrize(
    ("name", "kind", "probability", "loss"),
    [
        ("m2f_eam/swin_large_ade20k", "label_maps", 1.0, None),
        ("m2f_eam/swin_large_patches", "inlier_patches", 1.0, None),
        ("m2f_eam/swin_large_flow", "flow", 1.0, None),
        ("mask2anomaly/contrastive", "coco", 0.2, ("contrastive", False, 0.75)),
        ("mask2anomaly/contrastive_masked", "coco", 0.2, ("contrastive", False, 0.75)),
        ("mask2anomaly/contrastive_released", "coco", 0.2, ("contrastive", True, 0.75)),
        ("mask2anomaly/contrastive_margin_050", "coco", 0.2, ("contrastive", False, 0.5)),
        ("mask2anomaly/contrastive_margin_100", "coco", 0.2, ("contrastive", False, 1.0)),
        ("mask2anomaly/contrastive_probability_010", "coco", 0.1, ("contrastive", False, 0.75)),
        ("mask2anomaly/contrastive_probability_050", "coco", 0.5, ("contrastive", False, 0.75)),
        ("mask2anomaly/bce", "coco", 0.2, ("bce", False, 0.75)),
        ("mask2anomaly/streethazards_contrastive", "coco", 0.2, ("contrastive", False, 0.75)),
        ("baselines/rba", "coco", 0.1, ("rba", False, 0.75)),
        ("baselines/uno", "label_maps", 1.0, ("negative_class", False, 0.75)),
        ("baselines/densehybrid", "label_maps", 1.0, ("densehybrid", False, 0.75)),
        ("baselines/densehybrid_s1", "coco", 0.2, ("densehybrid", False, 0.75)),
    ],
)
def test_negatives_come_from_the_papers_source_in_its_own_size(
    name: str, kind: str, probability: float, loss: tuple[Any, ...] | None
) -> None:
    recipe = recipe_of(name)
    assert recipe.negatives is not None
    assert [source.kind for source in recipe.negatives.sources] == [kind]
    assert recipe.negatives.probability == probability
    assert (recipe.negatives.count, recipe.negatives.relative_size) == ((1, 1), None)
    outlier = recipe.loss.outlier
    assert loss == (None if outlier is None else (outlier.kind, outlier.released, outlier.margin))
    if kind == "coco":
        (source,) = recipe.negatives.sources
        assert (source.joint, source.minimum_side, source.subset, source.exclude) == (True, 480, 300, "image")


def test_the_outlier_sets_s1_and_s2_differ_in_the_images_alone() -> None:
    first, second = recipe_of("mask2anomaly/contrastive"), recipe_of("mask2anomaly/contrastive_s2")
    assert first.negatives is not None
    assert second.negatives is not None
    (one,), (other,) = first.negatives.sources, second.negatives.sources
    assert one.subset_seed != other.subset_seed
    same = replace(second.negatives, sources=[replace(other, subset_seed=one.subset_seed)])
    assert replace(second, negatives=same, reproduces=first.reproduces) == first


# ------------------------------------------------------------------------------------------------ in full size

# Millions, as published with the classifiers of ImageNet, less these.
BACKBONE_PARAMETERS = {
    "resnet50": 23.5,
    "resnet101": 42.5,
    "swin-tiny": 27.5,
    "swin-small": 48.8,
    "swin-base": 86.9,
    "swin-large": 195.2,
    "convnext-large": 196.2,
}


def _millions(module: torch.nn.Module, trained: bool = False) -> float:
    return sum(part.numel() for part in module.parameters() if part.requires_grad or not trained) / 1e6


def _full_size(name: str) -> torch.nn.Module:
    recipe = recipe_of(name)
    first = recipe if recipe.model or recipe.start_from is None else recipe_of(_first_stage(recipe.start_from))
    with torch.device("meta"):
        return build_model(replace(recipe, model=first.model, pretrained=None, start_from=None))


@pytest.mark.parametrize("name", OF_PAPERS)
def test_the_full_model_is_as_large_as_the_papers(name: str) -> None:
    backbone, kind, queries, classes, *_, frozen = SETTINGS[name]
    model = _full_size(name)
    body = _millions(backbone_of(model))
    head = _millions(model) - body
    assert body == pytest.approx(BACKBONE_PARAMETERS[backbone], rel=0.02)
    assert model.config.num_classes == taxonomy(classes).num_classes
    if isinstance(model, Mask2Former):
        assert (model.config.attention, model.config.num_queries) == (kind, queries)
        # Mask2Former's 44 M with ResNet-50 (Mask2Anomaly table X) less the backbone; GMA adds 9 layers of 263 k. RbA's
        # one decoder layer and one level leave 8 of these. The projections of the backbone's maps differ by 1 M.
        expected = 8.3 if name.startswith("baselines/rba") else 20.5 + (2.4 if kind == "global" else 0)
        assert head == pytest.approx(expected, abs=1)
    else:
        assert 5 < head < 18  # a pixel decoder, or a pyramid and a decoder, and a 1x1 convolution
    # ResNet-101's BatchNorm, which is always frozen, has 0.105 M.
    assert _millions(model, trained=True) == pytest.approx(head if frozen else head + body, abs=0.11)


def test_mask2anomaly_trains_23_million_parameters() -> None:
    # Its table X, and the models beside it; Swin-T is 47 M in Mask2Former's own paper, 42 M here.
    assert round(_millions(_full_size("mask2anomaly/contrastive"), trained=True)) == 23
    sizes = {"resnet50": 44, "resnet101": 63, "swin_small": 69, "swin_tiny": 47}
    assert {name: round(_millions(_full_size(f"mask2anomaly/mask2former_{name}"))) for name in sizes} == sizes


@pytest.mark.parametrize("name", sorted({*NAMES} - {*OF_PAPERS}))
def test_the_other_models_are_small(name: str) -> None:
    assert recipe_of(name).model.get("backbone", "mobilenet_v2") == "mobilenet_v2"
    if recipe_of(name).model:
        assert _millions(_full_size(name)) < 5


# ------------------------------------------------------------------------------------------------ in miniature

HEIGHT, WIDTH = 48, 64


class Miniature:
    """All datasets that the recipes name, in their official layouts, with few and small images."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.rng = np.random.default_rng(0)
        self._semantic()
        self._coco()
        self._objects()

    def image(self, path: str, size: tuple[int, int] = (HEIGHT, WIDTH)) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = self.rng.integers(0, 256, (size[0] // 8, size[1] // 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize(size[::-1]).save(file)

    def png(self, path: str, values: NDArray[Any]) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(values).save(file)

    def blocks(self, ids: tuple[int, ...]) -> NDArray[np.uint8]:
        """Six equal rectangles, each of one of the ids."""
        drawn = self.rng.choice(np.array(ids, np.uint8), (2, 3))
        return np.kron(drawn, np.ones((HEIGHT // 2, WIDTH // 3 + 1), np.uint8))[:, :WIDTH]

    def pair(self, image: str, labels: str, classes: str) -> None:
        self.image(image)
        self.png(labels, self.blocks(taxonomy(classes).evaluation_ids))

    def _semantic(self) -> None:
        for number in (1, 2):
            for split, long in (("train", "training"), ("val", "validation")):
                stem = f"{split}/aachen/aachen_00000{number}_000019_"
                self.pair(
                    f"cityscapes/leftImg8bit/{stem}leftImg8bit.png",
                    f"cityscapes/gtFine/{stem}gtFine_labelIds.png",
                    "cityscapes",
                )
                vistas = f"mapillary_vistas/{long}"
                self.pair(f"{vistas}/images/{number}.jpg", f"{vistas}/labels/{number}.png", "mapillary_vistas")
                ade = f"ADE_{split}_{number}"
                self.pair(
                    f"ADEChallengeData2016/images/{long}/{ade}.jpg",
                    f"ADEChallengeData2016/annotations/{long}/{ade}.png",
                    "ade20k",
                )
                street = f"{long}/t1-3/{number}.png"
                self.pair(
                    f"streethazards/train/images/{street}",
                    f"streethazards/train/annotations/{street}",
                    "streethazards",
                )
                self.pair(f"camvid/{split}/{number}.png", f"camvid/{split}annot/{number}.png", "camvid")
                self.pair(
                    f"idd20k_lite/leftImg8bit/{split}/0/{number}_image.jpg",
                    f"idd20k_lite/gtFine/{split}/0/{number}_label.png",
                    "idd_lite",
                )

    def _coco(self) -> None:
        """Panoptic annotations of two images a split, instances of 300 large ones, which share their pixels.

        Each image has two people, sky, and between the people cars, which are unknown in every open-set split.
        """
        classes = taxonomy("coco_panoptic")
        categories = [
            {"id": id_, "name": name} for id_, name in zip(classes.evaluation_ids, classes.names, strict=True)
        ]
        for split in ("train2017", "val2017"):
            images, annotations = [], []
            for number in (1, 2):
                stem = f"{number:012}"
                self.image(f"coco/{split}/{stem}.jpg")
                ids = np.kron(np.arange(300, 306).reshape(2, 3), np.ones((HEIGHT // 2, WIDTH // 3 + 1), int))[:, :WIDTH]
                self.png(f"coco/annotations/panoptic_{split}/{stem}.png", ids_to_rgb(ids))
                drawn = self.rng.choice(classes.evaluation_ids, 6)
                for name, places in {"person": [0, 2], "car": [1, 4], "sky-other-merged": [3]}.items():
                    drawn[places] = classes.evaluation_ids[classes.names.index(name)]
                segments = [
                    {"id": 300 + index, "category_id": int(category), "iscrowd": 0}
                    for index, category in enumerate(drawn)
                ]
                images.append({"id": number, "file_name": f"{stem}.jpg"})
                annotations.append({"image_id": number, "file_name": f"{stem}.png", "segments_info": segments})
            content = {"images": images, "annotations": annotations, "categories": categories}
            (self.root / f"coco/annotations/panoptic_{split}.json").write_text(json.dumps(content))
        self._instances("coco", "train2017", 300, 480)
        for split in ("train2017", "val2017"):
            self._instances("tiny_coco", split, 2, HEIGHT)

    def _instances(self, folder: str, split: str, count: int, side: int) -> None:
        names = [*STREET_CATEGORIES, "zebra"]
        categories = [{"id": index, "name": name} for index, name in enumerate(names, start=1)]
        images, annotations = [], []
        first = f"{folder}/{split}/{1000:012}.jpg"
        self.image(first, (side, side))
        corner = side // 2
        for number in range(1000, 1000 + count):
            file = self.root / f"{folder}/{split}/{number:012}.jpg"
            if number > 1000:
                os.link(self.root / first, file)
            images.append({"id": number, "file_name": file.name, "height": side, "width": side})
            annotations.append(
                {
                    "image_id": number,
                    "category_id": len(names),
                    "iscrowd": 0,
                    "area": corner**2 if corner**2 > 1000 else 1000,
                    "segmentation": [[0, 0, corner, 0, corner, corner, 0, corner]],
                }
            )
        path = self.root / f"{folder}/annotations/instances_{split}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))

    def _objects(self) -> None:
        mask = np.zeros((32, 32), np.uint8)
        mask[8:24, 8:24] = 255
        for sequence in ("cows", "dog", "goat", "libby", "blackswan", "camel", "soapbox"):
            self.image(f"davis_objects/images/{sequence}_00000.jpg", (32, 32))
            self.png(f"davis_objects/masks/{sequence}_00000.png", mask)
        torch.manual_seed(0)
        flow = PatchFlow(FlowConfig(steps=1, width=4))
        for folder in ("flows/cityscapes_vistas", "runs/ablation_flow"):
            flow.save(self.root / folder)


NARROW = {"dim": 32, "num_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
FIELDS = {
    "mask2former": set(Mask2FormerConfig.__dataclass_fields__),
    "per_pixel": {"dim", "num_heads", "encoder_ffn_dim"},
    "deeplab_v3_plus": {"dim"},
}
SHALLOW: dict[str, dict[str, Any]] = {
    "resnet": {"embedding_size": 8, "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]},
    "swin": {"embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 2, 4]},
    "convnext": {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]},
}


def _narrow(model: dict[str, Any]) -> dict[str, Any]:
    """The same architecture in few channels, on a shallow backbone of the same family."""
    if not model:
        return {}
    preset = PRESETS.get(model["backbone"])
    backbone = model["backbone"] if preset is None else {**preset, **SHALLOW[preset["model_type"]]}
    fields = FIELDS[model.get("kind", "mask2former")]
    return {**model, **{key: value for key, value in NARROW.items() if key in fields}, "backbone": backbone}


def _first_stage(start_from: str) -> str:
    """The recipe whose run ``start_from`` names: runs/NAME/model."""
    return start_from.removeprefix("runs/").removesuffix("/model")


class Runs:
    """Runs of the recipes in miniature, each made when it is first asked for, and after the one that it starts from."""

    def __init__(self, data_root: Path, out: Path) -> None:
        self.data_root, self.out = data_root, out

    def recipe(self, name: str) -> Recipe:
        """The recipe with fewer channels, pixels and iterations; the weights of published backbones are not here."""
        recipe = recipe_of(name)
        start_from = recipe.start_from
        if start_from is None and not recipe.model:  # the grid of the small ablation says where these start
            start_from = "runs/ablation/masked/model"
        return replace(
            recipe,
            data_root=str(self.data_root),
            model=_narrow(recipe.model),
            pretrained=None,
            start_from=None if start_from is None else str(self(_first_stage(start_from)) / "model"),
            crop=(HEIGHT, WIDTH),
            short_side=(HEIGHT, 2 * HEIGHT),
            inference_short_side=HEIGHT,
            iterations=2,
            batch_size=2,
            chunk=2,
            validate_every=2,
            loss=replace(recipe.loss, num_points=64),
        )

    def __call__(self, name: str) -> Path:
        """The run's folder."""
        out = self.out / name
        if not out.exists():
            recipe = self.recipe(name)
            train(recipe, asdict(recipe), out)
        return out


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    """On one thread: these models are too small for more."""
    data_root = tmp_path_factory.mktemp("miniature")
    Miniature(data_root)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Runs(data_root, tmp_path_factory.mktemp("runs"))
    torch.set_num_threads(threads)


TERMS = {
    "contrastive": {"mask", "dice", "class", "contrastive"},
    "bce": {"mask", "dice", "class", "outlier_bce"},
    "rba": {"mask", "dice", "class", "rba"},
    "suppression": {"mask", "dice", "class", "suppression"},
    "negative_class": {"mask", "dice", "class"},
    "void_classifier": {"class"},
    "outlier_head": {"class", "outlier"},
    "maximised_entropy": {"class", "outlier"},
    "energy_margin": {"class", "energy"},
    "densehybrid": {"class", "outlier", "likelihood"},
}


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_trains_in_miniature(runs: Runs, name: str) -> None:
    out, recipe = runs(name), runs.recipe(name)
    rows = list(csv.DictReader((out / "logs/version_0/metrics.csv").open()))
    values = {key: float(row[key]) for row in rows for key in row if row[key]}
    masks = recipe.model.get("kind", "mask2former") == "mask2former"
    outlier = recipe.loss.outlier
    terms = TERMS[outlier.kind] if outlier is not None else {"mask", "dice", "class"} if masks else {"class"}
    assert {key for key in values if key.startswith("train/")} == {f"train/{term}" for term in (*terms, "loss")}
    assert all(math.isfinite(value) for value in values.values())
    assert "val/mIoU" in values
    architecture = json.loads((out / "model/config.json").read_text())["architecture"]
    assert {key: architecture[key] for key in recipe.model} == recipe.model
    assert bool(architecture.get("negative_class")) == (outlier is not None and outlier.kind == "negative_class")
    if recipe.start_from is not None:
        before, after = (load_file(Path(folder) / "model.safetensors") for folder in (recipe.start_from, out / "model"))
        unchanged = {key for key in before if key in after and torch.equal(before[key], after[key])}
        body = {key for key in before if key.startswith("backbone.")}
        assert (body <= unchanged) == recipe.freeze_backbone
        assert unchanged < before.keys()


@pytest.mark.parametrize("name", [name for name in NAMES if read_settings(name).get("negatives")])
def test_a_recipe_with_negatives_pastes_them(runs: Runs, name: str) -> None:
    recipe = runs.recipe(name)
    assert recipe.negatives is not None
    count = round(10 / recipe.negatives.probability)
    draws = build_training_set(replace(recipe, iterations=count))
    # That none of them is pasted happens with one seed in 20,000 at most.
    assert any(draws[index].outlier.any() for index in range(count))


# What void is in training: outliers of a loss, left out, or as it is, claimed by no mask.
VOIDS = {
    "mask2anomaly/coco_open5": ("background", None),
    "mask2anomaly/coco_open10": ("background", None),
    "mask2anomaly/coco_open20": ("background", None),
    "mask2anomaly/coco_open20_masked": ("background", None),
    "m2f_eam/coco_open20": ("background", None),
    "baselines/void_train_open5": ("outlier", "negative_class"),
    "baselines/void_train_open10": ("outlier", "negative_class"),
    "baselines/void_train_open20": ("outlier", "negative_class"),
    "baselines/void_suppression_open20": ("outlier", "suppression"),
    "baselines/void_ignorance_open20": ("ignore", None),
}


def test_every_recipe_on_coco_says_what_void_is() -> None:
    assert {name for name in OF_PAPERS if recipe_of(name).taxonomy.startswith("coco")} == set(VOIDS)


@pytest.mark.parametrize("name", VOIDS)
def test_coco_trains_an_object_a_mask_and_unknown_classes_as_void(runs: Runs, name: str) -> None:
    recipe, (void, kind) = runs.recipe(name), VOIDS[name]
    assert (recipe.void, None if recipe.loss.outlier is None else recipe.loss.outlier.kind) == (void, kind)
    # The whole of both images, which show two people and between them 1056 pixels of cars, more than an outlier needs.
    draws = build_training_set(replace(recipe, short_side=(HEIGHT, HEIGHT)))
    person = taxonomy(recipe.taxonomy).names.index("person")
    for index in range(2):
        sample = draws[index]
        target = Target.from_labels(
            sample.labels, sample.outlier, taxonomy(recipe.taxonomy).num_classes, sample.instances
        )
        assert (target.class_ids == person).sum() >= 2
        cars = np.zeros((HEIGHT, WIDTH), np.bool_)
        cars[:, WIDTH // 3 + 1 : 2 * (WIDTH // 3 + 1)] = True
        if sample.labels[0, WIDTH // 3] != person:  # mirrored
            cars = cars[:, ::-1]
        assert sample.outlier[cars].all() == sample.outlier.any() == (void == "outlier")
        assert (sample.labels[cars] == (IGNORE if void == "ignore" else VOID)).all()
        assert len(target.outliers) == (void == "outlier")


def test_a_bundled_recipe_is_trained_by_its_name(runs: Runs, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["--data_root", str(runs.data_root), "--crop", "[48, 64]", "--short_side", "[48, 96]"]
    small = ["--iterations", "1", "--batch_size", "2", "--inference_short_side", "48", "--pretrained", "null"]
    model = ["--model", json.dumps(_narrow(recipe_of("m2f_eam/per_pixel_resnet50").model))]
    main(["--config", "m2f_eam/per_pixel_resnet50", "--out", str(out), *arguments, *small, *model])
    kept = yaml.safe_load((out / "recipe.yaml").read_text())
    assert "inherit" not in kept
    assert (kept["taxonomy"], kept["model"]["kind"], kept["iterations"]) == ("cityscapes", "per_pixel", 1)
    provenance = json.loads((out / "model/config.json").read_text())["provenance"]
    assert provenance["recipe"]["reproduces"] == "M2F-EAM table 6: ResNet-50 PerPixel"
    assert provenance["recipe"]["train"] == kept["train"]
