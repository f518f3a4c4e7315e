// Activations of gates.
#pragma once
#include "platform.cuh"

// gate * sigmoid(gate).
PASCALINE_INLINE float silu(float gate) { return gate / (1.0f + expf(-gate)); }

// In its tanh form: gate / 2 * (1 + tanh(sqrt(2 / pi) * (gate + 0.044715 * gate^3))).
PASCALINE_INLINE float gelu(float gate) {
    const float argument = 0.7978845608028654f * (gate + 0.044715f * gate * gate * gate);
    return 0.5f * gate * (1.0f + tanhf(argument));
}
