// Which block of threads comes last, of those that bring something together.
#pragma once
#include "platform.cuh"

// True in the block that comes last of `blocks`: what all of them wrote before is then read by `load_fresh`.
//
// counter: zero before, and zero again at the end; before: shared, of nobody else's use until the block's next barrier.
PASCALINE_INLINE bool comes_last(uint32_t* counter, uint32_t blocks, uint32_t& before) {
#if !defined(PASCALINE_HOST) && __CUDA_ARCH__ >= 700
    // PERF: one thread's release is one of all that the block wrote before the barrier; a fence of every thread takes
    // longer.
    __syncthreads();
    if (threadIdx.x == 0) {
        asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], 1;" : "=r"(before) : "l"(counter) : "memory");
        if (before == blocks - 1) *counter = 0u;
    }
    __syncthreads();
    return before == blocks - 1;
#else
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) before = atomicAdd(counter, 1u);
    __syncthreads();
    if (before != blocks - 1) return false;
    __threadfence();
    if (threadIdx.x == 0) *counter = 0u;
    return true;
#endif
}
