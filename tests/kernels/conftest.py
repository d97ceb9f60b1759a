"""Kernels run on the GPU where there is one, else in Triton's interpreter."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import pytest
import torch
from torch import Tensor

from outmask import kernels

Run = Callable[..., Any]


@pytest.fixture(scope="session")
def run() -> Iterator[Run]:
    """``run(function, *arguments, gradient=None)``: what a function gives where kernels can run, on the CPU again.

    With ``gradient``, that of the output, also the gradients of all floating arguments, in a list behind the output.
    The interpreter works in a process of its own: Triton chooses it when it is imported, for good.
    """
    pytest.importorskip("triton")
    if torch.cuda.is_available():
        yield lambda function, *arguments, gradient=None: _run(function, arguments, gradient, "cuda")
        return
    with pytest.MonkeyPatch.context() as patch, ProcessPoolExecutor(1, get_context("spawn")) as pool:
        patch.setenv("TRITON_INTERPRET", "1")
        patch.setenv("OMP_NUM_THREADS", "1")
        pool.submit(_pretend_kernels_run_on_cpus).result()
        patch.undo()

        def interpret(function: Callable[..., Any], *arguments: Any, gradient: Tensor | None = None) -> Any:
            # Pickled here: what multiprocessing would do with tensors, by shared memory, outlives the test.
            task = pickle.dumps((function, arguments, gradient, "cpu"))
            return pickle.loads(pool.submit(_run_pickled, task).result())

        yield interpret


def _pretend_kernels_run_on_cpus() -> None:
    kernels.available = lambda tensor: True


def _run_pickled(task: bytes) -> bytes:
    return pickle.dumps(_run(*pickle.loads(task)))


def _run(function: Callable[..., Any], arguments: tuple[Any, ...], gradient: Tensor | None, device: str) -> Any:
    moved = [argument.to(device) if isinstance(argument, Tensor) else argument for argument in arguments]
    if gradient is None:
        return _to_cpu(function(*moved))
    leaves = [argument.requires_grad_() for argument in moved if isinstance(argument, Tensor)]
    output = function(*moved)
    return _to_cpu([output.detach(), *torch.autograd.grad(output, leaves, gradient.to(device))])


def _to_cpu(result: Any) -> Any:
    if isinstance(result, Tensor):
        return result.cpu()
    if isinstance(result, dict):
        return {key: _to_cpu(value) for key, value in result.items()}
    return [_to_cpu(value) for value in result] if isinstance(result, list) else result
