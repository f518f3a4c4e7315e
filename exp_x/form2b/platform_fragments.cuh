// Fragments of the tensor cores' operands (matrix.cuh) from shared memory, by one warp: four blocks of 8 rows of 16
// bytes, eight numbers of 16 bits each (ldmatrix; from sm_75 on).
//
// Lane l says where row l % 8 of block l / 8 lies. fragments[i] of lane l is of block i: its row l / 4, columns
// 2 * (l % 4) and the next; transposed, its column l / 4, rows 2 * (l % 4) and the next.
#pragma once
#include "async_copy.cuh"

#if defined(PASCALINE_HOST)
#include "host_fragments.h"
#else

PASCALINE_INLINE void load_fragments(uint32_t (&fragments)[4], SharedAddress row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(fragments[0]), "=r"(fragments[1]), "=r"(fragments[2]), "=r"(fragments[3])
                 : "r"(row)
                 : "memory");
}

PASCALINE_INLINE void load_transposed_fragments(uint32_t (&fragments)[4], SharedAddress row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(fragments[0]), "=r"(fragments[1]), "=r"(fragments[2]), "=r"(fragments[3])
                 : "r"(row)
                 : "memory");
}

#endif
