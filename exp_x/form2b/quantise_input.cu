// x (rows, columns) to a QuantisedInput: codes (slabs, rows, PLANES, 128), scales (slabs, rows, 4), sums (slabs, rows, 8).
//
// A warp takes a slab of a row. Definitions: those of slab_input.cuh.
#include "slab_input.cuh"

constexpr int WARPS = 8;

extern "C" __global__ void __launch_bounds__(32 * WARPS)
quantise_input(const void* __restrict__ x, const int32_t* __restrict__ inputs, uint32_t* __restrict__ codes,
               float* __restrict__ scales, int32_t* __restrict__ sums, int rows, int columns, int slabs) {
    let_next_launch_begin();
    wait_for_launches_before();
    const int lane = threadIdx.x & 31;
    // Warps take the slabs of a row one after another: their reads are neighbours.
    const int item = blockIdx.x * WARPS + (threadIdx.x >> 5);
    if (item >= rows * slabs) return;
    const int row = item / slabs, slab = item - row * slabs;
    const auto* row_inputs = static_cast<const InputElement::Stored*>(x) + size_t(row) * columns;
    const QuantisedFour four = quantise_four(load_inputs(row_inputs, inputs, slab, columns, lane));
    const size_t place = size_t(slab) * rows + row;
#pragma unroll
    for (int plane = 0; plane < PLANES; plane++) codes[(place * PLANES + plane) * 32 + lane] = four.words[plane];
    if (lane % 8 == 0) scales[place * 4 + lane / 8] = four.scale;
    if (lane % 4 == 0) sums[place * 8 + lane / 4] = four.sum;
}
