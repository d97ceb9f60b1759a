import math

import pytest
import torch

from outmask.scores import describe, display_range, score
from outmask.scores.declarations import SCORES
from outmask.types import MaskPrediction

CERTAIN = 40.0


def one_pixel(class_logits: list[list[float]], mask_logits: list[float]) -> MaskPrediction:
    return MaskPrediction(torch.tensor([class_logits]), torch.tensor(mask_logits).view(1, -1, 1, 1))


@pytest.mark.parametrize("name", [name for name in SCORES if name not in ("unclaimed", "eam-energy-logits")])
@pytest.mark.parametrize("num_classes", [2, 19])
def test_display_range_ends_at_a_certainly_known_and_a_certainly_unknown_pixel(name: str, num_classes: int) -> None:
    known, negative, nothing = [[0.0] * (num_classes + 1) for _ in range(3)]
    known[0] = negative[num_classes - 1] = nothing[num_classes] = CERTAIN
    low, high = display_range(name, num_classes)
    claimed = one_pixel([known, nothing], [CERTAIN, -CERTAIN])
    # UNO alone wants the unknown pixel claimed, by its negative class.
    unknown = one_pixel([known, negative], [-CERTAIN, CERTAIN if name == "uno" else -CERTAIN])
    if name == "ahm":
        unknown = one_pixel([known, nothing], [-CERTAIN, CERTAIN])
    assert score(claimed, name, (1, 1)).item() == pytest.approx(low, abs=1e-6)
    assert score(unknown, name, (1, 1)).item() == pytest.approx(high, abs=1e-6)


@pytest.mark.parametrize("num_classes", [1, 19])
def test_logit_energy_range_starts_at_a_probability_of_99_percent(num_classes: int) -> None:
    class_logits = torch.zeros(num_classes + 1)
    class_logits[0] = math.log(99 * num_classes)
    assert class_logits.softmax(0)[0].item() == pytest.approx(0.99)
    value = score(one_pixel([class_logits.tolist()], [CERTAIN]), "eam-energy-logits", (1, 1)).item()
    assert value == pytest.approx(display_range("eam-energy-logits", num_classes)[0], rel=1e-6)


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("num_classes", [1, 2, 133])
def test_display_ranges_rise(name: str, num_classes: int) -> None:
    low, high = display_range(name, num_classes)
    assert math.isfinite(low)
    assert low < high


@pytest.mark.parametrize("name", SCORES)
def test_descriptions_are_one_line_with_equation_and_source(name: str) -> None:
    description = describe(name)
    assert "\n" not in description
    assert "_q" in description or "_k" in description
    assert any(source in description for source in ("eq. ", "table 5", " 2023)", " 2024)", "outmask"))


def test_uno_takes_the_last_class_before_no_object_as_negative() -> None:
    as_known = one_pixel([[CERTAIN, 0, 0, 0]], [CERTAIN])
    as_negative = one_pixel([[0, 0, CERTAIN, 0]], [CERTAIN])
    as_nothing = one_pixel([[0, 0, 0, CERTAIN]], [CERTAIN])
    values = [score(one, "uno", (1, 1)).item() for one in (as_known, as_nothing, as_negative)]
    assert values == pytest.approx([-1, 0, 1], abs=1e-6)
