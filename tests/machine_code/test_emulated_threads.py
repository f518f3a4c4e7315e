"""Divergence, barriers, shuffles, atomics and memory of the emulator, through compiled code."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from emulated import run
from emulator.control import BarrierError
from emulator.grid import EndlessError
from emulator.memory import AccessError
from emulator.step import UnknownInstructionError
from machine_code_cases import needs_nvrtc

from pascaline.kernels.cuda.specialisation import Scratch

pytestmark = needs_nvrtc

Array = np.ndarray[Any, np.dtype[Any]]

WRITTEN_THEN_READ = """
    for (int j = 0; j < n; j++) {
    y[i] = j;
    int value;
    asm volatile("ld.global.nc.s32 %0, [%1];" : "=r"(value) : "l"(y + (i + j) % 64) : "memory");
    y[i ^ 1] = value; }
"""
WHO = "int i = blockIdx.x * blockDim.x + threadIdx.x;"


def _kernel(parameters: str, body: str) -> str:
    return f'extern "C" __global__ void kernel({parameters}) {{ {body} }}'


def test_loops_of_different_lengths_with_breaks_and_continues() -> None:
    source = _kernel(
        "int* y, const int* x, int n",
        WHO
        + """
        if (i >= n) return;
        int total = 0, limit = x[i];
        for (int j = 0; j < limit; j++) {
            if ((j ^ i) % 5 == 0) continue;
            if (j > 17 && (i & 3) == 1) break;
            for (int k = j; k < (i & 7); k++) {
                if (k == 5) { total += 1000; break; }
                total += k * x[(i + k) % n];
            }
            total += j;
        }
        if (total & 1) { if (i & 2) total = -total; else total *= 3; } else total += 7;
        y[i] = total;
        """,
    )
    n = 150
    x = np.random.default_rng(1).integers(0, 40, n, np.int32)
    y = np.zeros(n, np.int32)
    counts = run(source, (3, 1, 1), (64, 1, 1), {"y": y, "x": x}, ["y", "x", n])
    expected = []
    for i in range(n):
        total = 0
        for j in range(int(x[i])):
            if (j ^ i) % 5 == 0:
                continue
            if j > 17 and i & 3 == 1:
                break
            for k in range(j, i & 7):
                if k == 5:
                    total += 1000
                    break
                total += k * int(x[(i + k) % n])
            total += j
        if total & 1:
            total = -total if i & 2 else total * 3
        else:
            total += 7
        expected.append(total)
    assert y.tolist() == expected
    assert counts.by_name()["EXIT"] >= 5


def test_threads_that_left_a_loop_stay_out_of_it() -> None:
    """By a break inside of a condition that only some threads are in, while others of the warp go on."""
    source = _kernel(
        "int* y, const int* x, int n",
        WHO
        + """
        int total = 0;
        for (int j = 0; j < n; j++) {
            total += 100;
            if (x[(i + j) & 63] & 1) {
                total += x[i];
                if (j == (i & 7)) break;
                total -= x[j];
            }
            total += y[i] * j;
        }
        y[i] = total;
        """,
    )
    x = np.random.default_rng(8).integers(0, 1000, 64, np.int32)
    start = np.random.default_rng(9).integers(0, 9, 64, np.int32)
    y = start.copy()
    run(source, (1, 1, 1), (64, 1, 1), {"y": y, "x": x}, ["y", "x", 20])
    for i in range(64):
        total = 0
        for j in range(20):
            total += 100
            if x[(i + j) & 63] & 1:
                total += int(x[i])
                if j == i & 7:
                    break
                total -= int(x[j])
            total += int(start[i]) * j
        assert y[i] == total


def test_a_function_that_is_called_by_some_threads() -> None:
    source = """
