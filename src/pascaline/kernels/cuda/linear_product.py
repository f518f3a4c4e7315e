"""A linear on a card, as its kernels are planned by: values without memory."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, replace

import torch

from pascaline.kernels.cuda.linear_call import LinearCall
from pascaline.kernels.cuda.specialisation import ChipLimits
from pascaline.weights import Dense, Slabbed
from pascaline.weights.slabbed import SlabbedForm

ROW_STEPS = (
    *(1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536),
    *(2048, 3072, 4096, 6144, 8192),
)
"""Rows that geometries are chosen for: others take the next, and so the same machine code."""


@dataclass(frozen=True)
class Product:
    """One call, of one form of weight, on one chip.

    Parameters
    ----------
    stored : the form of a weight in slabs, or the dtype of a dense one.
    is_permuted : the weight stores its inputs in an order of its own.
    """

    stored: SlabbedForm | torch.dtype
    call: LinearCall
    chip: ChipLimits
    is_permuted: bool = False

    @property
    def form(self) -> SlabbedForm:
        """Of a weight in slabs."""
        assert isinstance(self.stored, SlabbedForm)  # noqa: S101 - ways of dense weights do not ask
        return self.stored

    @property
    def dtype(self) -> torch.dtype:
        """Of a dense weight."""
        assert isinstance(self.stored, torch.dtype)  # noqa: S101 - ways of packed weights do not ask
        return self.stored

    def stepped(self) -> Product:
        """The same with the next of `ROW_STEPS`."""
        return replace(self, call=replace(self.call, rows=row_step(self.call.rows)))


def row_step(rows: int) -> int:
    """The next of `ROW_STEPS`."""
    return ROW_STEPS[min(bisect_left(ROW_STEPS, rows), len(ROW_STEPS) - 1)]


def product_of(
    weight: Dense | Slabbed,
    rows: int,
    chip: ChipLimits,
    *,
    input_dtype: torch.dtype = torch.float32,
    output_dtype: torch.dtype = torch.float32,
    bias_dtype: torch.dtype | None = None,
    is_gated: bool = False,
) -> Product:
    """The product of so many rows by `weight`; see `LinearCall`.

    Raises
    ------
    ShapeError : there is nothing to do.
    """
    outputs, columns = weight.shape
    call = LinearCall(rows, outputs, columns, input_dtype, output_dtype, bias_dtype, is_gated=is_gated)
    if isinstance(weight, Dense):
        return Product(weight.tensor.dtype, call, chip)
    return Product(weight.form, call, chip, is_permuted=weight.inputs is not None)
