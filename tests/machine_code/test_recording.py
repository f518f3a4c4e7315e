"""Recordings of launches: what known kernels execute and move."""

from __future__ import annotations

import numpy as np
from machine_code_cases import compiled, needs_nvrtc
from recording import Recording, record
from timing_model import Card, Kernel, Wave, model_share, read_kernel, simulate_wave

from pascaline.hardware.gpus import find_gpu
from pascaline.kernels.cuda.specialisation import Integer, LaunchPlan, Specialisation

SUMS = """
extern "C" __global__ void kernel(const uint4* __restrict__ x, const float* __restrict__ table,
                                  float* y, int n) {
    __shared__ float column[32][32];
    unsigned sum = 0;
#pragma unroll 1
    for (int i = 0; i < n; i++) {
        const uint4 v = x[(blockIdx.x * n + i) * 32 + threadIdx.x];
        sum += v.x + v.y + v.z + v.w;
    }
    column[threadIdx.x][0] = table[threadIdx.x] * sum;
    __syncthreads();
    y[blockIdx.x * 32 + threadIdx.x] = column[0][threadIdx.x];
}"""
BLOCKS, TRIPS = 3, 4
P40 = Card(find_gpu("Tesla P40"), 1531)


def _kernel() -> Kernel:
    return read_kernel(compiled(SUMS, "sm_61"), "kernel")


def _recording(kernel: Kernel, trips: int = TRIPS, table_share: float = 0.25) -> Recording:
    plan = LaunchPlan(
        Specialisation("kernel.cu", "kernel", ()),
        (BLOCKS, 1, 1),
        (32, 1, 1),
        ("x", "table", "y", Integer(trips)),
    )
    x, table = np.zeros(BLOCKS * trips * 512, np.uint8), np.ones(32, np.float32)
    x.flags.writeable = table.flags.writeable = False
    buffers = {"x": x, "table": table, "y": np.zeros(BLOCKS * 32, np.float32)}
    return record(plan, buffers, kernel.code, {"x": 1.0, "table": table_share, "y": 1.0})


@needs_nvrtc
def test_what_is_moved() -> None:
    """All of x once, a quarter of the table (others read it too) once for all blocks, and y."""
    kernel = _kernel()
    recording = _recording(kernel)
    assert recording.memory_bytes == BLOCKS * TRIPS * 512 + 0.25 * 128 + BLOCKS * 128
    by_name = {kernel.code.instructions[i].opcode: each for i, each in recording.traffic.items()}
    wide = by_name["LDG.E.CI.128"]
    assert (wide.nbytes, wide.memory_share, wide.from_memory) == (512, 1, 1)
    narrow = by_name["LDG.E.CI"]  # the first block's comes from memory or L2, the others' from the cache
    assert narrow.nbytes == 128 / BLOCKS
    assert np.isclose(narrow.from_l2 + narrow.from_memory, 1 / BLOCKS)
    stores = [each for i, each in recording.traffic.items() if kernel.code.instructions[i].name == "STS"]
    assert [each.nbytes for each in stores] == [32 * 128]  # all lanes in one bank


@needs_nvrtc
def test_traces_are_the_warps_executions() -> None:
    kernel = _kernel()
    recording = _recording(kernel)
    assert [len(block) for block in recording.blocks] == [1] * BLOCKS
    (trace,) = recording.blocks[0]
    wide = [i for i, each in enumerate(kernel.code.instructions) if each.opcode == "LDG.E.CI.128"]
    assert sum(trace.count(i) for i in wide) == TRIPS
    assert kernel.code.instructions[trace[-1]].name == "EXIT"


@needs_nvrtc
def test_a_share_takes_no_less_than_its_bytes() -> None:
    kernel = _kernel()
    recording = _recording(kernel, 32)
    modelled = model_share(kernel, recording, BLOCKS, P40)
    least = recording.memory_bytes / P40.memory_bytes / P40.hertz
    assert modelled.time_s >= least
    assert np.isclose(modelled.busy["memory"], least / modelled.time_s)


@needs_nvrtc
def test_waves_are_linear_in_steps_and_blocks() -> None:
    kernel = _kernel()
    recordings = [(trips, _recording(kernel, trips)) for trips in (8, 16)]
    wave: Wave = simulate_wave(kernel, BLOCKS, recordings, P40)
    short, long, two = wave.short.clocks, wave.long.clocks, wave.two.clocks
    expected = {
        (8, 1): short,
        (16, 1): long,
        (8, 2): two,
        (24, 1): 2 * long - short,
        (16, 2): two + 2 * (long - short),
    }
    for (steps, waves), clocks in expected.items():
        assert np.isclose(wave.modelled(steps, waves * BLOCKS, P40).time_s * P40.hertz, clocks)
