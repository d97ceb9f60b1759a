import gc
import math
import subprocess
import sys
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, distributed, nn
from torch.nn import functional as F

from outmask.data.labels import Target
from outmask.errors import OutmaskError
from outmask.losses.outliers import (
    MaskContrastiveLoss,
    OutlierCrossEntropyLoss,
    OutlierLoss,
    RbALoss,
    SuppressionLoss,
)
from outmask.types import MaskPrediction

PredictionMaker = Callable[..., MaskPrediction]

LOSSES: list[OutlierLoss] = [
    MaskContrastiveLoss(),
    MaskContrastiveLoss("released"),
    MaskContrastiveLoss(margin=0.4),
    OutlierCrossEntropyLoss(),
    OutlierCrossEntropyLoss("released"),
    OutlierCrossEntropyLoss(eps=0.1),
    RbALoss(),
    RbALoss(alpha=0.5, inlier=-1.0),
    SuppressionLoss(),
    SuppressionLoss(eps=0.3),
]
every_loss = pytest.mark.parametrize("loss", LOSSES, ids=repr)

KNOWN, PASTED, VOID, IGNORED = range(4)


def target(kinds: Tensor, classes: int = 4) -> Target:
    """Of ``(H, W)`` kinds; known pixels belong to two masks, left and right."""
    left = torch.arange(kinds.shape[1]) < kinds.shape[1] // 2
    masks = torch.stack([(kinds == KNOWN) & left, (kinds == KNOWN) & ~left])
    return Target(torch.tensor([0, classes - 1]), masks, kinds == IGNORED, (kinds == PASTED)[None])


