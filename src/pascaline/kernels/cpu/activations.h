// x as signed bytes: blocks of 32 elements of K, each with dx = max |x| / 127.
//
// A block with an Inf or NaN gets dx = NaN, which every output of its row then is.
// Rows lie side by side in panels, as many as a kernel takes at a time: [four elements][row][4 bytes].

#pragma once

#include "plan.h"

#if defined(__AVX512VNNI__)
constexpr int PANEL = 12;
#else
constexpr int PANEL = 4;
#endif

// What belongs to a piece: dx, dx * sum x, and minus zero * sum x, an integer.
constexpr int SCALE = 0, WEIGHTED = 1, START = 2, FIELDS = 3;

// Rows that a kernel is made for, at least `rows`.
INLINE int64_t width_for(int64_t rows) {
    if (rows <= 2) return rows;
    if (rows <= 4) return 4;
    return rows <= 8 ? 8 : PANEL;
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
INLINE float quantise_block(const float* x, __m256i* bytes) {
    const __m256i magnitude = _mm256_set1_epi32(0x7FFFFFFF);
    __m256 parts[4];
    __m256i largest = _mm256_setzero_si256();
    for (int i = 0; i < 4; i++) {
        parts[i] = _mm256_loadu_ps(x + 8 * i);
        // Bits of positive floats order like integers, and Inf and NaN are the largest.
        largest = _mm256_max_epi32(largest, _mm256_and_si256(_mm256_castps_si256(parts[i]), magnitude));
    }
    __m128i half = _mm_max_epi32(_mm256_castsi256_si128(largest), _mm256_extracti128_si256(largest, 1));
    half = _mm_max_epi32(half, _mm_shuffle_epi32(half, 0x4E));
    half = _mm_max_epi32(half, _mm_shuffle_epi32(half, 0xB1));
    uint32_t bits = static_cast<uint32_t>(_mm_cvtsi128_si32(half));
    *bytes = _mm256_setzero_si256();
    if (bits >= 0x7F800000) return as_float(0x7FC00000);
    float most = as_float(bits);
    if (most < 1e-36f) return 0;  // 127 / most would be infinite
    __m256 inverse = _mm256_set1_ps(127.0f / most);
    __m256i integers[4];
    for (int i = 0; i < 4; i++) integers[i] = _mm256_cvtps_epi32(_mm256_mul_ps(parts[i], inverse));
    __m256i low = _mm256_packs_epi32(integers[0], integers[1]);
    __m256i high = _mm256_packs_epi32(integers[2], integers[3]);
    *bytes = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high), _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    return most / 127.0f;
}

INLINE int sum_of_half(__m128i bytes) {
    __m128i pairs = _mm_maddubs_epi16(_mm_set1_epi8(1), bytes);
    __m128i fours = _mm_madd_epi16(pairs, _mm_set1_epi16(1));
    fours = _mm_add_epi32(fours, _mm_shuffle_epi32(fours, 0x4E));
    return _mm_cvtsi128_si32(_mm_add_epi32(fours, _mm_shuffle_epi32(fours, 0xB1)));
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
        __m256i bytes;
        const float scale = quantise_block(from, &bytes);
        int8_t* at = panel.bytes + first * panel.width + lane * 4;
        if (panel.width == 1) {
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(at), bytes);
        } else {
            _mm256_store_si256(reinterpret_cast<__m256i*>(words), bytes);
            for (int i = 0; i < BLOCK / 4; i++) memcpy(at + i * 4 * panel.width, &words[i], 4);
        }
        const int low = sum_of_half(_mm256_castsi256_si128(bytes));
        const int high = sum_of_half(_mm256_extracti128_si256(bytes, 1));
        if (plan.piece == BLOCK) {
            put_fields(plan, panel, block, lane, scale, low + high);
        } else {
            put_fields(plan, panel, 2 * block, lane, scale, low);
            put_fields(plan, panel, 2 * block + 1, lane, scale, high);
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
