// What all lanes of a warp find out together in one instruction each; from sm_80 on.
#pragma once
#include "platform.cuh"

#if defined(PASCALINE_HOST)
#include "host_votes.h"
#else

PASCALINE_INLINE int sum_of_lanes(int value) {
    int sum;
    asm volatile("redux.sync.add.s32 %0, %1, 0xFFFFFFFF;" : "=r"(sum) : "r"(value));
    return sum;
}

PASCALINE_INLINE int largest_of_lanes(int value) {
    int largest;
    asm volatile("redux.sync.max.s32 %0, %1, 0xFFFFFFFF;" : "=r"(largest) : "r"(value));
    return largest;
}

// The last lane for which it is true; -1: for none.
PASCALINE_INLINE int last_lane_of(bool is_true) { return 31 - __clz(int(__ballot_sync(0xFFFFFFFFu, is_true))); }

#endif
