// x as signed bytes: blocks of 32 elements of K, each with dx = max |x| / 127.
//
// A block with an Inf or NaN gets dx = NaN, which every output of its row then is.
// Rows lie side by side in panels, as many as a kernel takes at a time: [four elements][row][4 bytes].

#pragma once

#include "plan.h"
#include "tile_vectors.h"

constexpr int PANEL = PARTS > 1 ? 4 : 8;

// What belongs to a piece: dx, dx * sum x, and minus zero * sum x, an integer.
constexpr int SCALE = 0, WEIGHTED = 1, START = 2, FIELDS = 3;

// Rows that a kernel is made for, at least `rows`.
INLINE int64_t width_for(int64_t rows) {
    if (rows <= 2) return rows;
    return rows <= 4 ? 4 : PANEL;
}

struct Panel {
    int8_t* bytes;
    float* fields;  // [piece][field][row]
    int64_t width;
    int64_t rows;
};

struct Activations {
    int8_t* bytes;
    float* fields;
    int64_t rows;
    int64_t row_bytes;
    int64_t row_fields;

    INLINE_MEMBER int64_t panels() const { return (rows + PANEL - 1) / PANEL; }
    INLINE_MEMBER Panel panel(int64_t index) const {
        const int64_t first = index * PANEL, left = rows - first;
        return {bytes + first * row_bytes, fields + first * row_fields, left < PANEL ? width_for(left) : PANEL,
                left < PANEL ? left : PANEL};
    }
};

INLINE Activations activations_of(const Plan& plan, int64_t rows) {
    return {nullptr, nullptr, rows, plan.blocks * BLOCK, plan.pieces * FIELDS};
}

// 32 numbers to bytes; returns dx.
INLINE float quantise_block(const float* x, Bytes* bytes) {
    const uint32_t bits = largest_bits(x);
    *bytes = zero_bytes();
    if (bits >= 0x7F800000) return as_float(0x7FC00000);
    const float most = as_float(bits);
    if (most < 1e-36f) return 0;  // 127 / most would be infinite
    *bytes = round_to_bytes(x, 127.0f / most);
    return most / 127.0f;
}

INLINE void put_fields(const Plan& plan, const Panel& to, int64_t piece, int64_t lane, float scale, int sum) {
    float* at = to.fields + piece * FIELDS * to.width + lane;
    at[SCALE * to.width] = scale;
    at[WEIGHTED * to.width] = scale * static_cast<float>(sum);
    const int32_t start = -plan.zero * sum;
    memcpy(at + START * to.width, &start, 4);
}

// Row `row` of the input to its place in its panel; null for a row of zeros.
static void quantise_row(const WeightView& w, const Plan& plan, const Activations& to, const float* x, int64_t row) {
    const Panel panel = to.panel(row / PANEL);
    const int64_t lane = row % PANEL;
    alignas(32) float some[BLOCK];
    alignas(32) int32_t words[BLOCK / 4];
    for (int64_t block = 0; block < plan.blocks; block++) {
        const int64_t first = block * BLOCK;
        const float* from = x + first;
        if (w.inputs || !x) {
            for (int i = 0; i < BLOCK; i++) {
                const int64_t k = x ? w.inputs[first + i] : -1;
                some[i] = k < 0 ? 0 : x[k];
            }
            from = some;
        }
        Bytes bytes;
        const float scale = quantise_block(from, &bytes);
        int8_t* at = panel.bytes + first * panel.width + lane * 4;
        if (panel.width == 1) {
            put_bytes(at, bytes);
        } else {
            put_bytes(words, bytes);
            for (int i = 0; i < BLOCK / 4; i++) memcpy(at + i * 4 * panel.width, &words[i], 4);
        }
        const Sums sums = sums_of(bytes);
        if (plan.piece == BLOCK) {
            put_fields(plan, panel, block, lane, scale, sums.low + sums.high);
        } else {
            put_fields(plan, panel, 2 * block, lane, scale, sums.low);
            put_fields(plan, panel, 2 * block + 1, lane, scale, sums.high);
        }
    }
}

// Rows that the last panel has room for and nobody gave: of zeros, because operations on whatever bits would be
// there can be a hundred times slower.
static void quantise_rest(const WeightView& w, const Plan& plan, const Activations& to) {
    const Panel last = to.panel(to.panels() - 1);
    for (int64_t lane = last.rows; lane < last.width; lane++)
        quantise_row(w, plan, to, nullptr, (to.panels() - 1) * PANEL + lane);
}
