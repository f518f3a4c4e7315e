"""A quantised weight, kept packed in memory: the one form that every quantised checkpoint gets.

    w[n, k] = D[n, k/S] · a[n, k/G] · c(q[n, k]) − E[n, k/S] · b[n, k/G]

D (`scales`) and E (`offsets`) are numbers a super-block of S elements, in fp16, bf16, fp32 or as
bare exponents; a and b (`group_scales`, `group_offsets`) small integers a group of G, absent where
there is one level (a = b = 1); c(q) is q − zero, with one zero for all or one a group, or a look-up
in a table of 16 signed bytes; `permutation` says which input feature each stored column multiplies.

| format | G | S | D | E | a | b | c |
|---|---|---|---|---|---|---|---|
| GPTQ, AWQ, compressed-tensors | any | G | scale | | | | q − z |
| Q4_0, Q5_0, Q8_0 | 32 | G | d | | | | q − 8, q − 16, q |
| Q4_1, Q5_1 | 32 | G | d | −m | | | q |
| Q2_K | 16 | 256 | d | dmin | 4 bits | 4 bits | q |
| Q3_K | 16 | 256 | d | | 6 bits − 32 | | q − 4 |
| Q4_K, Q5_K | 32 | 256 | d | dmin | 6 bits | 6 bits | q |
| Q6_K | 16 | 256 | d | | int8 | | q − 32 |
| IQ4_NL | 32 | G | d | | | | table |
| IQ4_XS | 32 | 256 | d | | 6 bits − 32 | | table |
| MXFP4 | 32 | G | 2^(e − 128) | | | | table |

Both levels are kept, because D · a is exact in fp32 and not in fp16.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy
import torch

from pascaline.core.errors import ShapeError
from pascaline.weights.codes import Codes, Rows
from pascaline.weights.formula import Unpacked

# Each dtype's bits as an integer, and those of its exponent, which are all ones in Inf and NaN.
_PIECE = 1 << 16
_EXPONENTS = {
    torch.float16: (torch.int16, 0x7C00),
    torch.bfloat16: (torch.int16, 0x7F80),
    torch.float32: (torch.int32, 0x7F800000),
    torch.uint8: (torch.uint8, 0xFF),
}


@dataclass(frozen=True)
class Packed:
    """See the module's text for the formula.

    Parameters
    ----------
    codes : q, (N, K).
    group_size, super_size : G and S in elements; K is a multiple of S, S of G.
    scales : D, (N, K / S): fp16, bf16, fp32, or uint8 e that stands for 2^(e − 128).
    offsets : E, as `scales`.
    group_scales, group_offsets : a (before `group_scale_zero` is taken off) and b, (N, K / G).
    zero : the integer that c takes off q; `zeros`, (N, K / G), come on top of it.
    table : c(q) = table[q], (16,) int8, instead of a zero.
    permutation : (K,) int32; column k of what is stored multiplies input feature permutation[k].
    """

    codes: Codes
    group_size: int
    super_size: int
    scales: torch.Tensor
    offsets: torch.Tensor | None = None
    group_scales: Codes | None = None
    group_scale_zero: int = 0
    group_offsets: Codes | None = None
    zero: int = 0
    zeros: Codes | None = None
    table: torch.Tensor | None = None
    permutation: torch.Tensor | None = None

    def __post_init__(self) -> None:
        rows, columns = self.shape
        if columns % self.super_size or self.super_size % self.group_size:
            raise ShapeError(
                f"a packed weight of {columns} columns in groups of {self.group_size} and super-blocks "
                f"of {self.super_size}",
                expected="each to be a multiple of the next smaller one",
            )
        groups, supers = (rows, columns // self.group_size), (rows, columns // self.super_size)
        seen = {
            "scales": (self.scales, supers),
            "offsets": (self.offsets, supers),
            "group_scales": (self.group_scales, groups),
            "group_offsets": (self.group_offsets, groups),
            "zeros": (self.zeros, groups),
            "table": (self.table, (16,)),
            "permutation": (self.permutation, (columns,)),
        }
        for name, (value, expected) in seen.items():
            if value is None:
                continue
            shape = (value.rows, value.columns) if isinstance(value, Codes) else tuple(value.shape)
            if shape != expected:
                raise ShapeError(f"{name} of shape {shape}", expected=str(expected))

    @property
    def shape(self) -> tuple[int, int]:
        return self.codes.rows, self.codes.columns

    @property
    def bits(self) -> int:
        return self.codes.bits

    @property
    def resident_bytes(self) -> int:
        """The 16 bytes of `table` aside, which all weights of a format share."""
        total = 0
        for value in (self.scales, self.offsets, self.permutation):
            total += 0 if value is None else value.numel() * value.element_size()
        for codes in (self.codes, self.group_scales, self.group_offsets, self.zeros):
            total += 0 if codes is None else codes.resident_bytes
        return total

    @property
    def is_finite(self) -> bool:
        """Whether every scale and offset is a number; an exponent of 255 stands for NaN."""
        for tensor in (self.scales, self.offsets):
            if tensor is None:
                continue
            # PERF: on integers, because libraries take fp16 apart one by one, and in pieces that stay in
            # the cache; 20 -> 5 ms of the demo's load.
            integers, exponent = _EXPONENTS[tensor.dtype]
            if tensor.device.type != "cpu":
                if bool((tensor.view(integers).bitwise_and(exponent) == exponent).any()):
                    return False
                continue
            flat = tensor.view(integers).numpy().reshape(-1)
            for start in range(0, len(flat), _PIECE):
                if numpy.bitwise_and(flat[start : start + _PIECE], exponent).max() == exponent:
                    return False
        return True

    def dequantise(self, start: int, stop: int, out: torch.Tensor) -> None:
        """Write rows `start`…`stop` to `out`, (stop − start, K), fp32 (or fp64: exact then)."""
        self._expand(lambda tensor: tensor[start:stop], out)

    def gather(self, rows: torch.Tensor, out: torch.Tensor) -> None:
        """Write the rows whose indices are in `rows` (T,) to `out`, (T, K), fp32."""
        self._expand(lambda tensor: tensor.index_select(0, rows), out)

    def reorder_rows(self, order: torch.Tensor) -> None:
        """Put the rows into another order, in place: row i becomes what was row order[i]."""
        self._rows(lambda tensor: tensor.copy_(tensor.index_select(0, order)))

    def without_permutation(self) -> Packed:
        """What is stored, for an input whose features are in stored order already."""
        return replace(self, permutation=None)

    def to(self, device: torch.device) -> Packed:
        if self.scales.device == device:
            return self
        moved = self._rows(lambda tensor: tensor.to(device))
        return replace(
            moved,
            table=None if self.table is None else self.table.to(device),
            permutation=None if self.permutation is None else self.permutation.to(device),
        )

    def _rows(self, change: Rows) -> Packed:
        """The weight with `change` done to each tensor that has its rows."""

        def of(codes: Codes | None) -> Codes | None:
            return None if codes is None else codes.over(change)

        return replace(
            self,
            codes=self.codes.over(change),
            scales=change(self.scales),
            offsets=None if self.offsets is None else change(self.offsets),
            group_scales=of(self.group_scales),
            group_offsets=of(self.group_offsets),
            zeros=of(self.zeros),
        )

    def _expand(self, rows: Rows, out: torch.Tensor) -> None:
        """All values of some rows, to `out` (rows, K), by the formula.

        PERF: rows are taken tensor by tensor; a `Packed` of each tile, checked anew, cost 5 % of a
        decode step.
        """
        target = out if self.permutation is None else torch.empty_like(out)
        unpacked = Unpacked(
            codes=self.codes.unpack(rows),
            scales=rows(self.scales),
            offsets=None if self.offsets is None else rows(self.offsets),
            group_scales=None if self.group_scales is None else self.group_scales.unpack(rows),
            group_scale_zero=self.group_scale_zero,
            group_offsets=None if self.group_offsets is None else self.group_offsets.unpack(rows),
            zero=self.zero,
            zeros=None if self.zeros is None else self.zeros.unpack(rows),
            table=self.table,
        )
        unpacked.evaluate(self.group_size, target)
        if self.permutation is not None:
            out[:, self.permutation.long()] = target
