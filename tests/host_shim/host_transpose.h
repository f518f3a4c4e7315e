// The transpose of a fragment: 8 rows of eight numbers of 16 bits, lane l having row l / 4, columns 2 * (l % 4) and the
// next.
#pragma once

#include "host_collectives.h"

PASCALINE_INLINE uint32_t transposed(uint32_t fragment) {
    return host::exchange<uint32_t, uint32_t>(
        "movmatrix", ALL_LANES, fragment, [](unsigned lane, const uint32_t* const* fragments) {
            const unsigned column = lane / 4, first_row = lane % 4 * 2;
            uint32_t result = 0;
            for (unsigned i = 0; i < 2; i++) {
                const uint32_t word = *fragments[4 * (first_row + i) + column / 2];
                result |= (word >> (16 * (column % 2)) & 0xFFFFu) << (16 * i);
            }
            return result;
        });
}
