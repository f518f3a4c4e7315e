// What the lanes of a warp find out together.
#pragma once
#include "platform.cuh"

// Whether the condition holds in any lane.
PASCALINE_INLINE bool any_lane(bool condition) { return __any_sync(0xFFFFFFFFu, condition); }

// A bit for each lane, set where the condition holds.
PASCALINE_INLINE uint32_t lanes_where(bool condition) { return __ballot_sync(0xFFFFFFFFu, condition); }

// In one instruction each, from sm_80 on.
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
