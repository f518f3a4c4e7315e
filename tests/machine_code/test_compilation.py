"""Every kernel compiles for every chip that it is for, by every NVRTC that serves it, without a warning."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from compilation import compile_side_by_side, warnings_of
from compilers import NVRTC_12_6, NVRTC_13_0, PackagedNvrtc
from machine_code_cases import needs_nvrtc

from pascaline.core.errors import UnsupportedError
from pascaline.hardware.architectures import capability_numbers
from pascaline.hardware.nvrtc import Nvrtc, find_nvrtc, nvrtc_libraries
from pascaline.kernels.cuda.audited import CHIPS
from pascaline.kernels.cuda.compiler import FOLDER, Compiler
from pascaline.kernels.cuda.linear_mma import plan_linear_mma
from pascaline.kernels.cuda.linear_tile import plan_linear_tile
from pascaline.kernels.cuda.quantise_input import InputForm
from pascaline.kernels.cuda.representatives import (
    REPRESENTATIVES,
    Representative,
    call_of,
    chip_limits,
    slabbed,
)
from pascaline.kernels.cuda.specialisation import Specialisation
from pascaline.kernels.packed_cases import PACKED_FORMS

WHOLE = ("5.0", "6.1", "7.0", "7.5", "8.0", "9.0", "12.0")
"""Chips for which all cases are compiled: the first of each path through the sources, and the newest."""

SINCE = {
    "attention_bulk_decode": "9.0",
    "attention_decode": "8.0",
    "attention_prefill": "8.0",
    "linear_mma": "7.5",
    "linear_tile": "6.1",
    "order_input": "7.0",
    "quantise_input": "6.1",
    "scale_back": "7.0",
    "scale_rows": "7.0",
}
"""The first chip of each kernel that is not for all."""
ONLY = {"attention_wgmma": "9.0", "linear_wgmma": "9.0"}
"""The one chip of a kernel that is for no other."""


def since(case: Representative) -> str:
    """The first chip that a case is for."""
    if case.unit in ("tensor_bf16", "tensor_int8"):
        return "8.0"
    if case.unit == "int8":
        return "6.1"
    return SINCE.get(case.name.split()[0], "5.0")


def is_newer(chip: str, first: str) -> bool:
    return capability_numbers(chip) >= capability_numbers(first)


def one_a_kernel() -> list[Representative]:
    """The first of each source file, by each unit that it multiplies with."""
    return list({(case.name.split()[0], case.unit): case for case in reversed(REPRESENTATIVES)}.values())


def check(nvrtc: Nvrtc, chip: str, cases: Iterable[Representative]) -> None:
    """All that are for `chip` compile for it, and the compiler has nothing to say."""
    limits = chip_limits(chip)
    plans = [plan for case in cases if (plan := case.on(limits)) is not None]
    assert plans
    compiler = Compiler(nvrtc, limits.architecture)
    for made in compile_side_by_side([(compiler, plan.specialisation) for plan in plans]):
        assert made.complaints == (), str(made)
        assert made.cubin is not None
        assert made.cubin[:4] == b"\x7fELF"
        assert made.specialisation.entry.encode() in made.cubin


def installed_of_cuda_12() -> Nvrtc | None:
    loaded = (Nvrtc(path) for path in nvrtc_libraries())
    return next((nvrtc for nvrtc in loaded if nvrtc.version[0] == 12), None)


def fetched(packaged: PackagedNvrtc) -> Nvrtc:
    try:
        return packaged.fetch()
    except UnsupportedError as error:
        pytest.skip(error.seen)


@pytest.mark.parametrize("chip", CHIPS)
def test_kernels_compile_by_the_newest_compiler_of_cuda_12(chip: str) -> None:
    nvrtc = installed_of_cuda_12()
    if nvrtc is None or chip_limits(chip).architecture not in nvrtc.architectures:
        pytest.skip(f"no NVRTC of CUDA 12 that makes code for {chip} is installed here")
    check(nvrtc, chip, REPRESENTATIVES if chip in WHOLE else one_a_kernel())


@pytest.mark.parametrize("chip", [chip for chip in CHIPS if is_newer("9.0", chip)])
def test_kernels_compile_by_the_compiler_of_torch_for_old_cards(chip: str) -> None:
    nvrtc = fetched(NVRTC_12_6)
    assert nvrtc.version == (12, 6)
    check(nvrtc, chip, REPRESENTATIVES if chip == "6.1" else one_a_kernel())


@pytest.mark.parametrize("chip", [chip for chip in CHIPS if is_newer(chip, "7.5")])
def test_kernels_compile_by_the_compiler_of_cuda_13(chip: str) -> None:
    nvrtc = fetched(NVRTC_13_0)
    assert nvrtc.version == (13, 0)
    check(nvrtc, chip, one_a_kernel())


@pytest.mark.parametrize("chip", CHIPS)
def test_each_case_is_for_the_chips_that_it_should_be_for(chip: str) -> None:
    limits = chip_limits(chip)
    for case in REPRESENTATIVES:
        only = ONLY.get(case.name.split()[0])
        is_for_it = chip == only if only else is_newer(chip, since(case))
        assert (case.on(limits) is not None) == is_for_it, case.name


def test_kernels_refuse_chips_without_their_instructions() -> None:
    form, inputs = slabbed("GPTQ 4 bits"), InputForm(scale_group=128, is_quantised=True)
    for chip in ("5.0", "5.2", "6.0"):
        with pytest.raises(UnsupportedError, match="integer dot products on sm_"):
            plan_linear_tile(form, call_of(64), chip_limits(chip), inputs)
    for chip, dtype in (("6.1", torch.float16), ("7.0", torch.float32), ("7.5", torch.bfloat16)):
        with pytest.raises(UnsupportedError, match=r"by mma\.sync on sm_"):
            plan_linear_mma(form, call_of(16, dtype), chip_limits(chip))


def test_every_source_and_every_number_of_bits_has_a_case() -> None:
    plans = [case.on(chip_limits("9.0")) for case in REPRESENTATIVES]
    specialisations = [plan.specialisation for plan in plans if plan is not None]
    assert {each.file for each in specialisations} == {path.name for path in FOLDER.glob("*.cu")}
    seen = {
        name: {value for each in specialisations for key, value in each.definitions if key == name}
        for name in ("BITS", "INTEGERS", "HAS_BIAS", "HAS_RESIDUAL", "GATE", "HAS_TABLE")
    }
    forms = [slabbed(name) for name in PACKED_FORMS]
    assert seen["BITS"] >= {form.bits for form in forms}
    assert seen["INTEGERS"] >= {int(form.integers) for form in forms}
    assert all(seen[name] == {0, 1} for name in ("HAS_BIAS", "HAS_RESIDUAL", "GATE", "HAS_TABLE"))


@needs_nvrtc
def test_errors_and_warnings_are_seen(tmp_path: Path) -> None:
    (tmp_path / "faulty.cu").write_text(
        'extern "C" __global__ void faulty(int* x) {\n'
        "    int unread;\n"
        "#if WRONG\n"
        "    x[0] = nothing;\n"
        "#endif\n"
        "}\n"
    )
    compiler = Compiler(find_nvrtc("sm_75"), "sm_75", tmp_path)
    work = [(compiler, Specialisation("faulty.cu", "faulty", (("WRONG", wrong),))) for wrong in (0, 1)]
    warned, failed = compile_side_by_side(work)
    assert warned.cubin is not None
    assert "was declared but never referenced" in str(warned)
    assert failed.cubin is None
    assert 'identifier "nothing" is undefined' in str(failed)


def test_the_notice_about_old_architectures_is_no_warning() -> None:
    notice = (
        "nvrtc: warning: Architectures prior to '<compute/sm>_75' are deprecated and may be removed in "
        "a future release"
    )
    assert warnings_of(notice) == ()
    assert warnings_of(f"{notice}\nx.cu(1): warning #1: y") == ("x.cu(1): warning #1: y",)
