// Sums over K that several blocks share: each leaves its part, the last to arrive adds all up, always in the
// same order. How a thread's totals are stored and loaded decides on the registers of the main loop before it.
#pragma once
#include "arrivals.cuh"

// Up to 6.x registers lie in four banks, of which an instruction reads one operand each; later ones have two.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 700

// Totals that are stored together are aligned registers, and so each in a bank of its own. Turned by one, none of
// them is in the bank of the operand that it is a product of, which has the same place in another four: of the
// conflicts in linear_simt.cu's main loop, nine tenths go.
template <int THREADS, int ROWS, int OUTPUTS>
PASCALINE_INLINE void leave_part(float* part, const float (&totals)[ROWS][OUTPUTS]) {
    float4* fours = reinterpret_cast<float4*>(part) + threadIdx.x;
#pragma unroll
    for (int i = 0; i < ROWS * OUTPUTS; i += 4) {
        const float* four = totals[i / OUTPUTS] + i % OUTPUTS;
        fours[i / 4 * THREADS] = make_float4(four[1], four[2], four[3], four[0]);
    }
}

template <int THREADS, int ROWS, int OUTPUTS>
PASCALINE_INLINE void add_part(float (&totals)[ROWS][OUTPUTS], const float* part, bool is_first) {
    const float4* fours = reinterpret_cast<const float4*>(part) + threadIdx.x;
#pragma unroll
    for (int i = 0; i < ROWS * OUTPUTS; i += 4) {
        const float4 four = load_fresh(fours + i / 4 * THREADS);
        float* own = totals[i / OUTPUTS] + i % OUTPUTS;
        own[0] = is_first ? four.w : own[0] + four.w;
        own[1] = is_first ? four.x : own[1] + four.x;
        own[2] = is_first ? four.y : own[2] + four.y;
        own[3] = is_first ? four.z : own[3] + four.z;
    }
}

#else

// One by one: those of a wide access would have to be neighbours, for which the main loop has too few registers.
template <int THREADS, int ROWS, int OUTPUTS>
PASCALINE_INLINE void leave_part(float* part, const float (&totals)[ROWS][OUTPUTS]) {
#pragma unroll
    for (int i = 0; i < ROWS * OUTPUTS; i++) part[i * THREADS + threadIdx.x] = totals[i / OUTPUTS][i % OUTPUTS];
}

template <int THREADS, int ROWS, int OUTPUTS>
PASCALINE_INLINE void add_part(float (&totals)[ROWS][OUTPUTS], const float* part, bool is_first) {
    constexpr int LOADED_AT_ONCE = 32;
#pragma unroll
    for (int i = 0; i < ROWS * OUTPUTS; i++) {
        // Or else the compiler loads all before it adds the first.
        if (i % LOADED_AT_ONCE == 0) __syncthreads();
        float& total = totals[i / OUTPUTS][i % OUTPUTS];
        total = (is_first ? 0.0f : total) + load_fresh(part + i * THREADS + threadIdx.x);
    }
}

#endif

// True in the block (of those with the same blockIdx.x and y) that arrives last: its `totals` are then the
// sums.
//
// partials: gridDim.z * tiles * ROWS * OUTPUTS * THREADS floats; arrivals: a zero a tile, and zero again at
// the end; arrived: shared, of nobody else's use until the block's next barrier.
template <int THREADS, int ROWS, int OUTPUTS>
PASCALINE_INLINE bool gather_parts(float (&totals)[ROWS][OUTPUTS], float* partials, uint32_t* arrivals,
                                   uint32_t& arrived) {
    constexpr int COUNT = ROWS * OUTPUTS * THREADS;
    const uint32_t tiles = gridDim.x * gridDim.y, tile = blockIdx.y * gridDim.x + blockIdx.x;
    const size_t part_stride = size_t(tiles) * COUNT;
    float* parts = partials + size_t(tile) * COUNT;
    leave_part<THREADS>(parts + blockIdx.z * part_stride, totals);
    if (!comes_last(arrivals + tile, gridDim.z, arrived)) return false;
    for (uint32_t part = 0; part < gridDim.z; part++, parts += part_stride) {
        add_part<THREADS>(totals, parts, part == 0);
    }
    return true;
}
