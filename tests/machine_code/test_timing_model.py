"""The timing model: the compiler's schedule, one multiprocessor against known limits, loops, occupancy."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from disassembler import Instruction
from emulated import run
from issue_rates import issue_rates
from loops import find_loops
from machine_code_cases import code_of, compiled, needs_nvrtc
from multiprocessor import Simulation, simulate
from program import Program, Traffic, make_program
from recording import wavefronts
from scheduling import controls
from timing_model import Kernel, occupancy, read_kernel
from walk import walk

from pascaline.core.errors import UnsupportedError
from pascaline.hardware.architectures import architectures

LANES = np.arange(32)
PASCAL = "sm_61"
SCHEDULERS = 4

FMA_CHAIN = """
extern "C" __global__ void kernel(float* y, float a, float b, int n) {
    float x = y[threadIdx.x];
#pragma unroll 1
    for (int i = 0; i < n; i++) {
#pragma unroll
        for (int j = 0; j < 64; j++) x = fmaf(x, a, b);
    }
    y[threadIdx.x] = x;
}"""

LOADS = """
extern "C" __global__ void kernel(const uint4* __restrict__ x, unsigned* y, int n) {
    unsigned sum = 0;
#pragma unroll 1
    for (int i = threadIdx.x; i < n; i += 32) { const uint4 v = x[i]; sum += v.x ^ v.y ^ v.z ^ v.w; }
    y[threadIdx.x] = sum;
}"""

LOOPS = """
extern "C" __global__ void kernel(float* y, const float* x, int outer, int inner) {
    float sum = 0.0f;
#pragma unroll 1
    for (int i = 0; i < outer; i++) {
        __syncthreads();
#pragma unroll 1
        for (int j = 0; j < inner; j++) sum = fmaf(sum, x[j], x[j + i]);
    }
    y[threadIdx.x] = sum;
}"""


def _kernel(source: str, architecture: str = PASCAL) -> Kernel:
    return read_kernel(compiled(source, architecture), "kernel")


def _program(kernel: Kernel, traffic: dict[int, Traffic] | None = None) -> Program:
    return make_program(kernel.code, kernel.controls, kernel.rates, traffic)


def _simulated(
    kernel: Kernel, trips: int, warps: int, traffic: dict[int, Traffic] | None = None
) -> Simulation:
    loop = _first_of_main_loop(kernel)
    trace = walk(kernel.code, {loop: trips})
    return simulate(_program(kernel, traffic), [[trace] * warps], resident=1, memory_bytes=8.0)


def _first_of_main_loop(kernel: Kernel) -> int:
    return find_loops(kernel.code)[0].first


def _clocks_a_trip(kernel: Kernel, warps: int, traffic: dict[int, Traffic] | None = None) -> float:
    longer, shorter = (_simulated(kernel, trips, warps, traffic).clocks for trips in (20, 10))
    return (longer - shorter) / 10


@needs_nvrtc
@pytest.mark.parametrize("architecture", ["sm_50", "sm_61"])
def test_pairs_are_what_the_schedule_lets_go_together(architecture: str) -> None:
    """The disassembler marks pairs in its text; the schedule says the same by a stall of no clocks."""
    kernel = _kernel(LOOPS, architecture)
    paired = [each.paired for each in kernel.code.instructions[1:]]
    together = [control.stall == 0 for control in kernel.controls[:-1]]
    real = next(i for i, each in enumerate(kernel.code.instructions) if each.name == "EXIT")
    assert any(paired)
    assert paired[:real] == together[:real]


@needs_nvrtc
def test_a_dependent_multiply_add_takes_six_clocks_on_pascal() -> None:
    """One warp takes what the schedule says, the pipeline's depth (maxas: 6); four on a scheduler overlap."""
    kernel = _kernel(FMA_CHAIN)
    (loop,) = find_loops(kernel.code)
    stalls = [control.stall for control in kernel.controls[loop.first : loop.last + 1]]
    assert np.bincount(stalls).argmax() == 6
    one = _clocks_a_trip(kernel, 1)
    assert one == sum(stalls)
    assert _clocks_a_trip(kernel, SCHEDULERS) == pytest.approx(one, rel=0.01)
    assert _clocks_a_trip(kernel, 4 * SCHEDULERS) == pytest.approx(one, rel=0.05)


