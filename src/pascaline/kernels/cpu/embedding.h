// embedding: y[t] = table[token_ids[t]], the same bits as the weight's `gather`.

#pragma once

#include "kernel.h"
#include "plan.h"

// Code number `k` of a tile's row; see tile_codes.h.
INLINE int code_at(const CodesView& codes, int64_t tile, int64_t row, int64_t k) {
    const int64_t vector = k % BLOCK / 4;
    int code = 0, done = 0;
    for (int i = 0; i < codes.count; i++) {
        const PlaneView& plane = codes.planes[i];
        const int64_t at = (k / BLOCK * plane.bits + vector % plane.bits) * 64 + row * 4 + k % 4;
        const int byte = plane.data[tile * plane.stride + at];
        code |= (byte >> vector / plane.bits * plane.bits & ((1 << plane.bits) - 1)) << done;
        done += plane.bits;
    }
    return code;
}

// Small integer number `group` of a tile's row; see tile_numbers.h.
INLINE int integer_at(const CodesView& codes, int64_t tile, int64_t row, int64_t group) {
    int integer = 0, done = 0;
    for (int i = 0; i < codes.count; i++) {
        const PlaneView& plane = codes.planes[i];
        const int64_t at = (group / 8 * plane.bits + group % plane.bits) * ROWS + row;
        const int byte = plane.data[tile * plane.stride + at];
        integer |= (byte >> group % 8 / plane.bits * plane.bits & ((1 << plane.bits) - 1)) << done;
        done += plane.bits;
    }
    return integer;
}

static void embedding_row(const Launch& launch, int64_t token, float* out) {
    const WeightView& w = *launch.weight;
    const int64_t id = *row_of<int64_t>(launch.tensors[0], token);
    if (w.codes.count == 0) {
        const int64_t first = id * w.scales.stride;
        for (int64_t k = 0; k < w.columns; k++) out[k] = widen(w.scales.data, first + k, w.scales.form);
        return;
    }
    const int64_t tile = id / ROWS, row = id % ROWS, super_groups = w.groups / w.supers;
    for (int64_t group = 0; group < w.groups; group++) {
        const int64_t at = group / super_groups * ROWS + row;
        float scale = widen(w.scales.data, tile * w.scales.stride + at, w.scales.form), offset = 0;
        if (w.group_scales.count) {
            const int a = integer_at(w.group_scales, tile, row, group) - w.group_scale_zero;
            scale = static_cast<float>(a) * scale;
        }
        if (w.offsets.data) offset = widen(w.offsets.data, tile * w.offsets.stride + at, w.offsets.form);
        if (w.group_offsets.count)
            offset = static_cast<float>(integer_at(w.group_offsets, tile, row, group)) * offset;
        const int zero = w.zero + (w.zeros.count ? integer_at(w.zeros, tile, row, group) : 0);
        for (int64_t k = group * w.group_size; k < (group + 1) * w.group_size; k++) {
            const int64_t column = w.inputs ? w.inputs[k] : k;
            if (column < 0) continue;
            const int code = code_at(w.codes, tile, row, k);
            const float value = static_cast<float>(w.table ? w.table[code] : code - zero) * scale;
            out[column] = w.offsets.data ? value - offset : value;
        }
    }
}

EXPORT const Kernel pascaline_embedding{row_by_row, no_room, embedding_row};
