// The tensor cores' products of one warp: sums += A * B, with the fragments as the PTX ISA lays them out.
//
// With group = lane / 4 and member = lane % 4, a register holds two neighbouring k:
//     A, register r: row group, or group + 8 if r is odd,  k = 2 * member + 8 * (r / 2) + 0 ... 1
//     B, register r: column group,                         k = 2 * member + 8 * r + 0 ... 1
//     sums, i:       row group + 8 * (i / 2), column 2 * member + i % 2
#pragma once
#include "platform.cuh"

#if !defined(PASCALINE_HOST)

#if __CUDA_ARCH__ >= 800

PASCALINE_INLINE void multiply_16x8x16_half(float (&sums)[4], const uint32_t (&a)[4],
                                            const uint32_t (&b)[2]) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

PASCALINE_INLINE void multiply_16x8x16_bfloat16(float (&sums)[4], const uint32_t (&a)[4],
                                                const uint32_t (&b)[2]) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Of signed bytes, with four neighbouring k a register:
//     A, register r: row group, or group + 8 if r is odd,  k = 4 * member + 16 * (r / 2) + 0 ... 3
//     B, register r: column group,                         k = 4 * member + 16 * r + 0 ... 3
PASCALINE_INLINE void multiply_16x8x32_bytes(int32_t (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    asm(
        "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+r"(sums[0]), "+r"(sums[1]), "+r"(sums[2]), "+r"(sums[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

#endif
#if __CUDA_ARCH__ >= 750

PASCALINE_INLINE void multiply_16x8x8_half(float (&sums)[4], const uint32_t (&a)[2], uint32_t b) {
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(a[0]), "r"(a[1]), "r"(b));
}

#endif
#endif  // PASCALINE_HOST
