"""Runs a `LaunchPlan` on a card as `host_card.run_plan` does on the CPU, with what can be seen there.

Every buffer has a margin before and behind it, filled with a pattern and looked at afterwards; inputs are
looked at, too. Outputs, scratch memory and margins hold another pattern in each of two launches.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Protocol

import numpy
import torch
from host_card import KernelFault, compare_runs, label

from pascaline.kernels.cuda.bound_launch import BoundLaunch
from pascaline.kernels.cuda.kernel_set import KernelSet
from pascaline.kernels.cuda.specialisation import LaunchPlan

_MARGIN_BYTES = 512
"""The alignment of torch's memory; a margin before a buffer leaves it aligned to 16 bytes, no more."""
_OFFSET = _MARGIN_BYTES + 16


class Kernels(Protocol):
    """As `KernelSet` binds launches."""

    def bind(self, plan: LaunchPlan, addresses: Mapping[str, int | None]) -> BoundLaunch: ...


class GpuCard:
    """The card that torch calls "cuda"; its kernels are compiled once, where `kernels` has none for it."""

    def __init__(self, kernels: Kernels | None = None) -> None:
        self._device = torch.device("cuda")
        self._kernels = kernels or KernelSet(self._device)

    def __call__(
        self,
        plan: LaunchPlan,
        buffers: Mapping[str, numpy.ndarray],
        outputs: Collection[str] = ("y",),
        *,
        updates: Collection[str] = (),
    ) -> None:
        """Launch `plan` and write what it computes to the arrays of `outputs`, and of `updates`.

        Raises
        ------
        KernelFault : as `host_card.run_plan`, for what can be seen from outside.
        """
        results = [self._run(plan, buffers, outputs, updates, poison) for poison in (0xFF, 0x7F)]
        for name in (*outputs, *updates):
            first, second = (result[name] for result in results)
            compare_runs(f"{label(plan)}: {name}", buffers[name].itemsize, first, second)
            buffers[name].reshape(-1).view(numpy.uint8)[:] = second

    def _run(
        self,
        plan: LaunchPlan,
        buffers: Mapping[str, numpy.ndarray],
        outputs: Collection[str],
        updates: Collection[str],
        poison: int,
    ) -> dict[str, numpy.ndarray]:
        """The bytes of all that is written."""
        before = {
            name: numpy.full(array.nbytes, poison, numpy.uint8)
            if name in outputs
            else array.reshape(-1).view(numpy.uint8)
            for name, array in buffers.items()
        }
        for name, scratch in plan.scratch.items():
            before[name] = numpy.full(scratch.nbytes, 0 if scratch.is_zeroed else poison ^ 0x80, numpy.uint8)
        names = [name for name in plan.arguments if isinstance(name, str)]
        memory = {
            name: torch.full((_OFFSET + len(before[name]) + _MARGIN_BYTES,), 0xA5, dtype=torch.uint8)
            for name in dict.fromkeys(names)
            if name in before
        }
        for name, tensor in memory.items():
            tensor[_OFFSET : _OFFSET + len(before[name])] = torch.from_numpy(before[name].copy())
        memory = {name: tensor.to(self._device) for name, tensor in memory.items()}
        addresses = {name: memory[name].data_ptr() + _OFFSET if name in memory else None for name in names}
        # With the scratch memory as operands: it is looked at, too.
        own = LaunchPlan(plan.specialisation, plan.grid, plan.block, plan.arguments, plan.shared_bytes)
        self._kernels.bind(own, addresses)(torch.cuda.current_stream().cuda_stream)
        torch.cuda.synchronize()
        after = {name: tensor.cpu().numpy() for name, tensor in memory.items()}
        written = (*outputs, *updates)
        for fault in _faults(plan, before, after, written):
            raise KernelFault(f"{label(plan)}: {fault}")
        return {name: after[name][_OFFSET:-_MARGIN_BYTES] for name in written}


def _faults(
    plan: LaunchPlan,
    before: Mapping[str, numpy.ndarray],
    after: Mapping[str, numpy.ndarray],
    outputs: Collection[str],
) -> Iterator[str]:
    for name, memory in after.items():
        strays = numpy.flatnonzero(numpy.concatenate([memory[:_OFFSET], memory[-_MARGIN_BYTES:]]) != 0xA5)
        if len(strays):
            place = int(strays[0])
            where = (
                f"{_OFFSET - place} bytes before" if place < _OFFSET else f"{place - _OFFSET} bytes beyond"
            )
            yield f"a write {where} {name}"
        is_kept = name not in outputs and (name not in plan.scratch or plan.scratch[name].is_zeroed)
        if is_kept and not numpy.array_equal(memory[_OFFSET:-_MARGIN_BYTES], before[name]):
            yield f"{name} is not left as it was"
