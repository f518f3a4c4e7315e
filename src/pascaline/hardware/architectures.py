"""What one SM does in a clock, by instruction class and compute capability (architectures.toml)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Arithmetic = Literal[
    "fp64", "fp32", "fp16", "bf16", "int8", "tensor_fp16", "tensor_bf16", "tensor_int8", "tensor_fp8"
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
    sources : where each number is from.
    """

    compute_capability: str
    name: str
    operations_per_clock_per_sm: Mapping[Arithmetic, float]
    shared_memory_kib_per_block: int
    sources: Mapping[str, str]


def architectures() -> Mapping[str, Architecture]:
    """All of them, by compute capability, oldest first."""
    raise NotImplementedError