@needs_nvrtc
def test_many_warps_reach_the_peak_and_no_more() -> None:
    kernel = _kernel(FMA_CHAIN)
    least = 64 * 16  # of 16 warps on a scheduler, one a clock
    assert least <= _clocks_a_trip(kernel, 16 * SCHEDULERS) <= 1.1 * least


@needs_nvrtc
def test_loads_are_bound_by_latency_then_by_bandwidth() -> None:
    """Few warps: Little's law. Many: bytes ÷ bandwidth, here 8 bytes a clock."""
    kernel = _kernel(LOADS)
    code = kernel.code
    (loop,) = find_loops(code)
    in_loop = [loop.first + i for i, each in enumerate(loop.instructions) if each.name == "LDG"]
    traffic = {i: Traffic(512, memory_share=1, from_l2=0, from_memory=1) for i in in_loop}
    latency = kernel.rates.latency["memory"]
    served = len(in_loop) * 512 / 8
    one = _clocks_a_trip(kernel, 1, traffic)
    assert latency <= one <= latency + served + 100
    many = _clocks_a_trip(kernel, 32, traffic)
    assert many == pytest.approx(32 * served, rel=0.02)


@needs_nvrtc
def test_walked_loops_are_what_the_emulator_executes() -> None:
    kernel = _kernel(LOOPS)
    outer, inner = 3, 5
    y, x = np.zeros(32, np.float32), np.ones(16, np.float32)
    counts = run(LOOPS, (1, 1, 1), (32, 1, 1), {"y": y, "x": x}, ("y", "x", outer, inner))
    code = kernel.code
    firsts = [loop.first for loop in find_loops(code)]
    trace = walk(code, dict(zip(firsts, (outer, inner), strict=True)))
    multiply_adds = [i for i, each in enumerate(code.instructions) if each.name == "FFMA"]
    walked = np.bincount(trace, minlength=len(code.instructions))
    for index in multiply_adds:
        assert walked[index] == counts.executed[index, 0]
    assert walked[multiply_adds].sum() == outer * inner


