"""A packed weight as the CPU multiplies it: sixteen rows side by side.

A tile is 16 rows. Its codes are in the order [K / 4][row][4 neighbours along K], so that a vector of 64
bytes has four codes of each row, and a row's sum stays in its own lane of 32 bits; the last rows of a
weight are padded with zeros. They are planes of bits as everywhere, in runs of eight such vectors: 32
elements of K. Numbers and small integers are in the order [group][row], the integers in runs of eight groups.

A group that is no multiple of 16 elements is padded to one, and `inputs` says where the padding is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from pascaline.core.errors import UnsupportedError
from pascaline.weights.codes import Codes, Plane, Rows
from pascaline.weights.formula import Unpacked
from pascaline.weights.memory import Arena
from pascaline.weights.packed import Packed
from pascaline.workload.weight_form import (
    PLANE_BITS,
    TILE_COLUMNS,
    TILE_GROUPS,
    TILE_ROWS,
    stored_columns,
    stored_group,
)

_arena = Arena()


@dataclass(frozen=True)
class Tiled:
    """Arrays have a row a tile; names are `Packed`'s, and signed integers are stored 128 higher.

    Parameters
    ----------
    inputs : the input feature that each stored column multiplies, −1 for padding; int32. None where
        that is the one of its number.
    """

    shape: tuple[int, int]
    group_size: int
    super_size: int
    codes: Codes
    scales: torch.Tensor
    offsets: torch.Tensor | None
    group_scales: Codes | None
    group_scale_zero: int
    group_offsets: Codes | None
    zero: int
    zeros: Codes | None
    table: torch.Tensor | None
    inputs: torch.Tensor | None

    @property
    def stored_group(self) -> int:
        """Stored columns of a group."""
        return stored_group(self.group_size)

    @property
    def resident_bytes(self) -> int:
        total = 0
        for value in (self.scales, self.offsets, self.inputs):
            total += 0 if value is None else value.numel() * value.element_size()
        for codes in (self.codes, self.group_scales, self.group_offsets, self.zeros):
            total += 0 if codes is None else codes.resident_bytes
        return total

    def dequantise(self, start: int, stop: int, out: torch.Tensor) -> None:
        """Write rows `start`…`stop` to `out`, (stop − start, K), fp32 or fp64: `Packed`'s very bits."""
        first, last = start // TILE_ROWS, -(-stop // TILE_ROWS)
        self._expand(
            lambda tiles: tiles[first:last],
            lambda rows: rows.flatten(0, 1)[start - first * TILE_ROWS : stop - first * TILE_ROWS],
            out,
        )

    def gather(self, rows: torch.Tensor, out: torch.Tensor) -> None:
        """Write the rows whose indices are in `rows` (T,) to `out`, (T, K), fp32."""
        each = torch.arange(len(rows))
        self._expand(
            lambda tiles: tiles.index_select(0, rows // TILE_ROWS),
            lambda tiles: tiles[each, rows % TILE_ROWS],
            out,
        )

    def reorder_rows(self, order: torch.Tensor) -> None:  # noqa: ARG002 - as every weight
        raise UnsupportedError("another order of a tiled weight's rows", expected="rows in order before")

    def to(self, device: torch.device) -> Tiled:
        if device.type != "cpu":
            raise UnsupportedError(f"a tiled weight on {device}", expected="the CPU")
        return self

    def _expand(self, tiles: Rows, pick: Callable[[torch.Tensor], torch.Tensor], out: torch.Tensor) -> None:
        """All values of the rows that `pick` takes from some tiles, (tiles, 16, …)."""

        def numbers(tensor: torch.Tensor) -> torch.Tensor:
            return pick(tensor.view(len(tensor), -1, TILE_ROWS).transpose(1, 2))

        def integers(codes: Codes | None) -> torch.Tensor | None:
            return None if codes is None else numbers(codes.unpack(tiles))

        codes = self.codes.unpack(tiles)
        stored = self.codes.columns // TILE_ROWS
        codes = pick(codes.view(-1, stored // 4, TILE_ROWS, 4).transpose(1, 2).flatten(2))
        groups = self.shape[1] // self.group_size
        used = codes[:, : groups * self.stored_group].view(len(codes), groups, self.stored_group)
        unpacked = Unpacked(
            codes=used[..., : self.group_size].flatten(1),
            scales=numbers(tiles(self.scales)),
            offsets=None if self.offsets is None else numbers(tiles(self.offsets)),
            group_scales=integers(self.group_scales),
            group_scale_zero=self.group_scale_zero,
            group_offsets=integers(self.group_offsets),
            zero=self.zero,
            zeros=integers(self.zeros),
            table=self.table,
        )
        if self.inputs is None:
            unpacked.evaluate(self.group_size, out)
        else:
            values = torch.empty_like(out)
            unpacked.evaluate(self.group_size, values)
            out[:, self.inputs[self.inputs >= 0].long()] = values


def tiles_for(weight: Packed) -> Tiled:
    """Tiles with room for `weight`, which `kernels.cpu.tiling` fills."""
    tiles = -(-weight.shape[0] // TILE_ROWS)
    groups, stored = weight.shape[1] // weight.group_size, stored_columns(weight.shape[1], weight.group_size)

    def planes(bits: int, elements: int, run: int) -> Codes:
        """Codes of `elements` a tile."""
        runs = -(-elements // run)
        made = (
            Plane(part, run, _empty((tiles, runs * run * part // 8), torch.uint8))
            for part in PLANE_BITS[bits]
        )
        return Codes(elements, tuple(made))

    def numbers(tensor: torch.Tensor) -> torch.Tensor:
        return _empty((tiles, tensor.shape[1] * TILE_ROWS), tensor.dtype)

    def integers(codes: Codes | None) -> Codes | None:
        return None if codes is None else planes(codes.bits, groups * TILE_ROWS, TILE_GROUPS * TILE_ROWS)

    return Tiled(
        shape=weight.shape,
        group_size=weight.group_size,
        super_size=weight.super_size,
        codes=planes(weight.bits, stored * TILE_ROWS, TILE_COLUMNS * TILE_ROWS),
        scales=numbers(weight.scales),
        offsets=None if weight.offsets is None else numbers(weight.offsets),
        group_scales=integers(weight.group_scales),
        group_scale_zero=weight.group_scale_zero + _signed_zero(weight.group_scales),
        group_offsets=integers(weight.group_offsets),
        zero=weight.zero + _signed_zero(weight.codes),
        zeros=integers(weight.zeros),
        table=weight.table,
        inputs=stored_inputs(weight),
    )


def _empty(shape: tuple[int, int], dtype: torch.dtype) -> torch.Tensor:
    return torch.from_numpy(_arena.allocate((shape[0], shape[1] * dtype.itemsize), "uint8")).view(dtype)


def _signed_zero(codes: Codes | None) -> int:
    return 128 if codes is not None and codes.planes[0].data.dtype == torch.int8 else 0


def stored_inputs(weight: Packed) -> torch.Tensor | None:
    """See `Tiled.inputs`."""
    columns = weight.shape[1]
    groups, stored = columns // weight.group_size, stored_columns(columns, weight.group_size)
    if weight.permutation is None and stored == columns:
        return None
    features = torch.arange(columns).int() if weight.permutation is None else weight.permutation.int()
    inputs = torch.full((stored,), -1, dtype=torch.int32)
    padded = stored_group(weight.group_size)
    places = inputs[: groups * padded].view(groups, padded)
    places[:, : weight.group_size] = features.view(groups, weight.group_size)
    return inputs
