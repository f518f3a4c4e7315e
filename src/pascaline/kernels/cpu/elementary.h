// Elementary functions of vectors: the same bits by every instruction set.

#pragma once

#include "simd.h"

// x = n ln 2 + r, with |r| <= ln 2 / 2; returns e^r - 1.
INLINE Floats reduced_exponential(Floats x, Floats* n) {
    *n = nearest(multiply(x, every_float(0x1.715476p+0f)));
    // ln 2 in two parts: the first step is exact where n is not 0, because its result is a multiple of 2^-24.
    Floats r = subtract_product(x, *n, every_float(0x1.62e430p-1f));
    r = subtract_product(r, *n, every_float(-0x1.05c610p-29f));
    // Of (e^r - 1 - r) / r^2, such that the largest relative error of e^r, 0.05 * 2^-24, is least.
    Floats q = every_float(0x1.6a48d0p-10f);
    q = multiply_add(q, r, every_float(0x1.12399ap-7f));
    q = multiply_add(q, r, every_float(0x1.5558b4p-5f));
    q = multiply_add(q, r, every_float(0x1.555492p-3f));
    q = multiply_add(q, r, every_float(0x1.fffffcp-2f));
    return multiply_add(multiply(r, r), q, r);
}

// e^x within 1 ulp (measured: every 61st of all numbers); 1 for 0, and 0, infinity and NaN where due.
INLINE Floats exponential(Floats x) {
    // From -104 on it rounds to 0, from 89 on to infinity. NaN goes through, as the second.
    x = smallest(every_float(89.0f), largest(every_float(-104.0f), x));
    Floats n;
    const Floats less_one = reduced_exponential(x, &n);
    return scale_by_power(add(every_float(1.0f), less_one), n);
}

// tanh x, which errs by at most 3.1 * 2^-24 of itself (measured likewise).
// With e = exp(2 |x|) - 1 it is e / (e + 2), and has x's sign.
INLINE Floats hyperbolic_tangent(Floats x) {
    // From 10 on it rounds to 1.
    const Floats twice = smallest(every_float(20.0f), multiply(every_float(2.0f), magnitude(x)));
    Floats n;
    const Floats less_one = reduced_exponential(twice, &n);
    // 2^n (1 + t) - 1 = 2^n t + (2^n - 1): for small x, where n is 0, nothing cancels.
    const Floats power = scale_by_power(every_float(1.0f), n);
    const Floats e = multiply_add(power, less_one, subtract(power, every_float(1.0f)));
    return with_sign(divide(e, add(e, every_float(2.0f))), x);
}

// e^x of doubles within 1 ulp, for x up to 0; 0 from -708 on.
INLINE Doubles exponential(Doubles x) {
    const Doubles least = every_double(-708.0), bounded = largest(x, least);
    // Beside 1.5 * 2^52 an integer is all that a number's last bits hold.
    const Doubles shift = every_double(0x1.8p+52);
    const Doubles shifted = multiply_add(bounded, every_double(0x1.71547652b82fep+0), shift);
    const Doubles n = subtract(shifted, shift);
    Doubles r = subtract_product(bounded, n, every_double(0x1.62e42fefa39efp-1));
    r = subtract_product(r, n, every_double(0x1.abc9e3b39803fp-56));
    // As above; it interpolates (e^r - 1 - r) / r^2 at Chebyshev's points. In pairs, because steps one by one
    // wait for each other (PERF: 49152 numbers take 67 instead of 70 us; the shift above saves another 8).
    const auto pair = [r](double low, double high) {
        return multiply_add(every_double(high), r, every_double(low));
    };
    const Doubles r2 = multiply(r, r), r4 = multiply(r2, r2);
    const Doubles low = multiply_add(pair(0x1.5555555553d63p-5, 0x1.11111111109b3p-7), r2,
                                     pair(0x1.0000000000001p-1, 0x1.5555555555556p-3));
    const Doubles high = multiply_add(pair(0x1.a019b90d2ae7ap-16, 0x1.71de0dae63bb3p-19), r2,
                                      pair(0x1.6c16c1788bd90p-10, 0x1.a01a01a7c41d5p-13));
    const Doubles top = pair(0x1.289185613a3d6p-22, 0x1.af38a9b0ec855p-26);
    const Doubles q = multiply_add(multiply_add(top, r4, high), r4, low);
    const Doubles power = scale_by_shifted(add(multiply_add(r2, q, r), every_double(1.0)), shifted);
    return where_less(least, x, power);
}

// out[i] = of(x[i]) for a row, vector by vector.
template <class Of>
INLINE void each(const float* x, float* out, int64_t width, const Of& of) {
    int64_t i = 0;
    for (; i + LANES <= width; i += LANES) store_floats(out + i, of(load_floats(x + i)));
    if (i < width) store_some(out + i, of(load_some(x + i, width - i)), width - i);
}

// out[i] = of(x[i], y[i]).
template <class Of>
INLINE void each(const float* x, const float* y, float* out, int64_t width, const Of& of) {
    int64_t i = 0;
    for (; i + LANES <= width; i += LANES) store_floats(out + i, of(load_floats(x + i), load_floats(y + i)));
    const int64_t left = width - i;
    if (left) store_some(out + i, of(load_some(x + i, left), load_some(y + i, left)), left);
}
