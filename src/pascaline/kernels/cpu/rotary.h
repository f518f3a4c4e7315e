// rotary: see rotary.py. A row is one token with all of its heads.

#pragma once

#include "kernel.h"

static void rotary_row(const Launch& launch, int64_t row, float* out) {
    const TensorView &x = launch.tensors[0], &y = output_of(launch), &table = launch.tensors[2];
    const int64_t heads = x.sizes[1], size = x.sizes[2], step = x.strides[2], half = table.sizes[1];
    const int64_t position = row_of<const int64_t>(launch.tensors[1], row)[0];
    const float* cosine = row_of<const float>(table, position);
    const float* sine = row_of<const float>(launch.tensors[3], position);
    for (int64_t head = 0; head < heads; head++) {
        const float* from = row_of<const float>(x, row) + head * x.strides[1];
        float* to = out + head * y.strides[1];
        for (int64_t i = 0; i < half; i++) {
            const float a = from[i * step], b = from[(half + i) * step];
            to[i] = a * cosine[i] - b * sine[i];
            to[half + i] = b * cosine[i] + a * sine[i];
        }
        for (int64_t i = 2 * half; i < size; i++) to[i] = from[i * step];
    }
}

EXPORT const Kernel pascaline_rotary{row_by_row, no_room, rotary_row};
