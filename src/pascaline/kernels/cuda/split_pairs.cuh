// Numbers of fp32 as two of 16 bits, a high and a low part, and products of tensor cores in whichever type these are.
//
// Definitions: MATRIX_TYPE, FP16 or BF16.
#pragma once
#include "matrix.cuh"
#include "number_pairs.cuh"

PASCALINE_INLINE void multiply(float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    if constexpr (MATRIX_TYPE == FP16) {
        multiply_16x8x16_half(sums, a, b);
    } else {
        multiply_16x8x16_bfloat16(sums, a, b);
    }
}

PASCALINE_INLINE float first_of(uint32_t pair) { return Element<MATRIX_TYPE>::widen(uint16_t(pair)); }
PASCALINE_INLINE float second_of(uint32_t pair) { return Element<MATRIX_TYPE>::widen(uint16_t(pair >> 16)); }

// Two numbers as the sum of two pairs.
struct SplitPair {
    uint32_t high, low;

    PASCALINE_INLINE SplitPair(float first, float second)
        : high(pair_of(first, second)), low(pair_of(first - first_of(high), second - second_of(high))) {}
};
