"""Forms of weights in memory, and how many bytes they take: exact, from names and shapes alone.

A weight is dense, or packed by the formula of `weights.packed`; on the CPU native kernels hold packed
ones in tiles of sixteen rows, see `weights.tiled`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

PLANE_BITS: Mapping[int, tuple[int, ...]] = {
    1: (1,),
    2: (2,),
    3: (2, 1),
    4: (4,),
    5: (4, 1),
    6: (4, 2),
    8: (8,),
}
"""Planes of bits that a code of so many bits is kept in, the lowest bits first."""

TILE_ROWS = 16
TILE_COLUMNS = 32
"""Stored columns that share a scale of the input, and fill a run of a tile's codes."""
TILE_GROUPS = 8
"""Whose small integers are a run in a tile."""


@dataclass(frozen=True)
class WeightForm:
    """How a matrix is held; the fields are `weights.Packed`'s arrays.

    Parameters
    ----------
    type_name : the file's name for it ("BF16", "Q4_K"), or the scheme's ("gptq").
    bits : of a code, or of an element of a dense weight.
    group_size, super_size : elements of K that share a small integer, and a scale.
    scale_bytes : of one scale.
    has_offsets : one number beside each scale.
    group_scale_bits, group_offset_bits, zeros_bits : of one small integer a group; 0 where there is none.
    is_permuted : columns are in another order than input features.
    """

    kind: Literal["dense", "packed"]
    type_name: str
    bits: int
    group_size: int = 0
    super_size: int = 0
    scale_bytes: int = 0
    has_offsets: bool = False
    group_scale_bits: int = 0
    group_offset_bits: int = 0
    zeros_bits: int = 0
    is_permuted: bool = False

    @property
    def measured_name(self) -> str:
        """What `bench gemm` calls it: weights of every scheme in 4 bits and groups of 128 are "GPTQ-4"."""
        is_gptq_4 = (self.bits, self.group_size, self.is_permuted) == (4, 128, False)
        return "GPTQ-4" if is_gptq_4 else self.type_name

    def packed_bytes(self, rows: int, columns: int) -> int:
        """As checkpoints pack it; a table of 16 values, which all weights of a type share, aside."""
        if self.kind == "dense":
            return rows * columns * self.bits // 8
        groups = columns // self.group_size
        row = packed_row_bytes(columns, self.bits) + self._scales(columns)
        row += sum(packed_row_bytes(groups, bits) for bits in self._group_bits())
        return rows * row + (4 * columns if self.is_permuted else 0)

    def tiled_bytes(self, rows: int, columns: int) -> int:
        """In tiles: rows, groups and runs are padded, and columns that are not in order have a table."""
        if self.kind == "dense":
            return self.packed_bytes(rows, columns)
        groups = columns // self.group_size
        stored = stored_columns(columns, self.group_size)
        tile = stored * TILE_ROWS * self.bits // 8 + TILE_ROWS * self._scales(columns)
        runs = -(-groups // TILE_GROUPS)
        tile += sum(runs * TILE_GROUPS * TILE_ROWS * bits // 8 for bits in self._group_bits())
        has_table = self.is_permuted or stored != columns
        return -(-rows // TILE_ROWS) * tile + (4 * stored if has_table else 0)

    def in_order(self) -> WeightForm:
        """The form of the same weight when its inputs come in the order of its columns."""
        return replace(self, is_permuted=False)

    def _scales(self, columns: int) -> int:
        """Bytes of a row's scales and offsets."""
        return columns // self.super_size * self.scale_bytes * (2 if self.has_offsets else 1)

    def _group_bits(self) -> tuple[int, ...]:
        every = (self.group_scale_bits, self.group_offset_bits, self.zeros_bits)
        return tuple(bits for bits in every if bits)


def packed_row_bytes(columns: int, bits: int) -> int:
    """Bytes of a row of codes: each plane ends with a whole byte."""
    return sum(-(-columns * plane_bits // 8) for plane_bits in PLANE_BITS[bits])


def stored_group(group_size: int) -> int:
    """Columns of a group in a tile."""
    return -(-group_size // TILE_ROWS) * TILE_ROWS


def stored_columns(columns: int, group_size: int) -> int:
    """Columns of a row in a tile."""
    return -(-columns // group_size * stored_group(group_size) // TILE_COLUMNS) * TILE_COLUMNS


def dense(type_name: str, bits: int) -> WeightForm:
    return WeightForm("dense", type_name, bits)


def _blocks(
    type_name: str,
    bits: int,
    group_size: int,
    super_size: int,
    *,
    scale_bytes: int = 2,
    has_offsets: bool = False,
    group_scale_bits: int = 0,
    group_offset_bits: int = 0,
) -> WeightForm:
    return WeightForm(
        "packed",
        type_name,
        bits,
        group_size,
        super_size,
        scale_bytes,
        has_offsets,
        group_scale_bits,
        group_offset_bits,
    )


VECTOR_FORM = dense("F32", 32)
"""Of gains and biases, whatever they are stored in."""

TENSOR_FORMS: Mapping[str, WeightForm] = {
    form.type_name: form
    for form in (
        VECTOR_FORM,
        dense("F16", 16),
        dense("BF16", 16),
        _blocks("Q4_0", 4, 32, 32),
        _blocks("Q4_1", 4, 32, 32, has_offsets=True),
        _blocks("Q5_0", 5, 32, 32),
        _blocks("Q5_1", 5, 32, 32, has_offsets=True),
        _blocks("Q8_0", 8, 32, 32),
        _blocks("Q2_K", 2, 16, 256, has_offsets=True, group_scale_bits=4, group_offset_bits=4),
        _blocks("Q3_K", 3, 16, 256, group_scale_bits=6),
        _blocks("Q4_K", 4, 32, 256, has_offsets=True, group_scale_bits=6, group_offset_bits=6),
        _blocks("Q5_K", 5, 32, 256, has_offsets=True, group_scale_bits=6, group_offset_bits=6),
        _blocks("Q6_K", 6, 16, 256, group_scale_bits=8),
        _blocks("IQ4_NL", 4, 32, 32),
        _blocks("IQ4_XS", 4, 32, 256, group_scale_bits=6),
        _blocks("MXFP4", 4, 32, 32, scale_bytes=1),
    )
}
"""Weights that are one tensor, by its element type in a file's directory; `formats` reads them."""
