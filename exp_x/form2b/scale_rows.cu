// x (rows, columns) as fp16 numbers, each row by a power of two that makes its largest of size 1 to 2, and what takes
// that back: x = scaled * factor. So nothing overflows, and what is rounded off is at most 2^-11 of an element, or
// 2^-25 of the row's largest.
//
// A block takes a row. Definitions: INPUT_TYPE; HAS_PERMUTATION: column c is input `inputs[c]`.
#include "platform.cuh"

using InputElement = Element<INPUT_TYPE>;

constexpr int WARPS = 8;
constexpr int THREADS = 32 * WARPS;

extern "C" __global__ void __launch_bounds__(THREADS)
scale_rows(const void* __restrict__ x, const int32_t* __restrict__ inputs, uint16_t* __restrict__ scaled,
           float* __restrict__ factors, int columns) {
    __shared__ float warps_largest[WARPS];
    const auto* row = static_cast<const InputElement::Stored*>(x) + size_t(blockIdx.x) * columns;
    float largest = 0.0f;
    for (int column = threadIdx.x; column < columns; column += THREADS) {
        largest = fmaxf(largest, fabsf(InputElement::widen(row[column])));
    }
#pragma unroll
    for (int mask = 16; mask > 0; mask /= 2) largest = fmaxf(largest, shuffle_xor(largest, mask));
    if (threadIdx.x % 32 == 0) warps_largest[threadIdx.x / 32] = largest;
    __syncthreads();
    largest = warps_largest[0];
#pragma unroll
    for (int warp = 1; warp < WARPS; warp++) largest = fmaxf(largest, warps_largest[warp]);

    // Of the exponents that a number and its reciprocal both have; infinite and NaN stay what they are.
    uint32_t exponent = float_to_bits(largest) >> 23;
    exponent = exponent < 1 ? 1 : exponent > 253 ? 253 : exponent;
    const float factor = bits_to_float(exponent << 23), scale = bits_to_float((254 - exponent) << 23);
    uint16_t* scaled_row = scaled + size_t(blockIdx.x) * columns;
    for (int column = threadIdx.x; column < columns; column += THREADS) {
        const int input = HAS_PERMUTATION ? load_constant(inputs + column) : column;
        scaled_row[column] = float_to_half(InputElement::widen(row[input]) * scale);
    }
    if (threadIdx.x == 0) factors[blockIdx.x] = factor;
}
