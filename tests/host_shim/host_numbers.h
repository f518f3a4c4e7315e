// Conversions between number types and operations on bits, exactly as the chips do them.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "host_fibers.h"

#define PASCALINE_INLINE inline __attribute__((always_inline))

PASCALINE_INLINE float bits_to_float(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

PASCALINE_INLINE uint32_t float_to_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

// As cvt.f32.f16: exact; every NaN becomes 0x7FFFFFFF.
inline float half_to_float(uint16_t bits) {
    const uint32_t sign = uint32_t(bits & 0x8000u) << 16, exponent = bits >> 10 & 31u,
                   fraction = bits & 0x3FFu;
    if (exponent == 31) return bits_to_float(fraction != 0 ? 0x7FFFFFFFu : sign | 0x7F800000u);
    if (exponent == 0) {
        const float magnitude = float(fraction) * 0x1p-24f;
        return bits_to_float(sign | float_to_bits(magnitude));
    }
    return bits_to_float(sign | (exponent + 112) << 23 | fraction << 13);
}

// As cvt.rn.f16.f32: to nearest, ties to even; every NaN becomes 0x7FFF.
inline uint16_t float_to_half(float value) {
    const uint32_t bits = float_to_bits(value), magnitude = bits & 0x7FFFFFFFu;
    const uint16_t sign = uint16_t(bits >> 16 & 0x8000u);
    if (magnitude > 0x7F800000u) return 0x7FFF;
    if (magnitude >= 0x477FF000u) return sign | 0x7C00;  // 65520 and more round to infinity
    if (magnitude < 0x38800000u) {                       // below 2^-14: a multiple of 2^-24
        // The sum's ulp is 2^-24, so that the addition rounds.
        return sign | uint16_t(float_to_bits(bits_to_float(magnitude) + 0.5f) - 0x3F000000u);
    }
    const uint32_t rounded = magnitude + 0xFFFu + (magnitude >> 13 & 1u);
    return sign | uint16_t((rounded - (112u << 23)) >> 13);
}

PASCALINE_INLINE float __uint_as_float(uint32_t bits) { return bits_to_float(bits); }
PASCALINE_INLINE uint32_t __float_as_uint(float value) { return float_to_bits(value); }
PASCALINE_INLINE float __int_as_float(int32_t bits) { return bits_to_float(uint32_t(bits)); }
PASCALINE_INLINE int32_t __float_as_int(float value) { return int32_t(float_to_bits(value)); }

// As cvt.rni.s32.f32: to nearest, ties to even, saturating; NaN becomes 0.
inline int32_t round_to_int(float value) {
    if (value != value) return 0;
    const float rounded = nearbyintf(value);
    if (rounded >= 0x1p31f) return INT32_MAX;
    if (rounded < -0x1p31f) return INT32_MIN;
    return int32_t(rounded);
}

PASCALINE_INLINE int32_t dot4(uint32_t a, uint32_t b, int32_t sum) {
    for (int byte = 0; byte < 4; byte++) {
        sum = int32_t(uint32_t(sum) + uint32_t(int8_t(a >> 8 * byte) * int8_t(b >> 8 * byte)));
    }
    return sum;
}

PASCALINE_INLINE uint32_t upper_half(uint32_t word) { return word >> 16; }

// As prmt: bit 3 of a nibble asks for its byte's sign, eight times.
PASCALINE_INLINE uint32_t permute_bytes(uint32_t low, uint32_t high, uint32_t selector) {
    const uint64_t bytes = uint64_t(high) << 32 | low;
    uint32_t result = 0;
    for (int byte = 0; byte < 4; byte++) {
        const uint32_t nibble = selector >> 4 * byte & 15u;
        uint32_t picked = uint32_t(bytes >> 8 * (nibble & 7u)) & 0xFFu;
        if (nibble & 8u) picked = picked & 0x80u ? 0xFFu : 0u;
        result |= picked << 8 * byte;
    }
    return result;
}

PASCALINE_INLINE int __popc(uint32_t bits) { return __builtin_popcount(bits); }
PASCALINE_INLINE int __clz(int32_t bits) { return bits == 0 ? 32 : __builtin_clz(uint32_t(bits)); }
PASCALINE_INLINE int __ffs(int32_t bits) { return __builtin_ffs(bits); }

PASCALINE_INLINE float rsqrtf(float value) { return 1.0f / sqrtf(value); }
PASCALINE_INLINE float __fdividef(float numerator, float denominator) { return numerator / denominator; }
PASCALINE_INLINE float __expf(float value) { return expf(value); }

template <typename Value>
PASCALINE_INLINE Value min(Value a, Value b) {
    return b < a ? b : a;
}
template <typename Value>
PASCALINE_INLINE Value max(Value a, Value b) {
    return a < b ? b : a;
}
