"""The one formula of quantised weights, on arrays that are unpacked already; see `packed`."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Unpacked:
    """Some rows of a weight: its arrays, small integers unpacked; names are `Packed`'s."""

    codes: torch.Tensor
    scales: torch.Tensor
    offsets: torch.Tensor | None
    group_scales: torch.Tensor | None
    group_scale_zero: int
    group_offsets: torch.Tensor | None
    zero: int
    zeros: torch.Tensor | None
    table: torch.Tensor | None

    def evaluate(self, group_size: int, out: torch.Tensor) -> None:
        """All values to `out` (rows, columns), fp32 or fp64.

        In fp32 D · a · c and E · b are exact for fp16 D and E (11 bits of significand and at most
        13 of the integers), so the result is rounded once, by the subtraction, or not at all.
        """
        if self.table is None:
            out.copy_(self.codes)
        else:
            values = self.table.to(out.dtype).index_select(0, self.codes.flatten().int())
            out.copy_(values.view(self.codes.shape))
        groups = out.view(len(out), out.shape[1] // group_size, group_size)
        if self.zeros is not None:
            groups.sub_((self.zeros.to(out.dtype) + self.zero)[..., None])
        elif self.zero:
            groups.sub_(self.zero)
        groups.mul_(_scale(self.scales, self.group_scales, self.group_scale_zero, out.dtype)[..., None])
        if self.offsets is not None:
            groups.sub_(_scale(self.offsets, self.group_offsets, 0, out.dtype)[..., None])


def _scale(
    scales: torch.Tensor, integers: torch.Tensor | None, zero: int, dtype: torch.dtype
) -> torch.Tensor:
    """D · a, one number a group, (rows, K / G)."""
    if scales.dtype == torch.uint8:
        # 2^(e − 128), whose smallest two are subnormal: 2^−128 and 2^−127.
        exponents = scales.int()
        bits = torch.where(exponents < 2, 0x00200000 << exponents.clamp(max=1), (exponents - 1) << 23)
        factors = bits.int().view(torch.float32).to(dtype)
    else:
        factors = scales.to(dtype)
    if integers is None:
        return factors
    groups = integers.to(dtype).sub_(zero)
    groups.view(*factors.shape, groups.shape[1] // factors.shape[1]).mul_(factors[..., None])
    return groups
