"""A packed weight as CUDA kernels multiply it: slabs of 128 inputs, tiles of eight outputs.

N outputs, K inputs. A slab is 128 consecutive stored inputs, a quarter 32 of them, a tile one slab of 8
consecutive outputs. Lane L of a warp, 4 · (output % 8) + quarter, has its share of a tile in one piece, and
neighbouring tiles lie side by side, so that warps read memory in whole lines whatever they do with it. Both
are padded to whole slabs and tiles with codes and scales of zero.

A word is 4 neighbouring inputs, a byte each, as integer dot products take them; a quarter has eight. Planes
of bits (`PLANE_BITS`, the lowest first) of p bits have 4 · p bytes a lane: word w is field w // p of all
bytes of the lane's code word w % p. The halves of 16 bytes of an 8-bit lane lie 512 bytes apart. Codes of 8
bits are signed, all others are not.

Of numbers there is one entry a super-block, with the offset beside the scale; small integers of both levels
lie side by side for each quarter: see `Integers`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from pascaline.core.errors import UnsupportedError
from pascaline.weights.formula import Unpacked
from pascaline.workload.slab_form import SLAB, TILE_OUTPUTS, Integers
from pascaline.workload.weight_form import PLANE_BITS

_SCALE_TYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2, torch.uint8: 3}


@dataclass(frozen=True)
class SlabbedForm:
    """What kernels are specialised for: everything about a weight but its size.

    Parameters
    ----------
    super_size : inputs of a scale; 0 where a row has one.
    scale_dtype : of scales and offsets; uint8 e stands for 2^(e − 128).
    zero, zero_bits : what is taken off every code, and the bits of what is taken off beside it, one a scale.
    table : 16 signed bytes that codes stand for.
    """

    bits: int
    super_size: int
    scale_dtype: torch.dtype
    has_offsets: bool = False
    integers: Integers = Integers.NONE
    group_scale_zero: int = 0
    zero: int = 0
    zero_bits: int = 0
    table: tuple[int, ...] | None = None

    @property
    def definitions(self) -> tuple[tuple[str, int], ...]:
        """Macros of packed_weight.cuh."""
        table = () if self.table is None else self.table
        words = [
            int.from_bytes(bytes(value & 0xFF for value in table[first : first + 4]), "little", signed=True)
            for first in range(0, len(table), 4)
        ]
        return (
            ("BITS", self.bits),
            ("SUPER_SIZE", self.super_size),
            ("SCALE_TYPE", _SCALE_TYPES[self.scale_dtype]),
            ("HAS_OFFSETS", int(self.has_offsets)),
            ("INTEGERS", int(self.integers)),
            ("GROUP_SCALE_ZERO", self.group_scale_zero),
            ("ZERO", self.zero),
            ("ZERO_BITS", self.zero_bits),
            ("HAS_TABLE", int(self.table is not None)),
            *((f"TABLE_{index}", word) for index, word in enumerate(words)),
        )


@dataclass(frozen=True)
class Slabbed:
    """See the module's text.

    Parameters
    ----------
    codes : uint8 (slabs, N8 / 8, 128 · bits), N8 = N in whole tiles.
    scales : (R, N8, P, 1 or 2): the scale, and the offset where there is one.
    integers : uint8 (slabs, N8, 4), or uint16 where a quarter has 16 bits; None without a second level.
    integers_high : uint8 (slabs / 2, N8, 4): bits 8 to 11 of fields of 12; even slabs in the low nibble.
    zeros : uint8 (R, N8, P), or (R, N8 / 2, P) with even outputs in the low nibble.
    inputs : int32 (slabs · 128): the input feature of each stored one, −1 for padding; None: its own number.
    """

    shape: tuple[int, int]
    form: SlabbedForm
    codes: torch.Tensor
    scales: torch.Tensor
    integers: torch.Tensor | None = None
    integers_high: torch.Tensor | None = None
    zeros: torch.Tensor | None = None
    inputs: torch.Tensor | None = None

    @property
    def slabs(self) -> int:
        return self.codes.shape[0]

    @property
    def padded_outputs(self) -> int:
        return self.codes.shape[1] * TILE_OUTPUTS

    @property
    def resident_bytes(self) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in self.buffers.values())

    @property
    def buffers(self) -> dict[str, torch.Tensor]:
        """Arrays by their names as kernels' arguments; those that are absent are left out."""
        every = {
            "codes": self.codes,
            "scales": self.scales,
            "integers": self.integers,
            "integers_high": self.integers_high,
            "zeros": self.zeros,
            "inputs": self.inputs,
        }
        return {name: tensor for name, tensor in every.items() if tensor is not None}

    def dequantise(self, start: int, stop: int, out: torch.Tensor) -> None:
        """Write outputs `start`…`stop` to `out`, (stop − start, K), fp32 or fp64: `Packed`'s very bits."""
        first, last = start // TILE_OUTPUTS, -(-stop // TILE_OUTPUTS)
        inside = slice(start - first * TILE_OUTPUTS, stop - first * TILE_OUTPUTS)
        self._expand(lambda tensor: tensor[:, first:last], lambda rows: rows[inside], out)

    def gather(self, rows: torch.Tensor, out: torch.Tensor) -> None:
        """Write the outputs whose indices are in `rows` (T,) to `out`, (T, K), fp32."""
        rows = rows.to(self.codes.device)
        places = torch.arange(len(rows), device=rows.device) * TILE_OUTPUTS + rows % TILE_OUTPUTS
        self._expand(
            lambda tensor: tensor.index_select(1, rows // TILE_OUTPUTS),
            lambda values: values.index_select(0, places),
            out,
        )

    def reorder_rows(self, order: torch.Tensor) -> None:  # noqa: ARG002 - as every weight
        raise UnsupportedError("another order of a slabbed weight's rows", expected="rows in order before")

    def to(self, device: torch.device) -> Slabbed:
        moved = {name: tensor.to(device) for name, tensor in self.buffers.items()}
        return Slabbed(self.shape, self.form, **moved)

    def _expand(
        self,
        tiles: Callable[[torch.Tensor], torch.Tensor],
        pick: Callable[[torch.Tensor], torch.Tensor],
        out: torch.Tensor,
    ) -> None:
        """Values of some rows: `tiles` takes some along an array's second axis, `pick` rows of those."""
        form, slabs = self.form, self.slabs
        codes = pick(_codes_of(tiles(self.codes), form.bits))
        numbers = tiles(split_axis(self.scales, 1, (-1, TILE_OUTPUTS))).flatten(1, 2)  # (R, rows, P, 1 or 2)
        # Per group of `size` stored inputs: (rows, groups).
        size = _group_size(form)
        groups = slabs * SLAB // size
        scales, offsets = (
            None if numbers.shape[-1] <= part else pick(_spread(numbers[..., part], form, groups))
            for part in range(2)
        )
        assert scales is not None  # noqa: S101 - every weight has scales; the offsets alone are optional
        group_scales, group_offsets = self._group_integers(tiles, pick)
        zeros = None
        if self.zeros is not None:
            per_tile = TILE_OUTPUTS // (2 if form.zero_bits == 4 else 1)
            taken = tiles(split_axis(self.zeros, 1, (-1, per_tile))).flatten(1, 2)
            if form.zero_bits == 4:
                taken = torch.stack((taken & 15, taken >> 4), dim=2).flatten(1, 2)
            zeros = pick(_spread(taken, form, groups))
        table = form.table
        unpacked = Unpacked(
            codes=codes,
            scales=scales,
            offsets=offsets,
            group_scales=group_scales,
            group_scale_zero=form.group_scale_zero,
            group_offsets=group_offsets,
            zero=form.zero,
            zeros=zeros,
            table=None if table is None else torch.tensor(table, dtype=torch.int8, device=codes.device),
        )
        values = torch.empty(codes.shape, dtype=out.dtype, device=out.device)
        unpacked.evaluate(size, values)
        if self.inputs is None:
            out.copy_(values[:, : self.shape[1]])
        else:
            out[:, self.inputs[: self.shape[1]].long()] = values[:, : self.shape[1]]

    def _group_integers(
        self,
        tiles: Callable[[torch.Tensor], torch.Tensor],
        pick: Callable[[torch.Tensor], torch.Tensor],
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """a and b, (rows, groups) each."""
        if self.integers is None:
            return None, None
        fields = tiles(split_axis(self.integers, 1, (-1, TILE_OUTPUTS))).flatten(1, 2).to(torch.int32)
        layout = self.form.integers
        if self.integers_high is not None:
            high = tiles(split_axis(self.integers_high, 1, (-1, TILE_OUTPUTS))).flatten(1, 2).to(torch.int32)
            both = torch.stack((high & 15, high >> 4), dim=1).flatten(0, 1)[: self.slabs]
            fields = fields | both << 8
        shifts, width = INTEGER_FIELDS[layout]
        parts = [(fields >> shift) & ((1 << width) - 1) for shift in shifts]
        if layout in (Integers.SCALE_8, Integers.SCALES_8_8):
            parts = [torch.where(part > 127, part - 256, part) for part in parts]
        per_kind = 2 if layout in (Integers.SCALES_8_8, Integers.SCALES_OFFSETS_4, Integers.SCALES_6_6) else 1
        # (slabs, rows, 4 quarters, groups of a quarter) -> (rows, groups)
        kinds = [
            pick(torch.stack(parts[first : first + per_kind], dim=-1).transpose(0, 1).flatten(1))
            for first in range(0, len(parts), per_kind)
        ]
        return kinds[0], kinds[1] if len(kinds) > 1 else None


INTEGER_FIELDS: dict[Integers, tuple[tuple[int, ...], int]] = {
    Integers.SCALE_8: ((0,), 8),
    Integers.SCALES_8_8: ((0, 8), 8),
    Integers.SCALES_OFFSETS_4: ((0, 4, 8, 12), 4),
    Integers.SCALES_6_6: ((0, 6), 6),
    Integers.SCALE_OFFSET_6: ((0, 6), 6),
}
"""Where each integer of a quarter begins, scales before offsets, and the bits of each."""


def _group_size(form: SlabbedForm) -> int:
    """Stored inputs of the smallest thing that has numbers of its own."""
    if form.integers in (Integers.SCALES_8_8, Integers.SCALES_OFFSETS_4, Integers.SCALES_6_6):
        return 16
    if form.integers is not Integers.NONE:
        return 32
    return min(form.super_size, SLAB) or SLAB


def _spread(entries: torch.Tensor, form: SlabbedForm, groups: int) -> torch.Tensor:
    """(R, rows, P), one a super-block, to (rows, groups): one a group where there is one level only."""
    flat = entries.transpose(0, 1).flatten(1)
    if form.integers is not Integers.NONE:
        return flat[:, : -(-groups * _group_size(form) // form.super_size)]
    each = groups if form.super_size == 0 else max(1, form.super_size // SLAB)
    return flat.repeat_interleave(each, dim=1)[:, :groups]


def _codes_of(tiles: torch.Tensor, bits: int) -> torch.Tensor:
    """Codes (rows, slabs · 128) of tiles (slabs, tiles, 128 · bits): uint8, int8 where they have 8 bits."""
    slabs, count, _ = tiles.shape
    codes: torch.Tensor | None = None
    first = 0
    for plane in PLANE_BITS[bits]:
        data = tiles[..., SLAB * first : SLAB * (first + plane)]
        fields = 8 // plane
        if plane == 8:
            # (slab, tile, part, output, quarter, 16 bytes)
            lanes = split_axis(data, 2, (2, TILE_OUTPUTS, 4, 16)).permute(1, 3, 0, 4, 2, 5)
            words = lanes.reshape(count * TILE_OUTPUTS, slabs * SLAB).view(torch.int8)
        else:
            lanes = split_axis(data, 2, (TILE_OUTPUTS, 4, 1, plane * 4)).permute(1, 2, 0, 3, 4, 5)
            shifts = torch.arange(fields, device=tiles.device, dtype=torch.uint8) * plane
            spread = (lanes >> shifts[:, None]) & ((1 << plane) - 1)
            words = spread.reshape(count * TILE_OUTPUTS, slabs * SLAB) << first
        codes = words if codes is None else codes | words
        first += plane
    assert codes is not None  # noqa: S101 - there is a plane at least
    return codes


def split_axis(tensor: torch.Tensor, axis: int, sizes: tuple[int, ...]) -> torch.Tensor:
    """`tensor` with one axis as several."""
    return tensor.view(*tensor.shape[:axis], *sizes, *tensor.shape[axis + 1 :])
