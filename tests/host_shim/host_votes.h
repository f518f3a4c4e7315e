// What all lanes of a warp find out together.
#pragma once

#include "host_collectives.h"
#include "host_numbers.h"

PASCALINE_INLINE int sum_of_lanes(int value) {
    for (int mask = 16; mask > 0; mask /= 2) value += shuffle_xor(value, mask);
    return value;
}

PASCALINE_INLINE int largest_of_lanes(int value) {
    for (int mask = 16; mask > 0; mask /= 2) value = max(value, shuffle_xor(value, mask));
    return value;
}

PASCALINE_INLINE int last_lane_of(bool is_true) { return 31 - __clz(int(__ballot_sync(ALL_LANES, is_true))); }
