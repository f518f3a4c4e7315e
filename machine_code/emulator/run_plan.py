"""A `LaunchPlan` executed in the emulator, as it would be launched on a card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from disassembler import KernelCode, disassemble

from emulator.grid import MOST_STEPS, Counts, Observer, run_grid
from emulator.memory import POISON, GlobalMemory
from pascaline.kernels.cuda.specialisation import Integer, LaunchPlan

Array = np.ndarray[Any, np.dtype[Any]]

_POINTER_BYTES = 8


def run_plan(
    plan: LaunchPlan,
    buffers: Mapping[str, Array],
    cubin: bytes | KernelCode,
    *,
    most_steps: int = MOST_STEPS,
    observe: Observer | None = None,
) -> Counts:
    """Execute the plan's kernel; `buffers` hold its results afterwards.

    Parameters
    ----------
    buffers : by the names that the plan's arguments have; a name that is missing is passed as null. An array
        that is not writeable must not be written.
    cubin : for sm_61, or the kernel's code out of it.
    most_steps, observe : see `run_grid`.

    Raises
    ------
    ValueError : the arguments are not what the kernel takes, or scratch memory is not left as it should be.
    Exception : what `run_grid` raises.
    """
    code = cubin if isinstance(cubin, KernelCode) else disassemble(cubin)[plan.specialisation.entry]
    scratch = {
        name: np.full(each.nbytes, 0 if each.is_zeroed else POISON, np.uint8)
        for name, each in plan.scratch.items()
    }
    memory = GlobalMemory({**buffers, **scratch})
    parameters = _parameters(plan, code, memory)
    counts = run_grid(
        code,
        plan.grid,
        plan.block,
        parameters,
        memory,
        shared_bytes=plan.shared_bytes,
        most_steps=most_steps,
        observe=observe,
    )
    for name, each in plan.scratch.items():
        if each.is_zeroed and memory.content(name).any():
            raise ValueError(f"the kernel does not leave zeros in {name}")
    for name, buffer in buffers.items():
        if buffer.flags.writeable:
            buffer.reshape(-1).view(np.uint8)[:] = memory.content(name)
    return counts


def _parameters(plan: LaunchPlan, code: KernelCode, memory: GlobalMemory) -> bytes:
    expected = code.resources.parameters
    if len(expected) != len(plan.arguments):
        raise ValueError(f"{code.name} takes {len(expected)} arguments, the plan has {len(plan.arguments)}")
    if not expected:
        return b""
    base = expected[0].offset
    packed = bytearray(expected[-1].offset + expected[-1].nbytes - base)
    for parameter, argument in zip(expected, plan.arguments, strict=True):
        if isinstance(argument, Integer):
            value = argument.value.to_bytes(4, "little", signed=argument.value < 0)
        else:
            value = (memory.address(argument) if argument in memory else 0).to_bytes(_POINTER_BYTES, "little")
        if len(value) != parameter.nbytes:
            raise ValueError(f"{code.name} takes {parameter.nbytes} bytes for {argument}")
        start = parameter.offset - base
        packed[start : start + parameter.nbytes] = value
    return bytes(packed)
