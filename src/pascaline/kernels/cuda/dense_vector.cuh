// Sixteen bytes of a dense weight's row.
//
// Definitions: WEIGHT_TYPE.
#pragma once
#include "platform.cuh"

using WeightElement = Element<WEIGHT_TYPE>;

constexpr int VECTOR = WEIGHT_TYPE == FP32 ? 4 : 8;  // columns of them

PASCALINE_INLINE float weight_of(const uint4& four, int i) {
    const uint32_t words[4] = {four.x, four.y, four.z, four.w};
    if constexpr (WEIGHT_TYPE == FP32) return bits_to_float(words[i & 3]);
    return Element<WEIGHT_TYPE == FP32 ? FP16 : WEIGHT_TYPE>::widen(uint16_t(words[i >> 1] >> (16 * (i & 1))));
}
