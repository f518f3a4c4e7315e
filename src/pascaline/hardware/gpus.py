"""The cards that people own or rent (gpus.toml), found by any of their names."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from types import MappingProxyType
from typing import Any

from pascaline.core.errors import UnknownGpuError
from pascaline.hardware.architectures import Architecture, Arithmetic, architectures
from pascaline.hardware.gpu_names import GpuName, nearest
from pascaline.hardware.roofline import Roofline

LAUNCH_S = 1e-6
"""Least time between two kernels of a stream. Source: A. Gray 2019, Getting Started with CUDA Graphs,
https://developer.nvidia.com/blog/cuda-graphs/: kernels of 2.9 µs, launched one after another, take 3.8 µs."""


@dataclass(frozen=True)
class Gpu:
    """One card.

    Clocks in MHz (`boost_mhz` as listed, `max_mhz` the highest that the driver allows, `tensor_boost_mhz`
    that of the listed tensor rates where it is another), memory in GiB, bandwidth in GB/s (1e9), power in W.
    `limits` : operations per clock per SM where the card has less than its architecture; 0 is none.
    `is_estimated` : filled from device attributes, not from the table.
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
    tensor_boost_mhz: int | None = None
    limits: Mapping[Arithmetic, float] = field(default_factory=dict)

    @property
    def compute_capability(self) -> str:
        return self.architecture.compute_capability

    def operations_per_clock_per_sm(self, arithmetic: Arithmetic) -> float:
        """Of this card, a multiply-add counting 2; 0 where it has no such unit."""
        of_chip = self.architecture.operations_per_clock_per_sm.get(arithmetic, 0.0)
        return self.limits.get(arithmetic, of_chip)

    def operations_per_s(self, arithmetic: Arithmetic, clock_mhz: float) -> float:
        """At a clock; 0 where the chip has no such unit. The card's limits (GeForce's tensor rates) apply."""
        return self.sms * self.operations_per_clock_per_sm(arithmetic) * clock_mhz * 1e6

    def listed_tflops(self, arithmetic: Arithmetic) -> float | None:
        """Tera-operations a second at the maker's boost clock; None where there is no such unit."""
        is_tensor = arithmetic.startswith("tensor")
        clock_mhz = (self.tensor_boost_mhz or self.boost_mhz) if is_tensor else self.boost_mhz
        return self.operations_per_s(arithmetic, clock_mhz) / 1e12 or None

    def roofline(self, clock_mhz: float | None = None) -> Roofline:
        """Its limits, at the maximum clock unless another one was measured."""
        clock = self.max_mhz if clock_mhz is None else clock_mhz
        rates = {unit: self.operations_per_s(unit, clock) for unit in self._units()}
        return Roofline(
            name=self.name,
            kind="cuda",
            compute_capability=self.compute_capability,
            operations_per_s={unit: rate for unit, rate in rates.items() if rate > 0},
            bytes_per_s=self.bandwidth_gb_per_s * 1e9,
            memory_bytes=int(self.memory_gib * 2**30),
            launch_s=LAUNCH_S,
        )

    def _units(self) -> tuple[Arithmetic, ...]:
        return tuple(self.architecture.operations_per_clock_per_sm)


@functools.cache
def gpus() -> tuple[Gpu, ...]:
    """The whole table, oldest first."""
    text = (files("pascaline.hardware") / "gpus.toml").read_text(encoding="utf-8")
    data = tomllib.loads(text)
    return tuple(_gpu(row, data["limits"], data["highest_max_mhz"]) for row in data["gpu"])


def _gpu(row: dict[str, Any], limits: Mapping[str, Any], highest_max_mhz: Mapping[str, int]) -> Gpu:
    """A row of the file; a key that is not known raises, a missing one too."""
    row = dict(row)
    capability = row.pop("compute_capability")
    known_max_mhz = row.pop("max_mhz", None)
    return Gpu(
        architecture=architectures()[capability],
        aliases=tuple(row.pop("aliases")),
        limits=MappingProxyType(limits[row.pop("limits")] if "limits" in row else {}),
        max_mhz=known_max_mhz or max(highest_max_mhz[capability], row["boost_mhz"]),
        **row,
    )


def gpus_named(name: str) -> tuple[Gpu, ...]:
    """All cards that a name means, the one that was sold most first.

    Raises
    ------
    UnknownGpuError : there is none; names the nearest ones.
    """
    return _matches(name)[0]


def find_gpu(name: str, *, memory_gib: float | None = None, sms: int | None = None) -> Gpu:
    """The card of this name, whatever its case, with or without "NVIDIA" and "GeForce".

    One name may cover several cards: memory and SMs tell them apart where they are known; else the
    one that was sold most stands for all. Drivers report a little less memory than is sold: the nearest
    counts.

    Raises
    ------
    UnknownGpuError : there is none; names the nearest ones.
    """
    matches = _matches(name)
    with_sms = (tuple(gpu for gpu in cards if gpu.sms == sms) for cards in matches)
    candidates = next((cards for cards in with_sms if cards), matches[0])
    if memory_gib is not None:
        return min(candidates, key=lambda gpu: abs(gpu.memory_gib - memory_gib))
    return candidates[0]


def _matches(name: str) -> list[tuple[Gpu, ...]]:
    """Cards by how strictly the name fits them, at least one in each."""
    wanted = GpuName.of(name)
    keys = (wanted.exact, wanted.plain, wanted.bare)
    exact, *loose = (index.get(key, ()) for index, key in zip(_indices(), keys, strict=True))
    found = [exact, *(tuple(filter(wanted.has_memory_of, cards)) for cards in loose)]
    matches = [cards for cards in found if cards]
    if matches:
        return matches
    if others := next((cards for cards in loose if cards), ()):
        sizes = " or ".join(dict.fromkeys(f"{gpu.memory_gib:g} GB" for gpu in others))
        raise UnknownGpuError(f"no {name!r:.80} is known", expected=f"one with {sizes}")
    close = nearest(wanted, [gpu.name for gpu in gpus()])
    raise UnknownGpuError(
        f"no card is called {name!r:.80}",
        expected="a name such as " + ", ".join(close) if close else "",
        remedy="All names: pascaline gpus",
    )


@functools.cache
def _indices() -> tuple[Mapping[str, tuple[Gpu, ...]], ...]:
    """Cards by exact, plain and bare name (see `GpuName`), each in the table's order."""
    indices: tuple[dict[str, tuple[Gpu, ...]], ...] = ({}, {}, {})
    for gpu in gpus():
        for name in map(GpuName.of, (gpu.name, *gpu.aliases)):
            for index, key in zip(indices, (name.exact, name.plain, name.bare), strict=True):
                if gpu not in index.get(key, ()):
                    index[key] = (*index.get(key, ()), gpu)
    return indices
