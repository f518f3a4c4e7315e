// scale: x = factor * x.

#pragma once

#include "elementary.h"
#include "kernel.h"

static void scale_row(const Launch& launch, int64_t row, float* out) {
    const TensorView& x = launch.tensors[0];
    const Floats factor = every_float(static_cast<float>(launch.numbers[0]));
    each(row_of<float>(x, row), out, x.sizes[1], [=](Floats v) { return multiply(v, factor); });
}

EXPORT const Kernel pascaline_scale{row_by_row, no_room, scale_row};
