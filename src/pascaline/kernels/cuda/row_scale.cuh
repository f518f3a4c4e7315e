// A row in fp16 by a power of two that makes its largest of size 1 to 2, and what takes that back: with the very bits of
// scale_rows.cu.
//
// Definitions: those of row_norm.cuh; HAS_PERMUTATION: column c is input `inputs[c]`; the block, which takes one row,
// then has its shared memory.
#pragma once
#include "row_norm.cuh"

// The largest magnitude of the row, in all of its threads.
PASCALINE_INLINE float row_largest(const Row& row) {
    float largest = 0.0f;
#pragma unroll
    for (int i = 0; i < VECTORS; i++) {
#pragma unroll
        for (int j = 0; j < WIDTH; j++) largest = fmaxf(largest, fabsf(row.vectors[i].values[j]));
    }
#pragma unroll
    for (int mask = 16; mask > 0; mask /= 2) largest = fmaxf(largest, shuffle_xor(largest, mask));
    if constexpr (ROW_WARPS > 1) {
        __shared__ float warps[ROW_WARPS];
        const int lane = threadIdx.x % 32;
        if (lane == 0) warps[threadIdx.x / 32] = largest;
        __syncthreads();
        largest = lane < ROW_WARPS ? warps[lane] : 0.0f;
#pragma unroll
        for (int mask = 16; mask > 0; mask /= 2) largest = fmaxf(largest, shuffle_xor(largest, mask));
    }
    return largest;
}

// scaled: the row's, `columns` of them; factor: the row's.
PASCALINE_INLINE void store_scaled(const Row& row, const int32_t* inputs, uint16_t* scaled, float* factor, int columns) {
    // Of the exponents that a number and its reciprocal both have; infinite and NaN stay what they are.
    uint32_t exponent = float_to_bits(row_largest(row)) >> 23;
    exponent = exponent < 1 ? 1 : exponent > 253 ? 253 : exponent;
    const float scale = bits_to_float((254 - exponent) << 23);
    if (threadIdx.x % ROW_THREADS == 0) *factor = bits_to_float(exponent << 23);
    DYNAMIC_SHARED(float, ordered);
    if constexpr (HAS_PERMUTATION) {
        row.store(ordered, columns);
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < VECTORS; i++) {
        const int column = Row::column(i);
        if (column >= columns) break;
        Vector vector = row.vectors[i];
#pragma unroll
        for (int j = 0; j < WIDTH; j++) {
            if constexpr (HAS_PERMUTATION) vector.values[j] = ordered[load_constant(inputs + column + j)];
            vector.values[j] *= scale;
        }
        store_vector<FP16>(scaled + column, vector);
    }
}
