import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from outmask.data.labels import IGNORE, VOID, Sample, Target
from outmask.errors import OutmaskError

NO_OUTLIER = np.zeros((2, 3), dtype=bool)


def test_void_is_in_no_mask_and_not_ignored_while_ignore_is_both_left_out_and_unclaimed() -> None:
    labels = np.array([[0, 2, VOID], [IGNORE, 2, 0]], dtype=np.uint8)
    target = Target.from_labels(labels, NO_OUTLIER, num_classes=3)
    assert target.class_ids.tolist() == [0, 2]
    assert target.class_ids.dtype == torch.int64
    assert target.masks.tolist() == [
        [[True, False, False], [False, False, True]],
        [[False, True, False], [False, True, False]],
    ]
    assert target.ignore.tolist() == [[False, False, False], [True, False, False]]


def test_a_pasted_pixel_is_void_whatever_its_label() -> None:
    labels = np.array([[0, 1, VOID], [IGNORE, 1, 0]], dtype=np.uint8)
    outlier = np.array([[False, True, True], [True, True, False]])
    target = Target.from_labels(labels, outlier, num_classes=2)
    assert target.class_ids.tolist() == [0], "class 1 is wholly covered by the pasted object"
    assert not (target.masks & target.outlier).any()
    assert not (target.ignore & target.outlier).any()
    assert target.outlier.tolist() == outlier.tolist()


@pytest.mark.parametrize("value", [VOID, IGNORE])
def test_an_image_without_known_classes_gives_an_empty_target(value: int) -> None:
    target = Target.from_labels(np.full((2, 3), value, dtype=np.uint8), NO_OUTLIER, num_classes=19)
    assert target.class_ids.shape == (0,)
    assert target.masks.shape == (0, 2, 3)
    assert bool(target.ignore.all()) is (value == IGNORE)


@settings(max_examples=60, deadline=None)
@given(
    labels=arrays.arrays(np.uint8, (4, 5), elements=st.sampled_from([0, 1, 2, IGNORE, VOID])),
    outlier=arrays.arrays(np.bool_, (4, 5)),
)
def test_every_pixel_is_exactly_one_of_claimed_ignored_or_void(labels: np.ndarray, outlier: np.ndarray) -> None:
    target = Target.from_labels(labels, outlier, num_classes=3)
    assert target.masks.flatten(1).any(1).all()
    known = torch.from_numpy((labels < 3) & ~outlier)
    void = torch.from_numpy((labels == VOID) | outlier)
    assert torch.equal(target.masks.sum(0) + target.ignore + void, torch.ones(4, 5, dtype=torch.int64))
    assert torch.equal(target.masks.any(0), known)


def test_label_values_outside_of_the_taxonomy_are_named() -> None:
    labels = np.array([[0, 1, 7], [19, 1, VOID]], dtype=np.uint8)
    with pytest.raises(OutmaskError, match=r"\[7, 19\].*0 to 6"):
        Target.from_labels(labels, NO_OUTLIER, num_classes=7)


def test_a_target_does_not_change_with_the_arrays_it_was_made_from() -> None:
    labels, outlier = np.zeros((2, 3), dtype=np.uint8), NO_OUTLIER.copy()
    target = Target.from_labels(labels, outlier, num_classes=1)
    outlier[:] = True
    labels[:] = IGNORE
    assert target.masks.all()
    assert not target.outlier.any()


