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

VALUES_IQ4 = torch.tensor(
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], dtype=torch.int8
)
"""IQ4_NL's and IQ4_XS's non-linear steps. Source: the ggml format definition (kvalues_iq4nl)."""


# PERF: so many bytes of the file at a time: all fields are copied while their blocks are in the cache.
_TILE_BYTES = 1 << 19


class Blocks:
    """The blocks of tensors of K columns below each other: each field of them, (N, blocks a row), copied.

    A field of several bytes is one item a block. `rows` is N of all tensors together, `count` the
    blocks of a row; `fields` are the arrays by name. What is not in `changed` is kept as it is.
    """

    def __init__(
        self,
        type_name: str,
        elements: int,
        layout: numpy.dtype[numpy.void],
        parts: Sequence[StoredRows],
        changed: tuple[str, ...],
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
        items = _items(layout)
        self.fields: dict[str, NDArray[Any]] = {
            name: (numpy.empty if name in changed else allocate)((self.rows, self.count), items[name])
            for name in items.names or ()
        }
        start = 0
        for part in parts:
            blocks = numpy.frombuffer(part.read(), items).reshape(part.shape[0], self.count)
            self._copy(part.arranged(blocks), start)
            start += part.shape[0]

    def raw(self, name: str) -> torch.Tensor:
        """A field's bytes, (N, bytes a row) uint8."""
        return torch.from_numpy(self.fields[name].view(numpy.uint8))

    def halves(self, name: str) -> torch.Tensor:
        """An fp16 field, (N, blocks a row)."""
        return torch.from_numpy(self.fields[name])

    def _copy(self, blocks: NDArray[Any], start: int) -> None:
        """Copy all fields of (rows, …, blocks a row) records to rows `start`… of the arrays."""
        rows_each = blocks[0].size // self.count
        at_once = max(1, _TILE_BYTES // blocks[0].nbytes)
        for first in range(0, len(blocks), at_once):
            tile = blocks[first : first + at_once]
            begin = start + first * rows_each
            for name, array in self.fields.items():
                array[begin : begin + len(tile) * rows_each].reshape(tile.shape)[...] = tile[name]


def _items(layout: numpy.dtype[numpy.void]) -> numpy.dtype[numpy.void]:
    """The layout with arrays of bytes as one item each, whose copies go 9x faster than byte by byte."""
    fields = {name: layout[name] for name in layout.names or ()}
    return numpy.dtype(
        [(name, f"V{field.itemsize}" if field.shape else field.str) for name, field in fields.items()]
    )


def block_format(
    type_name: str,
    elements: int,
    layout: numpy.dtype[numpy.void],
    pack: Callable[[Blocks], Packed],
    *,
    changed: tuple[str, ...] = (),
) -> Format:
    """A GGUF type whose blocks of `elements` elements are records of `layout`.

    `changed` names the fields that `pack` makes something else of.
    """
    return Format(
        type_name,
        lambda parts: pack(Blocks(type_name, elements, layout, parts, changed)),
    )
