// A lane's sums over some of a tile's pages, as page_products.cuh has them: a weight's power of two is less the largest
// score so far (segment_sums.cuh).
//
// Definitions: those of page_products.cuh.
#pragma once
#include "page_products.cuh"
#include "segment_sums.cuh"

// Of a lane: two rows, 2 * (lane % 4) and the next.
struct LaneSums {
    Sums sums;
    float most[2], total[2];

    PASCALINE_INLINE LaneSums() : sums{}, most{LOWEST, LOWEST}, total{0.0f, 0.0f} {}

    // The rows' largest scores of some more tokens.
    PASCALINE_INLINE void raise(const float (&largest)[2]) {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const float before = most[i];
            most[i] = fmaxf(before, largest[i]);
            const float factor = power_of_two(before - most[i]);
            total[i] *= factor;
#pragma unroll
            for (auto& four : sums) {
                four[i] *= factor;
                four[i + 2] *= factor;
            }
        }
    }

    // To the warp's place in shared memory, by all its lanes.
    PASCALINE_INLINE void store(float* rows, float* row_most, float* row_total, int lane) {
        const int group = lane / 4, row = 2 * (lane % 4);
#pragma unroll
        for (int i = 0; i < 2; i++) {
#pragma unroll
            for (int mask = 4; mask < 32; mask *= 2) total[i] += shuffle_xor(total[i], mask);
            if (group == 0) {
                row_most[row + i] = most[i];
                row_total[row + i] = total[i];
            }
            store_row(sums, i, rows + (row + i) * SUM_STRIDE, group);
        }
    }
};
