// For which lanes of a warp something is true, on any chip.
#pragma once
#include "platform.cuh"

// Whether it is true in any lane.
PASCALINE_INLINE bool any_lane(bool is_true) { return __any_sync(0xFFFFFFFFu, is_true); }

// A bit for each lane, set where it is true.
PASCALINE_INLINE uint32_t lanes_where(bool is_true) { return __ballot_sync(0xFFFFFFFFu, is_true); }
