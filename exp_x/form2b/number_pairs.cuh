// Two 16-bit numbers in a register, the first in the low half, as tensor cores take them.
//
// Definitions: MATRIX_TYPE, FP16 or BF16.
#pragma once
#include "platform.cuh"

// The pair (first, second), each to the nearest, ties to even.
template <int type = MATRIX_TYPE>
PASCALINE_INLINE uint32_t pair_of(float first, float second) {
#if !defined(PASCALINE_HOST) && __CUDA_ARCH__ >= 800
    uint32_t pair;
    if constexpr (type == FP16) {
        asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(second), "f"(first));
    } else {
        asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(second), "f"(first));
    }
    return pair;
#else
    using Number = Element<type>;
    return uint32_t(Number::narrow(first)) | uint32_t(Number::narrow(second)) << 16;
#endif
}

template <int type = MATRIX_TYPE>
PASCALINE_INLINE uint32_t twice(float value) {
    return pair_of<type>(value, value);
}

// The pair of twice a constant that MATRIX_TYPE has exactly: a constant, which conversions by asm are not.
constexpr uint32_t constant_pair(float value) {
    const uint32_t sign = value < 0.0f ? 0x8000u : 0u;
    float magnitude = value < 0.0f ? -value : value;
    if (magnitude == 0.0f) return 0u;
    constexpr int fraction_bits = MATRIX_TYPE == FP16 ? 10 : 7, lowest = MATRIX_TYPE == FP16 ? -14 : -126;
    int exponent = 0;
    while (magnitude >= 2.0f) magnitude *= 0.5f, exponent++;
    while (magnitude < 1.0f && exponent > lowest) magnitude *= 2.0f, exponent--;
    // Below 1 it is subnormal, whose exponent field is 0.
    const uint32_t field = magnitude < 1.0f ? 0u : uint32_t(exponent - lowest + 1);
    const float fraction = magnitude < 1.0f ? magnitude : magnitude - 1.0f;
    const uint32_t bits = sign | field << fraction_bits | uint32_t(fraction * float(1 << fraction_bits));
    return bits | bits << 16;
}

// a * b + c of both numbers, rounded once.
PASCALINE_INLINE uint32_t multiply_add_pairs(uint32_t a, uint32_t b, uint32_t c) {
#if defined(PASCALINE_HOST)
    using Number = Element<MATRIX_TYPE>;
    uint32_t pair = 0;
    for (int shift = 0; shift < 32; shift += 16) {
        const auto widened = [=](uint32_t word) { return double(Number::widen(uint16_t(word >> shift))); };
        pair |= uint32_t(Number::narrow(float(widened(a) * widened(b) + widened(c)))) << shift;
    }
    return pair;
#else
    uint32_t pair;
    if constexpr (MATRIX_TYPE == FP16) {
        asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(pair) : "r"(a), "r"(b), "r"(c));
    } else {
        asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(pair) : "r"(a), "r"(b), "r"(c));
    }
    return pair;
#endif
}
