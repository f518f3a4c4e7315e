// Rotation of a head's elements by its position: with x = (a, b, rest), a and b of `half` elements each, and c, s the
// cosines and sines of the position, y = (a * c - b * s, b * c + a * s, rest).
#pragma once
#include "row_vectors.cuh"

// Row of a table that belongs to a position.
PASCALINE_INLINE const float* table_row(const float* table, int64_t position, int half) {
    return table + size_t(position) * half;
}

// Vector `column` ... of y; `load(column)` gives x, cosines and sines are the position's.
template <typename Load>
PASCALINE_INLINE Vector rotated(int column, int half, const float* cosines, const float* sines, Load load) {
    Vector own = load(column);
    if (column >= 2 * half) return own;
    const bool is_second = column >= half;
    const int frequency = is_second ? column - half : column;
    const Vector other = load(is_second ? frequency : frequency + half);
    const Vector cosine = load_parameter<FP32>(cosines + frequency), sine = load_parameter<FP32>(sines + frequency);
#pragma unroll
    for (int i = 0; i < WIDTH; i++) {
        const float signed_sine = is_second ? sine.values[i] : -sine.values[i];
        // Written out: all kernels that rotate round alike.
        own.values[i] = fmaf(own.values[i], cosine.values[i], other.values[i] * signed_sine);
    }
    return own;
}
