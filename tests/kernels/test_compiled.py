"""What Triton compiles the kernels to, which needs no GPU: the interpreter can show neither types nor registers."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("Triton interprets in this process", allow_module_level=True)
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from outmask.kernels import deformable, scores

AMPERE, HOPPER = GPUTarget("cuda", 80, 32), GPUTarget("cuda", 90, 32)

SIZES = {"rows": "i32", "queries": "i32", "tokens": "i32", "count": "i32", "in_height": "i32", "in_width": "i32"}
SIZES |= {"y_scale": "fp32", "x_scale": "fp32", "width": "i32", "first_row": "i32", "pixels": "i32"}


@dataclass(frozen=True)
class Code:
    """A kernel's code, and what of the chip a program takes."""

    ptx: str
    cubin: bytes
    shared_bytes: int

    def registers_and_spilled_bytes(self, folder: Path) -> tuple[int, int]:
        """Of a thread."""
        (folder / "kernel.cubin").write_bytes(self.cubin)
        command = [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", str(folder / "kernel.cubin")]
        usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        registers, stack, local = (int(re.search(rf"{key}:(\d+)", usage)[1]) for key in ("REG", "STACK", "LOCAL"))  # type: ignore[index]
        return registers, stack + local


Compile = Callable[..., Code]


@pytest.fixture(scope="module")
def in_child() -> Iterator[Compile]:
    """:func:`compile_kernel` in a process of its own: LLVM replaces signals' handlers and the stack they run on."""
    with ProcessPoolExecutor(1, get_context("spawn")) as executor:
        yield lambda *arguments, **how: executor.submit(compile_kernel, *arguments, **how).result()


def compile_kernel(
    module: str,
    name: str,
    target: GPUTarget,
    pointers: dict[str, str],
    constants: dict[str, Any],
    folder: str,
    **how: Any,
) -> Code:
    """One of our kernels; ``folder`` is for Triton's cache."""
    os.environ["TRITON_CACHE_DIR"] = folder
    kernel = getattr({"deformable": deformable, "scores": scores}[module], f"_{name}_kernel")
    used = {name: type_ for name, type_ in pointers.items() if name in kernel.arg_names}
    signature = {name: used.get(name) or SIZES.get(name) or "constexpr" for name in kernel.arg_names}
    # As torch's allocator aligns them.
    aligned = {(index,): [["tt.divisibility", 16]] for index, name in enumerate(kernel.arg_names) if name in used}
    source = ASTSource(kernel, signature, constants, aligned)
    code = triton.compile(source, target=target, options={"enable_fp_fusion": True, **how})
    return Code(code.asm["ptx"], code.asm["cubin"], code.metadata.shared)


@pytest.fixture
def attention(in_child: Compile, tmp_path: Path) -> Compile:
    """As for Mask2Former's pixel decoder."""

    def get(direction: str, value: str, target: GPUTarget, channels: int = 32) -> Code:
        block, warps = deformable._FORWARD_BLOCK if direction == "forward" else deformable._BACKWARD_BLOCK
        pointers = {"value": f"*{value}", "levels": "*i32", "pixels": "*fp32", "weights": "*fp32"}
        pointers |= {"output": f"*{value}", "grad_output": f"*{value}"}
        pointers |= {"grad_value": "*fp32", "grad_pixels": "*fp32", "grad_weights": "*fp32"}
        padded = triton.next_power_of_2(channels)
        constants = {"HEADS": 8, "CHANNELS": channels, "LEVELS": 3, "POINTS": 4, "DTYPE": tl.float32}
        constants |= {"BLOCK_ROWS": max(1, block // padded), "BLOCK_CHANNELS": padded}
        return in_child("deformable", direction, target, pointers, constants, str(tmp_path), num_warps=warps)

    return get


@pytest.fixture
def pool(in_child: Compile, tmp_path: Path) -> Compile:
    def get(name: str, masks: str, target: GPUTarget, **constants: Any) -> Code:
        pointers = {"masks": f"*{masks}", "weights": "*fp32", "log_odds": "*fp32", "pooled": "*fp32"}
        constants |= {"BLOCK_MASKS": scores._BLOCK_MASKS, "BLOCK_PIXELS": scores._BLOCK_PIXELS}
        how = {"num_warps": scores._WARPS, "num_stages": 1}
        return in_child("scores", name, target, pointers, constants, str(tmp_path), **how)

    return get


@pytest.mark.parametrize(("value", "target"), [("bf16", HOPPER), ("fp32", AMPERE)], ids=["bf16-90", "fp32-80"])
def test_attention_reads_in_wide_loads_and_waits_for_nobody(
    attention: Compile, value: str, target: GPUTarget, tmp_path: Path
) -> None:
    code = attention("forward", value, target)
    assert "ld.global.v4.b32" in code.ptx  # 16 bytes a thread
    assert ("cvt.rn.bf16x2.f32" in code.ptx) == (value == "bf16")  # rounded to nearest
    assert "bar.sync" not in code.ptx
    assert code.shared_bytes == 0
    registers, spilled = code.registers_and_spilled_bytes(tmp_path)
    assert spilled == 0
    assert registers <= 64  # half of the threads that a multiprocessor can hold run at once


@pytest.mark.parametrize(("value", "target"), [("bf16", HOPPER), ("fp32", AMPERE)], ids=["bf16-90", "fp32-80"])
def test_gradients_are_added_in_no_order(attention: Compile, value: str, target: GPUTarget, tmp_path: Path) -> None:
    code = attention("backward", value, target)
    adds = set(re.findall(r"(?:red|atom)\.global\.([.\w]*)", code.ptx))  # which of the two is up to Triton's version
    if target is HOPPER:  # which adds 16 bytes at once, as they are read
        assert adds == {"gpu.relaxed.add.v4.f32"}
        assert "bar.sync" not in code.ptx
    else:
        assert adds == {"gpu.relaxed.add.f32"}
    registers, spilled = code.registers_and_spilled_bytes(tmp_path)
    assert spilled == 0
    assert registers <= (64 if target is HOPPER else 96)


def test_attention_compiles_for_a_width_that_is_no_power_of_two(attention: Compile) -> None:
    assert attention("backward", "fp32", HOPPER, channels=24).ptx


@pytest.mark.parametrize(("masks", "columns", "most"), [("fp32", 20, 128), ("bf16", 20, 128), ("fp32", 150, 255)])
def test_sums_are_exact_and_stay_in_registers(
    pool: Compile, masks: str, columns: int, most: int, tmp_path: Path
) -> None:
    block = scores._block_columns(columns)
    code = pool("sum", masks, HOPPER, COLUMNS=columns, BLOCK_COLUMNS=block)
    assert "tf32" not in code.ptx
    assert "mma" not in code.ptx
    assert code.shared_bytes <= 16 << 10
    registers, spilled = code.registers_and_spilled_bytes(tmp_path)
    assert spilled == 0
    assert registers <= most


@pytest.mark.parametrize(
    ("name", "constants"), [("peak", {"WEIGHTED": False}), ("peak", {"WEIGHTED": True}), ("noisy_or", {})]
)
def test_other_pools_need_no_shared_memory(
    pool: Compile, name: str, constants: dict[str, bool], tmp_path: Path
) -> None:
    code = pool(name, "fp32", HOPPER, **constants)
    assert code.shared_bytes == 0
    registers, spilled = code.registers_and_spilled_bytes(tmp_path)
    assert spilled == 0
    assert registers <= 128
