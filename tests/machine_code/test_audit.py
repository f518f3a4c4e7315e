"""The audit on kernels made to be wrong in one way each."""

from __future__ import annotations

import pytest
from audit import early_launch_findings, findings, half_is_slow, main_loop_share, overlaps_launches
from machine_code_cases import CHIPS, code_of, needs_nvrtc

from pascaline.kernels.cuda.expectations import MachineCodeExpectation

pytestmark = needs_nvrtc

PRODUCTS = """
extern "C" __global__ void __launch_bounds__(128) products(const uint4* x, const uint4* w, int* y, int n) {
    int sum[4] = {};
    for (int i = 0; i < n; i++) {
        uint4 a = x[i * 128 + threadIdx.x];
        #pragma unroll
        for (int j = 0; j < 4; j++) {
            uint4 b = w[(i * 4 + j) * 128 + threadIdx.x];
            sum[j] = __dp4a((int)a.x, (int)b.x, sum[j]);
            sum[j] = __dp4a((int)a.y, (int)b.y, sum[j]);
            sum[j] = __dp4a((int)a.z, (int)b.z, sum[j]);
            sum[j] = __dp4a((int)a.w, (int)b.w, sum[j]);
        }
    }
    for (int j = 0; j < 4; j++) y[j * 128 + threadIdx.x] = sum[j];
}
"""
HALVES = """
extern "C" __global__ void halves(unsigned* y, int n) {
    unsigned sum = y[threadIdx.x], factor = y[threadIdx.x + 32];
    for (int i = 0; i < n; i++) asm volatile("fma.rn.f16x2 %0, %0, %1, %1;" : "+r"(sum) : "r"(factor));
    y[threadIdx.x] = sum;
}
"""
WIDENED = """
extern "C" __global__ void widened(const unsigned short* x, float* y) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(x[threadIdx.x]));
    y[threadIdx.x] = value + (threadIdx.x < 7 ? 0.f : 1.f);
}
"""
MANY = """
extern "C" __global__ void __launch_bounds__(1024, 2) many(float* y, int n) {
    float kept[90];
    #pragma unroll
    for (int j = 0; j < 90; j++) kept[j] = y[j * 1024 + threadIdx.x];
    for (int i = 0; i < n; i++) {
        #pragma unroll
        for (int j = 0; j < 90; j++) kept[j] = kept[j] * kept[(j * 7 + 1) % 90] + 1.f;
    }
    #pragma unroll
    for (int j = 0; j < 90; j++) y[j * 1024 + threadIdx.x] = kept[j];
}
"""


@pytest.mark.parametrize("chip", [chip for chip in CHIPS if int(chip[3:]) >= 61])
def test_a_kernel_that_is_as_expected(chip: str) -> None:
    code = code_of(PRODUCTS, chip)
    expected = MachineCodeExpectation("IDP", 0.3, most_registers=96, wide_loads=5)
    assert findings(code, expected) == []


def test_each_expectation_can_be_missed() -> None:
    code = code_of(PRODUCTS, "sm_61")
    share = main_loop_share(code, "IDP")
    assert share is not None
    assert 0.3 < share < 0.9
    missed = [
        (MachineCodeExpectation(most_registers=8), "registers, more than 8"),
        (MachineCodeExpectation(wide_loads=99), "loads of 16 bytes, less than 99"),
        (MachineCodeExpectation("IDP", 0.95), "of the main loop is IDP, less than 0.95"),
        (MachineCodeExpectation("HMMA"), "no loop with HMMA"),
    ]
    for expected, words in missed:
        (found,) = findings(code, expected)
        assert words in found


@pytest.mark.parametrize("chip", ["sm_50", "sm_61", "sm_75", "sm_90", "sm_120"])
def test_spills_are_found_and_counted_in_the_main_loop(chip: str) -> None:
    (found,) = findings(code_of(MANY, chip), MachineCodeExpectation("FFMA"))
    assert "bytes of local memory" in found
    assert ", 0 of them in the main loop" not in found


@pytest.mark.parametrize("chip", [chip for chip in CHIPS if int(chip[3:]) >= 60])
def test_arithmetic_of_halves_is_found_where_it_is_not_meant_to_be(chip: str) -> None:
    code = code_of(HALVES, chip)
    (found,) = findings(code, MachineCodeExpectation())
    assert "half arithmetic, first HFMA2" in found
    meant = findings(code, MachineCodeExpectation(has_half_arithmetic=True))
    assert meant == ([found] if half_is_slow(chip) else [])


@pytest.mark.parametrize("chip", CHIPS)
def test_conversions_of_halves_are_no_arithmetic(chip: str) -> None:
    code = code_of(WIDENED, chip)
    assert findings(code, MachineCodeExpectation()) == []


def test_where_half_is_slow() -> None:
    assert [chip for chip in CHIPS if half_is_slow(chip)] == ["sm_50", "sm_52", "sm_61"]


EARLY = """
extern "C" __global__ void kernel(const float* x, float* y) {
    BEFORE
    WAIT
    y[threadIdx.x] = x[threadIdx.x];
}
"""


@pytest.mark.parametrize("chip", [chip for chip in CHIPS if overlaps_launches(chip)])
def test_a_kernel_that_may_begin_early_waits_before_it_reads_and_writes(chip: str) -> None:
    wait = 'asm volatile("griddepcontrol.wait;" ::: "memory");'

    def found(before: str, wait: str, *, begins_early: bool) -> list[str]:
        code = code_of(EARLY.replace("BEFORE", before).replace("WAIT", wait), chip)
        return early_launch_findings(code, begins_early=begins_early)

    assert found("", wait, begins_early=True) == []
    assert found("", "", begins_early=False) == []
    assert found("", "", begins_early=True) == [
        "launches may begin early, and it does not wait for those before"
    ]
    assert found("", wait, begins_early=False) == ["it waits for launches before it, and none begins early"]
    load = 'float seen; asm volatile("ld.global.BY.f32 %0, [%1];" : "=f"(seen) : "l"(x)); y += seen > 0;'
    assert found(load.replace("BY", "nc"), wait, begins_early=True) == []
    (early,) = found(load.replace(".BY", ""), wait, begins_early=True)
    assert early == "LDG.E before it waits for launches before it"
    (early,) = found("y[threadIdx.x + 32] = 1.0f;", wait, begins_early=True)
    assert early == "STG.E before it waits for launches before it"
    (early,) = found(load.replace("BY", "cg"), wait, begins_early=True)
    assert early == "LDG.E.STRONG.GPU before it waits for launches before it"


def test_which_chips_overlap_launches() -> None:
    assert [chip for chip in CHIPS if overlaps_launches(chip)] == ["sm_90", "sm_100", "sm_120"]
