"""Runs a `LaunchPlan` on the CPU, with what a card would not tell of as errors.

    y = numpy.empty((rows, outputs), numpy.float32)
    run_plan(plan, {"codes": codes, "x": x, "y": y}, outputs=("y",))

The whole grid runs twice, with other poison in outputs, scratch and shared memory and another order of
threads each time. `KernelFault` says what went wrong and in which line: an access outside of a buffer or not
aligned, a write to an input, an element of an output that was not written, a barrier that some threads do not
reach, shuffles of lanes that are not there, results that depend on the order of threads or on what was not
written before (the two runs' outputs differ in some bit), scratch memory that is not left as it was found.
"""

from __future__ import annotations

import ctypes
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import numpy
from guarded_memory import GuardedBuffer, Sparse
from host_library import KERNELS, library

from pascaline.kernels.cuda.specialisation import Dimensions, Integer, LaunchPlan

# Order of threads (0 is in turn, others are seeds) and the byte that is everywhere before. Of both bytes,
# fp16 numbers are NaN; fp32 and bf16 numbers NaN and 3.4e38.
_RUNS = ((0, 0xFF), (0x9E3779B97F4A7C15, 0x7F))
_ADDRESS = re.compile(r"\[0x([0-9a-f]+)\]")
_MESSAGE_BYTES = 4096

Buffers = Mapping[str, numpy.ndarray | Sparse]


class KernelFault(AssertionError):  # noqa: N818 - a test that meets it has failed
    """What a kernel did that it must not."""


def run_plan(
    plan: LaunchPlan,
    buffers: Buffers,
    outputs: Collection[str] = ("y",),
    *,
    updates: Collection[str] = (),
    blocks: Sequence[Dimensions] | None = None,
    folder: Path = KERNELS,
) -> None:
    """Launch `plan` and write what it computes to the arrays of `outputs`.

    Parameters
    ----------
    buffers : contiguous arrays by the names in `plan.arguments`; those that are absent are passed as null.
    updates : arrays whose content the kernel changes, or some of it: both runs find it there.
    blocks : the blocks to run, where the whole grid would take too long; all of them by default.
    folder : where the kernel's file lies.

    Raises
    ------
    KernelFault : see the module's text.
    """
    written = (*outputs, *updates)
    missing = set(written) - set(plan.arguments)
    assert not missing, f"{plan.specialisation.entry} takes no {missing}"
    grid = plan.grid
    if blocks is None:
        numbers = numpy.arange(math.prod(grid), dtype=numpy.uint64)
    else:
        numbers = numpy.array([x + grid[0] * (y + grid[1] * z) for x, y, z in blocks], numpy.uint64)
    results = []
    before = {name: array.copy() for name in updates if isinstance(array := buffers[name], numpy.ndarray)}
    for order, poison in _RUNS:
        for name, content in before.items():
            cast(numpy.ndarray, buffers[name])[...] = content
        with _buffers(plan, buffers) as guarded:
            for name, buffer in guarded.items():
                if name in outputs:
                    buffer.fill(poison)
                elif name in updates:
                    continue
                elif name in plan.scratch:
                    buffer.fill(0 if plan.scratch[name].is_zeroed else poison ^ 0x80)
                else:
                    buffer.make_read_only()
            # Of another byte than the outputs, for which copies of it would be taken.
            _launch(plan, guarded, numbers, order, poison ^ 0x80, folder)
            for name, buffer in guarded.items():
                strays = buffer.strays()
                if strays:
                    raise KernelFault(f"{label(plan)}: a write {buffer.place(buffer.address + strays[0])[1]}")
                if (
                    name in plan.scratch
                    and plan.scratch[name].is_zeroed
                    and any(map(numpy.any, buffer.content()))
                ):
                    raise KernelFault(f"{label(plan)}: {name} is not left as zeros")
            results.append({name: guarded[name].content() for name in written if name in guarded})
            for name in results[-1]:
                guarded[name].copy_back()
    for name, pieces in results[0].items():
        for first, second in zip(pieces, results[1][name], strict=True):
            given = buffers[name]
            itemsize = given.itemsize if isinstance(given, numpy.ndarray) else 1
            compare_runs(f"{label(plan)}: {name}", itemsize, first, second)


