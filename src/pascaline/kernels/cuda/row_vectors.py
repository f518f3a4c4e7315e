"""Rows as kernels read them: in vectors of four numbers where all have whole ones, else one by one."""

from __future__ import annotations

import torch

from pascaline.core.errors import ShapeError
from pascaline.kernels.cuda.specialisation import Integer

THREADS = 256
"""Of a block, where each takes a vector."""
_WIDTH = 4


def vector_width(*tensors: torch.Tensor) -> int:
    """WIDTH of row_vectors.cuh for tensors whose last axes are rows: 4 or 1.

    Raises
    ------
    ShapeError : the elements of a row lie apart.
    """
    for tensor in tensors:
        if tensor.stride(-1) != 1 and tensor.shape[-1] > 1:
            raise ShapeError(f"rows with strides {tensor.stride()}", expected="a row's elements side by side")
    return _WIDTH if all(map(_has_whole_vectors, tensors)) else 1


def _has_whole_vectors(tensor: torch.Tensor) -> bool:
    steps = (tensor.shape[-1], tensor.storage_offset(), *tensor.stride()[:-1])
    return all(step % _WIDTH == 0 for step in steps)


def blocks_of(items: int, threads: int = THREADS) -> tuple[int, int, int]:
    """The grid whose threads take an item each."""
    return -(-items // threads), 1, 1


def integers(*values: int) -> tuple[Integer, ...]:
    return tuple(map(Integer, values))
