// Vectors of the instruction set that this library is compiled for: AVX-512 with VNNI, or AVX2.
//
// Both give the same numbers: dot products are exact integers, and the fp32 operations that
// follow are the same ones in the same order.

#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#define INLINE static inline __attribute__((always_inline))
#define INLINE_MEMBER inline __attribute__((always_inline))

#if defined(__AVX512VNNI__)

constexpr int VECTOR_BYTES = 64;
// Kernels want unsigned codes: dpbusd multiplies unsigned by signed bytes.
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
INLINE Integers high_nibbles(Integers v) {
    return _mm512_and_si512(_mm512_srli_epi16(v, 4), _mm512_set1_epi8(15));
}
INLINE Integers look_up(__m128i table, Integers indices) {
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(table), indices);
}
INLINE Integers add_integers(Integers a, Integers b) { return _mm512_add_epi32(a, b); }
template <bool SIGNED>
INLINE Integers dot(Integers sum, Integers codes, Integers x) {
    return _mm512_dpbusd_epi32(sum, codes, x);
}
// Of two vectors: sums of the 128-bit lanes 0 + 1 and 2 + 3, first a's, then b's.
INLINE Integers add_lane_pairs(Integers a, Integers b) {
    return _mm512_add_epi32(_mm512_shuffle_i32x4(a, b, 0x88), _mm512_shuffle_i32x4(a, b, 0xDD));
}
// Lane by lane of 128 bits: the sums of a's four integers, b's, c's and d's.
INLINE Integers sums_of_four(Integers a, Integers b, Integers c, Integers d) {
    Integers ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    Integers cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
    return _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
}
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

// (lane 0 + lane 1) + (lane 2 + lane 3), of 128 bits.
INLINE __m128 add_lanes(const Floats* v) {
    return _mm_add_ps(_mm_add_ps(_mm512_castps512_ps128(*v), _mm512_extractf32x4_ps(*v, 1)),
                      _mm_add_ps(_mm512_extractf32x4_ps(*v, 2), _mm512_extractf32x4_ps(*v, 3)));
}
// 16 fp16 numbers to fp32.
INLINE void widen_sixteen(__m128i low, __m128i high, Floats* to) {
    *to = _mm512_cvtph_ps(_mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1));
}

#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)

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
INLINE Integers high_nibbles(Integers v) {
    return _mm256_and_si256(_mm256_srli_epi16(v, 4), _mm256_set1_epi8(15));
}
INLINE Integers look_up(__m128i table, Integers indices) {
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(table), indices);
}
INLINE Integers add_integers(Integers a, Integers b) { return _mm256_add_epi32(a, b); }
template <bool SIGNED>
INLINE Integers dot(Integers sum, Integers codes, Integers x) {
    // |code| <= 128 and |x| <= 127: two products stay below 2^15, so nothing saturates.
    Integers pairs = SIGNED ? _mm256_maddubs_epi16(_mm256_abs_epi8(codes), _mm256_sign_epi8(x, codes))
                            : _mm256_maddubs_epi16(codes, x);
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
INLINE Integers add_lane_pairs(Integers a, Integers b) {
    return _mm256_add_epi32(_mm256_permute2x128_si256(a, b, 0x20), _mm256_permute2x128_si256(a, b, 0x31));
}
INLINE Integers sums_of_four(Integers a, Integers b, Integers c, Integers d) {
    Integers ab = _mm256_add_epi32(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
    Integers cd = _mm256_add_epi32(_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
    return _mm256_add_epi32(_mm256_unpacklo_epi64(ab, cd), _mm256_unpackhi_epi64(ab, cd));
}
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
INLINE __m128 add_lanes(const Floats* v) {
    return _mm_add_ps(_mm_add_ps(_mm256_castps256_ps128(v[0]), _mm256_extractf128_ps(v[0], 1)),
                      _mm_add_ps(_mm256_castps256_ps128(v[1]), _mm256_extractf128_ps(v[1], 1)));
}
INLINE void widen_sixteen(__m128i low, __m128i high, Floats* to) {
    to[0] = _mm256_cvtph_ps(low);
    to[1] = _mm256_cvtph_ps(high);
}

#else
#error "compile for AVX2 with FMA and F16C, or for AVX-512 with VNNI"
#endif

constexpr int LANES = VECTOR_BYTES / 4;
constexpr float INFINITE = __builtin_inff();

INLINE float square_root(float value) { return _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(value))); }

INLINE float as_float(uint32_t bits) {
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

// Widening one number of any form is exact; EXPONENT e is 2^(e - 128), its two smallest subnormal.
INLINE float widen(const void* data, int64_t index, int32_t form) {
    switch (form) {
        case 0:
            return static_cast<const float*>(data)[index];
        case 1:
            return _cvtsh_ss(static_cast<const uint16_t*>(data)[index]);
        case 2:
            return as_float(static_cast<uint32_t>(static_cast<const uint16_t*>(data)[index]) << 16);
        default: {
            uint32_t exponent = static_cast<const uint8_t*>(data)[index];
            return as_float(exponent < 2 ? 0x00200000u << exponent : (exponent - 1) << 23);
        }
    }
}
