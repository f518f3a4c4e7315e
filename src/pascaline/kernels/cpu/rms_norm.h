// rms_norm: y = x / sqrt(mean(x^2) + epsilon) * gain; head_norm is that of each head of a row.

#pragma once

#include "dense.h"
#include "kernel.h"

// The sum of squares is 64 partial sums, of k mod 64: as many as hide an addition's latency. They are added
// pairwise, k to k + 32 and so on.
static float sum_of_squares(const float* x, int64_t width) {
    constexpr int SUMS = 64 / LANES;
    Floats sums[SUMS];
    for (Floats& sum : sums) sum = zero_floats();
    int64_t k = 0;
    for (; k + 64 <= width; k += 64)
        for (int i = 0; i < SUMS; i++) {
            const Floats v = load_floats(x + k + i * LANES);
            sums[i] = multiply_add(v, v, sums[i]);
        }
    for (int i = 0; k < width; i++, k += LANES) {
        const Floats v = load_some(x + k, width - k < LANES ? width - k : LANES);
        sums[i] = multiply_add(v, v, sums[i]);
    }
    for (int half = SUMS / 2; half >= PARTS; half /= 2)
        for (int i = 0; i < half; i++) sums[i] = add(sums[i], sums[i + half]);
    Sixteen last;
    for (int i = 0; i < PARTS; i++) last.parts[i] = sums[i];
    return sum_sixteen(last);
}

template <int FORM>
static void multiply_by_gain(const float* x, float inverse, const TensorView& gain, float* out) {
    const int64_t width = gain.sizes[0];
    const Floats factor = every_float(inverse);
    int64_t k = 0;
    for (; k + 16 <= width; k += 16) {
        const Sixteen xs = load_sixteen<FP32>(x, k), gains = load_sixteen<FORM>(gain.data, k);
        for (int i = 0; i < PARTS; i++)
            store_floats(out + k + i * LANES, multiply(multiply(xs.parts[i], factor), gains.parts[i]));
    }
    for (; k < width; k++) out[k] = x[k] * inverse * widen(gain.data, k, FORM);
}

static void norm(const Launch& launch, const float* x, float* out) {
    const TensorView& gain = launch.tensors[1];
    const int64_t width = gain.sizes[0];
    const float mean = sum_of_squares(x, width) / static_cast<float>(width);
    const float inverse = 1.0f / square_root(mean + static_cast<float>(launch.numbers[0]));
    if (gain.form == FP32)
        multiply_by_gain<FP32>(x, inverse, gain, out);
    else if (gain.form == FP16)
        multiply_by_gain<FP16>(x, inverse, gain, out);
    else
        multiply_by_gain<BF16>(x, inverse, gain, out);
}

static void rms_norm_row(const Launch& launch, int64_t row, float* out) {
    norm(launch, row_of<float>(launch.tensors[0], row), out);
}

static void head_norm_row(const Launch& launch, int64_t row, float* out) {
    const TensorView& x = launch.tensors[0];
    for (int64_t head = 0; head < x.sizes[1]; head++)
        norm(launch, row_of<float>(x, row) + head * x.strides[1], out + head * x.sizes[2]);
}

EXPORT const Kernel pascaline_rms_norm{row_by_row, no_room, rms_norm_row};
EXPORT const Kernel pascaline_head_norm{row_by_row, no_room, head_norm_row};
