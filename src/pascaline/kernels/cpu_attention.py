"""Paged attention by the native library, over fp32 or fp16 keys and values.

Caches in any order of axes will do; those of `KeyValueCache` with `for_native` are read in place.
"""

from __future__ import annotations

import functools

from pascaline.kernels import paged_attention
from pascaline.kernels.cpu.native_kernel import halves_or_fp32, native_kernel
from pascaline.kernels.op import Tolerance

BLOCK, SPAN = 64, 512
"""Keys that share a running maximum, and keys that are summed up on their own: attention_tile.h, _parts.h."""

NATIVE = native_kernel(
    paged_attention.OP,
    "scale",
    "window",
    "softcap",
    operands=6,
    takes=halves_or_fp32,
    tolerance=Tolerance(
        bound=functools.partial(paged_attention.error_bound, keys_at_once=1 / (1 / BLOCK + 1 / SPAN)),
        derivation="the op's, and what running maxima add: for each block, and each span that is merged, "
        "exp (1 ulp = 2 · u) and a product, on the sum of weights and on that of values; and u times the "
        "maxima's differences, which add up to 2 · max m at most",
    ),
)
