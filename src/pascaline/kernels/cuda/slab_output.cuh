// A QuantisedInput as the kernel that computes a linear's inputs writes it: with the very bits of quantise_input.cu.
//
// Definitions: those of slab_input.cuh, INPUT_TYPE 0.
#pragma once
#include "slab_input.cuh"

static_assert(INPUT_TYPE == FP32, "what is computed is fp32");

struct QuantisedOutput {
    uint32_t* codes;  // (slabs, rows, PLANES, 128)
    float* scales;    // (slabs, rows, 4)
    int32_t* sums;    // (slabs, rows, 8)
    int rows;

    // Stored inputs 4 * lane ... 4 * lane + 3 of a slab; the whole warp takes part.
    PASCALINE_INLINE void store(int slab, int row, int lane, const float (&values)[4]) const {
        LoadedInputs loaded;
#pragma unroll
        for (int i = 0; i < 4; i++) loaded.words[i] = float_to_bits(values[i]);
        const QuantisedFour four = quantise_four(loaded);
        const size_t place = size_t(slab) * rows + row;
#pragma unroll
        for (int plane = 0; plane < PLANES; plane++) codes[(place * PLANES + plane) * 32 + lane] = four.words[plane];
        if (lane % 8 == 0) scales[place * 4 + lane / 8] = four.scale;
        if (lane % 4 == 0) sums[place * 8 + lane / 4] = four.sum;
    }
};
