"""From recorded launches to those that run: some are computed on the way of others.

- A norm or gate whose output only linears read is computed row by row where the linear rounds its input.
- A sum of a linear's output and something else is written by the linear itself.

Both give the same bits as separate launches: the roundings are the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from pascaline.kernels.recording import Operand, RecordedLaunch, storage_of

BY_ROWS = ("rms_norm", "silu_and_mul", "gelu_and_mul")
"""Ops that a linear may compute on its way."""


@dataclass(frozen=True)
class FusedLaunch:
    """A launch and what is computed on its way: first its first operand, last a sum with `residual`."""

    launch: RecordedLaunch
    out: torch.Tensor
    before: RecordedLaunch | None = None
    residual: torch.Tensor | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The ops, in order."""
        before = () if self.before is None else (self.before.op.name,)
        return (*before, self.launch.op.name, *(() if self.residual is None else ("add",)))

    def reads(self) -> Iterator[torch.Tensor]:
        """All tensors that are read."""
        operands: list[Operand] = list(self.launch.inputs)
        if self.before is not None:
            operands = [*self.before.inputs, *operands[1:]]
        for operand in (*operands, self.residual):
            if isinstance(operand, torch.Tensor):
                yield operand


def fuse(launches: list[RecordedLaunch]) -> list[FusedLaunch]:
    """The launches to run, in order."""
    return _with_sums(_with_inputs(launches))


def _with_inputs(launches: list[RecordedLaunch]) -> list[FusedLaunch]:
    readers: dict[int, list[tuple[RecordedLaunch, int]]] = {}
    for launch in launches:
        for index, operand in enumerate(launch.inputs):
            if isinstance(operand, torch.Tensor):
                readers.setdefault(storage_of(operand), []).append((launch, index))
    on_the_way: dict[int, RecordedLaunch] = {}
    for launch in launches:
        reading = readers.get(storage_of(launch.out), [])
        if launch.op.name in BY_ROWS and all(_is_whole_input(launch.out, *reader) for reader in reading):
            on_the_way[storage_of(launch.out)] = launch
    fused = []
    for launch in launches:
        if storage_of(launch.out) in on_the_way:
            continue
        first = launch.inputs[0]
        before = on_the_way.get(storage_of(first)) if isinstance(first, torch.Tensor) else None
        fused.append(FusedLaunch(launch, launch.out, before))
    return fused


def _is_whole_input(out: torch.Tensor, reader: RecordedLaunch, index: int) -> bool:
    operand = reader.inputs[index]
    return (
        reader.op.name == "linear"
        and index == 0
        and isinstance(operand, torch.Tensor)
        and (operand.shape, operand.stride()) == (out.shape, out.stride())
    )


def _with_sums(launches: list[FusedLaunch]) -> list[FusedLaunch]:
    uses = Counter(storage_of(tensor) for launch in launches for tensor in launch.reads())
    fused: list[FusedLaunch] = []
    for item in launches:
        last = fused[-1] if fused else None
        if item.launch.op.name == "add" and last is not None and last.launch.op.name == "linear":
            summands = [operand for operand in item.launch.inputs if isinstance(operand, torch.Tensor)]
            others = [operand for operand in summands if storage_of(operand) != storage_of(last.out)]
            free = last.residual is None and uses[storage_of(last.out)] == 1
            if free and len(others) == 1:
                fused[-1] = replace(last, out=item.out, residual=others[0])
                continue
        fused.append(item)
    return fused
