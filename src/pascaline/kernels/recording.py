"""Recording of a step: the launches that a model makes, instead of what they compute.

A model's Python runs once, on outputs of torch's meta device: shapes and views without memory. What it
launched can then be replayed without Python, for fewer rows, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import cast

import torch

from pascaline.core.errors import UnsupportedError
from pascaline.kernels.kernel import Kernel
from pascaline.kernels.op import Op, Shaped
from pascaline.weights import Weight
from pascaline.workload.arena import Life, Span, places

Operand = torch.Tensor | Weight | None


@dataclass(frozen=True)
class RecordedLaunch:
    """One launch. `inputs` and `out` on the meta device are outputs of this or earlier launches."""

    op: Op
    path: str
    kernel: Kernel
    inputs: tuple[Operand, ...]
    out: torch.Tensor
    parameters: Mapping[str, float]

    def reads(self) -> Iterator[torch.Tensor]:
        """All tensors that are read; weights are none."""
        for operand in self.inputs:
            if isinstance(operand, torch.Tensor):
                yield operand


def storage_of(tensor: torch.Tensor) -> int:
    """What tells the memory of two tensors apart, on the meta device as well; views share it."""
    return cast(int, tensor.untyped_storage()._cdata)


def memory_of(
    launches: Iterable[tuple[Iterable[torch.Tensor], torch.Tensor]], result: int
) -> dict[int, Span]:
    """A place for each output by its storage, shared by those that are not needed at the same time.

    Parameters
    ----------
    launches : in order, what each reads and what it writes.
    result : the storage that is read after the last of them.
    """
    first_use: dict[int, int] = {}
    last_use: dict[int, int] = {}
    nbytes: dict[int, int] = {}
    index = -1
    for index, (reads, out) in enumerate(launches):
        for tensor in (*reads, out):
            if tensor.is_meta:
                last_use[storage_of(tensor)] = index
        if out.is_meta and storage_of(out) not in first_use:
            first_use[storage_of(out)] = index
            nbytes[storage_of(out)] = out.untyped_storage().nbytes()
    last_use[result] = index + 1
    lives = [Life(nbytes[storage], first, last_use[storage]) for storage, first in first_use.items()]
    return dict(zip(first_use, places(lives), strict=True))


class Recorder:
    """Takes the launches of one step."""

    def __init__(self) -> None:
        self.launches: list[RecordedLaunch] = []
        self._known: set[int] = set()

    def launch(
        self,
        op: Op,
        path: str,
        kernel: Kernel,
        inputs: tuple[Shaped | None, ...],
        shape: tuple[int, ...],
        parameters: Mapping[str, float],
    ) -> torch.Tensor:
        """Record a launch; returns its output.

        Raises
        ------
        UnsupportedError : an operand was computed by something that is no launch.
        """
        operands = cast(tuple[Operand, ...], inputs)
        for operand in operands:
            if (
                isinstance(operand, torch.Tensor)
                and operand.is_meta
                and storage_of(operand) not in self._known
            ):
                raise UnsupportedError(
                    f"{path or 'the model'}: an operand of {op.name} is no output of a launch",
                    expected="launches and views only, in models that are recorded",
                )
        if op.in_place is None:
            out = torch.empty(shape, dtype=op.output.dtype, device="meta")
            self._known.add(storage_of(out))
        else:
            out = cast(torch.Tensor, operands[list(op.inputs).index(op.in_place)])
        self.launches.append(RecordedLaunch(op, path, kernel, operands, out, parameters))
        return out
