// y = x / sqrt(mean(x^2) + epsilon) * gain over rows of `columns` numbers: of tokens, or of each head of tokens.
//
// HAS_RESIDUAL: of x + residual, which becomes the residual. The result is written in one piece: as fp32 rows, or
// as a linear takes it: as its QuantisedInput (IS_QUANTISED), scaled in fp16 (IS_SCALED), with a factor a row, or as
// sums of bf16 numbers (IS_ROUNDED).
//
// A row is taken by a block, or, where it is short, by a warp, several rows a block. A warp's vectors are a slab each
// time: its lanes have what quantise_input.cu would give them.
//
// Definitions: those of row_norm.cuh; ROWS, that a block takes; GAIN_TYPE; HAS_RESIDUAL, IS_QUANTISED, IS_SCALED,
// IS_ROUNDED; those of slab_input.cuh for what is quantised, of row_scale.cuh for what is scaled, of brain_numbers.cuh
// for what is rounded. With HAS_PERMUTATION ROWS is 1, and the block has a row's shared memory.
#include "row_norm.cuh"
#if IS_QUANTISED
#include "slab_output.cuh"
#elif IS_SCALED
#include "row_scale.cuh"
#elif IS_ROUNDED
#include "brain_numbers.cuh"
#endif

using Gain = Element<GAIN_TYPE>;

extern "C" __global__ void __launch_bounds__(ROWS * ROW_THREADS)
rms_norm(const float* __restrict__ x, float* __restrict__ residual, const void* __restrict__ gain,
         const int32_t* __restrict__ inputs, void* __restrict__ y, float* __restrict__ scales,
         int32_t* __restrict__ sums, int rows, int heads, int columns, int token_stride, int head_stride,
         int residual_stride, uint32_t epsilon_bits) {
    let_next_launch_begin();
    const int index = blockIdx.x * ROWS + threadIdx.x / ROW_THREADS;
    if (ROWS > 1 && index >= rows) return;
    Row gains, row;
    gains.fill(columns, [&](int column) {
        return load_parameter<GAIN_TYPE>(static_cast<const Gain::Stored*>(gain) + column);
    });
    const int token = index / heads, head = index - token * heads;
    const float* const own = x + size_t(token) * token_stride + size_t(head) * head_stride;
    wait_for_launches_before();
    row.fill(columns, [&](int column) { return load_activation(own + column); });
    if constexpr (HAS_RESIDUAL) {
        float* const other = residual + size_t(token) * residual_stride;
        Row added;
        added.fill(columns, [&](int column) { return load_changing(other + column); });
#pragma unroll
        for (int i = 0; i < VECTORS; i++) {
#pragma unroll
            for (int j = 0; j < WIDTH; j++) row.vectors[i].values[j] += added.vectors[i].values[j];
        }
        row.store(other, columns);
    }
    const float inverse = inverse_root_mean_square(row, columns, bits_to_float(epsilon_bits));
#pragma unroll
    for (int i = 0; i < VECTORS; i++) row.vectors[i] = normalised(row.vectors[i], inverse, gains.vectors[i]);
#if IS_QUANTISED
    static_assert(WIDTH == 4, "a slab is a warp's vectors");
    DYNAMIC_SHARED(float, ordered);
    if constexpr (HAS_PERMUTATION) {
        row.store(ordered, columns);
        __syncthreads();
    }
    const int lane = threadIdx.x % 32, slabs = (columns + SLAB - 1) / SLAB;
    const QuantisedOutput output = {static_cast<uint32_t*>(y), scales, sums, rows};
#pragma unroll
    for (int i = 0; i < VECTORS; i++) {
        const int slab = Row::column(i) / SLAB;
        if (slab >= slabs) break;
        if constexpr (HAS_PERMUTATION) {
            const int4 from = load_constant(reinterpret_cast<const int4*>(inputs + Row::column(i)));
            const auto input = [&](int number) { return number < 0 ? 0.0f : ordered[number]; };
            row.vectors[i] = {{input(from.x), input(from.y), input(from.z), input(from.w)}};
        }
        output.store(slab, index, lane, row.vectors[i].values);
    }
#elif IS_SCALED
    store_scaled(row, inputs, static_cast<uint16_t*>(y) + size_t(index) * columns, scales + index, columns);
#elif IS_ROUNDED
    uint16_t* const halves = static_cast<uint16_t*>(y) + size_t(index) * columns;
#pragma unroll
    for (int i = 0; i < VECTORS; i++) {
        const int column = Row::column(i);
        if (column < columns) store_brain_numbers(row.vectors[i], halves + column, size_t(rows) * columns);
    }
#else
    row.store(static_cast<float*>(y) + size_t(index) * columns, columns);
#endif
}
