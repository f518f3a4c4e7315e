// Vectors of AVX2.

#pragma once

#include "simd_x86.h"

constexpr int VECTOR_BYTES = 32;
// maddubs adds two products in 16 bits: 8-bit codes go in signed, as |code| times x with code's sign.
constexpr bool SIGNED_BYTES = true;
using Integers = __m256i;
using Floats = __m256;

INLINE Integers load_bytes(const void* from) {
    return _mm256_loadu_si256(static_cast<const __m256i*>(from));
}
INLINE void store_bytes(void* to, Integers v) { _mm256_storeu_si256(static_cast<__m256i*>(to), v); }
INLINE Integers zero_integers() { return _mm256_setzero_si256(); }
INLINE Integers every_byte(int value) { return _mm256_set1_epi8(static_cast<char>(value)); }
INLINE Integers every_integer(const void* from) {
    int32_t value;
    memcpy(&value, from, 4);
    return _mm256_set1_epi32(value);
}
INLINE Integers and_bits(Integers a, Integers b) { return _mm256_and_si256(a, b); }
INLINE Integers flip_bits(Integers a, Integers b) { return _mm256_xor_si256(a, b); }
INLINE Table load_table(const int8_t* from) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from)); }
INLINE Integers look_up(Table table, Integers indices) {
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(table), indices);
}
INLINE Integers add_integers(Integers a, Integers b) { return _mm256_add_epi32(a, b); }
INLINE Floats to_floats(Integers v) { return _mm256_cvtepi32_ps(v); }
INLINE Floats zero_floats() { return _mm256_setzero_ps(); }
INLINE Floats load_floats(const float* from) { return _mm256_loadu_ps(from); }
INLINE void store_floats(float* to, Floats v) { _mm256_storeu_ps(to, v); }
INLINE Floats every_float(const float* from) { return _mm256_broadcast_ss(from); }
INLINE Floats add(Floats a, Floats b) { return _mm256_add_ps(a, b); }
INLINE Floats multiply(Floats a, Floats b) { return _mm256_mul_ps(a, b); }
INLINE Floats multiply_add(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
INLINE Floats subtract_product(Floats c, Floats a, Floats b) { return _mm256_fnmadd_ps(a, b, c); }
INLINE Floats every_float(float value) { return _mm256_set1_ps(value); }
INLINE Floats subtract(Floats a, Floats b) { return _mm256_sub_ps(a, b); }
INLINE Floats divide(Floats a, Floats b) { return _mm256_div_ps(a, b); }
INLINE Floats largest(Floats a, Floats b) { return _mm256_max_ps(a, b); }
INLINE Floats smallest(Floats a, Floats b) { return _mm256_min_ps(a, b); }
INLINE Floats magnitude(Floats v) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), v); }
INLINE Floats with_sign(Floats a, Floats b) {
    return _mm256_or_ps(a, _mm256_and_ps(b, _mm256_set1_ps(-0.0f)));
}
INLINE Floats nearest(Floats v) { return _mm256_round_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
INLINE Floats scale_by_power(Floats v, Floats n) {
    // In two steps, each by a power that fp32 has; the first is exact.
    const __m256i power = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(power, 1);
    const __m256i one = _mm256_set1_epi32(127);
    const __m256i low = _mm256_slli_epi32(_mm256_add_epi32(half, one), 23);
    const __m256i high = _mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(power, half), one), 23);
    return _mm256_mul_ps(_mm256_mul_ps(v, _mm256_castsi256_ps(low)), _mm256_castsi256_ps(high));
}
using Mask = __m256;
INLINE Mask is_less(Floats a, Floats b) { return _mm256_cmp_ps(a, b, _CMP_LT_OQ); }
INLINE Mask is_nan(Floats v) { return _mm256_cmp_ps(v, v, _CMP_UNORD_Q); }
INLINE Floats choose(Mask mask, Floats yes, Floats no) { return _mm256_blendv_ps(no, yes, mask); }
INLINE uint32_t bits_of(Mask mask) { return static_cast<uint32_t>(_mm256_movemask_ps(mask)); }
INLINE __m256i first_lanes(int64_t count) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count)), lane);
}
INLINE Floats load_some(const float* from, int64_t count) {
    return _mm256_maskload_ps(from, first_lanes(count));
}
INLINE void store_some(float* to, Floats v, int64_t count) { _mm256_maskstore_ps(to, first_lanes(count), v); }
// Those from `first` to before `stop`, which may lie outside.
INLINE Mask lanes_between(int first, int stop) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const __m256i after = _mm256_cmpgt_epi32(lane, _mm256_set1_epi32(first - 1));
    return _mm256_castsi256_ps(_mm256_and_si256(after, _mm256_cmpgt_epi32(_mm256_set1_epi32(stop), lane)));
}
