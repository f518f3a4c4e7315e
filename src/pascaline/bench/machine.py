"""Where products are measured: a CPU or a card, with its clock and its limits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import torch

from pascaline.bench.cpu_machine import CpuMachine
from pascaline.bench.cuda_machine import CudaMachine
from pascaline.bench.product import Backend, Path
from pascaline.bench.timing import Stopwatch


class Machine(Stopwatch, Protocol):
    """One device.

    Parameters
    ----------
    cache_bytes : weights beyond it come from memory.
    shape_s : what a shape's measurements are to take.
    """

    kind: Backend
    name: str
    threads: int | None
    cache_bytes: int
    shape_s: float

    def notes(self) -> list[str]:
        """What a reader of the figures must know, at their end."""
        ...

    def paths(self) -> tuple[Path, ...]:
        """The ways to multiply here."""
        ...

    def warm(self, run: Callable[[], None]) -> None:
        """Go on with `run` until the clock is steady."""
        ...

    def operations_per_s(self, clock_mhz: float | None, /) -> Mapping[str, float]:
        """Its limits by unit; empty where they are not known."""
        ...

    def free_bytes(self) -> int:
        """Memory that can be taken."""
        ...


def machine_for(device: torch.device) -> Machine:
    """The device, its limits measured or looked up."""
    return CpuMachine() if device.type == "cpu" else CudaMachine(device)
