// Vector operations of tiles: sums of products of bytes in lanes of 32 bits, and widening to fp32.

#pragma once

#include "simd.h"

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
// Word number `index` of x, four neighbours along K, for all lanes.
using Word = Integers;
INLINE Word word_at(const int8_t* x, int index) { return every_integer(x + index * 4); }
template <bool SIGNED>
INLINE Integers add_products(Integers partial, Factor codes, Word x) {
    return _mm512_dpbusd_epi32(partial, codes, x);
}
INLINE Integers add_pairs(Integers, Integers partial) { return partial; }

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

#elif defined(__AVX2__)

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
using Word = Integers;
INLINE Word word_at(const int8_t* x, int index) { return every_integer(x + index * 4); }
template <bool SIGNED>
INLINE Integers add_products(Integers partial, const Factor& w, Word x) {
    const Integers pairs = _mm256_maddubs_epi16(w.unsigned_codes, SIGNED ? _mm256_sign_epi8(x, w.codes) : x);
    Integers sum = _mm256_add_epi16(partial, pairs);
    // Else compilers add up a tree, whose branches do not fit into registers. PERF: 165 -> 237 GOPS a core.
    asm("" : "+x"(sum));
    return sum;
}
INLINE Integers add_pairs(Integers sum, Integers partial) {
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

#else

constexpr bool ADDS_IN_32 = true;

// Operators, because intrinsics take a constant where an instruction does.
INLINE Integers shift_left(Integers v, int bits) { return as_integers(as_bytes(v) << bits); }
INLINE Integers shift_right(Integers v, int bits) { return as_integers(as_bytes(v) >> bits); }
INLINE Integers or_bits(Integers a, Integers b) { return vorrq_s32(a, b); }

using Factor = Integers;
template <bool SIGNED>
INLINE Factor factor(Integers codes) {
    return codes;
}
struct Word {
    int8x16_t four_words;
    int lane;
};
INLINE Word word_at(const int8_t* x, int index) { return {vld1q_s8(x + index / 4 * 16), index % 4}; }
// Codes that are not signed are less than 128.
template <bool SIGNED>
INLINE Integers add_products(Integers partial, Factor codes, const Word& x) {
    const int8x16_t w = vreinterpretq_s8_s32(codes);
#if defined(__clang__)
    partial = vdotq_s32(partial, w, vreinterpretq_s8_s32(vdupq_n_s32(vreinterpretq_s32_s8(x.four_words)[x.lane])));
#else
    switch (x.lane) {
        case 0: partial = vdotq_laneq_s32(partial, w, x.four_words, 0); break;
        case 1: partial = vdotq_laneq_s32(partial, w, x.four_words, 1); break;
        case 2: partial = vdotq_laneq_s32(partial, w, x.four_words, 2); break;
        default: partial = vdotq_laneq_s32(partial, w, x.four_words, 3);
    }
#endif
    // In this order: else compilers move products apart, and sums do not fit into registers.
    asm("" : "+w"(partial));
    return partial;
}
INLINE Integers add_pairs(Integers, Integers partial) { return partial; }

INLINE uint32x4_t widen_four(const uint8_t* from) {
    uint32_t four;
    memcpy(&four, from, 4);
    return vmovl_u16(vget_low_u16(vmovl_u8(vcreate_u8(four))));
}
INLINE Floats widen_bytes(const uint8_t* from) { return vcvtq_f32_u32(widen_four(from)); }
INLINE Floats widen_halves(const uint16_t* from) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(from))); }
INLINE Floats widen_brains(const uint16_t* from) { return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(from), 16)); }
INLINE Floats widen_exponents(const uint8_t* from) {
    const uint32x4_t e = widen_four(from);
    const uint32x4_t tiny = vshlq_u32(vdupq_n_u32(0x00200000), vreinterpretq_s32_u32(e));
    const uint32x4_t usual = vshlq_n_u32(vsubq_u32(e, vdupq_n_u32(1)), 23);
    return vreinterpretq_f32_u32(vbslq_u32(vcltq_u32(e, vdupq_n_u32(2)), tiny, usual));
}

#endif
