// silu_and_mul: y = gate * sigmoid(gate) * up, and gelu_and_mul: y = gelu(gate) * up.

#pragma once

#include "elementary.h"
#include "kernel.h"

static void silu_and_mul_row(const Launch& launch, int64_t row, float* out) {
    const TensorView &gate = launch.tensors[0], &up = launch.tensors[1];
    each(row_of<float>(gate, row), row_of<float>(up, row), out, gate.sizes[1], [](Floats g, Floats u) {
        const Floats below = add(every_float(1.0f), exponential(subtract(zero_floats(), g)));
        return multiply(divide(g, below), u);
    });
}

// gelu(g) = g / 2 * (1 + tanh(sqrt(2 / pi) * (g + 0.044715 g^3))).
static void gelu_and_mul_row(const Launch& launch, int64_t row, float* out) {
    const TensorView &gate = launch.tensors[0], &up = launch.tensors[1];
    each(row_of<float>(gate, row), row_of<float>(up, row), out, gate.sizes[1], [](Floats g, Floats u) {
        const Floats cube = multiply(multiply(g, g), g);
        const Floats inner = multiply_add(cube, every_float(0.044715f), g);
        const Floats tanh = hyperbolic_tangent(multiply(inner, every_float(0.79788456f)));
        return multiply(multiply(multiply(g, every_float(0.5f)), add(every_float(1.0f), tanh)), u);
    });
}

EXPORT const Kernel pascaline_silu_and_mul{row_by_row, no_room, silu_and_mul_row};
EXPORT const Kernel pascaline_gelu_and_mul{row_by_row, no_room, gelu_and_mul_row};
