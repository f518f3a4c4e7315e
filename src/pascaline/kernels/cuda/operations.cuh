// Operations on elements.
//
// Definitions: OPERATION, one of those below.
#pragma once
#include "platform.cuh"

constexpr int ADD = 0, SCALE = 1, SOFT_CAP = 2, SILU_AND_MUL = 3, GELU_AND_MUL = 4;
constexpr bool HAS_SECOND = OPERATION != SCALE && OPERATION != SOFT_CAP;

// gate * sigmoid(gate).
PASCALINE_INLINE float silu(float gate) { return gate / (1.0f + expf(-gate)); }

// In its tanh form: gate / 2 * (1 + tanh(sqrt(2 / pi) * (gate + 0.044715 * gate^3))).
PASCALINE_INLINE float gelu(float gate) {
    const float argument = 0.7978845608028654f * fmaf(0.044715f * gate * gate, gate, gate);
    return 0.5f * gate * (1.0f + tanhf(argument));
}

// Of x and of `second`, or of x and of a number that is the same for all.
PASCALINE_INLINE float operated(float x, float second, float number) {
    if constexpr (OPERATION == ADD) return x + second;
    if constexpr (OPERATION == SCALE) return number * x;
    if constexpr (OPERATION == SOFT_CAP) return number * tanhf(x / number);
    if constexpr (OPERATION == SILU_AND_MUL) return silu(x) * second;
    return gelu(x) * second;
}
