// Codes of a packed weight's quarter for two threads, each of which unpacks 8 inputs of either half: piece 0
// words 0, 1, 4 and 5 of packed_weight.cuh, piece 1 words 2, 3, 6 and 7.
#pragma once
#include "packed_weight.cuh"

struct PairCodes {
    uint2 four[BITS == 8 ? 2 : 1];  // the plane of 4 bits, or both parts of that of 8
    uint2 two;
    uint32_t one;
};

// `lane`: as load_codes takes it.
PASCALINE_INLINE PairCodes load_pair_codes(const PackedWeight& weight, int slab, int tile, int lane,
                                           int piece) {
    // An index of 32 bits: tiles are less than 2^32 in all weights of less than 2^42 numbers.
    const uint32_t index = uint32_t(slab) * (uint32_t(weight.padded_outputs) / TILE_OUTPUTS) + tile;
    const uint8_t* place = weight.codes + size_t(index) * TILE_BYTES;
    PairCodes codes;
    if constexpr (BITS >= 4) {
#pragma unroll
        for (int part = 0; part < (BITS == 8 ? 2 : 1); part++) {
            const uint8_t* lanes = place + part * 512 + lane * 16;
            codes.four[part] = load_once(reinterpret_cast<const uint2*>(lanes) + piece);
        }
    }
    if constexpr (BITS == 2 || BITS == 3 || BITS == 6) {
        codes.two = load_once(reinterpret_cast<const uint2*>(place + (BITS == 6 ? 4 : 0) * SLAB) + lane);
    }
    if constexpr (BITS == 1 || BITS == 3 || BITS == 5) {
        codes.one = load_once(reinterpret_cast<const uint32_t*>(place + (BITS - 1) * SLAB) + lane);
    }
    return codes;
}

// Code word 4 * half + 2 * piece + word.
PASCALINE_INLINE uint32_t pair_word(const PairCodes& codes, int half, int piece, int word) {
    auto part_of = [=](const uint2& both) { return word ? both.y : both.x; };
    if constexpr (BITS == 8) return half ? part_of(codes.four[BITS == 8]) : part_of(codes.four[0]);
    uint32_t value = 0;
    if constexpr (BITS >= 4) value = (part_of(codes.four[0]) >> (4 * half)) & 0x0F0F0F0Fu;
    if constexpr (BITS == 2 || BITS == 3 || BITS == 6) {
        value |= ((part_of(codes.two) >> (2 * (2 * half + piece))) & 0x03030303u) << (BITS == 6 ? 4 : 0);
    }
    if constexpr (BITS == 1 || BITS == 3 || BITS == 5) {
        value |= ((codes.one >> (4 * half + 2 * piece + word)) & 0x01010101u) << (BITS - 1);
    }
    if constexpr (HAS_TABLE) return look_up_nibbles(permute_bytes(value | (value >> 4), 0, 0x4420));
    return value;
}
