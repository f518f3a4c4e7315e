// Codes of a tile as vectors of bytes: for four neighbours along K, those of each of its 16 rows, 64 bytes.
//
// A block of 32 is eight such vectors. Of each p bits there are p vectors in memory, and field f of vector i
// belongs to vector f * p + i, so that a shift and a mask give it.

#pragma once

#include "plan.h"
#include "tile_vectors.h"

constexpr int VECTORS = BLOCK / 4;

// Where a tile's codes are.
struct TileCodes {
    const uint8_t* planes[2];
    const int8_t* table;
    int64_t next[2];  // bytes to what will be multiplied after it, 0 for nothing
};

// Have the cache fetch what is `next` bytes after the block at `plane`, of P bits.
template <int P>
INLINE void fetch_block(const uint8_t* plane, int64_t next) {
    for (int i = 0; i < P; i++) __builtin_prefetch(plane + next + i * 64, 0, 2);
}

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
    const int64_t* next;

    INLINE_MEMBER explicit Bits(const TileCodes& at) : low(at.planes[0]), high(at.planes[1]), next(at.next) {}
    INLINE_MEMBER void fetch_next(int64_t block) const {
        fetch_block<LOW>(low + block * LOW * 64, next[0]);
        if constexpr (HIGH != 0) fetch_block<HIGH>(high + block * HIGH * 64, next[1]);
    }
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
    int64_t next;

    INLINE_MEMBER explicit Bits(const TileCodes& at) : bytes(at.planes[0]), next(at.next[0]) {}
    INLINE_MEMBER void fetch_next(int64_t block) const { fetch_block<8>(bytes + block * VECTORS * 64, next); }
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
    Table table;

    INLINE_MEMBER explicit LookedUp(const TileCodes& at) : indices(at), table(load_table(at.table)) {}
    INLINE_MEMBER void fetch_next(int64_t block) const { indices.fetch_next(block); }
    INLINE_MEMBER Integers vector(int64_t block, int j, int part) const {
        return look_up(table, indices.vector(block, j, part));
    }
};
