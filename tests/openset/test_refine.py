"""The refinement mask against a literal implementation of Mask2Anomaly's released inference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from outmask import scores
from outmask.data.taxonomies import CAMVID, CITYSCAPES
from outmask.errors import OutmaskError
from outmask.openset.refine import refine, refinement_mask
from outmask.scores.declarations import SCORES
from outmask.types import MaskPrediction

NAMES = CITYSCAPES.names
STUFF = range(2, 11)
"""Cityscapes' stuff without road and sidewalk, as the released code writes it."""
THINGS = range(11, 19)


def literal(prediction: MaskPrediction, size: tuple[int, int], removed: Sequence[int]) -> tuple[Tensor, Tensor]:
    """``(B, H, W)`` float64 R, and True where ``max_q s_q m_q`` is so close to 0.5 that rounding decides."""
    logits = F.interpolate(prediction.mask_logits.double(), size, mode="bilinear", align_corners=False)
    masks, undecided = [], []
    for class_logits, image in zip(prediction.class_logits.double(), logits.sigmoid(), strict=True):
        score, label = class_logits.softmax(-1).max(-1)
        chosen = (score > 0.95) & torch.tensor([int(value) in removed for value in label])
        strongest = torch.zeros(size, dtype=torch.float64)
        if chosen.sum() > 1:
            strongest = (score[chosen, None, None] * image[chosen]).amax(0)
        masks.append(1 - (strongest >= 0.5).double())
        undecided.append((strongest - 0.5).abs() < 1e-5)
    return torch.stack(masks), torch.stack(undecided)


def prediction_of(
    classes: Sequence[int], mask_logits: Tensor, lead: float = 9.0, num_classes: int = 19
) -> MaskPrediction:
    """One image whose mask q has the class ``classes[q]``, ``lead`` logits before all others."""
    class_logits = torch.zeros(1, len(classes), num_classes + 1)
    class_logits[0, range(len(classes)), list(classes)] = lead
    return MaskPrediction(class_logits, mask_logits[None])


def halves(count: int) -> Tensor:
    """``(count, 4, 6)`` logits of masks that cover the left, the right, the left ... half."""
    logits = torch.full((count, 4, 6), -20.0)
    logits[0::2, :, :3] = 20
    logits[1::2, :, 3:] = 20
    return logits


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    batch=st.integers(1, 3),
    masks=st.integers(1, 30),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    remove=st.sampled_from(["stuff", "things"]),
)
def test_it_is_the_literal_mask_at_any_size(
    seed: int, batch: int, masks: int, height: int, width: int, remove: str
) -> None:
    generator = torch.Generator().manual_seed(seed)
    # Logits this large leave about half of the masks above a probability of 0.95.
    class_logits = torch.randn(batch, masks, 20, generator=generator) * 8
    mask_logits = torch.randn(batch, masks, 7, 9, generator=generator) * 3 - 2
    prediction = MaskPrediction(class_logits, mask_logits)
    keep = refinement_mask(prediction, CITYSCAPES, (height, width), remove)  # type: ignore[arg-type]
    assert keep.dtype == torch.bool
    expected, undecided = literal(prediction, (height, width), STUFF if remove == "stuff" else THINGS)
    assert torch.equal(keep[~undecided], expected[~undecided].bool())


def test_confident_masks_of_stuff_remove_scores_but_ground_and_things_do_not() -> None:
    names = ["building", "sky", "road", "sidewalk", "car"]
    logits = torch.full((5, 1, 5), -20.0)
    logits[range(5), 0, range(5)] = 20
    prediction = prediction_of([NAMES.index(name) for name in names], logits)
    assert refinement_mask(prediction, CITYSCAPES, (1, 5)).tolist() == [[[False, False, True, True, True]]]
    # One thing alone removes nothing; two do.
    assert refinement_mask(prediction, CITYSCAPES, (1, 5), "things").all()
    prediction.class_logits[0, 2] = prediction.class_logits[0, 4]
    assert refinement_mask(prediction, CITYSCAPES, (1, 5), "things").tolist() == [[[True, True, False, True, False]]]


@pytest.mark.parametrize(("count", "removed"), [(0, False), (1, False), (2, True), (3, True)])
def test_it_is_applied_only_when_an_image_has_more_than_one_such_mask(count: int, removed: bool) -> None:
    classes = [NAMES.index("building")] * count + [NAMES.index("car")] * (3 - count)
    keep = refinement_mask(prediction_of(classes, halves(3)), CITYSCAPES, (4, 6))
    assert (not keep.all()) == removed
    # Each image of a batch counts for itself.
    both = MaskPrediction(
        torch.cat([prediction_of(names, halves(3)).class_logits for names in (classes, [NAMES.index("sky")] * 3)]),
        halves(3).expand(2, -1, -1, -1),
    )
    assert torch.equal(refinement_mask(both, CITYSCAPES, (4, 6)), torch.cat([keep, torch.zeros_like(keep)]))


def test_unsure_masks_and_those_of_no_object_remove_nothing() -> None:
    sky = NAMES.index("sky")
    # The class's probability is e^lead / (e^lead + 19): 0.95 at log(361).
    just = torch.tensor(361.0).log().item()
    for lead, removed in ((just - 1e-3, False), (just + 1e-3, True)):
        keep = refinement_mask(prediction_of([sky, sky], halves(2), lead), CITYSCAPES, (4, 6))
        assert (~keep).all() == removed
    no_object = CITYSCAPES.num_classes
    assert refinement_mask(prediction_of([no_object, no_object], halves(2)), CITYSCAPES, (4, 6)).all()


