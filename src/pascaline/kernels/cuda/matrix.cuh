// The tensor cores' products of one warp: sums += A * B, with the fragments as the PTX ISA lays them out.
//
// With group = lane / 4 and member = lane % 4, a register holds E neighbouring k (two fp16 or bf16, four
// int8):
//     A, register r: row group, or group + 8 if r is odd,  k = E * member + 4 * E * (r / 2) + 0 ... E - 1
//     B, register r: column group,                         k = E * member + 4 * E * r + 0 ... E - 1
//     sums, i:       row group + 8 * (i / 2), column 2 * member + i % 2
// (8x8x16 has one register of A, rows `group` alone.)
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

PASCALINE_INLINE void multiply_16x8x32_int8(int32_t (&sums)[4], const uint32_t (&a)[4],
                                            const uint32_t (&b)[2]) {
    asm volatile(
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

PASCALINE_INLINE void multiply_8x8x16_int8(int32_t (&sums)[2], uint32_t a, uint32_t b) {
    asm("mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%0,%1}, {%2}, {%3}, {%0,%1};"
                 : "+r"(sums[0]), "+r"(sums[1])
                 : "r"(a), "r"(b));
}

// Four 8x8 matrices of 16-bit numbers from shared memory: lane L gives the address of row L % 8 of matrix L /
// 8, and gets of each matrix word L % 4 of row L / 4.
PASCALINE_INLINE void load_four_matrices(uint32_t (&fragments)[4], const void* row) {
    asm volatile(
        "{ .reg .u64 shared; .reg .u32 address; cvta.to.shared.u64 shared, %4; cvt.u32.u64 address, shared;"
        " ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [address]; }"
        : "=r"(fragments[0]), "=r"(fragments[1]), "=r"(fragments[2]), "=r"(fragments[3])
        : "l"(row)
        : "memory");
}

#endif
#endif  // PASCALINE_HOST
