// Products of queries with a page's keys and of weights with its values, by the tensor cores of one warp, from pages that
// lie in shared memory as they do in the cache.
//
// The operand A has eight rows of queries, or of weights, and below them what 16 bits leave over of these: a lane has both
// parts of row `group`, and so have its sums. Keys and values are B; with group = lane / 4 and member = lane % 4, which
// numbers a lane has is free where both operands agree:
//
//  - Of a product's 16 numbers of keys a lane has four neighbours, so that 16 bytes are those of two products.
//  - Column `group` of scores of tile 0 or 1 is token 4 * (group / 2 ^ 2 * (group % 2)) + 2 * tile + group % 2. A lane then
//    has scores of four tokens, two of quarter `member` of the page and two of the quarter after next, and these are the k
//    of its weights: nothing is exchanged.
//  - Of values a lane has, of its four tokens, 16 bytes of each 128: numbers 8 * group ... of 64. A product is of one of
//    these, so that its columns are eight numbers apart.
//
// Eight lanes that read together are those of two groups: 64 neighbouring bytes of keys of two tokens, whose quarters of the
// page are two apart, and 32 bytes of values of each quarter. Pieces bring these to other banks: two of keys, and four of
// values; with fewer, each bank is read twice or four times.
//
// Definitions: those of bulk_stream.cuh; MATRIX_TYPE, of keys and values.
#pragma once
#include "bulk_stream.cuh"
#include "split_pairs.cuh"

constexpr int KEY_UNITS = HEAD_DIM / 32;    // of 16 bytes, of a token's keys a lane has
constexpr int VALUE_UNITS = HEAD_DIM / 64;  // of a token's values

// Of the page, in column `column` of scores of a tile.
PASCALINE_INLINE int token_of(int tile, int column) {
    return 4 * (column / 2 ^ 2 * (column % 2)) + 2 * tile + column % 2;
}

// Eight rows of queries as operands of all products to a score.
struct Queries {
    uint32_t parts[KEY_UNITS][2][4];
    float unit;  // the lane's row is so many times the numbers above

    // row: this lane's, null for one of zeros.
    PASCALINE_INLINE Queries(const float* row, int member) {
        float4 numbers[KEY_UNITS][2];
        float largest = 0.0f;
#pragma unroll
        for (int i = 0; i < 2 * KEY_UNITS; i++) {
            float4& four = numbers[i / 2][i % 2];
            four = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            const int first = 32 * (i / 2) + 8 * member + 4 * (i % 2);
            if (row != nullptr) four = load_handed_on(reinterpret_cast<const float4*>(row + first));
            largest = fmaxf(largest, fmaxf(fmaxf(fabsf(four.x), fabsf(four.y)), fmaxf(fabsf(four.z), fabsf(four.w))));
        }
        largest = fmaxf(largest, shuffle_xor(largest, 1));
        largest = fmaxf(largest, shuffle_xor(largest, 2));
        // A power of two brings the largest below 2^15: low parts are then far above fp16's least.
        const int exponent = max(int(float_to_bits(largest) >> 23), 28);
        const float factor = bits_to_float(uint32_t(127 + 127 + 14 - exponent) << 23);
        unit = bits_to_float(uint32_t(exponent - 14) << 23);
#pragma unroll
        for (int i = 0; i < 2 * KEY_UNITS; i++) {
            const float4& four = numbers[i / 2][i % 2];
            const SplitPair lower(four.x * factor, four.y * factor), upper(four.z * factor, four.w * factor);
            uint32_t(&own)[4] = parts[i / 2][i % 2];
            own[0] = lower.high, own[1] = lower.low, own[2] = upper.high, own[3] = upper.low;
        }
    }
};

// Of the lane's row and its tokens, in the query's units: of tile i / 2, column 2 * member + i % 2.
PASCALINE_INLINE void multiply_keys(float (&scores)[4], SharedAddress place, const Queries& queries, int lane) {
    // Tokens of both tiles are in one piece.
    const SharedAddress row = place + row_offset<Kind::keys>(token_of(0, lane / 4)) + lane % 4 * 16;
    // PERF: products stay in their order among loads, and would each wait for their own.
    uint4 words[2][KEY_UNITS];
#pragma unroll
    for (int i = 0; i < 2 * KEY_UNITS; i++) words[i % 2][i / 2] = load_copied(row + i % 2 * 2 * ROW_BYTES + i / 2 * 64);
    float sums[2][4] = {};
#pragma unroll
    for (int i = 0; i < 2 * KEY_UNITS; i++) {
        const uint4 &first = words[0][i / 2], &second = words[1][i / 2];
        const uint32_t(&part)[4] = queries.parts[i / 2][i % 2];
        multiply(sums[0], part, {i % 2 ? first.z : first.x, i % 2 ? first.w : first.y});
        multiply(sums[1], part, {i % 2 ? second.z : second.x, i % 2 ? second.w : second.y});
    }
#pragma unroll
    for (int i = 0; i < 4; i++) scores[i] = sums[i / 2][i % 2] + sums[i / 2][i % 2 + 2];
}

// A page's values, as far as they are the lane's: of four tokens.
struct Values {
    uint4 words[VALUE_UNITS][4];

    // tokens: of the page that exist. What lies behind them may be no number, and 0 times that is none.
    PASCALINE_INLINE Values(SharedAddress place, int tokens, int lane) {
        const int group = lane / 4, member = lane % 4;
#pragma unroll
        for (int i = 0; i < 4 * VALUE_UNITS; i++) {
            const int token = token_of(i % 4 / 2, 2 * member + i % 2);
            words[i / 4][i % 4] = load_copied(place + row_offset<Kind::values>(token) + group * 16 + i / 4 * 128);
        }
        if (tokens >= PAGE_SIZE) return;
#pragma unroll
        for (int i = 0; i < 4 * VALUE_UNITS; i++) {
            if (token_of(i % 4 / 2, 2 * member + i % 2) >= tokens) words[i / 4][i % 4] = make_uint4(0, 0, 0, 0);
        }
    }
};

// Of the lane's row: products of numbers 8 * (2 * member + i) + 64 * unit + number, i = 0, 1; of the other part 2, 3.
using Sums = float[VALUE_UNITS][8][4];

// weights: as scores are.
PASCALINE_INLINE void multiply_values(Sums& sums, const Values& values, const float (&weights)[4]) {
    const SplitPair lower(weights[0], weights[1]), upper(weights[2], weights[3]);
    const uint32_t a[4] = {lower.high, lower.low, upper.high, upper.low};
#pragma unroll
    for (int unit = 0; unit < VALUE_UNITS; unit++) {
        const uint4(&rows)[4] = values.words[unit];
        // Numbers 2 * pair and the next.
        const auto multiply_pair = [&](int pair, uint32_t w0, uint32_t w1, uint32_t w2, uint32_t w3) {
            multiply(sums[unit][2 * pair], a, {permute_bytes(w0, w1, 0x5410), permute_bytes(w2, w3, 0x5410)});
            multiply(sums[unit][2 * pair + 1], a, {permute_bytes(w0, w1, 0x7632), permute_bytes(w2, w3, 0x7632)});
        };
        multiply_pair(0, rows[0].x, rows[1].x, rows[2].x, rows[3].x);
        multiply_pair(1, rows[0].y, rows[1].y, rows[2].y, rows[3].y);
        multiply_pair(2, rows[0].z, rows[1].z, rows[2].z, rows[3].z);
        multiply_pair(3, rows[0].w, rows[1].w, rows[2].w, rows[3].w);
    }
}
