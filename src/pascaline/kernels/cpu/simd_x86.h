// What AVX2 and AVX-512 do alike: vectors of 128 and 256 bits.

#pragma once

#include <immintrin.h>

// Sixteen bytes that are looked up.
using Table = __m128i;

INLINE float square_root(float value) { return _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(value))); }
INLINE float widen_half(uint16_t half) { return _cvtsh_ss(half); }

// Eight numbers rounded to fp16, of two nearest the even one; what is too large becomes the largest, NaN stays.
INLINE void narrow_eight(const float* from, uint16_t* to) {
    const __m256 most = _mm256_set1_ps(65504.0f), least = _mm256_set1_ps(-65504.0f);
    const __m256 x = _mm256_min_ps(most, _mm256_max_ps(least, _mm256_loadu_ps(from)));
    const __m128i halves = _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), halves);
}

// Of four rows, the 16 bytes from `at` on to columns of four bytes: column i to `to + i * stride`.
INLINE void put_columns(uint8_t* const* rows, int64_t at, uint8_t* to, int64_t stride) {
    __m128 four[4];
    for (int i = 0; i < 4; i++) four[i] = _mm_loadu_ps(reinterpret_cast<const float*>(rows[i] + at));
    _MM_TRANSPOSE4_PS(four[0], four[1], four[2], four[3]);
    for (int i = 0; i < 4; i++) _mm_storeu_ps(reinterpret_cast<float*>(to + i * stride), four[i]);
}

// Lanes i and i + 4, of those i and i + 2, and of those i and i + 1.
INLINE float add_lanes(__m256 v) {
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
INLINE float largest_of_lanes(__m256 v) {
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

// 32 bytes.
struct Bytes {
    __m256i all;
};

INLINE Bytes bytes_at(const void* from) { return {_mm256_loadu_si256(static_cast<const __m256i*>(from))}; }
INLINE void put_bytes(void* to, Bytes v) { _mm256_storeu_si256(static_cast<__m256i*>(to), v.all); }
INLINE Bytes zero_bytes() { return {_mm256_setzero_si256()}; }
// The sixteen at `from`, twice.
INLINE Bytes bytes_twice(const void* from) {
    return {_mm256_broadcastsi128_si256(_mm_loadu_si128(static_cast<const __m128i*>(from)))};
}
INLINE Bytes halves_of(Bytes low, Bytes high) { return {_mm256_blend_epi32(low.all, high.all, 0xF0)}; }
INLINE Bytes and_bits(Bytes v, int mask) {
    return {_mm256_and_si256(v.all, _mm256_set1_epi8(static_cast<char>(mask)))};
}
INLINE Bytes or_bits(Bytes a, Bytes b) { return {_mm256_or_si256(a.all, b.all)}; }
// Bits may come from the byte beside: they are to be masked out.
INLINE Bytes shift_left(Bytes v, int bits) { return {_mm256_sll_epi16(v.all, _mm_cvtsi32_si128(bits))}; }
INLINE Bytes shift_right(Bytes v, int bits) { return {_mm256_srl_epi16(v.all, _mm_cvtsi32_si128(bits))}; }

// A byte each for the fields, of BITS bits, of 4 * BITS bytes; what lies above the field is to be masked out.
template <int BITS>
INLINE Bytes spread(const uint8_t* from) {
    // Each byte in as many places as it has fields, and in each the one wanted shifted down.
    __m256i spread;
    if (BITS == 4) {
        spread = _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
        spread = _mm256_or_si256(spread, _mm256_slli_epi16(spread, 4));
    } else if (BITS == 2) {
        spread = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)));
        spread = _mm256_or_si256(spread, _mm256_slli_epi32(spread, 12));
        spread = _mm256_or_si256(spread, _mm256_slli_epi32(spread, 6));
    } else {
        int32_t four;
        memcpy(&four, from, 4);
        spread = _mm256_cvtepu8_epi64(_mm_cvtsi32_si128(four));
        spread = _mm256_or_si256(spread, _mm256_slli_epi64(spread, 28));
        spread = _mm256_or_si256(spread, _mm256_slli_epi64(spread, 14));
        spread = _mm256_or_si256(spread, _mm256_slli_epi64(spread, 7));
    }
    return {spread};
}

