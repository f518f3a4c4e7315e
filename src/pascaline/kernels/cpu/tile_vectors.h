// Vector operations of tiles: sums of products of bytes in lanes of 32 bits, and widening to fp32.

#pragma once

#include "simd.h"

// Registers of 16 lanes of 32 bits.
constexpr int PARTS = 16 / LANES;

#if defined(__AVX512VNNI__)

// A product's sums are added to the lanes of 32 bits at once.
constexpr bool ADDS_IN_32 = true;

INLINE Integers shift_left(Integers v, int bits) { return _mm512_slli_epi16(v, static_cast<unsigned>(bits)); }
INLINE Integers shift_right(Integers v, int bits) { return _mm512_srli_epi16(v, static_cast<unsigned>(bits)); }
INLINE Integers or_bits(Integers a, Integers b) { return _mm512_or_si512(a, b); }

using Factor = Integers;
template <bool SIGNED>
INLINE Factor factor(Integers codes) {
    return codes;
}
INLINE Integers open_sum(Integers sum) { return sum; }
template <bool SIGNED>
INLINE Integers add_products(Integers partial, Factor codes, Integers x) {
    return _mm512_dpbusd_epi32(partial, codes, x);
}
INLINE Integers close_sum(Integers, Integers partial) { return partial; }

INLINE Floats widen_bytes(const uint8_t* from) {
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
}
INLINE Floats widen_halves(const uint16_t* from) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
}
INLINE Floats widen_brains(const uint16_t* from) {
    const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
INLINE Floats widen_exponents(const uint8_t* from) {
    const __m512i e = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
    const __m512i tiny = _mm512_sllv_epi32(_mm512_set1_epi32(0x00200000), e);
    const __m512i usual = _mm512_slli_epi32(_mm512_sub_epi32(e, _mm512_set1_epi32(1)), 23);
    const __mmask16 is_tiny = _mm512_cmplt_epi32_mask(e, _mm512_set1_epi32(2));
    return _mm512_castsi512_ps(_mm512_mask_blend_epi32(is_tiny, usual, tiny));
}

#else

// Products are added in pairs, in lanes of 16 bits, and those in lanes of 32.
constexpr bool ADDS_IN_32 = false;

INLINE Integers shift_left(Integers v, int bits) { return _mm256_slli_epi16(v, bits); }
INLINE Integers shift_right(Integers v, int bits) { return _mm256_srli_epi16(v, bits); }
INLINE Integers or_bits(Integers a, Integers b) { return _mm256_or_si256(a, b); }

// Signed codes go in as |code|, times x with the code's sign: |code| <= 128 and |x| <= 127, so that two products
// stay below 2^15 and nothing saturates.
struct Factor {
    Integers codes;
    Integers unsigned_codes;
};
template <bool SIGNED>
INLINE Factor factor(Integers codes) {
    return {codes, SIGNED ? _mm256_abs_epi8(codes) : codes};
}
INLINE Integers open_sum(Integers) { return _mm256_setzero_si256(); }
template <bool SIGNED>
INLINE Integers add_products(Integers partial, const Factor& w, Integers x) {
    const Integers pairs = _mm256_maddubs_epi16(w.unsigned_codes, SIGNED ? _mm256_sign_epi8(x, w.codes) : x);
    return _mm256_add_epi16(partial, pairs);
}
INLINE Integers close_sum(Integers sum, Integers partial) {
    return _mm256_add_epi32(sum, _mm256_madd_epi16(partial, _mm256_set1_epi16(1)));
}

INLINE __m256i widen_eight(const uint8_t* from) {
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)));
}
INLINE Floats widen_bytes(const uint8_t* from) { return _mm256_cvtepi32_ps(widen_eight(from)); }
INLINE Floats widen_halves(const uint16_t* from) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
}
INLINE Floats widen_brains(const uint16_t* from) {
    const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
INLINE Floats widen_exponents(const uint8_t* from) {
    const __m256i e = widen_eight(from);
    const __m256i tiny = _mm256_sllv_epi32(_mm256_set1_epi32(0x00200000), e);
    const __m256i usual = _mm256_slli_epi32(_mm256_sub_epi32(e, _mm256_set1_epi32(1)), 23);
    const __m256i is_tiny = _mm256_cmpgt_epi32(_mm256_set1_epi32(2), e);
    return _mm256_castsi256_ps(_mm256_blendv_epi8(usual, tiny, is_tiny));
}

#endif
