"""Results in fp64, rounded to fp32 as the card rounds."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

_LOST_BITS = np.uint64((1 << 29) - 1)  # of fp64's 52, which fp32 has not
_SMALLEST_NORMAL = 2.0**-126
_ODD = np.uint64(1)


def odd_sum(a: Array, b: Array) -> Array:
    """The fp64 sum of fp64 numbers rounded to odd, from which any shorter rounding comes out right.

    Source: Boldo and Melquiond, "Emulation of FMA and correctly rounded sums", IEEE TC 57(4), 2008.
    """
    total = a + b
    part = total - a
    error = (a - (total - part)) + (b - part)
    inexact = np.isfinite(total) & (error != 0) & (total.view(np.uint64) & _ODD == 0)
    if not inexact.any():
        return total
    towards = np.where(error > 0, np.inf, -np.inf)
    return np.where(inexact, np.nextafter(total, towards), total)


def fused(a: Array, b: Array, c: Array) -> Array:
    """a·b + c of fp32 numbers with one rounding to the nearest fp32, as fp32."""
    product = a.astype(np.float64) * b
    total = product + c
    # Twice rounded is wrong only where the first rounding ended halfway between two fp32 numbers.
    doubtful = (total.view(np.uint64) & _LOST_BITS) == np.uint64(1 << 28)
    if doubtful.any() or (np.abs(total) < _SMALLEST_NORMAL).any():
        total = odd_sum(product, c.astype(np.float64))
    found: Array = total.astype(np.float32)
    return found


def rounded(value: Array, mode: str) -> Array:
    """fp64 (rounded to odd where it is not exact) to fp32, by mode RN, RZ (to zero), RM (down) or RP (up)."""
    nearest = value.astype(np.float32)
    if mode == "RN":
        return nearest
    back = nearest.astype(np.float64)
    if mode == "RZ":
        wrong, towards = np.abs(back) > np.abs(value), np.float32(0)
    elif mode == "RM":
        wrong, towards = back > value, np.float32(-np.inf)
    else:
        wrong, towards = back < value, np.float32(np.inf)
    return np.where(wrong, np.nextafter(nearest, towards), nearest)
