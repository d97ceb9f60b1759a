"""The score engine against plain PyTorch, and panoptic post-processing against transformers'."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.models.mask2former.image_processing_pil_mask2former import Mask2FormerImageProcessorPil

import outmask
from outmask.app.bench.comparison import Comparison, Report, Values, compare, comparison_report
from outmask.data.world import World
from outmask.openset.panoptic import known_segments
from outmask.scores import evaluate
from outmask.types import MaskPrediction, Taxonomy

_SIZE, _MASK_SIZE = (1024, 2048), (256, 512)
_MASKS, _CLASSES = 100, 19
_REPEATS, _OURS_PER_PEER = 7, 3


@torch.inference_mode()
def scores() -> Report:
    """EAM, AEM and labels from random and from trained masks; the segments of a trained panoptic model."""
    torch.manual_seed(0)
    normal = MaskPrediction(2 * torch.randn(1, _MASKS, _CLASSES + 1), 4 * torch.randn(1, _MASKS, *_MASK_SIZE))
    street = [_predicted("street", number) for number in (90, 91)]
    trained = MaskPrediction(
        torch.cat([part.class_logits for part, _ in street], 1), torch.cat([part.mask_logits for part, _ in street], 1)
    )
    segments, note = _against_transformers(*_predicted("world", 90))
    comparisons = [
        _against_plain("random masks", normal),
        _against_plain("masks of the model street on two drawn scenes", trained),
        segments,
    ]
    return comparison_report(
        comparisons, "of any score, and of the class score that a label stands for", [_memory(comparisons[:2]), note]
    )


def _predicted(model: str, number: int) -> tuple[MaskPrediction, Taxonomy]:
    """What a bundled model makes of a drawn scene at the benchmark's size."""
    segmenter = outmask.load(model, device="cpu")
    image = World("t6", "test").scene(number, _SIZE).image
    pixels = segmenter.preprocessing.normalise(torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float())
    prediction: MaskPrediction = segmenter.model(pixels)
    return prediction, segmenter.taxonomy


def plain_scores(prediction: MaskPrediction, size: tuple[int, int]) -> dict[str, Tensor]:
    """EAM, AEM and labels as they are written: masks at full size, their sigmoid, one product."""
    probabilities = prediction.class_logits.softmax(-1)[..., :-1]
    masks = F.interpolate(prediction.mask_logits, size, mode="bilinear", align_corners=False).sigmoid()
    by_class = torch.einsum("bqk,bqhw->bkhw", probabilities, masks)
    top, labels = by_class.max(1)
    eam = -torch.einsum("bq,bqhw->bhw", probabilities.amax(-1), masks)
    return {"eam": eam, "aem": -top, "labels": labels, "class scores": by_class}


def _against_plain(kind: str, prediction: MaskPrediction) -> Comparison:
    def ours() -> Values:
        return evaluate(prediction, ["eam", "aem"], _SIZE)

    def peer() -> Values:
        maps = plain_scores(prediction, _SIZE)
        return {name: maps[name] for name in ("eam", "aem")}

    count, (height, width) = prediction.class_logits.shape[1], prediction.mask_logits.shape[2:]
    comparison = compare(
        f"EAM, AEM and labels at {_SIZE[0]}x{_SIZE[1]} from {count} {kind}, {height}x{width}",
        "interpolate, sigmoid, einsum",
        ours,
        peer,
        _REPEATS,
        _OURS_PER_PEER,
    )
    assert comparison.difference is not None
    return replace(comparison, difference=max(comparison.difference, label_shortfall(prediction, _SIZE)))


def label_shortfall(prediction: MaskPrediction, size: tuple[int, int]) -> float:
    """By how much the class that the engine chose falls short of the best one, at most: of equals it may be another."""
    by_class = plain_scores(prediction, size)["class scores"]
    labels = torch.as_tensor(evaluate(prediction, [], size)["labels"])
    return float((by_class.amax(1) - by_class.gather(1, labels[:, None])[:, 0]).max())


def _memory(comparisons: list[Comparison]) -> str:
    """The engine's memory beyond the maps that it gives, which the peer has to give, too."""
    maps = _SIZE[0] * _SIZE[1] * (4 + 4 + 8) / 1e6
    shares = [
        f"{(one.peak_mb - maps) / (one.peer_peak_mb - maps):.1%}"
        for one in comparisons
        if one.peak_mb is not None and one.peer_peak_mb is not None
    ]
    return f"memory  beyond the {maps:.0f} MB of the maps themselves, ours is {' and '.join(shares)} of the peer's"


def _against_transformers(prediction: MaskPrediction, taxonomy: Taxonomy) -> tuple[Comparison, str]:
    processor = Mask2FormerImageProcessorPil()
    output = SimpleNamespace(class_queries_logits=prediction.class_logits, masks_queries_logits=prediction.mask_logits)
    stuff = {class_ for class_, thing in enumerate(taxonomy.things or ()) if not thing}

    def ours() -> Values:
        return {"ours": torch.from_numpy(known_segments(prediction, taxonomy, _SIZE).ids)}

    def processed() -> dict[str, Any]:
        (one,) = processor.post_process_panoptic_segmentation(
            output, threshold=0.8, label_ids_to_fuse=stuff, target_sizes=[_SIZE]
        )
        found: dict[str, Any] = one
        return found

    def peer() -> Values:
        return {"its own": processed()["segmentation"]}

    count = prediction.class_logits.shape[1]
    comparison = compare(
        f"segments at {_SIZE[0]}x{_SIZE[1]} from {count} masks of the model world on a drawn scene",
        "transformers post_process_panoptic_segmentation, by its own rule",
        ours,
        peer,
        _REPEATS,
        _OURS_PER_PEER,
    )
    theirs = processed()
    known = known_segments(prediction, taxonomy, _SIZE)
    table = np.array([-1, *(class_ for class_, _ in known.classes)])
    peer_table = np.full(len(prediction.class_logits[0]) + 2, -1)
    for segment in theirs["segments_info"]:
        peer_table[segment["id"]] = segment["label_id"]
    agreement = (table[known.ids] == peer_table[theirs["segmentation"].numpy()]).mean()
    return comparison, (
        f"segments  both give {agreement:.1%} of the pixels the same class or none: transformers resizes to 384x384 "
        "first and paints pixels that a mask prefers but does not hold"
    )
