// Vectors of the instruction set that this library is compiled for: AVX-512 with VNNI, AVX2, or NEON.
//
// All give the same numbers: sums of products of bytes are exact integers, and the fp32 operations that
// follow are the same ones in the same order. Only NaN may differ in its sign, which x86 sets and ARM does not.

#pragma once

#include <cstdint>
#include <cstring>

#define INLINE static inline __attribute__((always_inline))
#define INLINE_MEMBER inline __attribute__((always_inline))

constexpr float INFINITE = __builtin_inff();

#if defined(__AVX512VNNI__)
#include "simd_avx512.h"
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#include "simd_avx2.h"
#elif defined(__ARM_FEATURE_DOTPROD)
#include "simd_neon.h"
#else
#error "compile for AVX2 with FMA and F16C, for AVX-512 with VNNI, or for ARM with dot products"
#endif

constexpr int LANES = VECTOR_BYTES / 4;
// Registers of 16 lanes of 32 bits.
constexpr int PARTS = 16 / LANES;

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
            return widen_half(static_cast<const uint16_t*>(data)[index]);
        case 2:
            return as_float(static_cast<uint32_t>(static_cast<const uint16_t*>(data)[index]) << 16);
        default: {
            uint32_t exponent = static_cast<const uint8_t*>(data)[index];
            return as_float(exponent < 2 ? 0x00200000u << exponent : (exponent - 1) << 23);
        }
    }
}
