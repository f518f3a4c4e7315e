"""What one SM does in a clock, by instruction class and compute capability (architectures.toml)."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from types import MappingProxyType
from typing import Literal

Arithmetic = Literal[
    "fp64",
    "fp32",
    "fp16",
    "bf16",
    "int8",
    "tensor_fp64",
    "tensor_fp16",
    "tensor_bf16",
    "tensor_int8",
    "tensor_fp8",
]
"""The unit that multiplications run on, and their type. "fp16" and "bf16" are half arithmetic outside of
tensor cores, "int8" the dot products of four (dp4a); "tensor_fp16" accumulates in fp32."""


@dataclass(frozen=True)
class Architecture:
    """One compute capability.

    Parameters
    ----------
    name : "Pascal"; `compute_capability` : "6.1".
    operations_per_clock_per_sm : by `Arithmetic`; a multiply-add counts 2, a dp4a 8. A type that is
        absent is not there in hardware.
    shared_memory_kib_per_block : the most that a block may have.
    sources : where each number is from, by `Arithmetic`.
    """

    compute_capability: str
    name: str
    operations_per_clock_per_sm: Mapping[Arithmetic, float]
    shared_memory_kib_per_block: int
    sources: Mapping[str, str]

    @property
    def fp32_lanes_per_sm(self) -> int:
        """What NVIDIA counts as CUDA cores; each finishes one multiply-add a clock."""
        return int(self.operations_per_clock_per_sm["fp32"]) // 2


def capability_numbers(compute_capability: str) -> tuple[int, int]:
    """Major and minor of "6.1", by which capabilities are put in order."""
    major, _, minor = compute_capability.partition(".")
    return int(major), int(minor)


@functools.cache
def architectures() -> Mapping[str, Architecture]:
    """All of them, by compute capability, oldest first."""
    text = (files("pascaline.hardware") / "architectures.toml").read_text(encoding="utf-8")
    data = tomllib.loads(text)
    sources = data["sources"]
    rows = (
        Architecture(
            compute_capability=row["compute_capability"],
            name=row["name"],
            operations_per_clock_per_sm=MappingProxyType(row["operations_per_clock_per_sm"]),
            shared_memory_kib_per_block=row["shared_memory_kib_per_block"],
            sources=MappingProxyType({unit: sources[source] for unit, source in row["sources"].items()}),
        )
        for row in data["architecture"]
    )
    return MappingProxyType({row.compute_capability: row for row in rows})
