"""What GGUF's block formats share: tensors as arrays of blocks, and fields copied out of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy
import torch

from pascaline.core.errors import CheckpointError
from pascaline.formats.destination import Destination, Memory
from pascaline.formats.format import Format, StoredRows
from pascaline.weights import Packed

VALUES_IQ4 = torch.tensor(
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], dtype=torch.int8
)
"""IQ4_NL's and IQ4_XS's non-linear steps. Source: the ggml format definition (kvalues_iq4nl)."""


# PERF: so many bytes of the file at a time: all fields are copied while their blocks are in the cache.
_TILE_BYTES = 1 << 19


class Blocks:
    """The blocks of tensors of K columns below each other: each field of them, copied to where weights go.

    `rows` is N of all tensors together, `count` the blocks of a row. What is not in `changed` stays as it is.
    """

    def __init__(
        self,
        type_name: str,
        elements: int,
        layout: numpy.dtype[numpy.void],
        parts: Sequence[StoredRows],
        to: Destination,
        changed: tuple[str, ...],
    ) -> None:
        for part in parts:
            if len(part.shape) != 2 or part.shape[1] % elements:
                raise CheckpointError(
                    f"a tensor in blocks of {type_name} has shape {list(part.shape)}",
                    expected=f"two axes, the last a multiple of {elements}",
                )
        self.to = to
        self.columns = parts[0].shape[1]
        self.count = self.columns // elements
        self.rows = sum(part.shape[0] for part in parts)
        self._fields = {
            name: to.allocate(
                (self.rows, self.count * layout[name].itemsize), torch.uint8, stays=name not in changed
            )
            for name in layout.names or ()
        }
        copy = self._copy if isinstance(to, Memory) else self._copy_there
        start = 0
        for part in parts:
            copy(part, layout, start)
            start += part.shape[0]

    def raw(self, name: str) -> torch.Tensor:
        """A field's bytes, (N, bytes a row) uint8."""
        return self._fields[name]

    def halves(self, name: str) -> torch.Tensor:
        """An fp16 field, (N, blocks a row)."""
        return self._fields[name].view(torch.float16)

    def _copy(self, part: StoredRows, layout: numpy.dtype[numpy.void], start: int) -> None:
        """Copy all fields of a tensor's blocks to rows `start`… of the arrays, tile by tile."""
        items = _items(layout)
        blocks = part.arranged(numpy.frombuffer(part.read(), items).reshape(part.shape[0], self.count))
        arrays = {name: field.numpy().view(items[name]) for name, field in self._fields.items()}
        rows_each = blocks[0].size // self.count
        at_once = max(1, _TILE_BYTES // blocks[0].nbytes)
        for first in range(0, len(blocks), at_once):
            tile = blocks[first : first + at_once]
            begin = start + first * rows_each
            for name, array in arrays.items():
                array[begin : begin + len(tile) * rows_each].reshape(tile.shape)[...] = tile[name]

    def _copy_there(self, part: StoredRows, layout: numpy.dtype[numpy.void], start: int) -> None:
        """The same of a tensor that is brought to the weights' device as it is."""
        rows = part.shape[0]
        blocks = part.arranged(self.to.bring(part.read()).view(rows, self.count, layout.itemsize))
        first = 0
        for name, field in self._fields.items():
            stop = first + layout[name].itemsize
            some = blocks[..., first:stop]
            field[start : start + rows].view(some.shape).copy_(some)
            first = stop


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

    def load(parts: Sequence[StoredRows], to: Destination) -> Packed:
        weight = pack(Blocks(type_name, elements, layout, parts, to, changed))
        return weight if weight.table is None else replace(weight, table=weight.table.to(to.device))

    return Format(type_name, load)
