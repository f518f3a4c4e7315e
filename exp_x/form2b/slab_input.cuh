// Inputs of a linear, a slab of 128 by a warp: lane L loads inputs 4 * L ... 4 * L + 3 and quantises them.
//
// Definitions: INPUT_TYPE; HAS_PERMUTATION, 1 if stored inputs are gathered by index; SCALE_GROUP, the inputs of a
// scale: 32, 64 or 128; PLANES.
#pragma once
#include "platform.cuh"
#include "quantised_input.cuh"
#include "slab.cuh"

using InputElement = Element<INPUT_TYPE>;

// Four inputs as they lie in memory, so that a load can run ahead of its use.
struct LoadedInputs {
    uint32_t words[INPUT_TYPE == FP32 || HAS_PERMUTATION ? 4 : 2];
};

PASCALINE_INLINE uint32_t input_bits(float value) { return float_to_bits(value); }
PASCALINE_INLINE uint32_t input_bits(uint16_t value) { return value; }

// `x` is the row's first input; `inputs` gives each stored input's index, negative for padding.
PASCALINE_INLINE LoadedInputs load_inputs(const void* x, const int32_t* inputs, int slab, int columns, int lane) {
    const auto* row = static_cast<const InputElement::Stored*>(x);
    const int first = SLAB * slab + 4 * lane;
    LoadedInputs loaded;
    if constexpr (HAS_PERMUTATION) {
        const int4 index = load_constant(reinterpret_cast<const int4*>(inputs + first));
        loaded.words[0] = index.x < 0 ? 0u : input_bits(load_handed_on(row + index.x));
        loaded.words[1] = index.y < 0 ? 0u : input_bits(load_handed_on(row + index.y));
        loaded.words[2] = index.z < 0 ? 0u : input_bits(load_handed_on(row + index.z));
        loaded.words[3] = index.w < 0 ? 0u : input_bits(load_handed_on(row + index.w));
    } else if (columns % 4 == 0) {  // every row is aligned
        if (first < columns) {
            if constexpr (INPUT_TYPE == FP32) {
                const uint4 four = load_handed_on(reinterpret_cast<const uint4*>(row + first));
                loaded.words[0] = four.x;
                loaded.words[1] = four.y;
                loaded.words[2] = four.z;
                loaded.words[3] = four.w;
            } else {
                const uint2 four = load_handed_on(reinterpret_cast<const uint2*>(row + first));
                loaded.words[0] = four.x;
                loaded.words[1] = four.y;
            }
        } else {
#pragma unroll
            for (uint32_t& word : loaded.words) word = 0;
        }
    } else {
        uint32_t four[4];
#pragma unroll
        for (int i = 0; i < 4; i++) four[i] = first + i < columns ? input_bits(load_handed_on(row + first + i)) : 0u;
        if constexpr (INPUT_TYPE == FP32) {
#pragma unroll
            for (int i = 0; i < 4; i++) loaded.words[i] = four[i];
        } else {
            loaded.words[0] = four[0] | four[1] << 16;
            loaded.words[1] = four[2] | four[3] << 16;
        }
    }
    return loaded;
}

PASCALINE_INLINE float widened_input(const LoadedInputs& loaded, int i) {
    if constexpr (INPUT_TYPE == FP32) return bits_to_float(loaded.words[i]);
    const uint32_t bits = HAS_PERMUTATION ? loaded.words[i] : loaded.words[i >> 1] >> (16 * (i & 1));
    return Element<INPUT_TYPE == FP32 ? FP16 : INPUT_TYPE>::widen(uint16_t(bits));
}

// A lane's four inputs, quantised with those of its scale group.
struct QuantisedFour {
    uint32_t words[PLANES];  // the planes, the high one first
    float scale;
    int32_t sum;  // of the integers of 16 inputs: lanes L & ~3 ... L | 3
};

// The whole warp takes part.
PASCALINE_INLINE QuantisedFour quantise_four(const LoadedInputs& loaded) {
    float x[4];
    // Magnitudes are compared as integers: NaN is above all numbers, and stays.
    int32_t largest = 0;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        x[i] = widened_input(loaded, i);
        largest = max(largest, int32_t(float_to_bits(x[i]) & 0x7FFFFFFFu));
    }
#pragma unroll
    for (int mask = 1; mask < SCALE_GROUP / 4; mask *= 2) largest = max(largest, shuffle_xor(largest, mask));
    const float magnitude = bits_to_float(uint32_t(largest));
    QuantisedFour four;
    four.scale = magnitude * (1.0f / LARGEST_INTEGER);
    // Smaller numbers are zeros: the inverse of their scale may be infinite.
    const float inverse = magnitude > 1e-30f ? divide_fast(float(LARGEST_INTEGER), magnitude) : 0.0f;
    int32_t integers[4];
    four.sum = 0;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        integers[i] = quantised(x[i], inverse);
        four.sum += integers[i];
    }
    four.sum += shuffle_xor(four.sum, 1);
    four.sum += shuffle_xor(four.sum, 2);
    if constexpr (PLANES == 2) {
        four.words[0] = pack_bytes(high_plane(integers[0]), high_plane(integers[1]), high_plane(integers[2]),
                                   high_plane(integers[3]));
    }
    // The low plane is the integer's lowest byte.
    four.words[PLANES - 1] = pack_bytes(integers[0], integers[1], integers[2], integers[3]);
    return four;
}