def test_a_pixel_is_covered_from_a_product_of_one_half_on() -> None:
    # s = e^4 / (e^4 + 1), two classes: s m = 0.5 where m = (1 + e^-4) / 2.
    stuff = replace(
        CAMVID, names=("a",), colors=((0, 0, 0),), things=(False,), ground=(), evaluation_ids=(), unknown_id=1
    )
    edge = (1 + torch.tensor(-4.0).exp()) / 2
    logits = torch.logit(edge) + torch.tensor([-1e-3, 1e-3]).expand(2, 1, 2)
    keep = refinement_mask(prediction_of([0, 0], logits, lead=4.0, num_classes=1), stuff, (1, 2))
    assert keep.tolist() == [[[True, False]]]


def test_half_precision_gives_the_mask_of_the_rounded_prediction() -> None:
    generator = torch.Generator().manual_seed(5)
    half = MaskPrediction(
        torch.randn(1, 20, 20, generator=generator).mul(8).half(),
        torch.randn(1, 20, 6, 6, generator=generator).mul(3).half(),
    )
    full = MaskPrediction(half.class_logits.float(), half.mask_logits.float())
    keep = refinement_mask(half, CITYSCAPES, (24, 24))
    assert not keep.all()
    assert torch.equal(keep, refinement_mask(full, CITYSCAPES, (24, 24)))


def largest_allocation(work: Callable[[], object]) -> int:
    """Bytes of the largest tensor that ``work`` allocates."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        work()
    return max(event.cpu_memory_usage for event in recorded.events())


def test_masks_are_never_held_at_full_size() -> None:
    # 100 masks at 512 x 1024 are 210 MB, a tile of them 4 MB; R and its counterpart are bytes, half a megabyte.
    logits = torch.full((100, 32, 64), -1.0)
    prediction = prediction_of([NAMES.index("sky")] * 100, logits)
    assert largest_allocation(lambda: F.interpolate(logits[None], (512, 1024), mode="bilinear")) > 200e6
    assert largest_allocation(lambda: refinement_mask(prediction, CITYSCAPES, (512, 1024))) < 10e6


def test_taxonomies_that_cannot_tell_are_refused() -> None:
    prediction = prediction_of([0, 0], halves(2))
    with pytest.raises(OutmaskError, match=r"needs to know things from stuff.*'things'.*or do without"):
        refinement_mask(prediction, replace(CITYSCAPES, things=None), (4, 6))
    with pytest.raises(OutmaskError, match=r"prediction's 19 classes, got one of 11"):
        refinement_mask(prediction, CAMVID, (4, 6))
    with pytest.raises(OutmaskError, match=r"'stuff' or 'things', got 'ground'"):
        refinement_mask(prediction, CITYSCAPES, (4, 6), "ground")  # type: ignore[arg-type]


# --- The refined score ------------------------------------------------------------------------------------------------


def random_maps() -> tuple[dict[str, Tensor], Tensor]:
    generator = torch.Generator().manual_seed(3)
    prediction = MaskPrediction(
        torch.randn(2, 16, 20, generator=generator) * 8, torch.randn(2, 16, 8, 8, generator=generator) * 5 - 4
    )
    return scores.evaluate(prediction, list(SCORES), (32, 40)), refinement_mask(prediction, CITYSCAPES, (32, 40))


@pytest.mark.parametrize("name", list(SCORES))
def test_refinement_lowers_removed_pixels_and_changes_nothing_else(name: str) -> None:
    maps, keep = random_maps()
    assert 0.1 < keep.float().mean() < 0.9
    known, unknown = scores.display_range(name, 19)
    refined = refine(maps[name], keep, known)
    assert refined.dtype == torch.float32
    assert torch.equal(refined[keep], maps[name][keep])
    assert (refined <= maps[name]).all()
    # No removed pixel stays above the known end: at any threshold from there on it is known.
    assert (refined[~keep] <= known).all()
    # A product with R alone would make them certain anomalies of scores from -1 to 0.
    assert (maps[name] > known).any()
    assert known < unknown


def test_of_mask2anomaly_s_score_it_is_the_product_with_r() -> None:
    maps, keep = random_maps()
    score = maps["m2a"]
    product = score * keep
    refined = refine(score, keep, scores.display_range("m2a", 19)[0])
    # Eq. 13 raises a removed pixel's negative score to 0, where no threshold above 0 looks.
    assert (score[~keep] < 0).any()
    torch.testing.assert_close(refined.clamp(min=0), product.clamp(min=0), rtol=0, atol=0)


def test_scores_that_rank_alike_still_do_when_refined() -> None:
    maps, keep = random_maps()
    # Mask2Anomaly's score is 1 + AEM; in float32 the sum rounds to 1.2e-7 of values around 2.
    refined = {name: refine(maps[name], keep, scores.display_range(name, 19)[0]) for name in ("m2a", "aem")}
    torch.testing.assert_close(refined["m2a"], 1 + refined["aem"], rtol=0, atol=2.4e-7)
