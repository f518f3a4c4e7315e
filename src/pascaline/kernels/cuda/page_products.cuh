// Products of a page's keys with queries and of its values with weights, by the tensor cores of one warp.
//
// Keys and values are the operand A: 16 tokens, or 16 of a head's numbers, are its rows. Eight rows of queries are the
// columns of B. Numbers from fp32 are taken as two of 16 bits, a high and a low part: next to fp32's own precision in
// fp16, 16 bits of significand in bf16. Codes of int8 are exact in fp16.
//
// Which of a head's numbers a lane has is free, as long as all operands agree: those that lie side by side in memory. With
// group = lane / 4 and member = lane % 4, a lane has 8 keys' numbers of each 32 from 8 * member on, or 4 of a rest of
// 16; and 8 values' numbers of each 64 from 8 * group on, or 4 or 2 of rests of 32 or 16.
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
constexpr uint32_t FIRST_CODES = 0x4140, SECOND_CODES = 0x4342, SIGNS = 0x80808080u;

// COUNT neighbouring numbers of a token's keys, two a word.
template <int COUNT>
PASCALINE_INLINE void read_keys(const uint8_t* place, int token, int first, uint32_t (&pairs)[COUNT / 2]) {
    if constexpr (IS_INT8) {
        uint32_t codes[COUNT / 4];
        read_row<Kind::keys, COUNT>(place, token, first, codes);
#pragma unroll
        for (int i = 0; i < COUNT / 4; i++) {
            pairs[2 * i] = pair_of_codes(codes[i] ^ SIGNS, FIRST_CODES);
            pairs[2 * i + 1] = pair_of_codes(codes[i] ^ SIGNS, SECOND_CODES);
        }
    } else {
        read_row<Kind::keys, 2 * COUNT>(place, token, 2 * first, pairs);
    }
}

// Eight rows of queries as operands of all products to a score.
struct Queries {
    uint32_t high[STEPS][2], low[STEPS][2];
    float unit;  // the queries are so many times the numbers above: row lane / 4's

    // row: this lane's, null for one of zeros.
    PASCALINE_INLINE Queries(const float* row, int member) {
        float4 quads[HEAD_DIM / 16];
        float largest = 0.0f;
#pragma unroll
        for (int i = 0; i < HEAD_DIM / 16; i++) {
            // The second half of a lane's 8 of 32, or the first; the last 16 alone are 4 a lane.
            const bool is_rest = HEAD_DIM % 32 != 0 && i == HEAD_DIM / 16 - 1;
            const int first = is_rest ? 16 * i + 4 * member : 32 * (i / 2) + 8 * member + 4 * (i % 2);
            quads[i] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            if (row != nullptr) quads[i] = load_handed_on(reinterpret_cast<const float4*>(row + first));
            largest = fmaxf(largest, fmaxf(fmaxf(fabsf(quads[i].x), fabsf(quads[i].y)),
                                           fmaxf(fabsf(quads[i].z), fabsf(quads[i].w))));
        }
        largest = fmaxf(largest, shuffle_xor(largest, 1));
        largest = fmaxf(largest, shuffle_xor(largest, 2));
        // A power of two brings the largest below 2^15: low parts are then far above fp16's least.
        const int exponent = max(int(float_to_bits(largest) >> 23), 28);
        const float factor = bits_to_float(uint32_t(127 + 127 + 14 - exponent) << 23);
        unit = bits_to_float(uint32_t(exponent - 14) << 23);
#pragma unroll
        for (int i = 0; i < HEAD_DIM / 16; i++) {
            const SplitPair first(quads[i].x * factor, quads[i].y * factor);
            const SplitPair second(quads[i].z * factor, quads[i].w * factor);
            high[i][0] = first.high;
            high[i][1] = second.high;
            low[i][0] = first.low;
            low[i][1] = second.low;
        }
    }
};

template <int COUNT>
PASCALINE_INLINE void add_key_products(float (&high)[4], float (&low)[4], const uint8_t* place, const Queries& queries,
                                       int first_step, int group, int member) {
    uint32_t upper[COUNT / 2], lower[COUNT / 2];
    read_keys<COUNT>(place, group, 16 * first_step + COUNT * member, upper);
    read_keys<COUNT>(place, group + 8, 16 * first_step + COUNT * member, lower);
#pragma unroll
    for (int i = 0; i < COUNT / 4; i++) {
        const uint32_t a[4] = {upper[2 * i], lower[2 * i], upper[2 * i + 1], lower[2 * i + 1]};
        multiply(high, a, queries.high[first_step + i]);
        multiply(low, a, queries.low[first_step + i]);
    }
}

