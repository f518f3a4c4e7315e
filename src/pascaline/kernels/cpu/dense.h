// Dense weights in fp32: every output is 16 partial sums, of k mod 16, added pairwise at the end.

#pragma once

#include "abi.h"
#include "tile_vectors.h"

struct DenseCall {
    const float* x;
    int64_t x_stride;
    int64_t tokens;
    float* y;
    int64_t y_stride;
};

struct Sixteen {
    Floats parts[PARTS];
};

template <int FORM>
INLINE Sixteen load_sixteen(const void* data, int64_t index) {
    Sixteen v;
    for (int i = 0; i < PARTS; i++, index += LANES) {
        if (FORM == FP32) {
            v.parts[i] = load_floats(static_cast<const float*>(data) + index);
            continue;
        }
        const uint16_t* at = static_cast<const uint16_t*>(data) + index;
        v.parts[i] = FORM == FP16 ? widen_halves(at) : widen_brains(at);
    }
    return v;
}

INLINE float sum_sixteen(const Sixteen& v) {
    alignas(64) float lanes[16];
    for (int i = 0; i < PARTS; i++) store_floats(lanes + i * LANES, v.parts[i]);
    for (int half = 8; half; half /= 2)
        for (int i = 0; i < half; i++) lanes[i] += lanes[i + half];
    return lanes[0];
}

// N rows of w by M rows of x.
template <int FORM, int N, int M>
static void dense_block(const WeightView& w, int64_t n, const float* x, int64_t x_stride, float* y,
                        int64_t y_stride) {
    constexpr int SIZE = FORM == FP32 ? 4 : 2;
    const char* rows[N];
    for (int i = 0; i < N; i++)
        rows[i] = static_cast<const char*>(w.scales.data) + (n + i) * w.scales.stride * SIZE;
    Sixteen sums[N][M];
    for (int i = 0; i < N; i++)
        for (int j = 0; j < M; j++)
            for (int part = 0; part < PARTS; part++) sums[i][j].parts[part] = zero_floats();
    int64_t k = 0;
    for (; k + 16 <= w.columns; k += 16) {
        Sixteen xs[M];
        for (int j = 0; j < M; j++) xs[j] = load_sixteen<FP32>(x + j * x_stride, k);
        for (int i = 0; i < N; i++) {
            Sixteen ws = load_sixteen<FORM>(rows[i], k);
            for (int j = 0; j < M; j++)
                for (int part = 0; part < PARTS; part++)
                    sums[i][j].parts[part] =
                        multiply_add(ws.parts[part], xs[j].parts[part], sums[i][j].parts[part]);
        }
    }
    if (k < w.columns) {
        // The last elements of rows whose length is no multiple of 16, copied beside zeros.
        const size_t left = static_cast<size_t>(w.columns - k);
        for (int j = 0; j < M; j++) {
            alignas(64) float xs[16] = {};
            memcpy(xs, x + j * x_stride + k, left * 4);
            Sixteen xv = load_sixteen<FP32>(xs, 0);
            for (int i = 0; i < N; i++) {
                alignas(64) char ws[64] = {};
                memcpy(ws, rows[i] + k * SIZE, left * SIZE);
                Sixteen wv = load_sixteen<FORM>(ws, 0);
                for (int part = 0; part < PARTS; part++)
                    sums[i][j].parts[part] =
                        multiply_add(wv.parts[part], xv.parts[part], sums[i][j].parts[part]);
            }
        }
    }
    for (int i = 0; i < N; i++)
        for (int j = 0; j < M; j++) y[j * y_stride + n + i] = sum_sixteen(sums[i][j]);
}

#if defined(__AVX512VNNI__)
constexpr int DENSE_N = 4, DENSE_M = 4;
#else
constexpr int DENSE_N = 2, DENSE_M = 2;
#endif

template <int FORM>
static void dense_rows(const WeightView& w, int64_t first, int64_t stop, const DenseCall& call) {
    // Rows of x that stay in a core's cache while all rows of w pass by.
    int64_t at_once = (256 << 10) / (4 * w.columns) / DENSE_M * DENSE_M;
    if (at_once < DENSE_M) at_once = DENSE_M;
    for (int64_t start = 0; start < call.tokens; start += at_once) {
        const int64_t end = start + at_once < call.tokens ? start + at_once : call.tokens;
        for (int64_t n = first; n < stop;) {
            // Few rows of x wait for memory, which is fastest in one stream. PERF: fp16 by one row of x, 2 threads:
            // 36 GB/s instead of 25, of 36.5 that a plain read gets.
            const int64_t step = n + DENSE_N <= stop && call.tokens >= DENSE_M ? DENSE_N : 1;
            for (int64_t m = start; m < end;) {
                const float* x = call.x + m * call.x_stride;
                float* y = call.y + m * call.y_stride;
                if (m + DENSE_M <= end) {
                    if (step == 1)
                        dense_block<FORM, 1, DENSE_M>(w, n, x, call.x_stride, y, call.y_stride);
                    else
                        dense_block<FORM, DENSE_N, DENSE_M>(w, n, x, call.x_stride, y, call.y_stride);
                    m += DENSE_M;
                } else {
                    if (step == 1)
                        dense_block<FORM, 1, 1>(w, n, x, call.x_stride, y, call.y_stride);
                    else
                        dense_block<FORM, DENSE_N, 1>(w, n, x, call.x_stride, y, call.y_stride);
                    m++;
                }
            }
            n += step;
        }
    }
}