// The largest magnitude of 32 numbers, as bits: those of positive floats order like integers, and Inf and NaN are
// the largest.
INLINE uint32_t largest_bits(const float* x) {
    const __m256i magnitude = _mm256_set1_epi32(0x7FFFFFFF);
    __m256i largest = _mm256_setzero_si256();
    for (int i = 0; i < 4; i++) {
        const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + 8 * i));
        largest = _mm256_max_epi32(largest, _mm256_and_si256(bits, magnitude));
    }
    __m128i half = _mm_max_epi32(_mm256_castsi256_si128(largest), _mm256_extracti128_si256(largest, 1));
    half = _mm_max_epi32(half, _mm_shuffle_epi32(half, 0x4E));
    half = _mm_max_epi32(half, _mm_shuffle_epi32(half, 0xB1));
    return static_cast<uint32_t>(_mm_cvtsi128_si32(half));
}

// 32 numbers times `factor` to the nearest integers, of two the even one, which must be signed bytes.
INLINE Bytes round_to_bytes(const float* x, float factor) {
    const __m256 factors = _mm256_set1_ps(factor);
    __m256i integers[4];
    for (int i = 0; i < 4; i++) integers[i] = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + 8 * i), factors));
    const __m256i low = _mm256_packs_epi32(integers[0], integers[1]);
    const __m256i high = _mm256_packs_epi32(integers[2], integers[3]);
    return {_mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high), _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7))};
}

// Sums of the first and the last 16, as signed bytes.
struct Sums {
    int low, high;
};

INLINE int sum_of_sixteen(__m128i bytes) {
    const __m128i pairs = _mm_maddubs_epi16(_mm_set1_epi8(1), bytes);
    __m128i fours = _mm_madd_epi16(pairs, _mm_set1_epi16(1));
    fours = _mm_add_epi32(fours, _mm_shuffle_epi32(fours, 0x4E));
    return _mm_cvtsi128_si32(_mm_add_epi32(fours, _mm_shuffle_epi32(fours, 0xB1)));
}
INLINE Sums sums_of(Bytes v) {
    return {sum_of_sixteen(_mm256_castsi256_si128(v.all)), sum_of_sixteen(_mm256_extracti128_si256(v.all, 1))};
}

// Four floats, and four doubles.
using Four = __m128;
using Doubles = __m256d;

INLINE Four four_at(const float* from) { return _mm_loadu_ps(from); }
INLINE Four four_of(float value) { return _mm_set1_ps(value); }
// In place of larger ones, and of NaN, `most`.
INLINE Doubles widen_up_to(Four v, float most) { return _mm256_cvtps_pd(_mm_min_ps(v, _mm_set1_ps(most))); }
INLINE Doubles every_double(double value) { return _mm256_set1_pd(value); }
INLINE void store_doubles(double* to, Doubles v) { _mm256_storeu_pd(to, v); }
INLINE double first_of(Doubles v) { return _mm256_cvtsd_f64(v); }
INLINE Doubles add(Doubles a, Doubles b) { return _mm256_add_pd(a, b); }
INLINE Doubles subtract(Doubles a, Doubles b) { return _mm256_sub_pd(a, b); }
INLINE Doubles multiply(Doubles a, Doubles b) { return _mm256_mul_pd(a, b); }
INLINE Doubles multiply_add(Doubles a, Doubles b, Doubles c) { return _mm256_fmadd_pd(a, b, c); }
INLINE Doubles subtract_product(Doubles c, Doubles a, Doubles b) { return _mm256_fnmadd_pd(a, b, c); }
// Where one of the two is NaN: b.
INLINE Doubles largest(Doubles a, Doubles b) { return _mm256_max_pd(a, b); }
// v where a < b, else 0.
INLINE Doubles where_less(Doubles a, Doubles b, Doubles v) { return _mm256_and_pd(_mm256_cmp_pd(a, b, _CMP_LT_OQ), v); }
// v 2^n, for a normal v and result; `shifted` is 1.5 * 2^52 + n.
INLINE Doubles scale_by_shifted(Doubles v, Doubles shifted) {
    const __m256i exponent = _mm256_slli_epi64(_mm256_castpd_si256(shifted), 52);
    return _mm256_castsi256_pd(_mm256_add_epi64(_mm256_castpd_si256(v), exponent));
}