// Scores of tokens group (0 and 1) and group + 8 (2 and 3), rows 2 * member and the next, in the queries' units.
PASCALINE_INLINE void multiply_keys(float (&scores)[4], const uint8_t* place, const Queries& queries, int group,
                                    int member) {
    float high[4] = {}, low[4] = {};
#pragma unroll
    for (int step = 0; step + 1 < STEPS; step += 2) {
        add_key_products<8>(high, low, place, queries, step, group, member);
    }
    if constexpr (STEPS % 2 != 0) add_key_products<4>(high, low, place, queries, STEPS - 1, group, member);
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

// Sums of a lane: [i] are rows 2 * member (0 and 2) and the next (1 and 3), numbers 2 * i (0 and 1) and the next of those
// that the lane has.
using Sums = float[STEPS][4];

// Of COUNT of a lane's numbers, which begin at product `first_step`.
template <int COUNT>
PASCALINE_INLINE void add_value_products(Sums& sums, const uint8_t* place, const Weights& weights, int first_step,
                                         int group, int member) {
    constexpr int NBYTES = IS_INT8 ? COUNT : 2 * COUNT;
    const int byte = (16 * first_step + COUNT * group) * (IS_INT8 ? 1 : 2);
    uint32_t tokens[4][(NBYTES + 3) / 4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        read_row<Kind::values, NBYTES>(place, 2 * member + i % 2 + 8 * (i / 2), byte, tokens[i]);
        if constexpr (IS_INT8) {
#pragma unroll
            for (uint32_t& word : tokens[i]) word ^= SIGNS;
        }
    }
#pragma unroll
    for (int i = 0; i < COUNT / 2; i++) {
        uint32_t a[4];
#pragma unroll
        for (int half = 0; half < 2; half++) {
            // Pairs of neighbouring tokens in place of neighbouring numbers.
            if constexpr (IS_INT8) {
                const uint32_t pairs = permute_bytes(tokens[2 * half][i / 2], tokens[2 * half + 1][i / 2],
                                                     i % 2 == 0 ? 0x5140 : 0x7362);
                a[2 * half] = pair_of_codes(pairs, FIRST_CODES);
                a[2 * half + 1] = pair_of_codes(pairs, SECOND_CODES);
            } else {
                a[2 * half] = permute_bytes(tokens[2 * half][i], tokens[2 * half + 1][i], 0x5410);
                a[2 * half + 1] = permute_bytes(tokens[2 * half][i], tokens[2 * half + 1][i], 0x7632);
            }
        }
        multiply(sums[first_step + i], a, weights.high);
        multiply(sums[first_step + i], a, weights.low);
    }
}

PASCALINE_INLINE void multiply_values(Sums& sums, const uint8_t* place, const Weights& weights, int group, int member) {
#pragma unroll
    for (int step = 0; step < STEPS / 4 * 4; step += 4) {
        add_value_products<8>(sums, place, weights, step, group, member);
    }
    if constexpr (STEPS % 4 >= 2) add_value_products<4>(sums, place, weights, STEPS / 4 * 4, group, member);
    if constexpr (STEPS % 2 != 0) add_value_products<2>(sums, place, weights, STEPS - 1, group, member);
}

// A lane's sums of one of its two rows, in the order of a head's numbers.
PASCALINE_INLINE void store_row(const Sums& sums, int which, float* row, int group) {
#pragma unroll
    for (int step = 0; step + 1 < STEPS; step += 2) {
        const bool is_rest = step >= STEPS / 4 * 4;
        const int first = is_rest ? 16 * step + 4 * group : 16 * (step / 4 * 4) + 8 * group + 2 * (step % 4);
        *reinterpret_cast<float4*>(row + first) = make_float4(sums[step][which], sums[step][which + 2],
                                                              sums[step + 1][which], sums[step + 1][which + 2]);
    }
    if constexpr (STEPS % 2 != 0) {
        *reinterpret_cast<float2*>(row + 16 * (STEPS - 1) + 2 * group) =
            make_float2(sums[STEPS - 1][which], sums[STEPS - 1][which + 2]);
    }
}
