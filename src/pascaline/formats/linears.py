"""Quantised linears of several tensors each: read in tiles, several below each other as one weight."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from pascaline.checkpoint.checkpoint import Checkpoint
from pascaline.formats.format import StoredWeight
from pascaline.formats.word_packing import TILE_OUTPUTS, pack_columns, tensor_of
from pascaline.weights import Packed
from pascaline.weights.codes import PLANE_BITS, Codes, Plane, packed_bytes
from pascaline.weights.memory import allocate


@dataclass(frozen=True)
class LinearForm:
    """What linears must share to become one weight.

    Parameters
    ----------
    columns, bits, group_size : K, bits of a code, elements of K that share a scale.
    scale_dtype : of the scales, in which they are kept.
    zero : what is taken off every code; `has_zeros`: each group's stored zero, too.
    symmetric : the stored zeros should all be the same, and become a part of `zero` if they are.
    order : input features in the order of their groups, where that is not their own.
    """

    columns: int
    bits: int
    group_size: int
    scale_dtype: torch.dtype
    zero: int
    has_zeros: bool
    symmetric: bool
    order: tuple[int, ...] | None

    @property
    def groups(self) -> int:
        return self.columns // self.group_size

    def resident_bytes(self, rows: int) -> int:
        """Of `rows` output features, without `order`, which they share."""
        total = packed_bytes(self.columns, self.bits) + self.groups * self.scale_dtype.itemsize
        if self.has_zeros and not self.symmetric:
            total += packed_bytes(self.groups, self.bits)
        return rows * total


class LinearTensors(ABC):
    """The tensors of one linear, checked against the shape that the model wants, but not read."""

    checkpoint: Checkpoint
    names: tuple[str, ...]
    rows: int
    form: LinearForm

    def tensor(self, name: str) -> torch.Tensor:
        """A view of one of the file's tensors."""
        entry = self.checkpoint.tensors[name]
        return tensor_of(self.checkpoint.read(name), entry.type_name, entry.shape)

    def write_in_order(
        self, values_of: Callable[[slice], torch.Tensor], planes: Sequence[torch.Tensor]
    ) -> None:
        """Write codes, given as (K, outputs) uint8 of some outputs, in the order of the form."""
        order = None if self.form.order is None else torch.tensor(self.form.order)
        for start in range(0, self.rows, TILE_OUTPUTS):
            tile = slice(start, start + TILE_OUTPUTS)
            values = values_of(tile)
            if order is not None:
                values = values.index_select(0, order)
            pack_columns(values, self.form.bits, [plane[tile] for plane in planes])

    @abstractmethod
    def write_codes(self, planes: Sequence[torch.Tensor]) -> None:
        """Write all codes, in the order of the form, to planes (rows, bytes), the lowest bits first."""

    @abstractmethod
    def scales(self) -> torch.Tensor:
        """(rows, groups); maybe a view of the file."""

    @abstractmethod
    def zeros(self) -> torch.Tensor:
        """The stored zeros, (rows, groups) uint8; only asked for where the form has them."""


@dataclass(frozen=True)
class StoredLinears(StoredWeight):
    """A weight that is one quantised linear, or several of one form below each other."""

    parts: tuple[LinearTensors, ...]

    @classmethod
    def of(cls, *parts: LinearTensors) -> StoredLinears:
        form = parts[0].form
        rows = sum(part.rows for part in parts)
        resident = form.resident_bytes(rows) + (0 if form.order is None else 4 * form.columns)
        names = tuple(name for part in parts for name in part.names)
        return cls(parts[0].checkpoint.path.name, names, resident, lambda: _load(parts), parts)

    def joined(self, other: StoredWeight) -> StoredLinears | None:
        if not isinstance(other, StoredLinears) or self.parts[0].form != other.parts[0].form:
            return None
        return self.of(*self.parts, *other.parts)


def _load(parts: Sequence[LinearTensors]) -> Packed:
    form = parts[0].form
    rows = sum(part.rows for part in parts)
    planes = [
        torch.from_numpy(allocate((rows, -(-form.columns * bits // 8)), "u1"))
        for bits in PLANE_BITS[form.bits]
    ]
    scales = torch.from_numpy(allocate((rows, form.groups * form.scale_dtype.itemsize), "u1"))
    scales = scales.view(form.scale_dtype)
    start = 0
    for part in parts:
        stop = start + part.rows
        part.write_codes([plane[start:stop] for plane in planes])
        scales[start:stop] = part.scales()
        start = stop
    zero, zeros = form.zero, None
    if form.has_zeros:
        stored = torch.cat([part.zeros() for part in parts])
        first = int(stored[0, 0])
        if form.symmetric and bool((stored == first).all()):
            zero += first
        else:
            zeros = Codes.pack(stored, form.bits)
    return Packed(
        Codes(
            form.columns,
            tuple(map(Plane, PLANE_BITS[form.bits], (8 // bits for bits in PLANE_BITS[form.bits]), planes)),
        ),
        form.group_size,
        form.group_size,
        scales,
        zero=zero,
        zeros=zeros,
        permutation=None if form.order is None else torch.tensor(form.order, dtype=torch.int32),
    )
