// What a thread of attention_simt_prefill.cu adds up for its rows, and how blocks that share rows bring it together.
//
// Definitions: those of attention_simt_rows.cuh.
#pragma once
#include "arrivals.cuh"
#include "attention_simt_rows.cuh"

constexpr int TILE = 4 * PAGE_SIZE;
constexpr int THREAD_TOKENS = TILE / COLUMN_LANES;
constexpr int VALUE_PARTS = (HEAD_DIM + 63) / 64;  // of a thread's columns, four of every 64

// What a block leaves: weighted values of all threads, then rows' maxima of scores and sums of weights.
constexpr int TOTALS = BLOCK_ROWS * 64 * VALUE_PARTS;
constexpr int PART_FLOATS = TOTALS + 2 * BLOCK_ROWS;

PASCALINE_INLINE void put_four(float* target, const float* source) {
    const float4 four = *reinterpret_cast<const float4*>(source);
    target[0] = four.x;
    target[1] = four.y;
    target[2] = four.z;
    target[3] = four.w;
}

PASCALINE_INLINE void store_four(float* target, const float* source) {
    *reinterpret_cast<float4*>(target) = make_float4(source[0], source[1], source[2], source[3]);
}

PASCALINE_INLINE void load_rows(float (&numbers)[THREAD_ROWS], const float* source) {
#pragma unroll
    for (int i = 0; i < THREAD_ROWS; i += 4) put_four(numbers + i, source + i);
}

template <typename Change>
PASCALINE_INLINE float over_columns(float value, Change change) {
#pragma unroll
    for (int mask = 2; mask <= 16; mask *= 2) value = change(value, shuffle_xor(value, mask));
    return value;
}

// A thread's rows.
struct Rows {
    float sums[THREAD_ROWS];                     // of the weights of the lane's columns
    float totals[THREAD_ROWS][4 * VALUE_PARTS];  // weighted values

    // Has all scores below the maxima plus HEADROOM. Rows are a warp's alone, and so are their maxima.
    PASCALINE_INLINE void make_room(const float (&scores)[THREAD_ROWS][THREAD_TOKENS], float* shared_maxima,
                                    bool is_first_lane) {
        float maxima[THREAD_ROWS];
        load_rows(maxima, shared_maxima);
        bool is_above = false;
#pragma unroll
        for (int i = 0; i < THREAD_ROWS; i++) {
#pragma unroll
            for (int j = 0; j < THREAD_TOKENS; j++) is_above |= scores[i][j] > maxima[i] + HEADROOM;
        }
        if (!any_lane(is_above)) return;
#pragma unroll
        for (int i = 0; i < THREAD_ROWS; i++) {
            float highest = maxima[i];
#pragma unroll
            for (int j = 0; j < THREAD_TOKENS; j++) highest = fmaxf(highest, scores[i][j]);
            highest = over_columns(highest, [](float a, float b) { return fmaxf(a, b); });
            const float factor = power_of_two(maxima[i] - highest);
            if (is_first_lane) shared_maxima[i] = highest;
            sums[i] *= factor;
#pragma unroll
            for (int j = 0; j < 4 * VALUE_PARTS; j++) totals[i][j] *= factor;
        }
        sync_warp();
    }

    // To memory, for the last of the blocks that share the rows. Sums are those of all lanes.
    PASCALINE_INLINE void leave(float* part, const float* maxima, int first_row, bool is_first_lane) const {
        auto* const fours = reinterpret_cast<float4*>(part) + threadIdx.x;
#pragma unroll
        for (int i = 0; i < THREAD_ROWS; i++) {
#pragma unroll
            for (int j = 0; j < VALUE_PARTS; j++) {
                const float* const own = totals[i] + 4 * j;
                fours[(i * VALUE_PARTS + j) * THREADS] = make_float4(own[0], own[1], own[2], own[3]);
            }
            if (is_first_lane) {
                part[TOTALS + first_row + i] = maxima[i];
                part[TOTALS + BLOCK_ROWS + first_row + i] = sums[i];
            }
        }
    }

    // All parts together.
    PASCALINE_INLINE void gather(const float* parts, int count, int first_row) {
#pragma unroll
        for (int i = 0; i < THREAD_ROWS; i++) {
            const float* const maxima = parts + TOTALS + first_row + i;
            float highest = NOTHING_SEEN;
#pragma unroll 4
            for (int part = 0; part < count; part++) {
                highest = fmaxf(highest, load_fresh(maxima + size_t(part) * PART_FLOATS));
            }
            sums[i] = 0.0f;
#pragma unroll
            for (int j = 0; j < 4 * VALUE_PARTS; j++) totals[i][j] = 0.0f;
#pragma unroll 2
            for (int part = 0; part < count; part++) {
                const size_t first = size_t(part) * PART_FLOATS;
                const float factor = power_of_two(load_fresh(maxima + first) - highest);
                sums[i] = fmaf(factor, load_fresh(maxima + first + BLOCK_ROWS), sums[i]);
#pragma unroll
                for (int j = 0; j < VALUE_PARTS; j++) {
                    const auto* const fours = reinterpret_cast<const float4*>(parts + first) + threadIdx.x;
                    const float4 four = load_fresh(fours + (i * VALUE_PARTS + j) * THREADS);
                    float* const own = totals[i] + 4 * j;
                    own[0] = fmaf(factor, four.x, own[0]);
                    own[1] = fmaf(factor, four.y, own[1]);
                    own[2] = fmaf(factor, four.z, own[2]);
                    own[3] = fmaf(factor, four.w, own[3]);
                }
            }
        }
    }
};
