"""The product through oneDNN against that of ``nn.Linear``."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.profiler import ProfilerActivity, profile

from outmask.models import linear
from outmask.models.linear import Linear


@pytest.fixture(autouse=True, scope="module")
def two_threads_and_any_size() -> Iterator[None]:
    """What decides whether it is a convolution; the threads are put back."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(linear, "_WORTH_IT", 1)
        yield
    torch.set_num_threads(threads)


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.integers(1, 9), max_size=3),
    st.integers(1, 70),
    st.integers(1, 70),
    st.booleans(),
    st.booleans(),
)
def test_any_shape_gives_what_the_plain_layer_gives(
    leading: list[int], inputs: int, outputs: int, bias: bool, transposed: bool
) -> None:
    torch.manual_seed(0)
    layer, plain = Linear(inputs, outputs, bias), nn.Linear(inputs, outputs, bias)
    plain.load_state_dict(layer.state_dict())
    values = torch.randn(*leading, inputs)
    if transposed and len(leading) > 1:  # as tokens of a channels-first map are
        values = torch.randn(*leading[:-1], inputs, leading[-1]).transpose(-1, -2)
    with torch.no_grad():
        torch.testing.assert_close(layer(values), plain(values), atol=1e-5, rtol=1e-5)


def operators(layer: nn.Module, values: torch.Tensor) -> set[str]:
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        layer(values)
    return {event.name for event in profiler.events()}


def test_only_float32_inference_of_many_rows_on_several_threads_is_a_convolution(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layer, values = Linear(256, 4), torch.randn(512, 256)
    convolution = "aten::mkldnn_convolution"
    monkeypatch.setattr(linear, "_WORTH_IT", 512 * 256)
    assert convolution not in operators(layer, values)
    with torch.no_grad():
        assert convolution in operators(layer, values)
        assert "aten::addmm" not in operators(layer, values)
        assert convolution not in operators(layer, values[1:])
        assert convolution not in operators(layer.double(), values.double())
    torch.set_num_threads(1)
    with torch.no_grad():
        assert convolution not in operators(layer.float(), values)
    torch.set_num_threads(2)


def test_gradients_are_those_of_the_plain_layer() -> None:
    torch.manual_seed(0)
    layer, plain, values = Linear(8, 4), nn.Linear(8, 4), torch.randn(3, 8)
    plain.load_state_dict(layer.state_dict())
    for each in (layer, plain):
        each(values).square().sum().backward()
    assert torch.equal(layer.weight.grad, plain.weight.grad)  # type: ignore[arg-type]


def test_no_rows_give_no_rows() -> None:
    with torch.no_grad():
        assert Linear(8, 4)(torch.zeros(2, 0, 8)).shape == (2, 0, 4)


@pytest.mark.parametrize("shape", [(2, 7), (9,)])
def test_a_wrong_width_is_refused_as_by_the_plain_layer(shape: tuple[int, ...]) -> None:
    with torch.no_grad(), pytest.raises(RuntimeError):
        Linear(8, 4)(torch.zeros(shape))
