// select_rows: y[r] = x[rows[r]].

#pragma once

#include "kernel.h"

static void select_rows_row(const Launch& launch, int64_t row, float* out) {
    const TensorView &x = launch.tensors[0], &rows = launch.tensors[1];
    const int64_t wanted = *row_of<int64_t>(rows, row);
    memcpy(out, row_of<float>(x, wanted), static_cast<size_t>(x.sizes[1]) * sizeof(float));
}

EXPORT const Kernel pascaline_select_rows{row_by_row, no_room, select_rows_row};
