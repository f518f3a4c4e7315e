"""The memory of a quantised input: its codes, scales and sums one after another."""

from __future__ import annotations

import math

import torch

from pascaline.kernels.cuda.quantise_input import quantised_shapes


def quantised_bytes(rows: int, columns: int, planes: int) -> int:
    """Of all its parts, each of which has a multiple of 16."""
    shapes = quantised_shapes(rows, columns, planes).values()
    return sum(math.prod(shape) * dtype.itemsize for shape, dtype in shapes)


def quantised_parts(memory: torch.Tensor, rows: int, columns: int, planes: int) -> dict[str, torch.Tensor]:
    """The parts, by the names that launches call them, in `memory` (`quantised_bytes`,) uint8."""
    parts: dict[str, torch.Tensor] = {}
    start = 0
    for name, (shape, dtype) in quantised_shapes(rows, columns, planes).items():
        nbytes = math.prod(shape) * dtype.itemsize
        parts[name] = memory[start : start + nbytes].view(dtype).view(shape)
        start += nbytes
    return parts
