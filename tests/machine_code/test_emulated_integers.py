"""Integer instructions of sm_61 against Python's integers, through compiled code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from emulated import differing, elementwise
from machine_code_cases import needs_nvrtc

pytestmark = needs_nvrtc

Array = np.ndarray[Any, np.dtype[Any]]

_EDGES = [0, 1, 2, 3, 7, 31, 32, 33, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF]
EDGES = sorted({value ^ flip for value in _EDGES for flip in (0, 0xFFFFFFFF, 0x80000000)})


def _values() -> tuple[Array, Array, Array]:
    """Every pair of edges and as many random numbers."""
    generator = np.random.default_rng(7)
    pairs = np.array([(x, y) for x in EDGES for y in EDGES], np.uint32)
    a, b = (np.concatenate([pairs[:, i], generator.integers(0, 1 << 32, 700, np.uint32)]) for i in (0, 1))
    return a, b, generator.permutation(np.resize(np.array(EDGES, np.uint32), a.size))


def _each(function: Callable[[int, int, int], int]) -> Callable[..., Array]:
    """A function of Python's integers over arrays, cut to 32 bits."""

    def over(a: Array, b: Array, c: Array) -> Array:
        rows = zip(a.tolist(), b.tolist(), c.tolist(), strict=True)
        return np.array([function(*row) & 0xFFFFFFFF for row in rows], np.uint32)

    return over


def _s(value: int, width: int = 32) -> int:
    value &= (1 << width) - 1
    return value - (1 << width) if value >> width - 1 else value


def _cut(value: int, least: int, most: int) -> int:
    return min(max(value, least), most)


