// Wide: sixteen floats, as many as a page has keys. One vector of AVX-512, or two of AVX2.

#pragma once

#include "elementary.h"

#if defined(__AVX512VNNI__)

using Wide = Floats;

INLINE Wide zero_wide() { return zero_floats(); }
INLINE Wide every_wide(float value) { return every_float(value); }
INLINE Wide load_wide(const float* from) { return load_floats(from); }
INLINE Wide load_wide(const uint16_t* from) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
}
INLINE void store_wide(float* to, Wide v) { store_floats(to, v); }
// v in the lanes from `first` to before `stop`, minus infinity in the others.
INLINE Wide only(Wide v, int first, int stop) {
    return _mm512_mask_blend_ps(static_cast<__mmask16>((1u << stop) - (1u << first)), every_float(-INFINITE), v);
}
INLINE __m256 add_halves(Wide v) {
    return _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
}
INLINE __m256 largest_of_halves(Wide v) {
    return _mm256_max_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
}

#else

struct Wide {
    Floats low, high;
};

INLINE Wide zero_wide() { return {zero_floats(), zero_floats()}; }
INLINE Wide every_wide(float value) { return {every_float(value), every_float(value)}; }
INLINE Wide load_wide(const float* from) { return {load_floats(from), load_floats(from + 8)}; }
INLINE Wide load_wide(const uint16_t* from) {
    const __m128i* halves = reinterpret_cast<const __m128i*>(from);
    return {_mm256_cvtph_ps(_mm_loadu_si128(halves)), _mm256_cvtph_ps(_mm_loadu_si128(halves + 1))};
}
INLINE void store_wide(float* to, Wide v) {
    store_floats(to, v.low);
    store_floats(to + 8, v.high);
}
INLINE Wide add(Wide a, Wide b) { return {add(a.low, b.low), add(a.high, b.high)}; }
INLINE Wide largest(Wide a, Wide b) { return {largest(a.low, b.low), largest(a.high, b.high)}; }
INLINE Wide subtract(Wide a, Wide b) { return {subtract(a.low, b.low), subtract(a.high, b.high)}; }
INLINE Wide subtract(Wide a, Floats b) { return {subtract(a.low, b), subtract(a.high, b)}; }
INLINE Wide multiply(Wide a, Floats b) { return {multiply(a.low, b), multiply(a.high, b)}; }
INLINE Wide divide(Wide a, Floats b) { return {divide(a.low, b), divide(a.high, b)}; }
INLINE Wide multiply_add(Wide a, Floats b, Wide c) {
    return {multiply_add(a.low, b, c.low), multiply_add(a.high, b, c.high)};
}
INLINE Wide exponential(Wide v) { return {exponential(v.low), exponential(v.high)}; }
INLINE Wide hyperbolic_tangent(Wide v) { return {hyperbolic_tangent(v.low), hyperbolic_tangent(v.high)}; }
INLINE Wide only(Wide v, int first, int stop) {
    const __m256i low = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), high = _mm256_add_epi32(low, _mm256_set1_epi32(8));
    const __m256i before = _mm256_set1_epi32(first - 1), after = _mm256_set1_epi32(stop);
    const auto part = [&](Floats floats, __m256i lane) {
        const __m256i in = _mm256_and_si256(_mm256_cmpgt_epi32(lane, before), _mm256_cmpgt_epi32(after, lane));
        return choose(_mm256_castsi256_ps(in), floats, every_float(-INFINITE));
    };
    return {part(v.low, low), part(v.high, high)};
}
INLINE __m256 add_halves(Wide v) { return add(v.low, v.high); }
INLINE __m256 largest_of_halves(Wide v) { return largest(v.low, v.high); }

#endif

INLINE float add_all(Wide v) {
    const __m256 eight = add_halves(v);
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

INLINE float largest_of_all(Wide v) {
    const __m256 eight = largest_of_halves(v);
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

INLINE float to_float(float value) { return value; }
INLINE float to_float(uint16_t half) { return _cvtsh_ss(half); }
