// A row of numbers in the registers of some warps, WIDTH neighbours a vector, and its root mean square.
//
// Vector i of thread t is number i * ROW_THREADS + t of the row's. All kernels that normalise rows of a length have them
// so, and add up their squares in the same order: they give the same bits.
//
// Definitions: ROW_WARPS, that take a row, a whole block where they are several; VECTORS, of a thread.
#pragma once
#include "row_vectors.cuh"

constexpr int ROW_THREADS = 32 * ROW_WARPS;

struct Row {
    Vector vectors[VECTORS];

    // The first column of the thread's vector `i`.
    static PASCALINE_INLINE int column(int i) { return (i * ROW_THREADS + int(threadIdx.x) % ROW_THREADS) * WIDTH; }

    // Those that `load(column)` gives; what is beyond `columns` is zero.
    template <typename Load>
    PASCALINE_INLINE void fill(int columns, Load load) {
#pragma unroll
        for (int i = 0; i < VECTORS; i++) {
            vectors[i] = {};
            if (column(i) < columns) vectors[i] = load(column(i));
        }
    }
};

// The sum over the row's threads of `value`, in all of them.
PASCALINE_INLINE float row_sum(float value) {
#pragma unroll
    for (int mask = 16; mask > 0; mask /= 2) value += shuffle_xor(value, mask);
    if constexpr (ROW_WARPS > 1) {
        __shared__ float warps[ROW_WARPS];
        const int lane = threadIdx.x % 32;
        if (lane == 0) warps[threadIdx.x / 32] = value;
        __syncthreads();
        value = lane < ROW_WARPS ? warps[lane] : 0.0f;
#pragma unroll
        for (int mask = 16; mask > 0; mask /= 2) value += shuffle_xor(value, mask);
    }
    return value;
}

// 1 / sqrt(mean of squares + epsilon).
PASCALINE_INLINE float inverse_root_mean_square(const Row& row, int columns, float epsilon) {
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < VECTORS; i++) {
#pragma unroll
        for (int j = 0; j < WIDTH; j++) sum = fmaf(row.vectors[i].values[j], row.vectors[i].values[j], sum);
    }
    return rsqrtf(row_sum(sum) / float(columns) + epsilon);
}

// The vector, normalised.
PASCALINE_INLINE Vector normalised(const Vector& x, float inverse, const Vector& gain) {
    Vector y;
#pragma unroll
    for (int j = 0; j < WIDTH; j++) y.values[j] = x.values[j] * inverse * gain.values[j];
    return y;
}
