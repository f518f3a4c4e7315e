"""`Kernel`: how an Op is computed on one backend."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch

from pascaline.kernels.op import Tolerance
from pascaline.weights import Weight
from pascaline.workload.op_costs import OP_COSTS, Axes


@dataclass(frozen=True)
class Chip:
    """What a kernel may ask of the place it runs on."""

    device: torch.device


@dataclass
class Workspace:
    """Scratch memory that outlives a launch, so that kernels do not pay for fresh pages.

    One per engine; its buffers are shared by all launches, which run one after the other.
    """

    device: torch.device
    _buffers: dict[torch.dtype, torch.Tensor] = field(default_factory=dict)

    def scratch(self, elements: int, dtype: torch.dtype) -> torch.Tensor:
        """An uninitialised flat tensor of at least one element; valid until the next call."""
        buffer = self._buffers.get(dtype)
        if buffer is None or buffer.numel() < elements:
            buffer = torch.empty(max(elements, 1), dtype=dtype, device=self.device)
            self._buffers[dtype] = buffer
        return buffer[:elements]


def as_it_is(weight: Weight) -> Weight:
    """`prepare` of kernels that read weights as they are loaded."""
    return weight


Launch = Callable[..., None]
"""`launch(*inputs, out=…, workspace=…, **parameters)` reads its operands and writes all of `out`."""


@dataclass(frozen=True)
class Kernel:
    """How one or several Ops (a fusion) are computed.

    Parameters
    ----------
    ops : names of the Ops that one launch covers, in order.
    requires : None when the chip will do, else the reason why not.
    arithmetic : the type that the multiplications run in: a key of `Op.flop`, or "int8" where quantised
        activations stand for those.
    tolerance : what its arithmetic may err by, instead of the Op's.
    parameters : names of the op's parameters in the order of a native launch's numbers.
    prepare : what a weight is turned into, once, when it is loaded.
    """

    name: str
    ops: tuple[str, ...]
    backend: Literal["torch", "native"]
    arithmetic: str
    requires: Callable[[Chip], str | None]
    launch: Launch
    tolerance: Tolerance | None = None
    parameters: tuple[str, ...] = ()
    prepare: Callable[[Weight], Weight] = as_it_is

    def bytes_moved(self, axes: Axes) -> int:
        """Bytes that have to cross the memory bus, weights not counted (a `Weight` knows its own)."""
        return sum(OP_COSTS[op].bytes_moved(axes) for op in self.ops)


def any_chip(_: Chip) -> str | None:
    """`requires` of kernels that run everywhere."""
    return None
