// Codes of a tile as vectors of bytes: for four neighbours along K, those of each of its 16 rows, 64 bytes.
//
// A block of 32 is eight such vectors. Of each p bits there are p vectors in memory, and field f of vector i
// belongs to vector f * p + i, so that a shift and a mask give it.

#pragma once

#include "plan.h"
#include "tile_vectors.h"

constexpr int VECTORS = BLOCK / 4;

// Where a tile's codes are.
struct TileAt {
    const uint8_t* planes[2];
    const int8_t* table;
};

// P bits of each byte of vector `j` of the block at `plane`, moved to bit TO.
template <int P, int TO>
INLINE Integers field(const uint8_t* plane, int j, int part) {
    const Integers v = load_bytes(plane + j % P * 64 + part * VECTOR_BYTES);
    const int down = j / P * P - TO;
    return and_bits(down < 0 ? shift_left(v, -down) : shift_right(v, down), every_byte(((1 << P) - 1) << TO));
}

// Codes of BITS bits. DEPTH: how many vectors' products of pairs add up in 16 bits, where the multiplier wants that.
template <int BITS>
struct Bits {
    static constexpr int LOW = BITS == 3 ? 2 : BITS > 4 ? 4 : BITS;
    static constexpr int HIGH = BITS - LOW;
    static constexpr bool SIGNED = false;
    static constexpr int DEPTH = BITS <= 4 ? 8 : BITS == 5 ? 4 : 2;
    const uint8_t* low;
    const uint8_t* high;

    INLINE_MEMBER explicit Bits(const TileAt& at) : low(at.planes[0]), high(at.planes[1]) {}
    INLINE_MEMBER Integers vector(int64_t block, int j, int part) const {
        Integers v = field<LOW, 0>(low + block * LOW * 64, j, part);
        if constexpr (HIGH != 0) v = or_bits(v, field<HIGH, LOW>(high + block * HIGH * 64, j, part));
        return v;
    }
};

template <>
struct Bits<8> {
    static constexpr bool SIGNED = SIGNED_BYTES;
    static constexpr int DEPTH = 1;
    const uint8_t* bytes;

    INLINE_MEMBER explicit Bits(const TileAt& at) : bytes(at.planes[0]) {}
    INLINE_MEMBER Integers vector(int64_t block, int j, int part) const {
        const Integers v = load_bytes(bytes + (block * VECTORS + j) * 64 + part * VECTOR_BYTES);
        return SIGNED ? flip_bits(v, every_byte(0x80)) : v;
    }
};

// Four bits that say which of 16 numbers.
struct LookedUp {
    static constexpr bool SIGNED = SIGNED_BYTES;
    static constexpr int DEPTH = 1;
    Bits<4> indices;
    __m128i table;

    INLINE_MEMBER explicit LookedUp(const TileAt& at) : indices(at) {
        table = _mm_loadu_si128(reinterpret_cast<const __m128i*>(at.table));
        if (!SIGNED) table = _mm_xor_si128(table, _mm_set1_epi8(-128));
    }
    INLINE_MEMBER Integers vector(int64_t block, int j, int part) const {
        return look_up(table, indices.vector(block, j, part));
    }
};

// Codes that `unpack_tile` made bytes.
template <int DEPTH_OF_CODES, bool SIGNED_CODES>
struct Unpacked {
    static constexpr bool SIGNED = SIGNED_CODES;
    static constexpr int DEPTH = DEPTH_OF_CODES;
    const uint8_t* bytes;

    INLINE_MEMBER explicit Unpacked(const TileAt& at) : bytes(at.planes[0]) {}
    INLINE_MEMBER Integers vector(int64_t block, int j, int part) const {
        return load_bytes(bytes + (block * VECTORS + j) * 64 + part * VECTOR_BYTES);
    }
};

template <class Source>
static void unpack_tile(const TileAt& at, int64_t blocks, uint8_t* to) {
    const Source source(at);
    for (int64_t block = 0; block < blocks; block++)
#pragma GCC unroll 8
        for (int j = 0; j < VECTORS; j++)
            for (int part = 0; part < PARTS; part++)
                store_bytes(to + (block * VECTORS + j) * 64 + part * VECTOR_BYTES, source.vector(block, j, part));
}
