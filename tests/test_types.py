"""The values: what is accepted, what is refused and in which words."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from outmask.errors import OutmaskError
from outmask.types import MaskPrediction, OpenSetResult, PixelPrediction, Segment, Taxonomy

TAXONOMY = Taxonomy(("road", "car"), ((0, 0, 0), (0, 0, 255)), things=(False, True), ground=("road",))


def test_a_taxonomy_fills_in_its_ids() -> None:
    assert TAXONOMY.num_classes == 2
    assert TAXONOMY.evaluation_ids == (0, 1)
    assert (TAXONOMY.unknown_id, TAXONOMY.void_id) == (2, 255)


def test_a_taxonomy_survives_json() -> None:
    other = Taxonomy(("a",), ((1, 2, 3),), evaluation_ids=(7,), unknown_id=9, void_id=11)
    for taxonomy in (TAXONOMY, other):
        assert Taxonomy.from_json(taxonomy.to_json()) == taxonomy


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": ()}, "at least one"),
        ({"names": ("a", "a")}, "unique"),
        ({"colors": ((0, 0, 0),)}, "colors must have one entry"),
        ({"colors": ((0, 0, 0), (0, 0, 256))}, "0 to 255"),
        ({"things": (True,)}, "things must have one entry"),
        ({"evaluation_ids": (1, 2, 3)}, "evaluation_ids must have one entry"),
        ({"ground": ("moon",)}, "moon"),
        ({"unknown_id": 1}, "unknown_id"),
        ({"unknown_id": 255}, "differ"),
    ],
)
def test_a_bad_taxonomy_is_refused(change: dict[str, Any], message: str) -> None:
    values: dict[str, Any] = {"names": ("a", "b"), "colors": ((0, 0, 0), (1, 1, 1))}
    with pytest.raises(OutmaskError, match=message):
        Taxonomy(**{**values, **change})


@pytest.mark.parametrize(
    ("classes", "masks", "message"),
    [
        ((2, 3), (2, 3, 4, 4), "expects"),
        ((2, 3, 4), (2, 3, 4), "expects"),
        ((2, 3, 4), (2, 5, 4, 4), "agree"),
        ((1, 3, 4), (2, 3, 4, 4), "agree"),
        ((2, 3, 1), (2, 3, 4, 4), "no object"),
    ],
)
def test_a_bad_prediction_is_refused(classes: tuple[int, ...], masks: tuple[int, ...], message: str) -> None:
    with pytest.raises(OutmaskError, match=message):
        MaskPrediction(torch.zeros(classes), torch.zeros(masks))


def test_no_object_is_no_known_class() -> None:
    assert MaskPrediction(torch.zeros(1, 3, 8), torch.zeros(1, 3, 2, 2)).num_classes == 7


@pytest.mark.parametrize(
    ("logits", "outlier_logits", "message"),
    [
        ((2, 3, 4), None, r"expects logits \(B, K, h, w\), got \(2, 3, 4\)"),
        ((2, 0, 4, 4), None, "at least one known class"),
        ((2, 3, 4, 5), (2, 5, 4), r"\(2, 4, 5\) like the logits, got \(2, 5, 4\)"),
        ((2, 3, 4, 5), (1, 4, 5), "like the logits"),
        ((2, 3, 4, 5), (2, 1, 4, 5), "like the logits"),
    ],
)
def test_a_bad_pixel_prediction_is_refused(
    logits: tuple[int, ...], outlier_logits: tuple[int, ...] | None, message: str
) -> None:
    with pytest.raises(OutmaskError, match=message):
        PixelPrediction(torch.zeros(logits), None if outlier_logits is None else torch.zeros(outlier_logits))


def test_void_is_no_known_class() -> None:
    assert PixelPrediction(torch.zeros(1, 7, 2, 2), torch.zeros(1, 2, 2)).num_classes == 7


@pytest.mark.parametrize("change", [{"id": 0}, {"area": 0}, {"bbox": (0, 0, 0, 3)}])
def test_a_bad_segment_is_refused(change: dict[str, Any]) -> None:
    values = {
        "id": 1,
        "class_id": 0,
        "name": "road",
        "is_unknown": False,
        "area": 4,
        "score": 0.5,
        "bbox": (0, 0, 2, 2),
    }
    assert Segment(**values).area == 4  # type: ignore[arg-type]
    with pytest.raises(OutmaskError):
        Segment(**{**values, **change})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change",
    [
        {"score": np.zeros((4, 5), np.float64)},
        {"score": np.zeros((5,), np.float32)},
        {"image": np.zeros((4, 6, 3), np.uint8)},
        {"image": np.zeros((4, 5, 3), np.float32)},
        {"labels": np.zeros((4, 5), np.int64)},
        {"open_labels": np.zeros((5, 4), np.int32)},
        {"panoptic": np.zeros((4, 5), np.int32)},
    ],
)
def test_a_bad_result_is_refused(change: dict[str, Any]) -> None:
    values: dict[str, Any] = {
        "image": np.zeros((4, 5, 3), np.uint8),
        "score": np.zeros((4, 5), np.float32),
        "labels": np.zeros((4, 5), np.int32),
        "taxonomy": TAXONOMY,
        "score_name": "eam",
        "display_range": (-1.0, 0.0),
    }
    assert OpenSetResult(**values).open_labels is None
    with pytest.raises(OutmaskError):
        OpenSetResult(**{**values, **change})
