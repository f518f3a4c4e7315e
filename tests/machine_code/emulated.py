"""CUDA C++ compiled for sm_61, or a chip whose code is as its, and executed by the emulator."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from emulator.grid import Counts
from emulator.run_plan import run_plan
from machine_code_cases import compiled

from pascaline.kernels.cuda.specialisation import Integer, LaunchPlan, Scratch, Specialisation

Array = np.ndarray[Any, np.dtype[Any]]
Dimensions = tuple[int, int, int]


def run(
    source: str,
    grid: Dimensions,
    block: Dimensions,
    buffers: Mapping[str, Array],
    arguments: Sequence[str | int],
    *,
    shared_bytes: int = 0,
    scratch: Mapping[str, Scratch] | None = None,
    options: Sequence[str] = (),
    most_steps: int = 200_000,
    architecture: str = "sm_61",
) -> Counts:
    """Launch the kernel `kernel` of `source`."""
    plan = LaunchPlan(
        Specialisation("kernel.cu", "kernel", ()),
        grid,
        block,
        tuple(Integer(each) if isinstance(each, int) else each for each in arguments),
        shared_bytes,
        scratch or {},
    )
    return run_plan(plan, buffers, compiled(source, architecture, *options), most_steps=most_steps)


def elementwise(
    expressions: Sequence[str],
    a: Array,
    b: Array,
    c: Array,
    *,
    options: Sequence[str] = (),
    helpers: str = "",
) -> list[Array]:
    """The uint32 values of CUDA expressions over words `a`, `b`, `c` (unsigned), one thread an element.

    `sa`, `sb`, `sc` are the words as int, `fa`, `fb`, `fc` as float.
    """
    lines = "\n".join(f"    y[{j} * n + i] = (u32)({each});" for j, each in enumerate(expressions))
    source = f"""
typedef unsigned u32; typedef unsigned long long u64; typedef long long s64;
__device__ __forceinline__ u32 bits(float x) {{ return __float_as_uint(x); }}
__device__ __forceinline__ float half(unsigned short h) {{
    float f; asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(h)); return f; }}
__device__ __forceinline__ u32 to_half(float f) {{
    unsigned short h; asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(f)); return h; }}
{helpers}
extern "C" __global__ void kernel(const u32* pa, const u32* pb, const u32* pc, u32* y, int n) {{
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    u32 a = pa[i], b = pb[i], c = pc[i];
    int sa = a, sb = b, sc = c;
    float fa = __uint_as_float(a), fb = __uint_as_float(b), fc = __uint_as_float(c);
{lines}
}}
"""
    n = a.size
    y = np.full((len(expressions), n), 0xBAD0BAD0, np.uint32)
    buffers = {"a": a, "b": b, "c": c, "y": y}
    run(source, (-(-n // 64), 1, 1), (64, 1, 1), buffers, ["a", "b", "c", "y", n], options=options)
    return list(y)


def differing(
    cases: Mapping[str, Callable[..., Array]], results: Sequence[Array], *values: Array
) -> dict[str, tuple[Any, ...]]:
    """Where results differ from what functions of `values` say as uint32: first operands, seen, expected."""
    found = {}
    for (name, function), seen in zip(cases.items(), results, strict=True):
        expected = np.broadcast_to(np.asarray(function(*values)), seen.shape)
        wrong = np.flatnonzero(seen != expected)
        if wrong.size:
            at = int(wrong[0])
            found[name] = (*(hex(each[at]) for each in values), hex(seen[at]), hex(expected[at]), wrong.size)
    return found
