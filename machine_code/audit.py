"""Holds machine code against what is expected of it: `MachineCodeExpectation`, for every chip.

    python machine_code/audit.py [FILE.cu …] [--chip 6.1 …]

prints a line for each kernel and chip, with what was found to be wrong; exit code 1: something was.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from disassembler import Instruction, KernelCode, disassemble
from kept_compiler import KeptCompiler
from loops import main_loop

from pascaline.cli.ending import run
from pascaline.core.errors import CompileError
from pascaline.hardware.architectures import architectures, capability_numbers
from pascaline.hardware.nvrtc import find_nvrtc
from pascaline.kernels.cuda.audited import CHIPS, Audited, audited
from pascaline.kernels.cuda.expectations import MachineCodeExpectation
from pascaline.kernels.cuda.specialisation import ChipLimits

_HALF = ("HADD2", "HADD2_32I", "HMUL2", "HMUL2_32I", "HFMA2", "HFMA2_32I", "HSET2", "HSETP2", "HMNMX2")
_LOADS = ("LDG", "LDGSTS")  # to registers, or past them to shared memory
_WIDE = "128"
_WAIT = "ACQBULK"  # griddepcontrol.wait
_WRITES = ("ST", "STG", "RED", "REDG", "ATOM", "ATOMG")
_OF_WEIGHTS = "CONSTANT"  # of LDG: ld.global.nc; what launches write is read by others


def findings(code: KernelCode, expected: MachineCodeExpectation) -> list[str]:
    """What is wrong with a kernel's machine code, in words; nothing if all is as expected."""
    found = [*_spills(code), *_halves(code, expected.has_half_arithmetic)]
    registers = code.resources.registers
    if registers > expected.most_registers:
        found.append(f"{registers} registers, more than {expected.most_registers}")
    loads = sum(each.name in _LOADS and _WIDE in each.modifiers for each in code.instructions)
    if loads < expected.wide_loads:
        found.append(f"{loads} loads of 16 bytes, less than {expected.wide_loads}")
    if expected.multiply_add is not None:
        share = main_loop_share(code, expected.multiply_add)
        if share is None:
            found.append(f"no loop with {expected.multiply_add}")
        elif share < expected.main_loop_share:
            name = expected.multiply_add
            found.append(f"{share:.2f} of the main loop is {name}, less than {expected.main_loop_share:.2f}")
    return found


def early_launch_findings(code: KernelCode, *, begins_early: bool) -> list[str]:
    """What is wrong with how a kernel waits for launches before it: see `LaunchPlan.begins_early`.

    Copies to shared memory are not told apart by what they read: of those nothing is found.
    """
    names = [each.name for each in code.instructions]
    if not begins_early:
        return ["it waits for launches before it, and none begins early"] if _WAIT in names else []
    if not overlaps_launches(code.architecture):
        return []
    if _WAIT not in names:
        return ["launches may begin early, and it does not wait for those before"]
    early = [
        each.opcode
        for each in code.instructions[: names.index(_WAIT)]
        if each.name in _WRITES or (each.name == "LDG" and _OF_WEIGHTS not in each.modifiers)
    ]
    return [f"{early[0]} before it waits for launches before it"] if early else []


def overlaps_launches(architecture: str) -> bool:
    """Whether launches may begin before those before them end."""
    return ChipLimits(capability_numbers(_capability(architecture)), 1).overlaps_launches


def main_loop_share(code: KernelCode, multiply_add: str) -> float | None:
    """How much of the main loop is the instruction of that name; None where there is none in it."""
    loop = main_loop(code)
    if loop is None or not loop.count(multiply_add):
        return None
    return loop.count(multiply_add) / loop.names.total()


def half_is_slow(architecture: str) -> bool:
    """Whether a chip multiplies pairs of halves slower than fp32 numbers, or not at all."""
    rates = architectures()[_capability(architecture)].operations_per_clock_per_sm
    return rates.get("fp16", 0) < rates["fp32"]


def _spills(code: KernelCode) -> list[str]:
    accesses = _count_local(code.instructions)
    if not accesses and not code.resources.local_bytes:
        return []
    loop = main_loop(code)
    inside = _count_local(loop.instructions) if loop is not None else 0
    nbytes = code.resources.local_bytes
    return [f"{nbytes} bytes of local memory, {accesses} accesses, {inside} of them in the main loop"]


