from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from outmask import scores
from outmask.data.labels import Target
from outmask.errors import OutmaskError
from outmask.losses import SetCriterion
from outmask.losses.negative_class import with_negative_class
from outmask.types import MaskPrediction

TargetMaker = Callable[..., Target]
KNOWN_CLASSES = 4


def rows(*numbers: int) -> Tensor:
    """``(32, 48)``, True in these rows of four pixels."""
    return torch.isin(torch.arange(32) // 4, torch.tensor(numbers))[:, None].expand(32, 48)


@pytest.fixture
def pasted_target(random_target: TargetMaker) -> Target:
    plain = random_target(0, 3, ignored_rows=8)  # rows 6 and 7
    outlier = rows(2, 5, 6)
    return replace(plain, masks=plain.masks & ~outlier, outliers=outlier[None])


def test_pasted_pixels_become_one_mask_of_class_k(pasted_target: Target) -> None:
    made = with_negative_class(pasted_target, KNOWN_CLASSES)
    assert made.class_ids.tolist() == [*pasted_target.class_ids.tolist(), KNOWN_CLASSES]
    assert torch.equal(made.masks[:-1], pasted_target.masks)
    assert torch.equal(made.masks[-1], rows(2, 5))  # row 6 is ignored
    assert torch.equal(made.ignore, pasted_target.ignore)
    assert torch.equal(made.outlier, pasted_target.outlier)


def test_each_pasted_object_becomes_a_mask_of_its_own(pasted_target: Target) -> None:
    several = replace(pasted_target, outliers=torch.stack([rows(2), rows(5, 6), rows(6)]))
    made = with_negative_class(several, KNOWN_CLASSES)
    assert made.class_ids.tolist() == [*pasted_target.class_ids.tolist(), KNOWN_CLASSES, KNOWN_CLASSES]
    assert torch.equal(made.masks[-2:], torch.stack([rows(2), rows(5)]))  # row 6 is ignored


def test_an_image_without_known_classes_still_has_its_negatives(pasted_target: Target) -> None:
    empty = replace(pasted_target, class_ids=pasted_target.class_ids[:0], masks=pasted_target.masks[:0])
    made = with_negative_class(empty, KNOWN_CLASSES)
    assert made.class_ids.tolist() == [KNOWN_CLASSES]
    assert made.class_ids.dtype == torch.int64


def test_nothing_pasted_changes_nothing(random_target: TargetMaker, pasted_target: Target) -> None:
    plain = random_target(0, 3, ignored_rows=8)
    assert with_negative_class(plain, KNOWN_CLASSES) is plain
    only_ignored = replace(pasted_target, outliers=rows(6, 7)[None])
    assert with_negative_class(only_ignored, KNOWN_CLASSES) is only_ignored


def test_refuses_a_target_that_already_has_the_class(pasted_target: Target) -> None:
    once = with_negative_class(pasted_target, KNOWN_CLASSES)
    with pytest.raises(OutmaskError, match="takes id 4, so known classes must be from 0 to 3"):
        with_negative_class(once, KNOWN_CLASSES)


def test_a_model_that_learns_it_recognises_pasted_pixels_by_uno(pasted_target: Target) -> None:
    # Logits as parameters, K + 1 classes and no object: gradient descent on the criterion alone.
    torch.manual_seed(0)
    class_logits = torch.zeros(1, 6, KNOWN_CLASSES + 2, requires_grad=True)
    mask_logits = torch.randn(1, 6, 8, 12).requires_grad_()
    criterion = SetCriterion(KNOWN_CLASSES + 1, num_points=500)
    optimizer = torch.optim.Adam([class_logits, mask_logits], lr=0.3)
    made = with_negative_class(pasted_target, KNOWN_CLASSES)
    for _ in range(60):
        optimizer.zero_grad()
        losses = criterion(MaskPrediction(class_logits, mask_logits), [made])
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
    prediction = MaskPrediction(class_logits.detach(), mask_logits.detach())
    uno = scores.score(prediction, "uno", (32, 48))[0]
    assert uno[rows(2, 5)].median() > 0.9
    assert uno[made.masks[:-1].any(0)].median() < -0.9