def _quotient(a: int, b: int) -> int:
    return (abs(a) // abs(b)) * (1 if (a < 0) == (b < 0) else -1)


def _bytes(value: int, signed: bool) -> list[int]:
    found = [value >> 8 * i & 255 for i in range(4)]
    return [_s(each, 8) for each in found] if signed else found


def _permuted(a: int, b: int, selector: int) -> int:
    both, value = b << 32 | a, 0
    for i in range(4):
        nibble = selector >> 4 * i & 15
        byte = both >> 8 * (nibble & 7) & 255
        value |= (byte if nibble < 8 else 255 * (byte >> 7)) << 8 * i
    return value


SUMS = {
    "a + b": lambda a, b, c: a + b,
    "a - b": lambda a, b, c: a - b,
    "a + b + c": lambda a, b, c: a + b + c,
    "a - b - c": lambda a, b, c: a - b - c,
    "0u - a - 2u - b": lambda a, b, c: -a - 2 - b,
    "a + b - 0x7000u": lambda a, b, c: a + b - 0x7000,
    "a * b": lambda a, b, c: a * b,
    "a * b + c": lambda a, b, c: a * b + c,
    "a * 37u - 5u": lambda a, b, c: a * 37 - 5,
    "(a & 0xffff) * (b >> 16) + c": lambda a, b, c: (a & 0xFFFF) * (b >> 16) + c,
    "(short)a * (short)b + sc": lambda a, b, c: _s(a, 16) * _s(b, 16) + c,
    "__umulhi(a, b)": lambda a, b, c: a * b >> 32,
    "__mulhi(sa, sb)": lambda a, b, c: _s(a) * _s(b) >> 32,
    "((u64)a * b + c) >> 7": lambda a, b, c: a * b + c >> 7,
    "((s64)sa * sb) >> 13": lambda a, b, c: _s(a) * _s(b) >> 13,
    "(((u64)a << 32 | b) + ((u64)c << 32 | a)) >> 32": lambda a, b, c: (a << 32 | b) + (c << 32 | a) >> 32,
    "(((u64)a << 32 | b) - ((u64)c << 32 | a)) >> 32": lambda a, b, c: (a << 32 | b) - (c << 32 | a) >> 32,
    "(((u64)a << 32 | b) * ((u64)c << 32 | a)) >> 32": lambda a, b, c: (a << 32 | b) * (c << 32 | a) >> 32,
    "(((u64)a << 32 | b) + ((u64)b << 32 | c) + ((u64)c << 32 | a)) >> 32": lambda a, b, c: (
        (a << 32 | b) + (b << 32 | c) + (c << 32 | a) >> 32
    ),
    "(((u64)a << 32 | b) + ((u64)b << 32 | c) - ((u64)c << 32 | a)) >> 32": lambda a, b, c: (
        (a << 32 | b) + (b << 32 | c) - (c << 32 | a) >> 32
    ),
    "(a << 4) + b": lambda a, b, c: (a << 4) + b,
    "((s64)pa + (s64)sa * 16) - (s64)pa >> 4": lambda a, b, c: _s(a),
    "((u64)b << 32 | c) + ((u64)a << 3) >> 32": lambda a, b, c: (b << 32 | c) + (a << 3) >> 32,
    "b ? a / b : 0": lambda a, b, c: a // b if b else 0,
    "c ? a % c : 0": lambda a, b, c: a % c if c else 0,
    "sb ? sa / (sb | 1) : 0": lambda a, b, c: _quotient(_s(a), _s(b | 1)) if b else 0,
    "abs(sa)": lambda a, b, c: abs(_s(a)),
    "__dp4a(sa, sb, sc)": lambda a, b, c: (
        c + sum(x * y for x, y in zip(_bytes(a, True), _bytes(b, True), strict=True))
    ),
    "__dp4a(a, b, c)": lambda a, b, c: (
        c + sum(x * y for x, y in zip(_bytes(a, False), _bytes(b, False), strict=True))
    ),
}
BITS = {
    "a & ~b": lambda a, b, c: a & ~b,
    "a ^ b ^ c": lambda a, b, c: a ^ b ^ c,
    "(a & b) | (~a & c)": lambda a, b, c: a & b | ~a & c,
    "(a & 0x0f0f0f0fu) | 0x64006400u": lambda a, b, c: a & 0x0F0F0F0F | 0x64006400,
    "a << (b & 31)": lambda a, b, c: a << (b & 31),
    "a >> (b & 31)": lambda a, b, c: a >> (b & 31),
    "sa >> (b & 31)": lambda a, b, c: _s(a) >> (b & 31),
    "a >> 11": lambda a, b, c: a >> 11,
    "(int)(a << 8) >> 24": lambda a, b, c: _s(a >> 16, 8),
    "__funnelshift_l(a, b, c)": lambda a, b, c: (b << 32 | a) << (c & 31) >> 32,
    "__funnelshift_r(a, b, c)": lambda a, b, c: (b << 32 | a) >> (c & 31),
    "__funnelshift_lc(a, b, c)": lambda a, b, c: (b << 32 | a) << min(c, 32) >> 32,
    "__funnelshift_rc(a, b, c)": lambda a, b, c: (b << 32 | a) >> min(c, 32),
    "((u64)a << 32 | b) >> (c & 63)": lambda a, b, c: (a << 32 | b) >> (c & 63),
    "(((u64)a << 32 | b) << (c & 63)) >> 32": lambda a, b, c: (a << 32 | b) << (c & 63) >> 32,
    "(s64)((u64)a << 32 | b) >> (c & 63)": lambda a, b, c: _s(a << 32 | b, 64) >> (c & 63),
    "((s64)((u64)a << 32 | b) >> (c & 63)) >> 32": lambda a, b, c: _s(a << 32 | b, 64) >> (c & 63) >> 32,
    "(a >> 5) & 0x3f": lambda a, b, c: a >> 5 & 63,
    "field(a, b & 31, c & 31)": lambda a, b, c: a >> (b & 31) & (1 << (c & 31)) - 1,
    "signed_field(sa, b & 31, c & 31)": lambda a, b, c: _s(_s(a) >> (b & 31), c & 31) if c & 31 else 0,
    "insert(a, b, c & 31, 7)": lambda a, b, c: b & ~((127 << (c & 31)) & 0xFFFFFFFF) | (a & 127) << (c & 31),
    "__byte_perm(a, b, c)": lambda a, b, c: _permuted(a, b, c & 0x7777),
    "permuted(a, b, c)": _permuted,
    "__popc(a ^ b)": lambda a, b, c: (a ^ b).bit_count(),
    "__clz(sa)": lambda a, b, c: 32 - a.bit_length(),
    "__ffs(sa)": lambda a, b, c: (a & -a).bit_length(),
    "__brev(a)": lambda a, b, c: int(f"{a:032b}"[::-1], 2),
    "leading(sa)": lambda a, b, c: (~_s(a) if _s(a) < 0 else a).bit_length() - 1,
}
FIELDS = """
__device__ u32 field(u32 a, u32 start, u32 length) {
    u32 y; asm("bfe.u32 %0, %1, %2, %3;" : "=r"(y) : "r"(a), "r"(start), "r"(length)); return y; }
__device__ int signed_field(int a, u32 start, u32 length) {
    int y; asm("bfe.s32 %0, %1, %2, %3;" : "=r"(y) : "r"(a), "r"(start), "r"(length)); return y; }
__device__ u32 insert(u32 a, u32 b, u32 start, u32 length) {
    u32 y; asm("bfi.b32 %0, %1, %2, %3, %4;" : "=r"(y) : "r"(a), "r"(b), "r"(start), "r"(length)); return y; }
__device__ u32 permuted(u32 a, u32 b, u32 selector) {
    u32 y; asm("prmt.b32 %0, %1, %2, %3;" : "=r"(y) : "r"(a), "r"(b), "r"(selector)); return y; }
__device__ u32 leading(int a) { u32 y; asm("bfind.s32 %0, %1;" : "=r"(y) : "r"(a)); return y; }
__device__ u32 saturated(int a) { u32 y; asm("cvt.sat.s8.s32 %0, %1;" : "=r"(y) : "r"(a)); return y; }
"""
COMPARISONS = {
    "min(a, b)": lambda a, b, c: min(a, b),
    "max(max(a, b), c)": lambda a, b, c: max(a, b, c),
    "min(min(sa, sb), sc)": lambda a, b, c: min(_s(a), _s(b), _s(c)),
    "min(min(a, b), c)": lambda a, b, c: min(a, b, c),
    "max(min(sa, sb), sc)": lambda a, b, c: max(min(_s(a), _s(b)), _s(c)),
    "min(max(sa, sb), sc)": lambda a, b, c: min(max(_s(a), _s(b)), _s(c)),
    "max(sa, sb)": lambda a, b, c: max(_s(a), _s(b)),
    "min((u64)a << 32 | b, (u64)c << 32 | a)": lambda a, b, c: min(a << 32 | b, c << 32 | a),
    "min((u64)a << 32 | b, (u64)c << 32 | a) >> 32": lambda a, b, c: min(a, c),
    "max((u64)a << 32 | b, (u64)c << 32 | a)": lambda a, b, c: max(a << 32 | b, c << 32 | a),
    "min((s64)((u64)a << 32 | b), (s64)((u64)c << 32 | a))": lambda a, b, c: min(
        _s(a << 32 | b, 64), _s(c << 32 | a, 64)
    ),
    "max((s64)((u64)a << 32 | b), (s64)((u64)c << 32 | a)) >> 32": lambda a, b, c: max(_s(a), _s(c)),
    "sa < sb ? c : a": lambda a, b, c: c if _s(a) < _s(b) else a,
    "a <= b": lambda a, b, c: a <= b,
    "sa >= sb && sb > sc || a == c": lambda a, b, c: _s(a) >= _s(b) > _s(c) or a == c,
    "(a < b) ^ (b < c)": lambda a, b, c: (a < b) ^ (b < c),
    "sa > 0 ? b : c": lambda a, b, c: b if _s(a) > 0 else c,
    "saturated(sa)": lambda a, b, c: _cut(_s(a), -128, 127),
    "(int)(signed char)(a >> 8) + (int)(short)b": lambda a, b, c: _s(a >> 8, 8) + _s(b, 16),
    **{
        f"({kind})((u64)a << 32 | b) {name} ({kind})((u64)c << 32 | a)": (
            lambda a, b, c, name=name, signed=kind == "s64": bool(
                eval(
                    f"x {name} y",
                    {
                        "x": _s(a << 32 | b, 64) if signed else a << 32 | b,
                        "y": _s(c << 32 | a, 64) if signed else c << 32 | a,
                    },
                )
            )
        )
        for kind in ("s64", "u64")
        for name in ("<", "<=", ">", ">=", "==", "!=")
    },
}


def test_sums_and_products() -> None:
    a, b, c = _values()
    results = elementwise(list(SUMS), a, b, c)
    assert differing({name: _each(each) for name, each in SUMS.items()}, results, a, b, c) == {}


def test_logic_shifts_and_fields() -> None:
    a, b, c = _values()
    results = elementwise(list(BITS), a, b, c, helpers=FIELDS)
    assert differing({name: _each(each) for name, each in BITS.items()}, results, a, b, c) == {}


def test_comparisons_of_32_and_64_bits() -> None:
    a, b, c = _values()
    c[::3] = a[::3]  # equal upper words
    b[::6] = a[::6]  # and equal lower ones
    results = elementwise(list(COMPARISONS), a, b, c, helpers=FIELDS)
    assert differing({name: _each(each) for name, each in COMPARISONS.items()}, results, a, b, c) == {}
