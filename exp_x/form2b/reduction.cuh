// Sums over lanes.
#pragma once
#include "platform.cuh"

// Sums of each of COUNT values over LANES neighbouring lanes, both powers of two. While there are several, a step
// halves what a lane has: lane l of the group is left with values l * COUNT / LANES ... in values[0 ...], one at
// least; if there are fewer values than lanes, LANES / COUNT lanes have the same.
template <int LANES, int COUNT, int SIZE>
PASCALINE_INLINE void reduce_first(float (&values)[SIZE], int lane) {
    constexpr int mask = LANES / 2;
    if constexpr (COUNT == 1) {
        values[0] += shuffle_xor(values[0], mask);
    } else {
        const bool is_upper = lane & mask;
#pragma unroll
        for (int i = 0; i < COUNT / 2; i++) {
            const float given = is_upper ? values[i] : values[i + COUNT / 2];
            const float kept = is_upper ? values[i + COUNT / 2] : values[i];
            values[i] = kept + shuffle_xor(given, mask);
        }
    }
    if constexpr (LANES > 2) reduce_first<mask, COUNT == 1 ? 1 : COUNT / 2>(values, lane);
}

template <int LANES, int COUNT>
PASCALINE_INLINE void reduce_lanes(float (&values)[COUNT], int lane) {
    reduce_first<LANES, COUNT>(values, lane);
}
