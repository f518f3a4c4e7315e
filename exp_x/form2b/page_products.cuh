// Products of a page's keys with queries and of its values with weights, by the tensor cores of one warp.
//
// Keys and values are the operand A: 16 tokens, or 16 of a head's numbers, are its rows. Eight rows of queries are the
// columns of B. Numbers from fp32 are taken as two of 16 bits, a high and a low part: next to fp32's own precision in
// fp16, 16 bits of significand in bf16. Codes of int8 are exact in fp16.
//
// Which of a head's numbers a lane has is free, as long as keys and queries agree. With group = lane / 4 and member =
// lane % 4, of 16 numbers of keys a lane has 2 * member and the next, and those 8 later; of codes 4 * member ... 4 * member
// + 3. Of values it has number `group` and that 8 later; of codes 2 * group and the next.
//
// Definitions: those of page_stream.cuh; MATRIX_TYPE, of keys and values as tensor cores have them.
#pragma once
#include "matrix.cuh"
#include "number_pairs.cuh"
#include "page_stream.cuh"
#include "platform_transpose.cuh"

constexpr int STEPS = HEAD_DIM / 16;  // products to a score, and tiles of outputs

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

    PASCALINE_INLINE SplitPair() = default;
    PASCALINE_INLINE SplitPair(float first, float second)
        : high(pair_of(first, second)), low(pair_of(first - first_of(high), second - second_of(high))) {}
};

// The pair of two codes, whose bytes `selector` picks from (codes, 0x64646464) after their signs were turned: 0x6400 is
// 1024, with units of 1 below.
PASCALINE_INLINE uint32_t pair_of_codes(uint32_t codes, uint32_t selector) {
    return multiply_add_pairs(permute_bytes(codes, 0x64646464u, selector), constant_pair(1.0f), constant_pair(-1152.0f));
}
constexpr uint32_t SIGNS = 0x80808080u;

// Eight rows of queries as operands of all products to a score.
struct Queries {
    uint32_t high[STEPS][2], low[STEPS][2];
    float unit;  // the queries are so many times the numbers above: row lane / 4's

    // row: this lane's, null for one of zeros.
    PASCALINE_INLINE Queries(const float* row, int member) {
        float numbers[STEPS][4];
        float largest = 0.0f;
#pragma unroll
        for (int step = 0; step < STEPS; step++) {
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const int first = 16 * step + (IS_INT8 ? 4 * member + 2 * i : 2 * member + 8 * i);
                float2 pair = make_float2(0.0f, 0.0f);
                if (row != nullptr) pair = load_handed_on(reinterpret_cast<const float2*>(row + first));
                numbers[step][2 * i] = pair.x;
                numbers[step][2 * i + 1] = pair.y;
                largest = fmaxf(largest, fmaxf(fabsf(pair.x), fabsf(pair.y)));
            }
        }
        largest = fmaxf(largest, shuffle_xor(largest, 1));
        largest = fmaxf(largest, shuffle_xor(largest, 2));
        // A power of two brings the largest below 2^15: low parts are then far above fp16's least.
        const int exponent = max(int(float_to_bits(largest) >> 23), 28);
        const float factor = bits_to_float(uint32_t(127 + 127 + 14 - exponent) << 23);
        unit = bits_to_float(uint32_t(exponent - 14) << 23);
#pragma unroll
        for (int step = 0; step < STEPS; step++) {
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const SplitPair pair(numbers[step][2 * i] * factor, numbers[step][2 * i + 1] * factor);
                high[step][i] = pair.high;
                low[step][i] = pair.low;
            }
        }
    }
};

// Scores of tokens group (0 and 1) and group + 8 (2 and 3), rows 2 * member and the next, in the queries' units.
PASCALINE_INLINE void multiply_keys(float (&scores)[4], SharedAddress place, const Queries& queries, int lane) {
    const UnitPairs pairs(lane % 16, lane / 16);
    float high[4] = {}, low[4] = {};
#pragma unroll
    for (int pair = 0; pair < UnitPairs::COUNT; pair++) {
        uint32_t words[4];
        load_fragments(words, pairs.row(place, pair));
        if constexpr (IS_INT8) {
#pragma unroll
            for (int i = 0; i < 2 && 2 * pair + i < STEPS; i++) {
                const uint32_t upper = words[2 * i] ^ SIGNS, lower = words[2 * i + 1] ^ SIGNS;
                const uint32_t a[4] = {pair_of_codes(upper, 0x4140), pair_of_codes(lower, 0x4140),
                                       pair_of_codes(upper, 0x4342), pair_of_codes(lower, 0x4342)};
                multiply(high, a, queries.high[2 * pair + i]);
                multiply(low, a, queries.low[2 * pair + i]);
            }
        } else {
            multiply(high, words, queries.high[pair]);
            multiply(low, words, queries.low[pair]);
        }
    }
#pragma unroll
    for (int i = 0; i < 4; i++) scores[i] = high[i] + low[i];
}

// Weights of a page's tokens as operands.
struct Weights {
    uint32_t high[2], low[2];

    // weights: as scores are.
    PASCALINE_INLINE explicit Weights(const float (&weights)[4]) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const SplitPair pair(weights[2 * half], weights[2 * half + 1]);
            high[half] = transposed(pair.high);
            low[half] = transposed(pair.low);
        }
    }
};

// Sums of a lane, of 16 of a head's numbers each: rows 2 * member (0 and 2) and the next (1 and 3), of the first and the
// second number that the lane has.
using Sums = float[STEPS][4];

PASCALINE_INLINE void multiply_values(Sums& sums, SharedAddress place, const Weights& weights, int lane) {
    const UnitPairs pairs(lane % 8 + lane / 16 * 8, lane / 8 % 2);
#pragma unroll
    for (int pair = 0; pair < UnitPairs::COUNT; pair++) {
        uint32_t words[4];
        load_transposed_fragments(words, pairs.row(place, pair));
        if constexpr (IS_INT8) {
#pragma unroll
            for (int i = 0; i < 2 && 2 * pair + i < STEPS; i++) {
                // Of neighbouring tokens, two neighbouring codes each.
                const uint32_t upper = words[i] ^ SIGNS, lower = words[2 + i] ^ SIGNS;
                const uint32_t a[4] = {pair_of_codes(upper, 0x4240), pair_of_codes(upper, 0x4341),
                                       pair_of_codes(lower, 0x4240), pair_of_codes(lower, 0x4341)};
                multiply(sums[2 * pair + i], a, weights.high);
                multiply(sums[2 * pair + i], a, weights.low);
            }
        } else {
            multiply(sums[pair], words, weights.high);
            multiply(sums[pair], words, weights.low);
        }
    }
}

// A lane's sums of one of its two rows, in the order of a head's numbers.
PASCALINE_INLINE void store_row(const Sums& sums, int which, float* row, int group) {
#pragma unroll
    for (int step = 0; step < STEPS; step++) {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            row[16 * step + (IS_INT8 ? 2 * group + i : group + 8 * i)] = sums[step][which + 2 * i];
        }
    }
}
