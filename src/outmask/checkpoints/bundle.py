"""A model with all that is needed to run it: what every loader here gives."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from outmask.data.taxonomies import CITYSCAPES
from outmask.errors import OutmaskError
from outmask.models import Model
from outmask.preprocessing import Preprocessing
from outmask.types import Color, Taxonomy


@dataclass
class ModelBundle:
    """A model and what it needs to be used.

    Attributes:
        model: the network; the loaders give it in eval mode, float32, on the CPU.
        taxonomy: what its class ids mean.
        preprocessing: how it wants its pixels.
        licence: of the weights, an SPDX name or a sentence.
        provenance: where the weights come from.
        name: for messages and results.
        operating_points: thresholds, by score name, each with where it came from.
        statistics: what detectors have learned from the training set, by detector and name.

    Raises:
        OutmaskError: where model and taxonomy differ in their number of classes.
    """

    model: Model
    taxonomy: Taxonomy
    preprocessing: Preprocessing
    licence: str
    provenance: dict[str, Any]
    name: str
    operating_points: dict[str, dict[str, Any]] = field(default_factory=dict)
    statistics: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.model.config.num_classes != self.taxonomy.num_classes:
            model, taxonomy = self.model.config.num_classes, self.taxonomy.num_classes
            raise OutmaskError(f"{self.name}: the model has {model} classes, its taxonomy {taxonomy}")


def nameless_taxonomy(num_classes: int) -> Taxonomy:
    """The taxonomy of a file that says nothing of classes: 19 are taken for Cityscapes'."""
    if num_classes == CITYSCAPES.num_classes:
        return CITYSCAPES
    return plain_taxonomy([f"class {index}" for index in range(num_classes)])


def plain_taxonomy(names: Sequence[str]) -> Taxonomy:
    """A taxonomy of which nothing is known but the names; repeated ones get their number."""
    unique = tuple(f"{name} ({index})" if names.count(name) > 1 else name for index, name in enumerate(names))
    count = len(unique)
    return Taxonomy(unique, distinct_colors(count), unknown_id=count, void_id=max(255, count + 1))


def distinct_colors(count: int) -> tuple[Color, ...]:
    """``count`` RGB colours, the same in every run; neighbours are a golden angle of hue apart."""
    colors = []
    for index in range(count):
        hue = index * 0.618034 % 1  # the golden ratio's fraction never repeats a hue
        parts = colorsys.hsv_to_rgb(hue, (0.9, 0.6)[index % 2], (0.95, 0.75, 0.55)[index % 3])
        red, green, blue = (round(255 * part) for part in parts)
        colors.append((red, green, blue))
    return tuple(colors)
