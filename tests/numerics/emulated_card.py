"""Runs a `LaunchPlan`'s real machine code of sm_61 in the emulator, in the place of a card."""

from __future__ import annotations

import functools
from collections.abc import Collection

import numpy
import pytest
from disassembler import KernelCode, disassemble
from emulator.run_plan import run_plan
from linear_harness import Buffers

from pascaline.hardware.nvrtc import find_nvrtc
from pascaline.kernels.cuda.compiler import Compiler
from pascaline.kernels.cuda.specialisation import ChipLimits, LaunchPlan, Specialisation

TITAN_X = ChipLimits((6, 1), 28)
"""A Titan X (Pascal)."""

_NEWER_CHIPS = ("linear_mma.cu",)
"""What sm_61 has no instructions for."""


@functools.cache
def _code(specialisation: Specialisation) -> KernelCode:
    compiler = Compiler(find_nvrtc(TITAN_X.architecture), TITAN_X.architecture)
    return disassemble(compiler.compile(specialisation))[specialisation.entry]


def emulate(
    plan: LaunchPlan, buffers: Buffers, outputs: Collection[str], *, updates: Collection[str] = ()
) -> None:
    """Launch `plan`: what it neither writes nor updates must stay, and outputs hold NaN before."""
    if plan.specialisation.file in _NEWER_CHIPS:
        pytest.skip(f"{plan.specialisation.file} is not for {TITAN_X.architecture}")
    given = {}
    for name in (name for name in buffers if name in plan.arguments):
        if name in outputs:
            given[name] = buffers[name]
            given[name].reshape(-1).view(numpy.uint8)[:] = 0xFF
        elif name in updates:
            given[name] = buffers[name]
        else:
            given[name] = buffers[name].copy()
            given[name].flags.writeable = False
    run_plan(plan, given, _code(plan.specialisation))
