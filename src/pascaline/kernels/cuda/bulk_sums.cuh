// A lane's sums over some of a tile's pages, as bulk_products.cuh has them: a weight's power of two is less the largest score
// so far (segment_sums.cuh).
//
// Definitions: those of bulk_products.cuh.
#pragma once
#include "bulk_products.cuh"
#include "platform_votes.cuh"
#include "segment_sums.cuh"

// Of row lane / 4, shared with three lanes, which have other tokens.
struct LaneSums {
    Sums sums;
    float most, total;

    PASCALINE_INLINE LaneSums() : sums{}, most(LOWEST), total(0.0f) {}

    // The row's largest score of some more tokens, the same in all of its lanes.
    PASCALINE_INLINE void raise(float largest) {
        const float before = most;
        // PERF: seldom, after some pages.
        if (last_lane_of(largest > before) < 0) return;
        most = fmaxf(before, largest);
        const float factor = power_of_two(before - most);
        total *= factor;
#pragma unroll
        for (auto& unit : sums) {
#pragma unroll
            for (auto& four : unit) {
#pragma unroll
                for (float& sum : four) sum *= factor;
            }
        }
    }

    // To the warp's place in shared memory, by all its lanes.
    PASCALINE_INLINE void store(float* rows, float* row_most, float* row_total, int lane) {
        const int group = lane / 4, member = lane % 4;
        total += shuffle_xor(total, 1);
        total += shuffle_xor(total, 2);
        if (member == 0) {
            row_most[group] = most;
            row_total[group] = total;
        }
#pragma unroll
        for (int unit = 0; unit < VALUE_UNITS; unit++) {
#pragma unroll
            for (int i = 0; i < 2; i++) {
                float4* const place =
                    reinterpret_cast<float4*>(rows + group * SUM_STRIDE + 8 * (2 * member + i) + 64 * unit);
                const auto both = [&](int number) { return sums[unit][number][i] + sums[unit][number][i + 2]; };
                place[0] = make_float4(both(0), both(1), both(2), both(3));
                place[1] = make_float4(both(4), both(5), both(6), both(7));
            }
        }
    }
};
