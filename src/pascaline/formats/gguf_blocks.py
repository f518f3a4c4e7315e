"""What GGUF's block formats share: tensors as arrays of blocks, and fields copied out of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy
import torch
from numpy.typing import NDArray

from pascaline.core.errors import CheckpointError
from pascaline.formats.format import Format, StoredRows
from pascaline.weights import Packed
from pascaline.weights.memory import allocate

VALUES_IQ4 = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
"""IQ4_NL's and IQ4_XS's non-linear steps. Source: the ggml format definition (kvalues_iq4nl)."""


class Blocks:
    """The blocks of tensors of K columns below each other: records of `layout`, not copied.

    `rows` is N of all together, `count` the blocks of a row.
    """

    def __init__(
        self, type_name: str, elements: int, layout: numpy.dtype[numpy.void], parts: Sequence[StoredRows]
    ) -> None:
        for part in parts:
            if len(part.shape) != 2 or part.shape[1] % elements:
                raise CheckpointError(
                    f"a tensor in blocks of {type_name} has shape {list(part.shape)}",
                    expected=f"two axes, the last a multiple of {elements}",
                )
        self.columns = parts[0].shape[1]
        self.count = self.columns // elements
        self.rows = sum(part.shape[0] for part in parts)
        self._parts = [
            part.arranged(numpy.frombuffer(part.read(), layout).reshape(part.shape[0], self.count))
            for part in parts
        ]

    def field(self, name: str) -> NDArray[Any]:
        """A field of all blocks, (N, blocks a row), copied; fields of several bytes as one item each.

        PERF: a block's bytes copied as one item go 9x faster than byte by byte.
        """
        stored = self._parts[0].dtype[name]
        item = stored if stored.shape == () else numpy.dtype(f"V{stored.itemsize}")
        copied = allocate((self.rows, self.count), item)
        start = 0
        for part in self._parts:
            values: NDArray[Any] = part[name]
            if stored.shape != ():
                values = values.view(item)[..., 0]
            stop = start + part.size // self.count
            copied[start:stop].reshape(values.shape)[...] = values
            start = stop
        return copied

    def raw(self, name: str) -> torch.Tensor:
        """A field's bytes, (N, bytes a row) uint8, copied."""
        return torch.from_numpy(self.field(name).view(numpy.uint8))

    def halves(self, name: str) -> torch.Tensor:
        """An fp16 field, (N, blocks a row), copied."""
        return torch.from_numpy(self.field(name))


def block_format(
    type_name: str, elements: int, layout: numpy.dtype[numpy.void], pack: Callable[[Blocks], Packed]
) -> Format:
    """A GGUF type whose blocks of `elements` elements are records of `layout`."""
    return Format(
        type_name,
        lambda parts: pack(Blocks(type_name, elements, layout, parts)),
        lambda columns: columns // elements * layout.itemsize,
    )
