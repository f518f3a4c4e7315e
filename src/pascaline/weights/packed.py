"""A quantised weight, kept packed in memory.

The form is the one-level case of the project's packed weight:

    w[n, k] = scales[n, k // G] · (q[n, k] − zero) − offsets[n, k // G]

`q` are unsigned integers of `bits` bits. Q4_0 has zero 8 and no offsets, Q4_1 zero 0 and
offsets = −m, Q8_0 bits 8 and zero 128 (its signed bytes stored with the sign bit flipped).

Memory layout: `codes` is (N, K · bits / 8) bytes; in a row, element k occupies bits
[k · bits, (k + 1) · bits) of a little-endian bit stream, so with 4 bits element 2i is the low
and 2i + 1 the high half of byte i. `scales` and `offsets` are (N, K / G) in the file's dtype.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pascaline.core.errors import ShapeError, UnsupportedError


@dataclass(frozen=True)
class Packed:
    """See the module's text for the formula and the layout."""

    shape: tuple[int, int]
    bits: int
    group_size: int
    zero: int
    codes: torch.Tensor
    scales: torch.Tensor
    offsets: torch.Tensor | None

    def __post_init__(self) -> None:
        rows, columns = self.shape
        if self.bits not in (4, 8):
            raise UnsupportedError(f"a packed weight with {self.bits} bits", expected="4 or 8 bits")
        if columns % self.group_size:
            raise ShapeError(
                f"a packed weight of {columns} columns in groups of {self.group_size}",
                expected="columns to be a multiple of the group size",
            )
        for name, tensor, expected in (
            ("codes", self.codes, (rows, columns * self.bits // 8)),
            ("scales", self.scales, (rows, columns // self.group_size)),
            ("offsets", self.offsets, (rows, columns // self.group_size)),
        ):
            if tensor is not None and tuple(tensor.shape) != expected:
                raise ShapeError(f"{name} of shape {tuple(tensor.shape)}", expected=str(expected))

    @property
    def resident_bytes(self) -> int:
        tensors = [self.codes, self.scales, *([] if self.offsets is None else [self.offsets])]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def dequantise(self, start: int, stop: int, out: torch.Tensor) -> None:
        """Write rows `start`…`stop` to `out`, (stop − start, K), fp32 (or fp64: exact then).

        An fp16 scale times an integer below 2¹¹ is exact in fp32, so the result is rounded once
        (by the subtraction), or not at all without offsets.
        """
        self._expand(
            self.codes[start:stop],
            self.scales[start:stop],
            None if self.offsets is None else self.offsets[start:stop],
            out,
        )

    def gather(self, rows: torch.Tensor, out: torch.Tensor) -> None:
        """Write the rows whose indices are in `rows` (T,) to `out`, (T, K), fp32."""
        offsets = None if self.offsets is None else self.offsets[rows]
        self._expand(self.codes[rows], self.scales[rows], offsets, out)

    def select_rows(self, rows: torch.Tensor) -> Packed:
        """The same weight with its rows in another order."""
        return self._with(
            self.codes[rows], self.scales[rows], None if self.offsets is None else self.offsets[rows]
        )

    def concatenate(self, other: Packed) -> Packed | None:
        """This weight's rows, then the other's; None when they are packed differently."""
        return None

    def to(self, device: torch.device) -> Packed:
        return self._with(
            self.codes.to(device),
            self.scales.to(device),
            None if self.offsets is None else self.offsets.to(device),
        )

    def _with(self, codes: torch.Tensor, scales: torch.Tensor, offsets: torch.Tensor | None) -> Packed:
        shape = (codes.shape[0], self.shape[1])
        return Packed(shape, self.bits, self.group_size, self.zero, codes, scales, offsets)

    def _expand(
        self, codes: torch.Tensor, scales: torch.Tensor, offsets: torch.Tensor | None, out: torch.Tensor
    ) -> None:
        rows = codes.shape[0]
        if self.bits == 4:
            # PERF: each byte becomes two, its low half and its high half, so that one contiguous copy
            # widens them: the demo's decode step takes 68 ms, 77 with two strided copies (EPYC, 2 threads).
            spread = codes.to(torch.int16)
            spread.bitwise_or_(spread << 4).bitwise_and_(0x0F0F)
            out.copy_(spread.view(torch.uint8))
        else:
            out.copy_(codes)
        groups = out.view(rows, self.shape[1] // self.group_size, self.group_size)
        if self.zero:
            groups.sub_(self.zero)
        groups.mul_(scales.float()[..., None])
        if offsets is not None:
            groups.sub_(offsets.float()[..., None])
