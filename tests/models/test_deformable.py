from __future__ import annotations

import pytest
import torch
from torch import Tensor

from outmask.models.deformable import (
    DeformableAttention,
    _bag_backward,
    _bag_backward_cpu,
    grid_sample_attention,
    own_places,
    weighted_gather,
)
from outmask.models.pixel_decoder import PixelDecoder

SIZES = [(3, 4), (5, 7), (1, 2)]
TOKENS = sum(height * width for height, width in SIZES)


def arguments(
    dtype: torch.dtype = torch.float64, queries: int = 6, spread: float = 6.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Values, sampling places (a good part of them outside of their level) and weights."""
    generator = torch.Generator().manual_seed(0)
    value = torch.randn(2, TOKENS, 2, 4, generator=generator, dtype=dtype)
    pixels = 1.5 + spread * torch.randn(2, queries, 2, len(SIZES), 3, 2, generator=generator, dtype=dtype)
    weights = torch.rand(2, queries, 2, len(SIZES), 3, generator=generator, dtype=dtype)
    return value, pixels, weights


def bilinear(image: Tensor, x: float, y: float) -> Tensor:
    """Literal bilinear interpolation of ``(h, w, d)``; zero outside."""
    height, width, _ = image.shape
    left, top = int(torch.tensor(x).floor()), int(torch.tensor(y).floor())
    result = torch.zeros(image.shape[2], dtype=image.dtype)
    for row, row_share in ((top, top + 1 - y), (top + 1, y - top)):
        for column, column_share in ((left, left + 1 - x), (left + 1, x - left)):
            if 0 <= row < height and 0 <= column < width:
                result += row_share * column_share * image[row, column]
    return result


@pytest.mark.parametrize("attend", [weighted_gather, grid_sample_attention])
def test_both_forms_are_equation_3_written_plainly(attend: object) -> None:
    value, pixels, weights = arguments(queries=3)
    expected = torch.zeros(2, 3, 2, 4, dtype=torch.float64)
    for image in range(2):
        for query in range(3):
            for head in range(2):
                first = 0
                for level, (height, width) in enumerate(SIZES):
                    table = value[image, first : first + height * width, head].view(height, width, 4)
                    first += height * width
                    for point in range(3):
                        x, y = pixels[image, query, head, level, point].tolist()
                        weight = weights[image, query, head, level, point]
                        expected[image, query, head] += weight * bilinear(table, x, y)
    torch.testing.assert_close(attend(value, SIZES, pixels, weights), expected.flatten(2))  # type: ignore[operator]


def test_values_and_gradients_of_both_forms_agree() -> None:
    results = []
    for attend in (weighted_gather, grid_sample_attention):
        leaves = [leaf.requires_grad_() for leaf in arguments()]
        output = attend(leaves[0], SIZES, leaves[1], leaves[2])
        (output * torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)).sum().backward()
        results.append([output.detach(), *(leaf.grad for leaf in leaves)])
    for gathered, sampled in zip(*results, strict=True):
        assert gathered.abs().max() > 0
        torch.testing.assert_close(gathered, sampled)


def test_gradients_are_those_of_finite_differences() -> None:
    torch.manual_seed(0)
    value, pixels = torch.randn(1, 8, 1, 2).double(), 1 + torch.randn(1, 2, 1, 2, 2, 2).double()
    leaves = tuple(leaf.requires_grad_() for leaf in (value, pixels, torch.rand(1, 2, 1, 2, 2).double()))
    assert torch.autograd.gradcheck(lambda *inputs: weighted_gather(inputs[0], [(2, 3), (1, 2)], *inputs[1:]), leaves)


def test_points_far_outside_read_nothing() -> None:
    value, pixels, weights = arguments()
    for attend in (weighted_gather, grid_sample_attention):
        for shift in (100.0, -100.0, 1e6):
            assert not attend(value, SIZES, pixels + shift, weights).any()


def test_inference_and_training_compute_the_same() -> None:
    value, pixels, weights = arguments(torch.float32)
    trained = weighted_gather(value.requires_grad_(), SIZES, pixels, weights).detach()
    with torch.no_grad():
        assert torch.equal(weighted_gather(value, SIZES, pixels, weights), trained)


def module(exportable: bool = False) -> DeformableAttention:
    torch.manual_seed(0)
    attention = DeformableAttention(16, 2, len(SIZES), 3, exportable)
    torch.nn.init.normal_(attention.sampling_offsets.weight, std=0.5)
    torch.nn.init.normal_(attention.attention_weights.weight)
    return attention


def test_the_exportable_module_gives_the_same() -> None:
    query, value = torch.randn(2, TOKENS, 16), torch.randn(2, TOKENS, 16)
    with torch.no_grad():
        gathered, sampled = (
            attention(query, value, own_places(SIZES, 2, 3, query), SIZES)
            for attention in (module(exportable) for exportable in (False, True))
        )
    torch.testing.assert_close(gathered, sampled, atol=1e-5, rtol=1e-5)


def test_offsets_count_in_pixels_of_their_level_from_the_tokens_own_place() -> None:
    attention = DeformableAttention(4, 1, 1, 1)
    with torch.no_grad():
        for linear in (attention.value_proj, attention.output_proj):
            linear.weight.copy_(torch.eye(4))
        attention.sampling_offsets.bias.copy_(torch.tensor([1.0, 0.0]))  # one pixel to the right
        value = torch.randn(1, 6, 4)  # a map of 2 x 3
        output = attention(torch.zeros(1, 6, 4), value, own_places([(2, 3)], 1, 1, value), [(2, 3)])
    zero = torch.zeros(4)
    expected = [value[0, 1], value[0, 2], zero, value[0, 4], value[0, 5], zero]
    torch.testing.assert_close(output[0], torch.stack(expected))


def test_a_bfloat16_model_finds_its_places_as_well_at_the_far_end_of_a_wide_map() -> None:
    """8 bits place a point at x = 500 only to 2 pixels, at x = 5 to 1/32: places must not be rounded as values are."""
    torch.manual_seed(0)
    decoder = PixelDecoder((8, 8, 8, 8), 32, 2, 1, 4, 32, encoder_levels=1, output_levels=1).eval()
    torch.nn.init.normal_(decoder.layers[0].self_attn.sampling_offsets.weight, std=0.3)
    pixels = torch.randn(1, 8, 2, 512).bfloat16()
    with torch.no_grad():
        half = decoder.bfloat16().encode([pixels])[0]
        full = decoder.float().encode([pixels.float()])[0]
    error = (half - full).abs()
    assert error[..., -128:].mean() < 2 * error[..., :128].mean()


@pytest.mark.parametrize(("bags", "entries", "rows"), [(40, 12, 100), (5, 16, 3)], ids=["usual", "more than rows"])
def test_both_backwards_of_the_weighted_bag_are_that_of_a_plain_sum(bags: int, entries: int, rows: int) -> None:
    torch.manual_seed(0)
    index = torch.randint(rows, (bags, entries), dtype=torch.int32)  # rows occur twice in a bag
    table, coefficient = torch.randn(rows, 6).double(), torch.rand(bags, entries).double()
    grad = torch.randn(bags, 6).double()
    leaves = (table.requires_grad_(), coefficient.requires_grad_())
    plain = (table[index.long()] * coefficient[..., None]).sum(1)
    expected = torch.autograd.grad(plain, leaves, grad)
    for backward in (_bag_backward_cpu, _bag_backward):
        given = backward(table.detach(), index, coefficient.detach(), grad)
        for mine, other in zip(given, expected, strict=True):
            torch.testing.assert_close(mine, other)
