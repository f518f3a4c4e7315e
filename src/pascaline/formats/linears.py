"""Quantised linears of several tensors each: read in tiles, several below each other as one weight."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from pascaline.checkpoint.checkpoint import Checkpoint
from pascaline.core.errors import CheckpointError
from pascaline.formats.destination import IN_MEMORY, Destination
from pascaline.formats.format import StoredWeight
from pascaline.formats.word_packing import SCALE_DTYPES, pack_columns, tensor_of
from pascaline.weights import Packed, Weight
from pascaline.weights.codes import Codes, Plane
from pascaline.workload.stored_weight import StoredLinear
from pascaline.workload.weight_form import PLANE_BITS


class LinearTensors(ABC):
    """The tensors of one linear, of which only the groups of its inputs are read at once.

    `order` has the input features in the order of their groups, None where that is their own.
    """

    def __init__(self, checkpoint: Checkpoint, stored: StoredLinear) -> None:
        """Take what the directory says of a linear.

        Raises
        ------
        CheckpointError : its inputs are not dealt to groups of one size.
        """
        self.checkpoint = checkpoint
        self.order = None
        if stored.group_index is not None:
            self.order = order_of(checkpoint, stored.group_index, stored.columns, stored.group_size)
        self.stored = replace(stored, presumed_order=self.order is not None)

    def tensor(self, name: str, to: Destination) -> torch.Tensor:
        """One of the file's tensors as it is, there; maybe a view of the file."""
        entry = self.checkpoint.tensors[name]
        return tensor_of(self.checkpoint.read(name), entry.type_name, entry.shape, to)

    def write_in_order(
        self, values_of: Callable[[slice], torch.Tensor], planes: Sequence[torch.Tensor], to: Destination
    ) -> None:
        """Write codes, given as (K, outputs) uint8 of some outputs, in `order`."""
        order = None if self.order is None else torch.tensor(self.order, device=to.device)
        for start in range(0, self.stored.rows, to.outputs_at_once):
            tile = slice(start, start + to.outputs_at_once)
            values = values_of(tile)
            if order is not None:
                values = values.index_select(0, order)
            pack_columns(values, self.stored.bits, [plane[tile] for plane in planes])

    def zero_tensor(self, to: Destination) -> torch.Tensor:
        """The stored zeros as they are; only asked for where there are some."""
        if self.stored.zeros is None:
            raise CheckpointError(f"{self.checkpoint.path.name}: {self.stored.words!r} has no zeros")
        return self.tensor(self.stored.zeros, to)

    @abstractmethod
    def write_codes(self, planes: Sequence[torch.Tensor], to: Destination) -> None:
        """Write all codes, in `order`, to planes (rows, bytes), the lowest bits first."""

    @abstractmethod
    def scales(self, to: Destination) -> torch.Tensor:
        """(rows, groups); maybe a view of the file."""

    @abstractmethod
    def zeros(self, to: Destination) -> torch.Tensor:
        """The stored zeros, (rows, groups) uint8; only asked for where there are some."""


@dataclass(frozen=True)
class StoredLinears(StoredWeight):
    """A weight that is one quantised linear, or several of one form below each other."""

    parts: tuple[LinearTensors, ...]

    @classmethod
    def of(cls, *parts: LinearTensors) -> StoredLinears:
        first = parts[0].stored
        names = tuple(name for part in parts for name in part.stored.names)
        shape = (sum(part.stored.rows for part in parts), first.columns)
        return cls(parts[0].checkpoint.path.name, names, shape, first.form, parts)

    def load(self, to: Destination = IN_MEMORY) -> Weight:
        return self.checked(_load(self.parts, to))

    def joined(self, other: StoredWeight) -> StoredLinears | None:
        if not isinstance(other, StoredLinears):
            return None
        ours, theirs = self.parts[0], other.parts[0]
        if ours.order != theirs.order or not ours.stored.joins(theirs.stored):
            return None
        return self.of(*self.parts, *other.parts)


def _load(parts: Sequence[LinearTensors], to: Destination) -> Packed:
    form, order = parts[0].stored, parts[0].order
    rows = sum(part.stored.rows for part in parts)
    groups, scale_dtype = form.columns // form.group_size, SCALE_DTYPES[form.scale_type]
    planes = [
        to.allocate((rows, -(-form.columns * bits // 8)), torch.uint8) for bits in PLANE_BITS[form.bits]
    ]
    scales = to.allocate((rows, groups), scale_dtype)
    start = 0
    for part in parts:
        stop = start + part.stored.rows
        part.write_codes([plane[start:stop] for plane in planes], to)
        scales[start:stop] = part.scales(to)
        start = stop
    zero, zeros = form.zero, None
    if form.zeros is not None:
        stored = torch.cat([part.zeros(to) for part in parts])
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
        permutation=None if order is None else torch.tensor(order, dtype=torch.int32, device=to.device),
    )


def order_of(checkpoint: Checkpoint, name: str, columns: int, group_size: int) -> tuple[int, ...] | None:
    """Input features in the order of their groups, by the int32 tensor `name`, (K,), the group of each.

    None where that is their own order.

    Raises
    ------
    CheckpointError : its groups are not all of `group_size` inputs.
    """
    group_of_input = tensor_of(checkpoint.read(name), "I32", (columns,), IN_MEMORY).long()
    in_order = torch.arange(columns) // group_size
    if torch.equal(group_of_input, in_order):
        return None
    permutation = group_of_input.argsort(stable=True)
    if not torch.equal(group_of_input[permutation], in_order):
        raise CheckpointError(
            f"{checkpoint.path.name}: tensor {name!r} does not deal {columns} inputs to groups "
            f"of {group_size}",
            remedy="Fetch the file again, or quantise the model again",
        )
    return tuple(permutation.tolist())
