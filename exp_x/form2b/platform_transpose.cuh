// The transpose of a fragment of the tensor cores (matrix.cuh), by one warp: what products leave in rows becomes an
// operand in columns (movmatrix; from sm_75 on).
//
// Lane l has row l / 4, columns 2 * (l % 4) and the next, of 8 rows of eight numbers of 16 bits.
#pragma once
#include "platform.cuh"

#if defined(PASCALINE_HOST)
#include "host_transpose.h"
#else

PASCALINE_INLINE uint32_t transposed(uint32_t fragment) {
    uint32_t result;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(result) : "r"(fragment));
    return result;
}

#endif