@pytest.mark.parametrize(
    ("addresses", "nbytes", "expected"),
    [
        (4 * LANES, 4, 1),
        (8 * LANES, 4, 2),
        (128 * LANES, 4, 32),
        (0 * LANES, 4, 1),
        (132 * LANES, 4, 1),
        (8 * LANES, 8, 2),
        (16 * LANES, 16, 4),
        (0 * LANES, 16, 2),
        (16 * (LANES // 2), 16, 2),
    ],
    ids=[
        *("words", "every second", "one bank", "broadcast", "padded rows"),
        *("pairs of words", "quads", "a quad", "quads by pairs of lanes"),
    ],
)
def test_wavefronts(addresses: np.ndarray, nbytes: int, expected: int) -> None:
    assert wavefronts(addresses, LANES, nbytes) == expected


@pytest.mark.parametrize(
    ("architecture", "operands", "conflicts"),
    [
        (PASCAL, ("R0", "R4", "R8", "R13"), 1),
        (PASCAL, ("R0", "R4", "R8", "R12"), 2),
        (PASCAL, ("R0", "R4", "R5", "R6"), 0),
        (PASCAL, ("R0", "R4", "R4", "R6"), 0),
        (PASCAL, ("R0", "R4", "c[0x0][0x140]", "R8"), 1),
        ("sm_75", ("R0", "R4", "R8", "R12"), 1),
        ("sm_75", ("R0", "R4", "R8", "R13"), 0),
    ],
)
@needs_nvrtc
def test_register_banks(architecture: str, operands: tuple[str, ...], conflicts: int) -> None:
    """Four banks of one read each until Pascal, two of two reads since Volta (maxas; Jia et al.)."""
    kernel = _kernel(FMA_CHAIN, architecture)
    index = next(i for i, each in enumerate(kernel.code.instructions) if each.name == "FFMA")
    changed = list(kernel.code.instructions)
    changed[index - 1] = Instruction(changed[index - 1].address, None, "NOP", ())
    changed[index] = Instruction(changed[index].address, None, "FFMA", operands)
    code = type(kernel.code)(PASCAL, architecture, tuple(changed), kernel.code.labels, kernel.resources)
    step = make_program(code, kernel.controls, kernel.rates).steps[index]
    assert step.cycles == kernel.rates.class_of(changed[index]).cycles + conflicts


@needs_nvrtc
def test_a_latched_operand_is_not_read_again() -> None:
    kernel = _kernel(FMA_CHAIN)
    index = next(i for i, each in enumerate(kernel.code.instructions) if each.name == "FFMA")
    changed = list(kernel.code.instructions)
    for at, first in ((index, "R4.reuse"), (index + 1, "R4")):
        changed[at] = Instruction(changed[at].address, None, "FFMA", ("R0", first, "R8", "R13"))
    code = type(kernel.code)("kernel", PASCAL, tuple(changed), kernel.code.labels, kernel.resources)
    steps = make_program(code, kernel.controls, kernel.rates).steps
    assert (steps[index].cycles, steps[index + 1].cycles) == (2, 1)


@needs_nvrtc
@pytest.mark.parametrize(
    ("registers", "threads", "shared_bytes", "blocks", "limited_by"),
    [
        (128, 256, 0, 2, "registers"),
        (129, 256, 0, 1, "registers"),
        (32, 1024, 0, 2, "registers"),
        (32, 256, 40 << 10, 2, "shared memory"),
        (16, 32, 0, 32, "blocks"),
        (24, 512, 0, 4, "warps"),
    ],
)
def test_occupancy(registers: int, threads: int, shared_bytes: int, blocks: int, limited_by: str) -> None:
    """As NVIDIA's occupancy calculator has it for 6.1."""
    kernel = _kernel(FMA_CHAIN)
    resources = type(kernel.resources)(registers, shared_bytes, 0, (), {})
    code = type(kernel.code)("kernel", PASCAL, kernel.code.instructions, kernel.code.labels, resources)
    found = occupancy(Kernel(code, kernel.controls, kernel.rates), threads, 0)
    assert (found.blocks, found.limited_by) == (blocks, limited_by)


def test_an_opcode_without_a_rate_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="TEX"):
        issue_rates(PASCAL).class_of(Instruction(0, None, "TEX.B.LZ", ()))


@pytest.mark.parametrize(
    "architecture", ["sm_50", "sm_52", "sm_60", "sm_61", "sm_70", "sm_75", "sm_80", "sm_90"]
)
def test_rates_agree_with_the_architectures_table(architecture: str) -> None:
    """fp32 and dp4a per clock there: 2 and 8 operations for each lane here."""
    rates = issue_rates(architecture)
    capability = f"{architecture[3]}.{architecture[4:]}"
    listed = architectures()[capability]
    for opcode, unit, operations in (("FFMA", "fp32", 2), ("IDP", "int8", 8)):
        if unit in listed.operations_per_clock_per_sm:
            lanes = rates.schedulers * 32 / rates.class_of(Instruction(0, None, opcode, ())).cycles
            assert lanes * operations == listed.operations_per_clock_per_sm[unit]


@needs_nvrtc
def test_controls_refuse_another_kernel() -> None:
    code = code_of(FMA_CHAIN, PASCAL)
    with pytest.raises(ValueError, match="no kernel"):
        controls(compiled(FMA_CHAIN.replace("kernel(", "other("), PASCAL), code)


def test_the_benchmark_that_models_runs_as_a_script(tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "benchmarks" / "pascal_timing_model.py"
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run(
        [sys.executable, script, "--help"], check=True, cwd=tmp_path, env=environ, stdout=subprocess.DEVNULL
    )