def random_targets(size: tuple[int, int] = (32, 48), batch: int = 2) -> list[Target]:
    """All four kinds of pixels, in blocks of 4 x 4."""
    blocks = torch.randint(4, (batch, size[0] // 4, size[1] // 4), generator=torch.Generator().manual_seed(3))
    return [target(kinds) for kinds in blocks.repeat_interleave(4, 1).repeat_interleave(4, 2)]


def single_mask(probabilities: Sequence[Sequence[float]], masks: Sequence[Sequence[float]]) -> MaskPrediction:
    """One image of one row: of each query its K class probabilities (the rest is *no object*) and its mask's."""
    known = torch.tensor(probabilities, dtype=torch.float64)
    class_logits = torch.cat([known, 1 - known.sum(1, keepdim=True)], 1).log()
    return MaskPrediction(
        class_logits[None].requires_grad_(),
        torch.tensor(masks, dtype=torch.float64).logit()[None, :, None].requires_grad_(),
    )


def literal_penalties(loss: OutlierLoss, class_scores: Tensor) -> tuple[Callable[[Tensor], Tensor], ...]:
    """Score map ``(1, 1, h, w)`` of ``L`` ``(K, h, w)``, penalty of known and of pasted pixels: the equations."""
    largest = class_scores.amax(0)
    match loss:
        case MaskContrastiveLoss(variant="margin", margin=m):
            return 1 - largest, lambda s: s**2, lambda s: (m - s).clamp(min=0) ** 2
        case MaskContrastiveLoss(variant="released", margin=m):
            return -largest, lambda s: s**2, lambda s: (m - s).clamp(min=0) ** 2
        case OutlierCrossEntropyLoss(variant="released"):
            return -largest, lambda s: -(1 - s.sigmoid()).log(), lambda s: -s.sigmoid().log()
        case OutlierCrossEntropyLoss(variant="probability", eps=eps):

            def surprise(p: Tensor) -> Tensor:
                tangent = -math.log(eps) + (eps - p) / eps
                return torch.where(p < eps, tangent, -p.clamp(eps, 1).log())

            return 1 - largest, lambda s: surprise(1 - s), surprise
        case RbALoss(alpha=alpha, inlier=inlier):
            return (
                -class_scores.tanh().sum(0),
                lambda s: 0 * s if inlier is None else (s - inlier).clamp(min=0) ** 2,
                lambda s: (alpha - s).clamp(min=0) ** 2,
            )
        case SuppressionLoss(eps=eps):
            rest = 1 - class_scores
            tangent = -math.log(eps) + (eps - rest) / eps
            surprises = torch.where(rest < eps, tangent, -rest.clamp(eps, 1).log())
            return surprises.sum(0), lambda s: 0 * s, lambda s: s
    raise AssertionError(loss)


def literal_loss(loss: OutlierLoss, layer: MaskPrediction, targets: Sequence[Target]) -> Tensor:
    """The papers' equations with the released code's means, image by image and mask by mask."""
    known, pasted = [], []
    for class_logits, mask_logits, one in zip(layer.class_logits, layer.mask_logits, targets, strict=True):
        class_scores = torch.zeros(class_logits.shape[1] - 1, *mask_logits.shape[1:], dtype=mask_logits.dtype)
        for query in range(len(class_logits)):
            probability = class_logits[query].softmax(0)[:-1]
            class_scores = class_scores + probability[:, None, None] * mask_logits[query].sigmoid()
        score, of_known, of_pasted = literal_penalties(loss, class_scores)
        score = F.interpolate(score[None, None], one.ignore.shape, mode="bilinear")[0, 0]
        known.append(of_known(score[one.masks.any(0) & ~one.ignore & ~one.outlier]))
        pasted.append(of_pasted(score[one.outlier & ~one.ignore]))
    zero = 0 * layer.mask_logits.sum()
    return sum((torch.cat(part).mean() / 2 for part in (known, pasted) if torch.cat(part).numel()), start=zero)


def gradients(losses: dict[str, Tensor], prediction: MaskPrediction) -> list[Tensor]:
    layers = (*prediction.auxiliary, prediction)
    leaves = [logits for layer in layers for logits in (layer.class_logits, layer.mask_logits)]
    return list(torch.autograd.grad(torch.stack(list(losses.values())).sum(), leaves))


@every_loss
def test_equals_the_equations_in_every_layer(loss: OutlierLoss, random_prediction: PredictionMaker) -> None:
    prediction, targets = random_prediction(auxiliary=3), random_targets()
    losses = loss(prediction, targets)
    layers = {f"{loss.name}_{index}": layer for index, layer in enumerate(prediction.auxiliary)}
    layers[loss.name] = MaskPrediction(prediction.class_logits, prediction.mask_logits)
    expected = {key: literal_loss(loss, layer, targets) for key, layer in layers.items()}
    assert list(losses) == list(expected)  # every output of deep supervision, each with weight 1
    torch.testing.assert_close(losses, expected)
    for mine, literal in zip(gradients(losses, prediction), gradients(expected, prediction), strict=True):
        torch.testing.assert_close(mine, literal)


# Two queries and two classes: L_1 = 0.9 m_1 + 0.2 m_2 and L_2 = 0.6 m_2.
#                  known pixels  pasted pixels
MASKS = [[0.5, 1e-12, 0.5, 1e-12], [0.5, 0.25, 1e-12, 0.5]]
LARGEST = [0.55, 0.15, 0.45, 0.3]


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (MaskContrastiveLoss(), (0.45**2 + 0.85**2) / 4 + (0.2**2 + 0.05**2) / 4),
        (MaskContrastiveLoss("released"), (0.55**2 + 0.15**2) / 4 + (1.2**2 + 1.05**2) / 4),
        (OutlierCrossEntropyLoss(), -math.log(0.55 * 0.15) / 4 - math.log(0.55 * 0.7) / 4),
        (OutlierCrossEntropyLoss(eps=0.2), (-math.log(0.55 * 0.2) + 0.05 / 0.2) / 4 - math.log(0.55 * 0.7) / 4),
        (
            OutlierCrossEntropyLoss("released"),
            sum(math.log1p(math.exp(-x)) for x in LARGEST[:2]) / 4
            + sum(math.log1p(math.exp(x)) for x in LARGEST[2:]) / 4,
        ),
        (SuppressionLoss(), -math.log(0.55 * 0.9 * 0.7) / 4),
        (RbALoss(), ((5 + math.tanh(0.45)) ** 2 + (5 + math.tanh(0.1) + math.tanh(0.3)) ** 2) / 4),
        (
            RbALoss(alpha=-0.39, inlier=-0.5),
            # RbA: -0.79 and -0.20 on known pixels, -0.42 and -0.39 (-0.391) on pasted ones.
            (0.5 - math.tanh(0.05) - math.tanh(0.15)) ** 2 / 4
            + ((math.tanh(0.45) - 0.39) ** 2 + (math.tanh(0.1) + math.tanh(0.3) - 0.39) ** 2) / 4,
        ),
    ],
    ids=repr,
)
def test_values_calculated_by_hand(loss: OutlierLoss, expected: float) -> None:
    prediction = single_mask([[0.9, 1e-12], [0.2, 0.6]], MASKS)
    kinds = torch.tensor([[KNOWN, KNOWN, PASTED, PASTED]])
    assert loss(prediction, [target(kinds, classes=2)])[loss.name].item() == pytest.approx(expected, rel=1e-9)


