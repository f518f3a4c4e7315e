// Sums of tensor cores' products with fragments of a packed weight (matrix_weight.cuh): TILES tiles of 8 outputs by
// BLOCK_ROWS rows, in fp32, scaled slab by slab where scales are not within the fragments.
//
// Definitions: those of matrix_weight.cuh; TILES, even; BLOCK_ROWS, a multiple of 8.
#pragma once
#include "matrix.cuh"
#include "matrix_weight.cuh"

static_assert(TILES % 2 == 0 && BLOCK_ROWS % 8 == 0, "products are of 16 outputs and 8 rows");

constexpr int ROW_BLOCKS = BLOCK_ROWS / 8;

using Sums = float[ROW_BLOCKS][TILES / 2][4];

PASCALINE_INLINE void multiply(float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if !defined(PASCALINE_HOST) && __CUDA_ARCH__ < 800
    const uint32_t first[2] = {a[0], a[1]}, second[2] = {a[2], a[3]};
    multiply_16x8x8_half(sums, first, b[0]);
    multiply_16x8x8_half(sums, second, b[1]);
#else
    if constexpr (MATRIX_TYPE == FP16) multiply_16x8x16_half(sums, a, b);
    if constexpr (MATRIX_TYPE == BF16) multiply_16x8x16_bfloat16(sums, a, b);
#endif
}

PASCALINE_INLINE void multiply_integers(float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if !defined(PASCALINE_HOST) && __CUDA_ARCH__ < 800
    multiply(sums, a, b);
#else
    multiply_16x8x16_bfloat16(sums, a, b);
#endif
}

// Eight rows' sums over each 16 inputs of a slab, found by a product with ones: row 2 * quarter + half of A has them
// in that half.
struct InputSums {
    float sums[4];

    PASCALINE_INLINE void add(const uint32_t (&b)[2], int word, int lane) {
        constexpr uint32_t ones = MATRIX_TYPE == FP16 ? 0x3C003C00u : 0x3F803F80u;
        const uint32_t own = lane / 4 == 2 * (lane % 4) + word / WORDS_PER_SUM ? ones : 0u;
        const uint32_t a[4] = {own, 0u, own, 0u};
        multiply(sums, a, b);
    }

    // As B of the product with the small integers b: lane (row, quarter) has the two halves of the quarter.
    PASCALINE_INLINE void operand(uint32_t (&b)[2], int lane) const {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int from = 4 * (2 * (lane % 4) + half) + lane / 8;
            const float even = shuffle_from(sums[0], from), odd = shuffle_from(sums[1], from);
            b[half] = split(lane / 4 % 2 == 0 ? even : odd);
        }
    }

  private:
    static constexpr int WORDS_PER_SUM = WORDS / 2;

    // A sum as two numbers of SUM_TYPE.
    static PASCALINE_INLINE uint32_t split(float sum) {
        using Number = Element<SUM_TYPE>;
        const float high = Number::widen(Number::narrow(sum));
        return pair_of<SUM_TYPE>(high, sum - high);
    }
};

// Adds a slab's products, times D, less the small integers' times E.
PASCALINE_INLINE void add_scaled(Sums& totals, const Sums& products, const InputSums (&input_sums)[ROW_BLOCKS],
                                 const FragmentFactors (&factors)[TILES], int lane) {
#pragma unroll
    for (int block = 0; block < ROW_BLOCKS; block++) {
        uint32_t b[2];
        if constexpr (HAS_SLAB_OFFSETS) input_sums[block].operand(b, lane);
#pragma unroll
        for (int pair = 0; pair < TILES / 2; pair++) {
            float offsets[4] = {};
            if constexpr (HAS_SLAB_OFFSETS) {
                const FragmentFactors &lower = factors[2 * pair], &upper = factors[2 * pair + 1];
                const uint32_t a[4] = {lower.offsets[0], upper.offsets[0], lower.offsets[1], upper.offsets[1]};
                multiply_integers(offsets, a, b);
            }
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const FragmentFactors& own = factors[2 * pair + i / 2];
                totals[block][pair][i] += own.slab_scale * products[block][pair][i];
                if constexpr (HAS_SLAB_OFFSETS) totals[block][pair][i] -= own.slab_offset * offsets[i];
            }
        }
    }
}
