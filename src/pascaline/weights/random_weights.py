"""Weights made up on a device: in every form, finite, and as large as a trained model's.

Codes and small integers are uniform; scales vary by half around what makes the weight's values
1/√K large in the root mean square, so that products of normed inputs are about 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from pascaline.weights.codes import Codes
from pascaline.weights.packed import Packed


@dataclass(frozen=True)
class _Moments:
    """Mean and mean square of a number that is any of some values, all alike likely."""

    mean: float
    square: float

    @classmethod
    def of(cls, values: Sequence[int]) -> _Moments:
        return cls(sum(values) / len(values), sum(value * value for value in values) / len(values))

    def times(self, other: _Moments) -> _Moments:
        return _Moments(self.mean * other.mean, self.square * other.square)

    def minus(self, other: _Moments) -> _Moments:
        return _Moments(self.mean - other.mean, self.square + other.square - 2 * self.mean * other.mean)


def random_matrix(rows: int, columns: int, dtype: torch.dtype, generator: torch.Generator) -> torch.Tensor:
    """(rows, columns), normally distributed with a deviation of 1/√columns, on the generator's device."""
    values = torch.empty((rows, columns), dtype=dtype, device=generator.device)
    return values.normal_(std=columns**-0.5, generator=generator)


def random_packed(
    pattern: Packed, rows: int, columns: int, generator: torch.Generator, *, is_permuted: bool
) -> Packed:
    """A weight (rows, columns) of the form of `pattern`, of any size, on the generator's device."""
    device = generator.device

    def codes(like: Codes, count: int) -> Codes:
        planes = tuple(
            replace(
                plane,
                data=_random_bytes(rows, -(-count // plane.run) * plane.run_bytes, generator).view(
                    plane.data.dtype
                ),
            )
            for plane in like.planes
        )
        return Codes(count, planes)

    def small(like: Codes | None) -> Codes | None:
        return None if like is None else codes(like, columns // pattern.group_size)

    scale, offset = _scale_and_offset(pattern, columns)
    shape = (rows, columns // pattern.super_size)
    scales, offsets = _numbers(shape, pattern.scales.dtype, scale, offset, generator)
    return replace(
        pattern,
        codes=codes(pattern.codes, columns),
        scales=scales,
        offsets=None if pattern.offsets is None else offsets,
        group_scales=small(pattern.group_scales),
        group_offsets=small(pattern.group_offsets),
        zeros=small(pattern.zeros),
        table=None if pattern.table is None else pattern.table.to(device),
        permutation=torch.randperm(columns, generator=generator, device=device).int()
        if is_permuted
        else None,
    )


def _scale_and_offset(pattern: Packed, columns: int) -> tuple[float, float]:
    """D for a root mean square of 1/√K, and the E that brings the mean to zero, if there is one."""
    if pattern.table is not None:
        values = _Moments.of(pattern.table.tolist())
    else:
        values = _values(pattern.codes).minus(_Moments.of([pattern.zero]))
        if pattern.zeros is not None:
            values = values.minus(_values(pattern.zeros))
    if pattern.group_scales is not None:
        values = values.times(_values(pattern.group_scales).minus(_Moments.of([pattern.group_scale_zero])))
    ratio = 0.0
    if pattern.offsets is not None:
        group_offsets = _Moments.of([1]) if pattern.group_offsets is None else _values(pattern.group_offsets)
        ratio = values.mean / group_offsets.mean
        values = values.minus(_Moments(ratio * group_offsets.mean, ratio * ratio * group_offsets.square))
    scale = 1 / math.sqrt(columns * values.square)
    return scale, ratio * scale


def _values(codes: Codes) -> _Moments:
    count = 1 << codes.bits
    is_signed = codes.planes[0].data.dtype == torch.int8
    return _Moments.of(range(-count // 2, count // 2) if is_signed else range(count))


def _numbers(
    shape: tuple[int, int], dtype: torch.dtype, scale: float, offset: float, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scales and offsets, in step with each other."""
    if dtype == torch.uint8:
        exponent = 128 + round(math.log2(scale))
        low, high = max(exponent - 1, 0), exponent + 2
        scales = torch.randint(low, high, shape, dtype=dtype, device=generator.device, generator=generator)
        return scales, scales
    spread = torch.empty(shape, device=generator.device).uniform_(0.5, 1.5, generator=generator)
    return (spread * scale).to(dtype), (spread * offset).to(dtype)


def _random_bytes(rows: int, columns: int, generator: torch.Generator) -> torch.Tensor:
    """(rows, columns) uint8, eight bytes at a time."""
    words = torch.empty(-(-rows * columns // 8), dtype=torch.int64, device=generator.device)
    words.random_(-(1 << 63), None, generator=generator)
    return words.view(torch.uint8)[: rows * columns].view(rows, columns)