@given(known=st.floats(0.001, 0.999), pasted=st.floats(0.001, 0.999))
def test_margin_and_released_are_the_two_readings_of_the_paper(known: float, pasted: float) -> None:
    prediction = single_mask([[1 - 1e-12]], [[known, pasted]])
    pixels = [target(torch.tensor([[KNOWN, PASTED]]), classes=1)]
    margin = MaskContrastiveLoss()(prediction, pixels)["contrastive"].item()
    released = MaskContrastiveLoss("released")(prediction, pixels)["contrastive"].item()
    assert margin == pytest.approx(((1 - known) ** 2 + max(0, pasted - 0.25) ** 2) / 2, abs=1e-9)
    assert released == pytest.approx((known**2 + (0.75 + pasted) ** 2) / 2, abs=1e-9)


@pytest.mark.parametrize(
    ("loss", "known_rises", "pasted_rises"),
    [
        (MaskContrastiveLoss(), True, False),
        (MaskContrastiveLoss("released"), False, False),  # both terms push max L to 0
        (OutlierCrossEntropyLoss(), True, False),
        (OutlierCrossEntropyLoss("released"), True, False),
        (RbALoss(inlier=-2.0), True, False),
    ],
    ids=repr,
)
def test_where_a_step_of_descent_takes_the_masks(loss: OutlierLoss, known_rises: bool, pasted_rises: bool) -> None:
    prediction = single_mask([[0.9, 0.05], [0.1, 0.5]], [[0.6, 0.5], [0.3, 0.4]])
    _, gradient = gradients(loss(prediction, [target(torch.tensor([[KNOWN, PASTED]]), classes=2)]), prediction)
    known, pasted = gradient[0, 0, 0]
    assert (known < 0) == known_rises
    assert (pasted < 0) == pasted_rises
    assert known.abs() > 1e-3
    assert pasted.abs() > 1e-3


@every_loss
def test_gradients_are_those_of_finite_differences(loss: OutlierLoss) -> None:
    generator = torch.Generator().manual_seed(5)
    class_logits = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64)
    mask_logits = torch.randn(2, 3, 2, 3, generator=generator, dtype=torch.float64)
    targets = random_targets((8, 12))

    def total(class_logits: Tensor, mask_logits: Tensor) -> Tensor:
        inner = MaskPrediction(class_logits.flip(1), mask_logits)
        return torch.stack(list(loss(MaskPrediction(class_logits, mask_logits, (inner,)), targets).values())).sum()

    assert torch.autograd.gradcheck(total, (class_logits.requires_grad_(), mask_logits.requires_grad_()))


@every_loss
def test_only_known_and_pasted_pixels_count(loss: OutlierLoss, random_prediction: PredictionMaker) -> None:
    # Of 8 rows of mask logits, 32 of pixels: 0-7 known, 8-15 pasted, 16-23 void that was not pasted, 24-31 ignored,
    # where even an outlier counts for nothing.
    kinds = torch.tensor([KNOWN, PASTED, VOID, IGNORED]).repeat_interleave(8)[:, None].expand(32, 48)
    plain = target(kinds)
    ignored = Target(plain.class_ids, plain.masks | plain.ignore, plain.ignore, (plain.outlier | plain.ignore)[None])
    prediction = random_prediction(batch=1)
    losses = loss(prediction, [ignored])
    torch.testing.assert_close(losses, loss(prediction, [plain]), rtol=0, atol=0)
    _, gradient = gradients(losses, prediction)
    # The last pasted row of pixels is still interpolated with row 4 of the logits.
    assert not gradient[:, :, 5:].any()
    assert gradient[:, :, 2:4].any()
    changed = prediction.mask_logits.detach().clone()
    changed[:, :, 5:] = 50
    other = MaskPrediction(prediction.class_logits, changed)
    torch.testing.assert_close(loss(other, [ignored]), losses, rtol=0, atol=0)


@every_loss
@pytest.mark.parametrize("kind", [KNOWN, PASTED, VOID, IGNORED])
def test_a_kind_of_pixels_may_be_all_there_is(loss: OutlierLoss, kind: int, random_prediction: PredictionMaker) -> None:
    prediction, targets = random_prediction(), [target(torch.full((32, 48), kind))] * 2
    losses = loss(prediction, targets)
    torch.testing.assert_close(losses, {loss.name: literal_loss(loss, prediction, targets)})
    gradient = gradients(losses, prediction)[1]
    assert gradient.isfinite().all()
    if kind in (VOID, IGNORED):
        assert losses[loss.name].item() == 0
        assert not gradient.any()


