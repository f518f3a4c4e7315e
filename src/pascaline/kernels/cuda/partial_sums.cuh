// Sums over K that several blocks share: each leaves its part, the last to arrive adds all up, always in the
// same order.
#pragma once
#include "platform.cuh"

// True in the block (of those with the same blockIdx.x and y) that arrives last: its `totals` are then the
// sums.
//
// partials: gridDim.z * tiles * ROWS * OUTPUTS * threads floats; arrivals: a zero a tile, and zero again at
// the end; arrived: shared, of nobody else's use until the block's next barrier.
//
// Totals that are stored together are aligned registers, and so each in a bank of its own on chips up to 6.x.
// Turned by one, none of them is in the bank of the operand that it is a product of, which has the same place
// in another four: of the conflicts in linear_simt.cu's main loop, nine tenths go.
template <int ROWS, int OUTPUTS>
PASCALINE_INLINE bool gather_parts(float (&totals)[ROWS][OUTPUTS], float4* partials, uint32_t* arrivals,
                                   uint32_t& arrived) {
    constexpr int FOURS = OUTPUTS / 4;
    const uint32_t tiles = gridDim.x * gridDim.y, tile = blockIdx.y * gridDim.x + blockIdx.x;
    const size_t part_stride = size_t(tiles) * (ROWS * FOURS) * blockDim.x;
    float4* parts = partials + size_t(tile) * (ROWS * FOURS) * blockDim.x + threadIdx.x;
#pragma unroll
    for (int i = 0; i < ROWS; i++) {
#pragma unroll
        for (int j = 0; j < FOURS; j++) {
            const float* four = totals[i] + 4 * j;
            parts[blockIdx.z * part_stride + (i * FOURS + j) * blockDim.x] =
                make_float4(four[1], four[2], four[3], four[0]);
        }
    }
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) arrived = atomicAdd(arrivals + tile, 1u);
    __syncthreads();
    if (arrived != gridDim.z - 1) return false;
    __threadfence();
    if (threadIdx.x == 0) arrivals[tile] = 0;
    for (uint32_t part = 0; part < gridDim.z; part++, parts += part_stride) {
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
#pragma unroll
            for (int j = 0; j < FOURS; j++) {
                const float4 four = load_fresh(parts + (i * FOURS + j) * blockDim.x);
                totals[i][4 * j] = part == 0 ? four.w : totals[i][4 * j] + four.w;
                totals[i][4 * j + 1] = part == 0 ? four.x : totals[i][4 * j + 1] + four.x;
                totals[i][4 * j + 2] = part == 0 ? four.y : totals[i][4 * j + 2] + four.y;
                totals[i][4 * j + 3] = part == 0 ? four.z : totals[i][4 * j + 3] + four.z;
            }
        }
    }
    return true;
}
