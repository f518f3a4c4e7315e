// store_rows: see store_rows.py. The cache may lie in any order, and hold fp32 or fp16.

#pragma once

#include "kernel.h"

INLINE void narrow_eight(const float* from, float* to) { memcpy(to, from, 32); }

template <class Element>
INLINE void store_row(const float* from, int64_t stride, int64_t size, Element* to, int64_t to_stride) {
    for (int64_t start = 0; start < size; start += 8) {
        float eight[8] = {};
        Element narrow[8];
        const int64_t count = at_most(size - start, 8);
        for (int64_t i = 0; i < count; i++) eight[i] = from[(start + i) * stride];
        narrow_eight(eight, narrow);
        for (int64_t i = 0; i < count; i++) to[(start + i) * to_stride] = narrow[i];
    }
}

static void store_rows_run(const Launch& launch, const Step& step, Team& team) {
    const TensorView &rows = launch.tensors[0], &slots = launch.tensors[1], &cache = output_of(launch);
    const int64_t page_size = cache.sizes[1], heads = rows.sizes[1], size = rows.sizes[2];
    // As many as a page holds: threads write to the same cache lines at the ends of chunks only.
    team.share((step.tokens + 15) / 16, [&](int64_t chunk) {
        for (int64_t row = chunk * 16; row < at_most((chunk + 1) * 16, step.tokens); row++) {
            const int64_t slot = row_of<const int64_t>(slots, row)[0];
            if (slot < 0) continue;
            for (int64_t head = 0; head < heads; head++) {
                const float* from = row_of<const float>(rows, row) + head * rows.strides[1];
                const int64_t to = slot / page_size * cache.strides[0] + slot % page_size * cache.strides[1] +
                                   head * cache.strides[2];
                if (cache.form == FP16)
                    store_row(from, rows.strides[2], size, static_cast<uint16_t*>(cache.data) + to, cache.strides[3]);
                else
                    store_row(from, rows.strides[2], size, static_cast<float*>(cache.data) + to, cache.strides[3]);
            }
        }
    });
}

EXPORT const Kernel pascaline_store_rows{store_rows_run, no_room, nullptr};