def shared_bytes(plan: LaunchPlan, folder: Path = KERNELS) -> int:
    """Dynamic shared memory of a block, and static of all kernels in the file."""
    return library(plan.specialisation, folder).static_shared_bytes + plan.shared_bytes


@contextmanager
def _buffers(plan: LaunchPlan, buffers: Buffers) -> Iterator[dict[str, GuardedBuffer]]:
    guarded: dict[str, GuardedBuffer] = {}
    contents: dict[str, numpy.ndarray | Sparse] = {
        name: numpy.zeros(scratch.nbytes, numpy.uint8) for name, scratch in plan.scratch.items()
    }
    contents.update(buffers)
    try:
        for argument in plan.arguments:
            if isinstance(argument, str) and argument in contents and argument not in guarded:
                guarded[argument] = GuardedBuffer(argument, contents[argument])
        yield guarded
    finally:
        for buffer in guarded.values():
            buffer.close()


def _launch(
    plan: LaunchPlan,
    guarded: Mapping[str, GuardedBuffer],
    numbers: numpy.ndarray,
    order: int,
    poison: int,
    folder: Path,
) -> None:
    kernel = library(plan.specialisation, folder)
    values: list[ctypes.c_void_p | ctypes.c_int32] = []
    for argument in plan.arguments:
        if isinstance(argument, Integer):
            values.append(ctypes.c_int32(argument.value))
        else:
            values.append(ctypes.c_void_p(guarded[argument].address if argument in guarded else None))
    passed = [ctypes.sizeof(value) for value in values]
    taken = [kernel.parameter_bytes(number) for number in range(kernel.parameter_count)]
    if passed != taken:
        raise KernelFault(f"{label(plan)}: arguments of {passed} bytes, the kernel's are {taken}")
    addresses = (ctypes.c_void_p * max(len(values), 1))(*(ctypes.addressof(value) for value in values))
    message = ctypes.create_string_buffer(_MESSAGE_BYTES)
    dimensions = [(ctypes.c_uint32 * 3)(*sizes) for sizes in (plan.grid, plan.block)]
    failed = kernel.launch(
        *dimensions,
        plan.shared_bytes,
        addresses,
        numbers.ctypes.data,
        len(numbers),
        order,
        poison,
        message,
        _MESSAGE_BYTES,
    )
    if failed:
        text = kernel.with_lines(message.value.decode())
        nearest = lambda match: min(buffer.place(int(match[1], 16)) for buffer in guarded.values())[1]  # noqa: E731
        raise KernelFault(f"{label(plan)}: {_ADDRESS.sub(nearest, text) if guarded else text}")


def label(plan: LaunchPlan) -> str:
    """The kernel as messages name it."""
    return " ".join((plan.specialisation.entry, *plan.specialisation.options))


def compare_runs(what: str, itemsize: int, first: numpy.ndarray, second: numpy.ndarray) -> None:
    """Raise for elements of an output's bytes that were not written, or are not the same in both runs.

    Both runs began with bytes of 0xFF and 0x7F.
    """
    if numpy.array_equal(first, second):
        return
    was_left = ((first == _RUNS[0][1]) & (second == _RUNS[1][1])).reshape(-1, itemsize).all(axis=1)
    if was_left.any():
        places = numpy.flatnonzero(was_left)
        raise KernelFault(
            f"{what}: {len(places)} of {len(was_left)} elements not written, the first {places[0]}"
        )
    places = numpy.flatnonzero((first != second).reshape(-1, itemsize).any(axis=1))
    raise KernelFault(
        f"{what}: {len(places)} of {len(was_left)} elements, the first {places[0]}, depend on the order of "
        "threads or on memory that nothing was written to"
    )
