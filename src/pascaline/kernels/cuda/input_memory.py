"""What linears take instead of fp32 rows, and the memory of it, its parts one after another."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from pascaline.core.errors import ShapeError
from pascaline.kernels.cuda.linear_call import NUMBER_TYPES
from pascaline.kernels.cuda.quantise_input import InputForm, quantised_shapes
from pascaline.kernels.cuda.recipe import Described

_ALIGNMENT = 16
_MOST_SHARED_BYTES = 48 << 10


@dataclass(frozen=True)
class ScaledForm:
    """fp16 rows, each by a power of two, as scale_rows.cu makes them.

    Parameters
    ----------
    has_permutation : they are gathered by `Slabbed.inputs`.
    """

    has_permutation: bool = False


@dataclass(frozen=True)
class BrainForm:
    """Rows as sums of bf16 numbers, as round_rows.cu makes them; never in another order.

    Parameters
    ----------
    numbers : 1, or 2, of which the second ones lie after all first.
    """

    numbers: int

    @property
    def has_permutation(self) -> bool:
        return False


Form = InputForm | ScaledForm | BrainForm


def shapes_of(form: Form, rows: int, columns: int) -> dict[str, Described]:
    """Of the parts, by the names that launches call them."""
    if isinstance(form, InputForm):
        return quantised_shapes(rows, columns, form.planes)
    if isinstance(form, BrainForm):
        return {"halves": ((form.numbers * rows, columns), torch.bfloat16)}
    return {"scaled": ((rows, columns), torch.float16), "factors": ((rows, 1), torch.float32)}


def definitions_of(form: Form) -> tuple[tuple[str, int], ...]:
    """Macros of slab_input.cuh, row_scale.cuh or brain_numbers.cuh."""
    if isinstance(form, InputForm):
        return (("INPUT_TYPE", NUMBER_TYPES[torch.float32]), *form.definitions)
    if isinstance(form, BrainForm):
        return (("BRAIN_NUMBERS", form.numbers),)
    return (("HAS_PERMUTATION", int(form.has_permutation)),)


def ordering_bytes(columns: int) -> int:
    """Shared memory in which a block puts a row in order.

    Raises
    ------
    ShapeError : it is more than all chips have.
    """
    if columns * 4 > _MOST_SHARED_BYTES:
        raise ShapeError(f"rows of {columns} numbers in another order", expected="48 KiB at most")
    return columns * 4


def input_bytes(form: Form, rows: int, columns: int) -> int:
    """Of all parts."""
    return sum(map(_bytes, shapes_of(form, rows, columns).values()))


def input_parts(memory: torch.Tensor, form: Form, rows: int, columns: int) -> dict[str, torch.Tensor]:
    """The parts in `memory` (`input_bytes`,) uint8."""
    parts: dict[str, torch.Tensor] = {}
    start = 0
    for name, (shape, dtype) in shapes_of(form, rows, columns).items():
        nbytes = math.prod(shape) * dtype.itemsize
        parts[name] = memory[start : start + nbytes].view(dtype).view(shape)
        start += _bytes((shape, dtype))
    return parts


def _bytes(described: Described) -> int:
    """Of a part, up to where the next may begin."""
    shape, dtype = described
    return -(-math.prod(shape) * dtype.itemsize // _ALIGNMENT) * _ALIGNMENT
