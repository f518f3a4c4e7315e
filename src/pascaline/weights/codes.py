"""Unsigned integers of 1 to 8 bits, kept as planes of bits.

A plane holds 1, 2, 4 or 8 bits of every element. Elements come in runs of R: a run of p-bit fields
is R · p / 8 bytes, and

    byte i, bits [j · p, (j + 1) · p) of a run  ↔  element j · (R · p / 8) + i

so that a shift and a mask of whole words give neighbouring elements, one a byte, as integer dot
products take them. R = 8 / p is the plain little-endian bit stream. 3 bits are a plane of 2 and one
of 1, 5 are 4 and 1, 6 are 4 and 2. Runs are as long as in the files that the codes come from: each
GGUF type, GPTQ and compressed-tensors keep theirs in this form already, and loading moves bytes
without looking into them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch

from pascaline.core.errors import ShapeError
from pascaline.workload.weight_form import PLANE_BITS

Rows = Callable[[torch.Tensor], torch.Tensor]
"""Takes some of a tensor's rows, or all of them from elsewhere."""


def all_rows(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


# An integer that holds all fields of one byte, each in a byte of its own.
_SPREAD_DTYPES = {4: torch.int16, 2: torch.int32, 1: torch.int64}


@dataclass(frozen=True)
class Plane:
    """`data` is (N, bytes a row), uint8; of 8 bits also int8, whose elements are signed then."""

    bits: int
    run: int
    data: torch.Tensor

    def __post_init__(self) -> None:
        if self.run * self.bits % 8 or self.data.dim() != 2 or self.data.shape[1] % self.run_bytes:
            raise ShapeError(
                f"a plane of {self.bits} bits in runs of {self.run}, shape {tuple(self.data.shape)}",
                expected="two axes, the last of whole runs",
            )

    @property
    def run_bytes(self) -> int:
        return self.run * self.bits // 8

    def fields(self, rows: Rows) -> torch.Tensor:
        """All elements of some rows in order, columns padded to whole runs, uint8 (int8 as stored)."""
        data = rows(self.data)
        if self.bits == 8:
            return data
        count = 8 // self.bits
        mask = 0x0101010101010101 * ((1 << self.bits) - 1)
        if self.run_bytes == 1:
            # PERF: the fields of a byte are spread over an integer's bytes, so that all operations are
            # on whole, contiguous words: 77 -> 68 ms for the demo's decode step (EPYC, 2 threads).
            byte = data.to(_SPREAD_DTYPES[self.bits])
            spread = byte.clone()
            for field in range(1, count):
                spread.bitwise_or_(byte << field * (8 - self.bits))
            return spread.bitwise_and_(mask >> 8 * (8 - count)).view(torch.uint8)
        # PERF: bits are masked eight bytes, and runs put together 16 bytes at a time, which torch
        # calls a complex number: 0.13 ms for 1536x1536 codes in runs of 32, 0.62 byte by byte.
        masked, item = (torch.int64, torch.complex128) if self.run_bytes % 16 == 0 else (torch.uint8,) * 2
        words = data.view(masked)
        run_items = self.run_bytes // item.itemsize
        runs = data.shape[1] // self.run_bytes
        fields = torch.empty((len(words), runs, count, run_items), dtype=item, device=words.device)
        for field in range(count):
            some = (words >> field * self.bits).bitwise_and_(mask if masked.is_signed else mask & 0xFF)
            fields[:, :, field] = some.view(item).view(len(words), runs, run_items)
        return fields.flatten(1).view(torch.uint8)


@dataclass(frozen=True)
class Codes:
    """An (N, columns) array of codes; see the module's text for the layout."""

    columns: int
    planes: tuple[Plane, ...]

    def __post_init__(self) -> None:
        if tuple(plane.bits for plane in self.planes) != PLANE_BITS.get(self.bits):
            raise ShapeError(f"planes of {[plane.bits for plane in self.planes]} bits", expected="see Codes")
        for plane in self.planes:
            runs = -(-self.columns // plane.run)
            if tuple(plane.data.shape) != (self.rows, runs * plane.run_bytes):
                raise ShapeError(
                    f"a plane of shape {tuple(plane.data.shape)} for {self.columns} codes",
                    expected=str((self.rows, runs * plane.run_bytes)),
                )

    @property
    def bits(self) -> int:
        return sum(plane.bits for plane in self.planes)

    @property
    def rows(self) -> int:
        return len(self.planes[0].data)

    @property
    def resident_bytes(self) -> int:
        return sum(plane.data.numel() for plane in self.planes)

    def unpack(self, rows: Rows = all_rows) -> torch.Tensor:
        """(N, columns) uint8, or int8 where the codes are signed, of some rows; maybe a view."""
        lowest, *others = (plane.fields(rows)[:, : self.columns] for plane in self.planes)
        return lowest.bitwise_or_(others[0] << self.planes[0].bits) if others else lowest

    def over(self, change: Rows) -> Codes:
        """The codes with `change` done to every plane's bytes; it may only touch rows."""
        return Codes(self.columns, tuple(replace(plane, data=change(plane.data)) for plane in self.planes))

    @staticmethod
    def pack(values: torch.Tensor, bits: int) -> Codes:
        """Codes of (N, columns) integers from 0 to 2^bits − 1, as a little-endian bit stream a plane."""
        columns = values.shape[1]
        padded = torch.nn.functional.pad(values.to(torch.uint8), (0, -columns % 8))
        planes = []
        for plane_bits, data in zip(PLANE_BITS[bits], packed_fields(padded.t(), bits), strict=True):
            used = -(-columns * plane_bits // 8)
            rows = data[:used].t().clone(memory_format=torch.contiguous_format)
            planes.append(Plane(plane_bits, 8 // plane_bits, rows))
        return Codes(columns, tuple(planes))


def packed_fields(values: torch.Tensor, bits: int) -> Iterator[torch.Tensor]:
    """Integers (K, N) uint8 as a bit stream down each column, (K · p / 8, N) for each plane of p bits.

    K is a multiple of 8.
    """
    start = 0
    for plane_bits in PLANE_BITS[bits]:
        count, mask = 8 // plane_bits, (1 << plane_bits) - 1
        fields = values if plane_bits == bits else (values >> start) & mask
        fields = fields.reshape(-1, count, values.shape[1])
        packed = fields[:, 0]
        for field in range(1, count):
            packed = packed | (fields[:, field] << field * plane_bits)
        yield packed
        start += plane_bits
