"""Recording of a step: the launches that a model makes, instead of what they compute.

A model's Python runs once, on outputs of torch's meta device: shapes and views without memory. What it
launched can then be replayed without Python, for fewer rows, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch

from pascaline.core.errors import UnsupportedError
from pascaline.kernels.kernel import Kernel
from pascaline.kernels.op import Op, Shaped
from pascaline.weights import Weight

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


def storage_of(tensor: torch.Tensor) -> int:
    """What tells the memory of two tensors apart, on the meta device as well; views share it."""
    return cast(int, tensor.untyped_storage()._cdata)


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
