// What the lanes of a warp find out together.
#pragma once
#include "platform.cuh"

// Whether the condition holds in any lane.
PASCALINE_INLINE bool any_lane(bool condition) { return __any_sync(0xFFFFFFFFu, condition); }

// A bit for each lane, set where the condition holds.
PASCALINE_INLINE uint32_t lanes_where(bool condition) { return __ballot_sync(0xFFFFFFFFu, condition); }
