"""The cards that people own or rent (gpus.toml), found by any of their names."""

from __future__ import annotations

from dataclasses import dataclass

from pascaline.hardware.architectures import Architecture, Arithmetic
from pascaline.hardware.roofline import Roofline


@dataclass(frozen=True)
class Gpu:
    """One card.

    Clocks in MHz (`boost_mhz` as listed, `max_mhz` the highest that the driver allows), memory in GiB,
    bandwidth in GB/s (1e9), power in W. `is_estimated` : filled from device attributes, not from the table.
    """

    name: str
    aliases: tuple[str, ...]
    architecture: Architecture
    sms: int
    boost_mhz: int
    max_mhz: int
    memory_gib: float
    bandwidth_gb_per_s: float
    l2_mib: float
    power_w: float
    source: str
    is_estimated: bool = False

    @property
    def compute_capability(self) -> str:
        return self.architecture.compute_capability

    def operations_per_s(self, arithmetic: Arithmetic, clock_mhz: float) -> float:
        """At a clock; 0 where the chip has no such unit. The card's limits (GeForce's tensor rates) apply."""
        raise NotImplementedError

    def roofline(self, clock_mhz: float | None = None) -> Roofline:
        """Its limits, at the maximum clock unless another one was measured."""
        raise NotImplementedError


def gpus() -> tuple[Gpu, ...]:
    """The whole table, oldest first."""
    raise NotImplementedError


def find_gpu(name: str, *, memory_gib: float | None = None, sms: int | None = None) -> Gpu:
    """The card of this name, whatever its case, with or without "NVIDIA" and "GeForce".

    One name may cover several cards: memory and SMs tell them apart where they are known; else the
    one that was sold most stands for all.

    Raises
    ------
    UnknownGpuError : there is none; names the nearest ones.
    """
    raise NotImplementedError
