// What becomes of a linear's sums: bias, residual, gate, and y in its number type.
//
// Definitions: OUTPUT_TYPE, of y and of the residual; HAS_BIAS and BIAS_TYPE; HAS_RESIDUAL; GATE: 1 if the first
// half of the outputs are gates of the second half, y = SiLU(gate) * up of half the columns.
#pragma once
#include "platform.cuh"

static_assert(!(GATE && HAS_RESIDUAL), "a gated product has no residual");

using OutputElement = Element<OUTPUT_TYPE>;
using BiasElement = Element<BIAS_TYPE>;

struct Epilogue {
    const void* bias;      // (outputs): a parameter, which no launch writes
    const void* residual;  // (rows, outputs)
    void* y;               // (rows, outputs), or (rows, outputs / 2) with GATE
    int outputs;

    PASCALINE_INLINE float with_bias(int output, float sum) const {
        if constexpr (HAS_BIAS) {
            sum += BiasElement::widen(load_constant(static_cast<const BiasElement::Stored*>(bias) + output));
        }
        return sum;
    }

    // y[row, output] of the sum; outputs that are padding are left out.
    PASCALINE_INLINE void store(int row, int output, float sum) const {
        if (output >= outputs) return;
        const size_t index = size_t(row) * outputs + output;
        float value = with_bias(output, sum);
        if constexpr (HAS_RESIDUAL) {
            // In this place: the residual may be y itself.
            value += OutputElement::widen(load_fresh(static_cast<const OutputElement::Stored*>(residual) + index));
        }
        static_cast<OutputElement::Stored*>(y)[index] = OutputElement::narrow(value);
    }

    // y[row, output] of the sums of outputs `output` (the gate) and `output + outputs / 2`.
    PASCALINE_INLINE void store_gated(int row, int output, float gate_sum, float up_sum) const {
        const int half = outputs / 2;
        if (output >= half) return;
        const float gate = with_bias(output, gate_sum);
        const float up = with_bias(output + half, up_sum);
        static_cast<OutputElement::Stored*>(y)[size_t(row) * half + output] =
            OutputElement::narrow(gate / (1.0f + expf(-gate)) * up);
    }
};