@pytest.mark.parametrize(
    ("image", "labels", "outlier", "complaint"),
    [
        (np.zeros((2, 4, 3), np.uint8), np.zeros((2, 3), np.uint8), NO_OUTLIER, "image must be"),
        (np.zeros((2, 3, 3), np.float32), np.zeros((2, 3), np.uint8), NO_OUTLIER, "image must be"),
        (np.zeros((2, 3, 3), np.uint8), np.zeros((2, 3), np.int64), NO_OUTLIER, "labels must be"),
        (np.zeros((2, 3, 3), np.uint8), np.zeros((2, 3), np.uint8), np.zeros((3, 2), bool), "outlier must be"),
        (np.zeros((2, 3, 3), np.uint8), np.zeros((2, 3), np.uint8), np.zeros((2, 3), np.uint8), "outlier must be"),
    ],
)
def test_a_sample_refuses_arrays_that_do_not_belong_together(
    image: np.ndarray, labels: np.ndarray, outlier: np.ndarray, complaint: str
) -> None:
    with pytest.raises(OutmaskError, match=f"frame 7: {complaint}"):
        Sample(image, labels, outlier, "frame 7")


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"class_ids": torch.zeros(2, dtype=torch.int32)}, "class_ids"),
        ({"class_ids": torch.zeros(1, dtype=torch.int64)}, "masks"),
        ({"masks": torch.zeros(2, 4, 5)}, "masks"),
        ({"ignore": torch.zeros(4, 4, dtype=torch.bool)}, "ignore"),
        ({"outliers": torch.zeros(1, 4, 5, dtype=torch.uint8)}, "outliers"),
        ({"outliers": torch.zeros(4, 5, dtype=torch.bool)}, "outliers"),
        ({"outliers": torch.zeros(0, 4, 4, dtype=torch.bool)}, "outliers"),
    ],
)
def test_a_target_refuses_tensors_that_do_not_belong_together(changed: dict[str, torch.Tensor], complaint: str) -> None:
    parts = {
        "class_ids": torch.zeros(2, dtype=torch.int64),
        "masks": torch.zeros(2, 4, 5, dtype=torch.bool),
        "ignore": torch.zeros(4, 5, dtype=torch.bool),
        "outliers": torch.zeros(1, 4, 5, dtype=torch.bool),
    }
    with pytest.raises(OutmaskError, match=f"^{complaint} must be"):
        Target(**{**parts, **changed})


def test_to_moves_every_part() -> None:
    target = Target.from_labels(np.zeros((2, 3), dtype=np.uint8), NO_OUTLIER, num_classes=1).to("meta")
    assert {part.device.type for part in (target.class_ids, target.masks, target.ignore, target.outliers)} == {"meta"}


@settings(max_examples=60, deadline=None)
@given(
    labels=arrays.arrays(np.uint8, (4, 5), elements=st.sampled_from([0, 1, 2, IGNORE, VOID])),
    outlier=arrays.arrays(np.bool_, (4, 5)),
    instances=arrays.arrays(np.uint16, (4, 5), elements=st.sampled_from([0, 1, 2, 65535])),
)
def test_objects_of_a_class_are_masks_of_their_own(
    labels: np.ndarray, outlier: np.ndarray, instances: np.ndarray
) -> None:
    target = Target.from_labels(labels, outlier, 3, instances)
    expected = [
        (class_id, mask)
        for class_id in range(3)
        for number in (0, 1, 2, 65535)
        if (mask := (labels == class_id) & (instances == number) & ~outlier).any()
    ]
    pasted = [mask for number in (0, 1, 2, 65535) if (mask := outlier & (instances == number)).any()]
    assert target.class_ids.tolist() == [class_id for class_id, _ in expected]
    assert target.masks.tolist() == [mask.tolist() for _, mask in expected]
    assert target.outliers.tolist() == [mask.tolist() for mask in pasted]
    assert target.outlier.tolist() == outlier.tolist()
    assert target.ignore.tolist() == ((labels == IGNORE) & ~outlier).tolist()


@settings(max_examples=60, deadline=None)
@given(
    labels=arrays.arrays(np.uint8, (4, 5), elements=st.sampled_from([0, 1, 2, IGNORE, VOID])),
    outlier=arrays.arrays(np.bool_, (4, 5)),
    instances=st.none() | arrays.arrays(np.uint16, (4, 5), elements=st.sampled_from([0, 3, 65535])),
)
def test_the_segments_of_a_sample_are_the_masks_of_its_target(
    labels: np.ndarray, outlier: np.ndarray, instances: np.ndarray | None
) -> None:
    sample = Sample(np.zeros((4, 5, 3), np.uint8), labels, outlier, "x", instances)
    ids, segments = sample.panoptic(3)
    target = Target.from_labels(labels, outlier, 3, instances)
    assert [segment["category_id"] for segment in segments] == target.class_ids.tolist()
    assert [segment["id"] for segment in segments] == list(range(1, len(segments) + 1))
    assert [(ids == segment["id"]).tolist() for segment in segments] == target.masks.tolist()
    assert np.array_equal(ids > 0, target.masks.any(0).numpy())


@pytest.mark.parametrize("instances", [np.zeros((2, 2), np.uint16), np.zeros((2, 3), np.int32)])
def test_instances_that_do_not_fit_are_refused(instances: np.ndarray) -> None:
    with pytest.raises(OutmaskError, match=r"frame 7: instances must be \(2, 3\) uint16"):
        Sample(np.zeros((2, 3, 3), np.uint8), np.zeros((2, 3), np.uint8), NO_OUTLIER, "frame 7", instances)
