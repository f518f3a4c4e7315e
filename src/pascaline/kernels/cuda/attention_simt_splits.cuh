// What the splits of a sequence's tokens leave of it, and how the last of them to arrive merges all.
#pragma once
#include "arrivals.cuh"
#include "attention_simt_heads.cuh"

// What a split leaves: weighted values of each head, then the maxima of scores and the sums of weights.
constexpr int PART_FLOATS = HEADS * HEAD_DIM + (2 * HEADS + 3) / 4 * 4;
constexpr int MOST_SPLITS = WARPS * TILE;


PASCALINE_INLINE float4 scaled(const float4& four, float factor) {
    return make_float4(four.x * factor, four.y * factor, four.z * factor, four.w * factor);
}

// One of a sequence's splits.
struct Split {
    static constexpr int FOURS = HEADS * HEAD_DIM / 4;
    int number, count, row, key_value_heads, key_value_head, first_head;

    PASCALINE_INLINE void store(float* y, int four, const float4& value) const {
        const int head = first_head + four / (HEAD_DIM / 4);
        if (head >= GROUP) return;
        const size_t place = size_t(row) * key_value_heads * GROUP + key_value_head * GROUP + head;
        *reinterpret_cast<float4*>(y + place * HEAD_DIM + four % (HEAD_DIM / 4) * 4) = value;
    }

    PASCALINE_INLINE void store_alone(const Shared& shared, float* y) const {
        for (int four = threadIdx.x; four < FOURS; four += 32 * WARPS) {
            const float4 total = *reinterpret_cast<const float4*>(shared.query + 4 * four);
            store(y, four, scaled(total, 1.0f / shared.warps[0].sums[0].values[four / (HEAD_DIM / 4)]));
        }
    }

    PASCALINE_INLINE void leave_part(const Shared& shared, float* parts) const {
        float* const part = parts + number * PART_FLOATS;
        for (int four = threadIdx.x; four < FOURS; four += 32 * WARPS) {
            *reinterpret_cast<float4*>(part + 4 * four) = *reinterpret_cast<const float4*>(shared.query + 4 * four);
        }
        if (threadIdx.x < HEADS) {
            part[HEADS * HEAD_DIM + threadIdx.x] = shared.warps[0].maxima.values[threadIdx.x];
            part[HEADS * HEAD_DIM + HEADS + threadIdx.x] = shared.warps[0].sums[0].values[threadIdx.x];
        }
    }

    // All parts, of which every thread sees all.
    PASCALINE_INLINE void merge(Shared& shared, const float* parts, float* y) const {
        const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
        OfHeads* const factors = shared.warps[0].weights;
#pragma unroll 1
        for (int head = warp; head < HEADS; head += WARPS) {
            const float* const maxima = parts + HEADS * HEAD_DIM + head;
            float highest = NOTHING_SEEN;
            for (int split = lane; split < count; split += 32) {
                highest = fmaxf(highest, load_fresh(maxima + split * PART_FLOATS));
            }
            highest = highest_of_lanes(highest);
            float sum = 0.0f;
            for (int split = lane; split < count; split += 32) {
                const float factor = power_of_two(load_fresh(maxima + split * PART_FLOATS) - highest);
                factors[split].values[head] = factor;
                sum += factor * load_fresh(maxima + split * PART_FLOATS + HEADS);
            }
            const float share = 1.0f / sum_of_lanes(sum);
            for (int split = lane; split < count; split += 32) factors[split].values[head] *= share;
        }
        __syncthreads();
        for (int four = threadIdx.x; four < FOURS; four += 32 * WARPS) {
            float4 total = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll 4
            for (int split = 0; split < count; split++) {
                const float4 part = load_fresh(reinterpret_cast<const float4*>(parts + split * PART_FLOATS) + four);
                const float4 added = scaled(part, factors[split].values[four / (HEAD_DIM / 4)]);
                total = make_float4(total.x + added.x, total.y + added.y, total.z + added.z, total.w + added.w);
            }
            store(y, four, total);
        }
    }
};
