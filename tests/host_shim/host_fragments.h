// Fragments of the tensor cores' operands from shared memory (ldmatrix), as the PTX ISA lays them out.
#pragma once

#include "host_cuda.h"

namespace host {

struct FourFragments {
    uint32_t words[4];
};

// Each lane gives 16 bytes: row lane % 8 of block lane / 8.
template <bool is_transposed>
PASCALINE_INLINE void load_blocks(const char* operation, uint32_t* fragments, uint64_t row) {
    const auto choose = [](unsigned lane, const uint4* const* rows) {
        FourFragments own = {};
        for (unsigned block = 0; block < 4; block++) {
            for (unsigned i = 0; i < 2; i++) {
                const unsigned first = lane / 4, second = 2 * (lane % 4) + i;
                const unsigned from = is_transposed ? second : first, column = is_transposed ? first : second;
                uint16_t numbers[8];
                memcpy(numbers, rows[8 * block + from], sizeof numbers);
                own.words[block] |= uint32_t(numbers[column]) << 16 * i;
            }
        }
        return own;
    };
    const uint4 own_row = *reinterpret_cast<const uint4*>(row);
    const FourFragments loaded = exchange<uint4, FourFragments>(operation, ALL_LANES, own_row, choose);
    memcpy(fragments, loaded.words, sizeof loaded.words);
}

}  // namespace host

PASCALINE_INLINE void load_fragments(uint32_t (&fragments)[4], uint64_t row) {
    host::load_blocks<false>("ldmatrix", fragments, row);
}

PASCALINE_INLINE void load_transposed_fragments(uint32_t (&fragments)[4], uint64_t row) {
    host::load_blocks<true>("ldmatrix.trans", fragments, row);
}