def test_an_image_without_masks_has_no_known_pixels(random_prediction: PredictionMaker) -> None:
    nothing = torch.zeros(32, 48, dtype=torch.bool)
    empty = Target(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 32, 48, dtype=torch.bool), nothing, nothing[None])
    assert MaskContrastiveLoss()(random_prediction(), [empty, empty])["contrastive"].item() == 0


@every_loss
@pytest.mark.parametrize("scale", [1e4, 1e30])
def test_saturated_logits_have_finite_losses_and_gradients(
    loss: OutlierLoss, scale: float, random_prediction: PredictionMaker
) -> None:
    made = random_prediction(queries=20)
    prediction = MaskPrediction(
        (scale * made.class_logits).detach().requires_grad_(), (scale * made.mask_logits).detach().requires_grad_()
    )
    losses = loss(prediction, random_targets())
    assert losses[loss.name].isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients(losses, prediction))


def test_cross_entropy_still_teaches_pixels_that_masks_claim_more_than_once() -> None:
    # Two masks of one class at 0.8 each: L = 1.6 on both pixels. Too sure on the pasted one; done on the known one.
    prediction = single_mask([[1 - 1e-12], [1 - 1e-12]], [[0.8, 0.8], [0.8, 0.8]])
    losses = OutlierCrossEntropyLoss()(prediction, [target(torch.tensor([[KNOWN, PASTED]]), classes=1)])
    assert losses["outlier_bce"].item() == pytest.approx((-math.log(0.01) + (0.01 + 0.6) / 0.01) / 2)
    _, gradient = gradients(losses, prediction)
    slope = 0.8 * 0.2 / 0.01 / 2
    torch.testing.assert_close(gradient[0, :, 0], torch.tensor([[0, slope], [0, slope]], dtype=torch.float64))


def test_known_pixels_cost_rba_nothing_without_an_inlier_limit(random_prediction: PredictionMaker) -> None:
    prediction = random_prediction()
    released = RbALoss(inlier=0.0)(prediction, random_targets())  # the released models' limit, which RbA never exceeds
    torch.testing.assert_close(RbALoss()(prediction, random_targets()), released, rtol=0, atol=0)


@every_loss
def test_losses_are_float32_under_autocast(loss: OutlierLoss, random_prediction: PredictionMaker) -> None:
    made = random_prediction(auxiliary=1)
    halves = [
        MaskPrediction(layer.class_logits.bfloat16(), layer.mask_logits.bfloat16()) for layer in (*made.auxiliary, made)
    ]
    half = MaskPrediction(halves[1].class_logits, halves[1].mask_logits, (halves[0],))
    with torch.autocast("cpu", torch.bfloat16):
        losses = loss(half, random_targets())
    losses[loss.name].backward()  # runs the forward pass again, as float32 as before
    inner, outer = (MaskPrediction(layer.class_logits.float(), layer.mask_logits.float()) for layer in halves)
    exact = loss(MaskPrediction(outer.class_logits, outer.mask_logits, (inner,)), random_targets())
    torch.testing.assert_close(losses, exact, rtol=0, atol=0)
    (expected,) = torch.autograd.grad(exact[loss.name], made.mask_logits)
    torch.testing.assert_close(made.mask_logits.grad, expected, rtol=0, atol=0)


def test_the_order_of_masks_does_not_matter(random_prediction: PredictionMaker) -> None:
    prediction, order = random_prediction(), torch.tensor([3, 1, 5, 0, 2, 4])
    shuffled = MaskPrediction(prediction.class_logits[:, order], prediction.mask_logits[:, order])
    for loss in LOSSES:
        torch.testing.assert_close(loss(shuffled, random_targets()), loss(prediction, random_targets()))