__device__ __noinline__ int fibonacci(int n) {
    int a = 0, b = 1;
    for (int i = 0; i < n; i++) { int c = a + b; a = b; b = c; }
    return a;
}
""" + _kernel("int* y", WHO + " y[i] = i % 3 ? fibonacci(i % 20) : -i;")
    y = np.zeros(64, np.int32)
    run(source, (2, 1, 1), (32, 1, 1), {"y": y}, ["y"])
    numbers = [0, 1]
    while len(numbers) < 20:
        numbers.append(numbers[-1] + numbers[-2])
    assert y.tolist() == [numbers[i % 20] if i % 3 else -i for i in range(64)]


def test_a_transpose_through_shared_memory_and_dimensions() -> None:
    """Blocks of 3 · 16 · 2 threads, dynamic shared memory, columns off the tile."""
    source = _kernel(
        "float* y, const float* x, int rows, int columns",
        """
        extern __shared__ float tile[];
        int column = blockIdx.x * 16 + threadIdx.y, z = threadIdx.z;
        for (int r = threadIdx.x; r < 16; r += 3) {
            int row = blockIdx.y * 16 + r;
            if (row < rows && column < columns)
                tile[(z * 16 + threadIdx.y) * 17 + r] = x[(z * rows + row) * columns + column];
        }
        __syncthreads();
        for (int c = threadIdx.x; c < 16; c += 3) {
            int to = blockIdx.x * 16 + c, from = blockIdx.y * 16 + threadIdx.y;
            if (to < columns && from < rows)
                y[(z * columns + to) * rows + from] = tile[(z * 16 + c) * 17 + threadIdx.y];
        }
        """,
    )
    x = np.random.default_rng(2).standard_normal((2, 37, 21)).astype(np.float32)
    y = np.full((2, 21, 37), np.nan, np.float32)
    run(source, (2, 3, 1), (3, 16, 2), {"y": y, "x": x}, ["y", "x", 37, 21], shared_bytes=2 * 16 * 17 * 4)
    assert (y == x.transpose(0, 2, 1)).all()


@pytest.mark.parametrize("kind", ["uint4", "uint2", "unsigned", "unsigned short", "unsigned char"])
def test_every_width_is_loaded_and_stored(kind: str) -> None:
    body = f"""
        __shared__ {kind} kept[32];
        {WHO}
        kept[threadIdx.x ^ 5] = x[i];
        __syncthreads();
        y[i ^ 1] = kept[31 - threadIdx.x];
    """
    source = _kernel(f"{kind}* y, const {kind}* __restrict__ x", body)
    nbytes = {"uint4": 16, "uint2": 8, "unsigned": 4, "unsigned short": 2, "unsigned char": 1}[kind]
    x = np.random.default_rng(3).integers(0, 256, (64, nbytes), np.uint8)
    y = np.zeros_like(x)
    run(source, (2, 1, 1), (32, 1, 1), {"y": y, "x": x}, ["y", "x"])
    expected = np.zeros_like(x)
    for i in range(64):
        expected[i ^ 1] = x[i // 32 * 32 + ((31 - i % 32) ^ 5)]
    assert (y == expected).all()


def test_local_memory_holds_what_each_thread_wrote() -> None:
    source = _kernel(
        "int* y, int n",
        WHO
        + """
        int kept[24];
        for (int j = 0; j < 24; j++) kept[(j * 7) % 24] = i * 100 + j;
        for (int j = 0; j < n; j++) kept[(i + j) % 24] += kept[(i * 5 + j * 3) % 24];
        y[i] = kept[i % 24];
        """,
    )
    y = np.zeros(64, np.int32)
    run(source, (1, 1, 1), (64, 1, 1), {"y": y}, ["y", 11])
    for i in range(64):
        kept = [0] * 24
        for j in range(24):
            kept[j * 7 % 24] = i * 100 + j
        for j in range(11):
            kept[(i + j) % 24] += kept[(i * 5 + j * 3) % 24]
        assert y[i] == kept[i % 24]


def test_shuffles_and_votes() -> None:
    source = _kernel(
        "int* y, const int* x",
        WHO
        + """
        int v = x[i], lane = threadIdx.x & 31, s = v;
        for (int m = 16; m; m >>= 1) s += __shfl_xor_sync(~0u, s, m);
        y[i] = s;
        y[64 + i] = __shfl_sync(~0u, v, (lane * 7 + 3) & 31);
        y[128 + i] = __shfl_up_sync(~0u, v, 3);
        y[192 + i] = __shfl_down_sync(~0u, v, 5, 8);
        y[256 + i] = __shfl_xor_sync(~0u, v, 6, 8);
        y[320 + i] = __shfl_sync(~0u, v, 2, 4);
        y[384 + i] = __ballot_sync(~0u, v > 0);
        y[448 + i] = __any_sync(~0u, v > 95) * 2 + __all_sync(~0u, v > -101);
        """,
    )
    x = np.random.default_rng(4).integers(-100, 100, 64, np.int32)
    x[:32] = np.minimum(x[:32], 95)
    x[40] = 99
    y = np.zeros((8, 2, 32), np.int32)
    run(source, (1, 1, 1), (64, 1, 1), {"y": y, "x": x}, ["y", "x"])
    warps = x.reshape(2, 32)
    lane = np.arange(32)
    assert (y[0] == warps.sum(axis=1, keepdims=True)).all()
    assert (y[1] == warps[:, (lane * 7 + 3) % 32]).all()
    assert (y[2] == warps[:, np.where(lane < 3, lane, lane - 3)]).all()
    assert (y[3] == warps[:, np.where(lane % 8 + 5 < 8, lane + 5, lane)]).all()
    assert (y[4] == warps[:, lane // 8 * 8 + (lane % 8 ^ 6)]).all()
    assert (y[5] == warps[:, lane // 4 * 4 + 2]).all()
    ballots = [sum(1 << j for j in range(32) if warp[j] > 0) for warp in warps]
    assert (y[6].view(np.uint32) == np.array(ballots, np.uint32)[:, None]).all()
    assert y[7].tolist() == [[1] * 32, [3] * 32]


def test_atomics() -> None:
    source = _kernel(
        "unsigned* y, int* smallest, float* total, unsigned long long* wide, unsigned* seen, const int* x",
        WHO
        + """
        __shared__ int count;
        if (threadIdx.x == 0) count = 0;
        __syncthreads();
        atomicAdd(&count, 3);
        __syncthreads();
        seen[i] = atomicInc(y, 9);
        atomicAdd(y + 1, (unsigned)count);
        atomicMax((int*)y + 2, x[i]);
        atomicMin(smallest, x[i]);
        atomicOr(y + 3, 1u << (i & 31));
        atomicXor(y + 4, 1u << (i % 20));
        unsigned old = y[5], assumed;
        do { assumed = old; old = atomicCAS(y + 5, assumed, assumed * 3 + 1); } while (assumed != old);
        atomicAdd(total, 0.25f);
        atomicAdd(wide, 1ull << 31);
        seen[64 + i] = atomicExch(y + 6, i);
        """,
    )
    x = np.random.default_rng(5).integers(-1000, 1000, 64, np.int32)
    y = np.array([0, 0, 0x80000000, 0, 0, 1, 77], np.uint32)
    smallest, total = np.array([5000], np.int32), np.array([1.0], np.float32)
    wide, seen = np.array([7], np.uint64), np.zeros(128, np.uint32)
    buffers: dict[str, Array] = {
        "y": y, "smallest": smallest, "total": total, "wide": wide, "seen": seen, "x": x
    }  # fmt: skip
    run(source, (2, 1, 1), (32, 1, 1), buffers, ["y", "smallest", "total", "wide", "seen", "x"])
    tripled = 1
    for _ in range(64):
        tripled = (tripled * 3 + 1) & 0xFFFFFFFF
    parity = sum(((64 - j + 19) // 20 & 1) << j for j in range(20))
    assert y[:6].tolist() == [4, 64 * 96, int(x.max()) & 0xFFFFFFFF, 0xFFFFFFFF, parity, tripled]
    assert sorted(seen[:64].tolist()) == sorted(j % 10 for j in range(64))
    assert sorted([*seen[64:].tolist(), int(y[6])]) == sorted([*range(64), 77])
    assert (smallest[0], total[0], wide[0]) == (x.min(), 17.0, 7 + 64 * 2**31)


def test_the_last_block_sums_and_resets_its_counter() -> None:
    """Split sums with a counter in scratch memory that must be zero again."""
    source = _kernel(
        "float* y, const float* x, float* parts, unsigned* counter",
        """
        __shared__ bool is_last;
        float v = x[blockIdx.x * 32 + threadIdx.x];
        for (int m = 16; m; m >>= 1) v += __shfl_xor_sync(~0u, v, m);
        if (threadIdx.x == 0) {
            ((volatile float*)parts)[blockIdx.x] = v;
            __threadfence();
            is_last = atomicInc(counter, gridDim.x - 1) == gridDim.x - 1;
        }
        __syncthreads();
        if (is_last && threadIdx.x == 0) {
            float sum = 0.f;
            for (int j = 0; j < gridDim.x; j++) sum += ((volatile float*)parts)[j];
            *y = sum;
        }
        """,
    )
    x = np.random.default_rng(6).integers(-50, 50, 7 * 32).astype(np.float32)
    y = np.full(1, np.nan, np.float32)
    arguments: list[str | int] = ["y", "x", "parts", "counter"]
    scratch = {"parts": Scratch(7 * 4), "counter": Scratch(4, is_zeroed=True)}
    run(source, (7, 1, 1), (32, 1, 1), {"y": y, "x": x}, arguments, scratch=scratch)
    assert y[0] == x.sum()
    left = source.replace("gridDim.x - 1) ==", "~0u) ==")
    with pytest.raises(ValueError, match="zeros in counter"):
        run(left, (7, 1, 1), (32, 1, 1), {"y": y, "x": x}, arguments, scratch=scratch)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("y[i] = x[i + 1];", r"4 bytes at x \+ 256, which has 256 bytes"),
        ("y[i - 1] = x[i];", r"4 bytes at y \+ -4, which has 256 bytes"),
        ("y[i + (1ll << 32)] = x[i];", "which has 256 bytes"),
        ("x[i] = y[i];", "x is written, a constant"),
        ("*(long long*)(y + i) = 5;", "not aligned"),
        (
            "__shared__ int s[32]; s[threadIdx.x + n] = 1; __syncthreads(); y[i] = s[n];",
            "of 128 bytes of shared",
        ),
        (WRITTEN_THEN_READ, "read-only cache loads what the kernel has written"),
    ],
)
def test_wrong_accesses_are_faults(body: str, message: str) -> None:
    x, y = np.ones(64, np.int32), np.zeros(64, np.int32)
    x.flags.writeable = False
    source = _kernel("int* y, int* x, int n", WHO + body)
    with pytest.raises(AccessError, match=message):
        run(source, (2, 1, 1), (32, 1, 1), {"y": y, "x": x}, ["y", "x", 4])


def test_a_null_pointer_is_a_fault() -> None:
    with pytest.raises(AccessError, match="4 bytes at y"):
        run(
            _kernel("int* y, int* x", "y[0] = x[0];"),
            (1, 1, 1),
            (32, 1, 1),
            {"y": np.zeros(1, np.int32)},
            ["y", "x"],
        )


def test_barriers_that_not_all_reach_are_errors() -> None:
    inside = "if (x[i] == 0) { y[i] = 1; __syncthreads(); y[i] += y[i ^ 2]; } x[i] = y[i ^ 3];"
    source = _kernel("int* y, int* x", WHO + inside)
    buffers = {"y": np.zeros(64, np.int32), "x": np.arange(64, dtype=np.int32)}
    with pytest.raises(BarrierError, match="only some threads"):
        run(source, (1, 1, 1), (64, 1, 1), buffers, ["y", "x"])


def test_endless_loops_and_unknown_instructions_stop() -> None:
    y = np.ones(32, np.int32)
    spin = _kernel("volatile int* y", "while (y[threadIdx.x]);")
    with pytest.raises(EndlessError, match="more than"):
        run(spin, (1, 1, 1), (32, 1, 1), {"y": y}, ["y"], most_steps=500)
    double = _kernel("double* y", "y[threadIdx.x] *= 3.0;")
    with pytest.raises(UnknownInstructionError, match=r"DMUL .*not known"):
        run(double, (1, 1, 1), (32, 1, 1), {"y": np.ones(32)}, ["y"])


def test_instructions_are_counted_for_each_warp() -> None:
    source = _kernel(
        "float* y, int n",
        """
        float v = threadIdx.x;
        #pragma unroll 1
        for (int j = 0; j < n * (threadIdx.x / 32 + 1); j++) v = fmaf(v, v, 1.f);
        y[threadIdx.x] = v;
        """,
    )
    y = np.zeros(96, np.float32)
    counts = run(source, (1, 1, 1), (96, 1, 1), {"y": y}, ["y", 5])
    assert [counts.of_warp(warp)["FFMA"] for warp in range(3)] == [5, 10, 15]
    assert counts.by_name()["FFMA"] == 30
    assert counts.by_opcode()["STG.E"] == 3


def test_addresses_cross_four_gigabytes() -> None:
    """Each buffer lies across a border of 2^32, so that a carry that is lost is found."""
    source = _kernel("int* y, const int* x", WHO + " y[i] = x[1023 - i];")
    x = np.arange(1024, dtype=np.int32)
    y = np.zeros(1024, np.int32)
    counts = run(source, (8, 1, 1), (128, 1, 1), {"y": y, "x": x}, ["y", "x"])
    assert (y == x[::-1]).all()
    assert any(opcode.startswith(("IADD.X", "LEA.HI.X")) for opcode in counts.by_opcode())
