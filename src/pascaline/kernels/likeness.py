"""What kernels are chosen by, of their operands: layers that are alike in it are decided on once."""

from __future__ import annotations

from collections.abc import Hashable

import torch

from pascaline.kernels.cuda.linear_runner import is_in_one_piece
from pascaline.kernels.op import Shaped
from pascaline.weights import Dense, Packed, Slabbed, Tiled


def likeness(operand: Shaped | None) -> Hashable:
    """Equal for operands that the same kernel computes with, by the same launches, in the same time.

    That is all that kernels look at, in `takes`, `predicted_s` and `recipe`: no value, and of memory whether
    vectors can be read of it.
    """
    match operand:
        case None:
            return None
        case torch.Tensor():
            return operand.shape, operand.dtype
        case Slabbed():
            return operand.shape, operand.form, operand.inputs is None
        case Dense():
            return operand.shape, operand.tensor.dtype, is_in_one_piece(operand.tensor)
        case Packed() | Tiled():
            return operand.shape, type(operand), operand.resident_bytes
        case _:
            return operand.shape, type(operand)