def test_nothing_but_the_logits_is_kept_for_the_backward_pass(random_prediction: PredictionMaker) -> None:
    prediction, targets = random_prediction(auxiliary=4), random_targets()
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        MaskContrastiveLoss()(prediction, targets)
    logits = [
        logits for layer in (*prediction.auxiliary, prediction) for logits in (layer.class_logits, layer.mask_logits)
    ]
    of_logits = sum(one.untyped_storage().nbytes() for one in logits)
    of_targets = 2 * 32 * 48 * (1 + 4)  # which pixels are pasted, and a weight for each
    assert sum(kept.values()) == of_logits + of_targets


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MaskContrastiveLoss("literal"), "unknown variant 'literal': choose from margin, released"),  # type: ignore[arg-type]
        (lambda: OutlierCrossEntropyLoss("margin"), "choose from probability, released"),  # type: ignore[arg-type]
        (lambda: MaskContrastiveLoss(margin=0.0), "margin must be above 0 and finite, got 0.0"),
        (lambda: MaskContrastiveLoss(margin=math.inf), "margin"),
        (lambda: MaskContrastiveLoss(margin=math.nan), "margin"),
        (lambda: OutlierCrossEntropyLoss(eps=0.0), "eps must be in (0, 0.5), got 0.0"),
        (lambda: OutlierCrossEntropyLoss(eps=0.5), "eps"),
        (lambda: RbALoss(alpha=math.inf), "alpha must be finite, got inf"),
        (lambda: RbALoss(alpha=math.nan), "alpha"),
        (lambda: RbALoss(alpha=-1.0, inlier=-1.0), "below alpha, got -1.0 and -1.0"),
    ],
)
def test_refuses_settings_without_meaning(make: Callable[[], OutlierLoss], message: str) -> None:
    with pytest.raises(OutmaskError) as error:
        make()
    assert message in str(error.value)


def test_refuses_targets_that_do_not_fit(random_prediction: PredictionMaker) -> None:
    first, second = random_targets()
    with pytest.raises(OutmaskError, match="1 targets for 2 images"):
        MaskContrastiveLoss()(random_prediction(), [first])
    small = target(torch.zeros(16, 16, dtype=torch.int64))
    with pytest.raises(OutmaskError, match="one size"):
        MaskContrastiveLoss()(random_prediction(), [second, small])


# Two processes, for real: this file is also the script that the second one runs.


class TinyModel(nn.Module):
    """Linear in features: 5 masks of 4 classes, and an auxiliary prediction that halves the logits."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.classes, self.masks = nn.Linear(6, 5 * 5), nn.Conv2d(6, 5, 1)

    def forward(self, features: Tensor) -> MaskPrediction:
        class_logits, mask_logits = self.classes(features.mean((2, 3))).view(-1, 5, 5), self.masks(features)
        return MaskPrediction(class_logits, mask_logits, (MaskPrediction(class_logits / 2, mask_logits / 2),))


def step_gradients(model: nn.Module, images: slice) -> dict[str, Tensor]:
    """Gradients of every loss on some of four images, by loss and parameter.

    The first half has no pasted pixel and hardly a known one: means within each process would differ.
    """
    features = 3 * torch.randn(4, 6, 8, 12, generator=torch.Generator().manual_seed(1))
    targets = random_targets(batch=4)
    kinds = torch.full((32, 48), IGNORED)
    targets[0] = target(kinds)
    kinds[:8, :8] = KNOWN
    targets[1] = target(kinds)
    found = {}
    for loss in LOSSES:
        model.zero_grad()
        torch.stack(list(loss(model(features[images]), targets[images]).values())).sum().backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None
            found[f"{loss}.{name.removeprefix('module.')}"] = parameter.grad.clone()
    return found


def run_process(rank: int, rendezvous: str) -> dict[str, Tensor]:
    """Gradients that DDP leaves in process ``rank`` of two: the same in both."""
    distributed.init_process_group(
        "gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2, timeout=timedelta(seconds=120)
    )
    try:
        model = nn.parallel.DistributedDataParallel(TinyModel())
        gradients = step_gradients(model, slice(2 * rank, 2 * rank + 2))
        # The model lies in a circle of references and holds the group, whose threads must not outlive the interpreter:
        # a process was seen to abort at its end, once.
        del model
        gc.collect()
        distributed.barrier()  # neither process leaves while the other still needs it
        return gradients
    finally:
        distributed.destroy_process_group()


def test_two_processes_give_the_gradients_of_the_joint_batch(tmp_path: Path) -> None:
    joint = step_gradients(TinyModel(), slice(0, 4))
    rendezvous = str(tmp_path / "rendezvous")
    with subprocess.Popen([sys.executable, __file__, rendezvous]) as other:
        gradients = run_process(0, rendezvous)
        assert other.wait(timeout=120) == 0
    # Sums of a thousand float32 terms in another order.
    torch.testing.assert_close(gradients, joint, rtol=1e-5, atol=1e-6)


if __name__ == "__main__":
    run_process(1, sys.argv[1])
