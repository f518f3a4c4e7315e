// Vectors of fp32 as sums of bf16 numbers: the nearest to each, and with two of them the nearest to what is left.
//
// Definitions: those of row_vectors.cuh; BRAIN_NUMBERS, 1 or 2.
#pragma once
#include "row_vectors.cuh"

static_assert(BRAIN_NUMBERS == 1 || BRAIN_NUMBERS == 2, "one number, or two");

// place: the first numbers'; the second ones lie `apart` numbers further on.
PASCALINE_INLINE void store_brain_numbers(const Vector& vector, uint16_t* place, size_t apart) {
    store_vector<BF16>(place, vector);
    if constexpr (BRAIN_NUMBERS == 2) {
        Vector left;
#pragma unroll
        for (int i = 0; i < WIDTH; i++) {
            left.values[i] = vector.values[i] - bfloat16_to_float(float_to_bfloat16(vector.values[i]));
        }
        store_vector<BF16>(place + apart, left);
    }
}
