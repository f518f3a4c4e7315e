"""Floating-point instructions of sm_61 against IEEE arithmetic, through compiled code."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from emulated import differing, elementwise, run
from emulator.step import UnknownInstructionError
from machine_code_cases import code_of, needs_nvrtc

pytestmark = [needs_nvrtc, pytest.mark.filterwarnings("ignore:.*encountered in.*:RuntimeWarning")]

Array = np.ndarray[Any, np.dtype[Any]]

_EDGES = [
    0.0,
    1.0,
    1.5,
    2.0,
    3.0,
    0.1,
    1e-45,
    3e-42,
    1.1754942e-38,
    1.17549435e-38,
    3e-39,
    1e-30,
    1e-20,
    0.5,
    2.5,
]
_EDGES += [
    65504.0,
    65519.9,
    65520.0,
    5.96e-8,
    2.98e-8,
    6.1e-5,
    2.0**23,
    2.0**24 + 2,
    2.0**31,
    2.0**32,
    1e20,
    1e38,
]
_EDGES += [3.4028235e38, float("inf"), float("nan")]
EDGES = np.array([*_EDGES, *(-value for value in _EDGES)], np.float32)


def _values(count: int = 1500) -> tuple[Array, Array, Array]:
    """Every pair of edges, random bits, and numbers of like size."""
    generator = np.random.default_rng(11)
    a, b = (np.repeat(EDGES, EDGES.size), np.tile(EDGES, EDGES.size))
    bits = [generator.integers(0, 1 << 32, count, np.uint32) for _ in range(3)]
    near = [generator.standard_normal(count).astype(np.float32).view(np.uint32) for _ in range(3)]
    c = np.resize(np.concatenate([EDGES[::-1], EDGES[3:9]]), a.size)
    ends = (each.view(np.uint32) for each in (a, b, c))
    parts = [np.concatenate(each) for each in zip(ends, bits, near, strict=True)]
    return parts[0], parts[1], parts[2]


def _of_floats(function: Callable[..., Array]) -> Callable[..., Array]:
    """An fp32 function over words; NaN in the one form that the cards give it."""

    def over(*words: Array) -> Array:
        value = np.asarray(function(*(each.view(np.float32) for each in words)), np.float32)
        return np.where(np.isnan(value), np.uint32(0x7FFFFFFF), value.view(np.uint32))

    return over


def _rounded(exact: Fraction) -> np.float32:
    """To the nearest fp32 number, ties to even."""
    near = np.float32(float(exact))
    if not np.isfinite(near):
        return near
    candidates = [np.nextafter(near, np.float32(-np.inf)), near, np.nextafter(near, np.float32(np.inf))]
    finite = [each for each in candidates if np.isfinite(each)]
    return min(finite, key=lambda each: (abs(Fraction(float(each)) - exact), int(each.view(np.uint32)) & 1))


def _fused(a: Array, b: Array, c: Array) -> Array:
    simple = (a.astype(np.float64) * b + c).astype(np.float32)
    for i in np.flatnonzero(np.isfinite(a) & np.isfinite(b) & np.isfinite(c)):
        exact = Fraction(float(a[i])) * Fraction(float(b[i])) + Fraction(float(c[i]))
        if exact:
            simple[i] = _rounded(exact)
    return simple


def _greatest(a: Array, b: Array) -> Array:
    """Of a NaN and a number the number; of zeros +0, if it is among them."""
    return np.where((a == 0) & (b == 0), np.where(np.signbit(a), b, a), np.fmax(a, b))


def _flush(value: Array) -> Array:
    return np.where(
        np.abs(value) < np.float32(1.1754943508222875e-38), np.copysign(np.float32(0), value), value
    )


def _directed(exact: Callable[[Fraction, Fraction], Fraction], down: bool) -> Callable[..., Array]:
    """The nearest fp32 number below (or above) of finite operands."""

    def over(a: Array, b: Array, c: Array) -> Array:
        found = np.empty_like(a)
        for i in range(a.size):
            value = exact(Fraction(float(a[i])), Fraction(float(b[i])))
            near = np.float32(float(value))
            if down and Fraction(float(near)) > value:
                near = np.nextafter(near, np.float32(-np.inf))
            if not down and Fraction(float(near)) < value:
                near = np.nextafter(near, np.float32(np.inf))
            found[i] = near
        return found

    return over


ARITHMETIC = {
    "bits(fa + fb)": _of_floats(lambda a, b, c: a + b),
    "bits(fa - fb)": _of_floats(lambda a, b, c: a - b),
    "bits(__fmul_rn(fa, fb))": _of_floats(lambda a, b, c: a * b),
    "bits(fmaf(fa, fb, fc))": _of_floats(_fused),
    "bits(fmaf(-fa, fb, -fc))": _of_floats(lambda a, b, c: _fused(-a, b, -c)),
    "bits(fa / fb)": _of_floats(lambda a, b, c: a / b),
    "bits(1.0f / fa)": _of_floats(lambda a, b, c: np.float32(1) / a),
    "bits(sqrtf(fa))": _of_floats(lambda a, b, c: np.sqrt(a)),
    "bits(-fabsf(fa) + 2.5f)": _of_floats(lambda a, b, c: np.float32(2.5) - np.abs(a)),
    "bits(fmaxf(fa, fb))": _of_floats(lambda a, b, c: _greatest(a, b)),
    "bits(fminf(fa, fb))": _of_floats(lambda a, b, c: -_greatest(-a, -b)),
    "bits(rintf(fa))": _of_floats(lambda a, b, c: np.rint(a)),
    "bits(floorf(fa))": _of_floats(lambda a, b, c: np.floor(a)),
    "bits(ceilf(fa))": _of_floats(lambda a, b, c: np.ceil(a)),
    "bits(truncf(fa))": _of_floats(lambda a, b, c: np.trunc(a)),
    "bits(__saturatef(fa))": _of_floats(lambda a, b, c: np.where(a > 0, np.minimum(a, 1), np.float32(0))),
    "fa < fb": lambda a, b, c: a.view(np.float32) < b.view(np.float32),
    "!(fa < fb)": lambda a, b, c: ~(a.view(np.float32) < b.view(np.float32)),
    "fa != fb": lambda a, b, c: a.view(np.float32) != b.view(np.float32),
    "fa >= fb && fb == fc": lambda a, b, c: (
        (a.view(np.float32) >= b.view(np.float32)) & (b.view(np.float32) == c.view(np.float32))
    ),
    "bits(fa > 0.0f ? fb : fc)": lambda a, b, c: np.where(a.view(np.float32) > 0, b, c),
    "fa != fa": lambda a, b, c: np.isnan(a.view(np.float32)),
}


def test_arithmetic_is_rounded_as_ieee_says() -> None:
    a, b, c = _values()
    results = elementwise(list(ARITHMETIC), a, b, c)
    assert differing(ARITHMETIC, results, a, b, c) == {}


def test_doubly_rounded_products_are_found() -> None:
    """a·b + c whose fp64 value lies halfway between two fp32 numbers, but whose exact one does not."""
    a = np.array([1 + 2.0**-12, 1 + 2.0**-23, 3.0], np.float32)
    b = np.array([1 + 2.0**-12, 1 + 2.0**-23, 1 / 3], np.float32)
    c = np.array([2.0**-80, 2.0**30, -(2.0**-70)], np.float32)
    words = [each.view(np.uint32) for each in (a, b, c)]
    cases = {"bits(fmaf(fa, fb, fc))": _of_floats(_fused)}
    assert differing(cases, elementwise(list(cases), *words), *words) == {}
    twice = (a.astype(np.float64) * b + c).astype(np.float32)
    assert (twice != _fused(a, b, c)).any()


def test_directed_rounding() -> None:
    generator = np.random.default_rng(3)
    a, b = (generator.standard_normal(300).astype(np.float32).view(np.uint32) for _ in range(2))
    b = (b & np.uint32(0x7FFFFFFF)) | np.uint32(1)
    cases = {
        "bits(__fadd_rd(fa, fb))": _of_floats(_directed(lambda x, y: x + y, down=True)),
        "bits(__fadd_ru(fa, fb))": _of_floats(_directed(lambda x, y: x + y, down=False)),
        "bits(__fmul_ru(fa, fb))": _of_floats(_directed(lambda x, y: x * y, down=False)),
        "bits(__fmul_rd(fa, fb))": _of_floats(_directed(lambda x, y: x * y, down=True)),
        "bits(__fmul_rz(fabsf(fa), fb))": _of_floats(_directed(lambda x, y: abs(x) * y, down=True)),
    }
    assert differing(cases, elementwise(list(cases), a, b, a), a, b, a) == {}


def test_subnormals_are_flushed_where_the_compiler_is_told_so() -> None:
    a, b, c = _values()
    cases = {
        "bits(__fadd_rn(fa, fb))": _of_floats(lambda a, b, c: _flush(_flush(a) + _flush(b))),
        "bits(__fmul_rn(fa, fb))": _of_floats(lambda a, b, c: _flush(_flush(a) * _flush(b))),
        "fa < fb": lambda a, b, c: _flush(a.view(np.float32)) < _flush(b.view(np.float32)),
    }
    results = elementwise(list(cases), a, b, c, options=("--ftz=true",))
    assert differing(cases, results, a, b, c) == {}


def _to_integer(kind: Any, how: Callable[[Array], Array]) -> Callable[..., Array]:
    """Of a float, saturated; NaN becomes 0."""

    def over(a: Array, *_: Array) -> Array:
        limits = np.iinfo(kind)
        value = how(a.view(np.float32).astype(np.float64))
        value = np.where(np.isnan(value), 0.0, np.clip(value, limits.min, limits.max))
        return value.astype(np.int64).astype(kind).view(np.uint32)

    return over


CONVERSIONS = {
    "__float2int_rn(fa)": _to_integer(np.int32, np.rint),
    "__float2int_rz(fa)": _to_integer(np.int32, np.trunc),
    "__float2int_rd(fa)": _to_integer(np.int32, np.floor),
    "__float2int_ru(fa)": _to_integer(np.int32, np.ceil),
    "__float2uint_rn(fa)": _to_integer(np.uint32, np.rint),
    "__float2uint_rz(fa)": _to_integer(np.uint32, np.trunc),
    "bits((float)sa)": lambda a, b, c: a.view(np.int32).astype(np.float32).view(np.uint32),
    "bits((float)a)": lambda a, b, c: a.astype(np.float32).view(np.uint32),
    "bits((float)(signed char)(a >> 8))": lambda a, b, c: (
        (a >> np.uint32(8)).astype(np.uint8).view(np.int8).astype(np.float32).view(np.uint32)
    ),
    "bits((float)(a >> 16 & 0xff))": lambda a, b, c: (
        (a >> np.uint32(16) & np.uint32(255)).astype(np.float32).view(np.uint32)
    ),
    "bits((float)(short)(a >> 16))": lambda a, b, c: (
        (a >> np.uint32(16)).astype(np.uint16).view(np.int16).astype(np.float32).view(np.uint32)
    ),
    "bits((float)(s64)((u64)a << 32 | b))": lambda a, b, c: (
        (a.astype(np.uint64) << np.uint64(32) | b).view(np.int64).astype(np.float32).view(np.uint32)
    ),
    "bits(__int2float_rz(sa))": _of_floats(lambda a, b, c: np.trunc(a.view(np.int32) / _unit(a)) * _unit(a)),
}


def _unit(a: Array) -> Array:
    """2^k such that |a| / 2^k has 24 bits before the point at most."""
    size = np.abs(a.view(np.int32).astype(np.float64))
    return 2.0 ** np.maximum(np.floor(np.log2(np.maximum(size, 1))) - 23, 0)


def test_integers_and_floats() -> None:
    a, b, c = _values()
    integers = np.array(
        [0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x01000001, 0x7FFFFFBF, 0x7FFFFFC0], np.uint32
    )
    a[-8:] = integers
    assert differing(CONVERSIONS, elementwise(list(CONVERSIONS), a, b, c), a, b, c) == {}


def test_every_half_is_widened_exactly() -> None:
    a = np.arange(1 << 16, dtype=np.uint32)
    cases = {
        "bits(half(a))": _of_floats(
            lambda a, b, c: (a.view(np.uint32) & 0xFFFF).astype(np.uint16).view(np.float16)
        ),
        "bits(half((a << 16) >> 16) * 3.0f)": _of_floats(
            lambda a, b, c: (a.view(np.uint32) & 0xFFFF).astype(np.uint16).view(np.float16) * np.float32(3)
        ),
    }
    assert differing(cases, elementwise(list(cases), a, a, a), a, a, a) == {}


def test_floats_are_narrowed_to_the_nearest_half() -> None:
    """Also halfway between two, subnormal halves, overflow, infinity and NaN."""
    halves = np.arange(0, 0x7C00, 3, dtype=np.uint16).view(np.float16).astype(np.float64)
    above = np.arange(1, 0x7C01, 3, dtype=np.uint16).view(np.float16).astype(np.float64)
    above[~np.isfinite(above)] = 65536.0
    middle = ((halves + above) / 2).astype(np.float32)
    near = [np.nextafter(middle, np.float32(end)) for end in (0, np.inf)]
    values = np.concatenate([middle, *near, -middle, EDGES, _values()[0].view(np.float32)])

    def expected(a: Array, *_: Array) -> Array:
        value = a.view(np.float32)
        half = value.astype(np.float16).view(np.uint16)
        return np.where(np.isnan(value), 0x7FFF, half).astype(np.uint32)

    a = values.view(np.uint32)
    cases = {"to_half(fa)": expected}
    assert differing(cases, elementwise(list(cases), a, a, a), a, a, a) == {}


def test_exponentials_and_logarithms_are_near() -> None:
    """Within what the CUDA programming guide states for a card: 2, 1 and 2 units in the last place."""
    generator = np.random.default_rng(5)
    x = generator.uniform(-80, 80, 2000).astype(np.float32)
    a = x.view(np.uint32)
    exponential, logarithm, root = elementwise(
        ["bits(expf(fa))", "bits(logf(fabsf(fa)))", "bits(rsqrtf(fabsf(fa)))"], a, a, a
    )
    wide = x.astype(np.float64)
    for seen, exact in (
        (exponential, np.exp(wide)),
        (logarithm, np.log(np.abs(wide))),
        (root, 1 / np.sqrt(np.abs(wide))),
    ):
        unit = np.spacing(np.abs(exact).astype(np.float32)).astype(np.float64)
        assert np.max(np.abs(seen.view(np.float32) - exact) / unit) <= 2


WIDENED = """
extern "C" __global__ void kernel(const unsigned* x, float* y) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x, pair = x[i];
    float low, high;
    asm("{ .reg .f16 a, b; mov.b32 {a, b}, %2; cvt.f32.f16 %0, a; cvt.f32.f16 %1, b; }"
        : "=f"(low), "=f"(high) : "r"(pair));
    y[2 * i] = low;
    y[2 * i + 1] = high;
}"""


def test_halves_of_6_0_widen_to_what_they_are() -> None:
    """There by HADD2.F32, of either half of a register; all 65536 of them."""
    assert sum(each.opcode == "HADD2.F32" for each in code_of(WIDENED, "sm_60").instructions) == 2
    halves = np.arange(1 << 16, dtype=np.uint16)
    widened = np.zeros(halves.size, np.float32)
    buffers = {"x": halves.view(np.uint32), "y": widened}
    run(WIDENED, (512, 1, 1), (64, 1, 1), buffers, ("x", "y"), architecture="sm_60")
    expected = halves.view(np.float16).astype(np.float32)
    is_number = ~np.isnan(expected)
    np.testing.assert_array_equal(widened.view(np.uint32)[is_number], expected.view(np.uint32)[is_number])
    assert np.isnan(widened[~is_number]).all()


def test_sums_of_halves_are_refused() -> None:
    source = WIDENED.replace("cvt.f32.f16 %0, a;", "add.f16 a, a, b; cvt.f32.f16 %0, a;")
    buffers = {"x": np.zeros(32, np.uint32), "y": np.zeros(64, np.float32)}
    with pytest.raises(UnknownInstructionError, match="HADD2"):
        run(source, (1, 1, 1), (32, 1, 1), buffers, ("x", "y"), architecture="sm_60")