def _count_local(instructions: Iterable[Instruction]) -> int:
    return sum(each.name in ("LDL", "STL") for each in instructions)


def _halves(code: KernelCode, is_meant: bool) -> list[str]:
    is_slow = half_is_slow(code.architecture)
    wrong = [
        each
        for each in code.instructions
        if each.name in _HALF and (is_slow or not (is_meant or _is_conversion(each) or _is_move(each)))
    ]
    if not wrong:
        return []
    why = "half is slow here" if is_slow else "none is meant to be"
    return [f"{len(wrong)} instructions of half arithmetic, first {wrong[0].opcode}: {why}"]


def _is_conversion(instruction: Instruction) -> bool:
    """HADD2.F32 R0, -RZ, R1.H0_H0: a half as fp32."""
    is_widening = instruction.name == "HADD2" and "F32" in instruction.modifiers
    return is_widening and any(map(_is_zero, instruction.operands[1:]))


def _is_move(instruction: Instruction) -> bool:
    """HFMA2 R0, -RZ, RZ, 0, 0: numbers of the instruction, brought into a register."""
    return instruction.name == "HFMA2" and all(map(_is_zero, instruction.operands[1:3]))


def _is_zero(operand: str) -> bool:
    return operand.replace(".reuse", "").removeprefix("-").removesuffix(".H0_H0") == "RZ"


def _capability(architecture: str) -> str:
    digits = architecture.removeprefix("sm_").rstrip("af")
    return f"{digits[:-1]}.{digits[-1]}"


def compiled_code(case: Audited, compute_capability: str) -> KernelCode:
    """A case's machine code.

    Raises
    ------
    CompileError : it does not compile.
    """
    architecture = "sm_" + compute_capability.replace(".", "")
    compiler = KeptCompiler(find_nvrtc(architecture), architecture)
    specialisation = case.plan.specialisation
    return disassemble(compiler.compile(specialisation))[specialisation.entry]


@dataclass(frozen=True)
class Result:
    """One case on one chip.

    Parameters
    ----------
    code : None where it does not compile.
    found : what is wrong; empty: nothing.
    """

    compute_capability: str
    case: Audited
    code: KernelCode | None
    found: tuple[str, ...]

    def __str__(self) -> str:
        parts = []
        if self.code is not None:
            parts.append(f"{self.code.resources.registers} registers")
            name = self.case.expected.multiply_add
            if name is not None:
                parts.append(f"{name} {main_loop_share(self.code, name) or 0:.2f} of the main loop")
        return f"{self.compute_capability} {self.case.name}: {'; '.join([*parts, *self.found])}"


def audit(chips: Iterable[str] = CHIPS, files: Collection[str] = ()) -> Iterator[Result]:
    """Every case (or those of some source files) on each chip, in that order; compiled side by side."""
    work = [
        (chip, case)
        for chip in chips
        for case in audited(chip)
        if not files or case.plan.specialisation.file in files
    ]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from pool.map(_result, *zip(*work, strict=True))


def _result(compute_capability: str, case: Audited) -> Result:
    try:
        code = compiled_code(case, compute_capability)
    except CompileError as error:
        return Result(compute_capability, case, None, (error.seen,))
    found = findings(code, case.expected)
    found += early_launch_findings(code, begins_early=case.plan.begins_early)
    return Result(compute_capability, case, code, tuple(found))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Hold kernels' machine code against what is expected of it")
    parser.add_argument("files", nargs="*", help="kernels of these files only (linear_decode.cu)")
    parser.add_argument("--chip", action="append", choices=CHIPS, help="these only")
    given = parser.parse_args(arguments)
    if given.files:
        known = {case.plan.specialisation.file for chip in CHIPS for case in audited(chip)}
        if unknown := set(given.files) - known:
            names, others = (", ".join(sorted(each)) for each in (unknown, known))
            parser.error(f"no audited kernel is of {names}; there are {others}")
    is_right = True
    for result in audit(given.chip or CHIPS, given.files):
        print(f"{result}  <-- wrong" if result.found else result, flush=True)
        is_right = is_right and not result.found
    return 0 if is_right else 1


if __name__ == "__main__":
    run(main)
