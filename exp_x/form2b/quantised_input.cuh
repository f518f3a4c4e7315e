// Inputs of a linear as signed bytes: one plane, or two that make a 16-bit integer of 256 * high + low.
//
// Inputs are in the order that the weight stores them in, padded with zeros to whole slabs of 128. A scale is kept
// for each quarter of 32; where it was taken over two or four, theirs are equal. Sums of the integers are over
// 16 inputs each: what a weight's zero and offset multiply.
//
// Definitions: PLANES, 1 or 2.
#pragma once
#include "platform.cuh"

// The largest integer: 127, or 256 * 127 so that the high plane stays in a byte.
constexpr int LARGEST_INTEGER = PLANES == 2 ? 32512 : 127;

struct QuantisedInput {
    const int8_t* codes;    // (slabs, rows, PLANES, 128)
    const float* scales;    // (slabs, rows, 4)
    const int32_t* sums;    // (slabs, rows, 8)
    int rows;

    // Index of a word of 4 inputs: word 0 ... 31 of the slab.
    PASCALINE_INLINE size_t word_index(int slab, int row, int plane, int word) const {
        return ((size_t(slab) * rows + row) * PLANES + plane) * 32 + word;
    }
};

// The nearest integer of x / scale, for inverse = 1 / scale.
PASCALINE_INLINE int32_t quantised(float x, float inverse) { return round_to_int(x * inverse); }

// The high one of an integer's two planes: rounded, so that the low one is a signed byte.
PASCALINE_INLINE int32_t high_plane(int32_t integer) { return (integer + 128) >> 8; }

// The lowest bytes of four integers, as one word.
PASCALINE_INLINE uint32_t pack_bytes(int32_t a, int32_t b, int32_t c, int32_t d) {
    return permute_bytes(permute_bytes(uint32_t(a), uint32_t(b), 0x0040), permute_bytes(uint32_t(c), uint32_t(d), 0x0040),
                         0x5410);
}
