// Softmax of scores as they come, tile by tile, in the tensor cores' sums: FlashAttention-2's.
//
// Definitions: ROW_TILES, HEAD_DIM, TILE_TOKENS, HAS_WINDOW; WARP_ROWS.
#pragma once
#include "platform_exponential.cuh"
#include "prefill_tiles.cuh"

constexpr int TOKEN_BLOCKS = TILE_TOKENS / 8;  // of 8 scores
constexpr int VALUE_BLOCKS = HEAD_DIM / 8;     // of 8 outputs
constexpr float LOWEST = -1.0e30f;             // below every exponent
constexpr float SLACK = 8.0f;                  // of exponents: weights up to 256 are as exact as those up to 1

// Of 16 rows each, in fragments as matrix.cuh describes them.
using Scores = float[ROW_TILES][TOKEN_BLOCKS][4];
using Sums = float[ROW_TILES][VALUE_BLOCKS][4];

// What a thread knows of its rows: i is row lane / 4 + 8 * (i % 2) of the warp's tile i / 2 of 16 rows.
struct Rows {
    static constexpr int COUNT = 2 * ROW_TILES;
    float shifts[COUNT], totals[COUNT];  // of exponents, about the largest so far; sums of weights

    static PASCALINE_INLINE int row(int i) {
        return threadIdx.x / 32 * WARP_ROWS + threadIdx.x % 32 / 4 + i * 8;
    }

    PASCALINE_INLINE Rows() {
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            shifts[i] = LOWEST;
            totals[i] = 0.0f;
        }
    }

    // Scores of tokens that a row does not see become -infinity.
    static PASCALINE_INLINE void mask(Scores& scores, const PrefillTile& tile, int first_token, int window) {
        const float nothing = bits_to_float(0xFF800000u);
        const int own_token = first_token + threadIdx.x % 4 * 2;
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            const int behind = tile.position(row(i)) - own_token;  // how far the token is
#pragma unroll
            for (int block = 0; block < TOKEN_BLOCKS; block++) {
#pragma unroll
                for (int j = 0; j < 2; j++) {
                    const int distance = behind - (8 * block + j);
                    const bool is_seen = distance >= 0 && (!HAS_WINDOW || distance < window);
                    float& score = scores[i / 2][block][i % 2 * 2 + j];
                    score = is_seen ? score : nothing;
                }
            }
        }
    }

    // Scores become weights, 2^(factor * score - shift). Where these would be above 2^SLACK, the shift goes up to the
    // largest exponent, and what is summed so far is scaled down.
    PASCALINE_INLINE void weigh(Scores& scores, Sums& sums, float factor) {
        float corrections[COUNT];
        bool is_raised = false;
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            float maximum = LOWEST;
#pragma unroll
            for (int block = 0; block < TOKEN_BLOCKS; block++) {
                const float(&four)[4] = scores[i / 2][block];
                maximum = fmaxf(maximum, fmaxf(four[i % 2 * 2], four[i % 2 * 2 + 1]));
            }
            maximum = fmaxf(maximum, shuffle_xor(maximum, 1));
            maximum = fmaxf(maximum, shuffle_xor(maximum, 2)) * factor;
            const float shift = maximum > shifts[i] + SLACK ? maximum : shifts[i];
            corrections[i] = power_of_two(shifts[i] - shift);
            is_raised |= shift != shifts[i];
            shifts[i] = shift;
        }
        // PERF: seldom after the first tiles.
        if (is_raised) {
#pragma unroll
            for (int i = 0; i < COUNT; i++) {
                totals[i] *= corrections[i];
#pragma unroll
                for (int block = 0; block < VALUE_BLOCKS; block++) {
                    sums[i / 2][block][i % 2 * 2] *= corrections[i];
                    sums[i / 2][block][i % 2 * 2 + 1] *= corrections[i];
                }
            }
        }
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
#pragma unroll
            for (int block = 0; block < TOKEN_BLOCKS; block++) {
#pragma unroll
                for (int j = 0; j < 2; j++) {
                    float& score = scores[i / 2][block][i % 2 * 2 + j];
                    score = power_of_two(score * factor - shifts[i]);
                    totals[i] += score;
                }
            }
        }
    }
};

// cap(scale * score) / log(2): cap * tanh(x) is cap - 2 * cap / (1 + exp(2 * x)).
PASCALINE_INLINE void cap(Scores& scores, float scale, float soft_cap) {
    const float factor = 2.0f * LOG2_E * scale / soft_cap, size = soft_cap * LOG2_E;
#pragma unroll
    for (int tile = 0; tile < ROW_TILES; tile++) {
#pragma unroll
        for (int block = 0; block < TOKEN_BLOCKS; block++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const float power = power_of_two(scores[tile][block][i] * factor);
                scores[tile][block][i] = size - divide_fast(2.0f * size, 1.0f + power);
            }
        }
    }
}
