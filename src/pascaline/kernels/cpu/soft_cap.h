// soft_cap: x = cap * tanh(x / cap).

#pragma once

#include "elementary.h"
#include "kernel.h"

static void soft_cap_row(const Launch& launch, int64_t row, float* out) {
    const TensorView& x = launch.tensors[0];
    const Floats cap = every_float(static_cast<float>(launch.numbers[0]));
    each(row_of<float>(x, row), out, x.sizes[1],
         [=](Floats v) { return multiply(cap, hyperbolic_tangent(divide(v, cap))); });
}

EXPORT const Kernel pascaline_soft_cap{row_by_row, no_room, soft_cap_row};
