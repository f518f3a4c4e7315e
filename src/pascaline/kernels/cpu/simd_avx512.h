// Vectors of AVX-512 with VNNI.

#pragma once

#include "simd_x86.h"

constexpr int VECTOR_BYTES = 64;
// dpbusd multiplies unsigned by signed bytes: codes are unsigned.
constexpr bool SIGNED_BYTES = false;
using Integers = __m512i;
using Floats = __m512;

INLINE Integers load_bytes(const void* from) { return _mm512_loadu_si512(from); }
INLINE void store_bytes(void* to, Integers v) { _mm512_storeu_si512(to, v); }
INLINE Integers zero_integers() { return _mm512_setzero_si512(); }
INLINE Integers every_byte(int value) { return _mm512_set1_epi8(static_cast<char>(value)); }
INLINE Integers every_integer(const void* from) {
    int32_t value;
    memcpy(&value, from, 4);
    return _mm512_set1_epi32(value);
}
INLINE Integers and_bits(Integers a, Integers b) { return _mm512_and_si512(a, b); }
INLINE Integers flip_bits(Integers a, Integers b) { return _mm512_xor_si512(a, b); }
// Sixteen signed bytes, as bytes of codes.
INLINE Table load_table(const int8_t* from) {
    return _mm_xor_si128(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)), _mm_set1_epi8(-128));
}
INLINE Integers look_up(Table table, Integers indices) {
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(table), indices);
}
INLINE Integers add_integers(Integers a, Integers b) { return _mm512_add_epi32(a, b); }
INLINE Floats to_floats(Integers v) { return _mm512_cvtepi32_ps(v); }
INLINE Floats zero_floats() { return _mm512_setzero_ps(); }
INLINE Floats load_floats(const float* from) { return _mm512_loadu_ps(from); }
INLINE void store_floats(float* to, Floats v) { _mm512_storeu_ps(to, v); }
INLINE Floats every_float(const float* from) { return _mm512_set1_ps(*from); }
INLINE Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
INLINE Floats multiply(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
INLINE Floats multiply_add(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
INLINE Floats subtract_product(Floats c, Floats a, Floats b) { return _mm512_fnmadd_ps(a, b, c); }
INLINE Floats every_float(float value) { return _mm512_set1_ps(value); }
INLINE Floats subtract(Floats a, Floats b) { return _mm512_sub_ps(a, b); }
INLINE Floats divide(Floats a, Floats b) { return _mm512_div_ps(a, b); }
// Where one of the two is NaN: b.
INLINE Floats largest(Floats a, Floats b) { return _mm512_max_ps(a, b); }
INLINE Floats smallest(Floats a, Floats b) { return _mm512_min_ps(a, b); }
INLINE Floats magnitude(Floats v) { return _mm512_abs_ps(v); }
// a, which must not be negative, with b's sign.
INLINE Floats with_sign(Floats a, Floats b) {
    return _mm512_or_ps(a, _mm512_and_ps(b, _mm512_set1_ps(-0.0f)));
}
// The nearest integer, of two the even one.
INLINE Floats nearest(Floats v) {
    return _mm512_roundscale_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
// v 2^n, rounded once, for v from 1/2 to 2 and integers n from -252 to 254.
INLINE Floats scale_by_power(Floats v, Floats n) { return _mm512_scalef_ps(v, n); }
// A bit a lane.
using Mask = __mmask16;
INLINE Mask is_less(Floats a, Floats b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
INLINE Mask is_nan(Floats v) { return _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q); }
INLINE Floats choose(Mask mask, Floats yes, Floats no) { return _mm512_mask_blend_ps(mask, no, yes); }
INLINE uint32_t bits_of(Mask mask) { return mask; }
// The first `count` lanes, of at most all; the others are read as zeros, or not written.
INLINE Floats load_some(const float* from, int64_t count) {
    return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1), from);
}
INLINE void store_some(float* to, Floats v, int64_t count) {
    _mm512_mask_storeu_ps(to, static_cast<__mmask16>((1u << count) - 1), v);
}
// Those from `first` to before `stop`.
INLINE Mask lanes_between(int first, int stop) {
    return static_cast<Mask>((1u << stop) - (1u << first));
}
INLINE float add_lanes(Floats v) {
    return add_lanes(_mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1)));
}
INLINE float largest_of_lanes(Floats v) {
    return largest_of_lanes(_mm256_max_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1)));
}
