// From products of keys and queries to powers of two.
//
// Definitions: CACHE_TYPE, FP16, BF16 or INT8; HAS_SOFT_CAP.
#pragma once
#include "platform_exponential.cuh"

// Weights are so many powers of two larger: what is below the least number of 16 bits is then negligible. Scales of values
// up to 1000 multiply them.
constexpr float WEIGHT_EXPONENT = CACHE_TYPE == FP16 ? 14.0f : CACHE_TYPE == BF16 ? 0.0f : 6.0f;

// What scores in the queries' units are multiplied by, and a soft cap, both to powers of two.
struct ScoreScale {
    float factor, cap;

    PASCALINE_INLINE ScoreScale(float scale, float soft_cap) : factor(scale * LOG2_E), cap(soft_cap * LOG2_E) {
        // tanh(x) = 1 - 2 / (exp(2 x) + 1)
        if constexpr (HAS_SOFT_CAP) factor *= divide_fast(2.0f, soft_cap);
    }

    PASCALINE_INLINE float capped(float score) const {
        if constexpr (!HAS_SOFT_CAP) return score;
        return cap * (1.0f - divide_fast(2.0f, power_of_two(score) + 1.0f));
    }
};
