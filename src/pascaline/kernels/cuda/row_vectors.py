"""Rows as kernels read them: in vectors of four numbers where all have whole ones, else one by one."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pascaline.core.errors import ShapeError
from pascaline.kernels.cuda.specialisation import Integer

THREADS = 256
"""Of a block, where each takes a vector."""
_WIDTH = 4
WARP = 32
_MOST_THREADS = 1024


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


@dataclass(frozen=True)
class RowShape:
    """How threads take a row; the same for all kernels that normalise rows of so many columns.

    Parameters
    ----------
    width : numbers of a vector, 4 or 1.
    warps : that take a row.
    vectors : of a thread.
    """

    width: int
    warps: int
    vectors: int

    @property
    def definitions(self) -> tuple[tuple[str, int], ...]:
        """Macros of row_norm.cuh."""
        return (("WIDTH", self.width), ("ROW_WARPS", self.warps), ("VECTORS", self.vectors))


def row_shape(columns: int, width: int) -> RowShape:
    """A warp for what it holds in two vectors a thread, else a block: two a thread, or the most threads.

    It does not depend on the number of rows: nor do the bits of a row.
    """
    vectors = -(-columns // width)
    if vectors <= 2 * WARP:
        return RowShape(width, 1, -(-vectors // WARP))
    threads = min(_MOST_THREADS, -(-vectors // (2 * WARP)) * WARP)
    return RowShape(width, threads // WARP, -(-vectors // threads))


def head_shape(columns: int, width: int) -> tuple[tuple[str, int], ...]:
    """Macros of row_norm.cuh where a warp takes a head, however long."""
    return RowShape(width, 1, -(-columns // (width * WARP))).definitions


def blocks_of(items: int, threads: int = THREADS) -> tuple[int, int, int]:
    """The grid whose threads take an item each."""
    return -(-items // threads), 1, 1


def integers(*values: int) -> tuple[Integer, ...]:
    return tuple(map(Integer, values))
