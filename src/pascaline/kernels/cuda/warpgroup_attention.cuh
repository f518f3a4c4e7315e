// Products of a warpgroup, four warps, whose second operand stays in shared memory, as attention has them on chips of
// capability 9.0: 64 rows by 64 columns, 16 deep.
//
// sums (64 x 64) += A (64 x 16) * B (16 x 64): warp w has rows 16 * w ... of A and of the sums, in fragments as
// matrix.cuh describes them; sums[block] are columns 8 * block .... B lies in blocks of 8 x 8 numbers, 128 bytes each:
// a column's 8 numbers together, or, of a transposed B, those of one k (PTX ISA, "Matrix-Descriptor", without
// swizzling).
//
// Definitions: MATRIX_TYPE, FP16 or BF16.
#pragma once
#include "async_copy.cuh"
#include "matrix.cuh"

#if defined(PASCALINE_HOST)

struct AttentionOperand {
    const uint8_t* first;
    int k_stride, column_stride;

    PASCALINE_INLINE AttentionOperand forward(int nbytes) const {
        return {first + nbytes, k_stride, column_stride};
    }
};

PASCALINE_INLINE AttentionOperand attention_operand(const uint8_t* b, int k_stride, int column_stride) {
    return {b, k_stride, column_stride};
}

template <bool is_transposed>
PASCALINE_INLINE void multiply_64x64x16(float (&sums)[8][4], const uint32_t (&a)[4], AttentionOperand b) {
    const int group = threadIdx.x % 32 / 4, member = threadIdx.x % 4;
    for (int block = 0; block < 8; block++) {
        uint32_t fragment[2];
        for (int i = 0; i < 2; i++) {
            const uint8_t* const numbers = b.first + i * b.k_stride + block * b.column_stride;
            if constexpr (is_transposed) {
                const auto* const rows = reinterpret_cast<const uint16_t*>(numbers) + 16 * member + group;
                fragment[i] = uint32_t(rows[0]) | uint32_t(rows[8]) << 16;
            } else {
                fragment[i] = reinterpret_cast<const uint32_t*>(numbers)[4 * group + member];
            }
        }
        if constexpr (MATRIX_TYPE == FP16) {
            multiply_16x8x16_half(sums[block], a, fragment);
        } else {
            multiply_16x8x16_bfloat16(sums[block], a, fragment);
        }
    }
}

PASCALINE_INLINE void publish_copies() {}
PASCALINE_INLINE void begin_products() {}
PASCALINE_INLINE void close_products() {}
template <int pending>
PASCALINE_INLINE void wait_for_products() {}

#else

// Where B begins, at a multiple of 16 bytes, and the bytes from a block to that of the next 8 k or columns.
struct AttentionOperand {
    uint64_t descriptor;

    PASCALINE_INLINE AttentionOperand forward(int nbytes) const { return {descriptor + uint64_t(nbytes >> 4)}; }
};

PASCALINE_INLINE AttentionOperand attention_operand(const uint8_t* b, int k_stride, int column_stride) {
    return {uint64_t(k_stride >> 4) << 16 | uint64_t(column_stride >> 4) << 32 | (shared_address(b) & 0x3FFFFu) >> 4};
}

#define MULTIPLY_64X64X16(TYPE, TRANSPOSED)                                                                           \
    asm volatile(                                                                                                     \
        "{ .reg .pred adds; setp.eq.u32 adds, 0, 0;"                                                                  \
        " wgmma.mma_async.sync.aligned.m64n64k16.f32." TYPE "." TYPE                                                  \
        " {%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,"                    \
        "%24,%25,%26,%27,%28,%29,%30,%31}, {%32,%33,%34,%35}, %36, adds, 1, 1, " TRANSPOSED "; }"                     \
        : "+f"(sums[0][0]), "+f"(sums[0][1]), "+f"(sums[0][2]), "+f"(sums[0][3]), "+f"(sums[1][0]),                   \
          "+f"(sums[1][1]), "+f"(sums[1][2]), "+f"(sums[1][3]), "+f"(sums[2][0]), "+f"(sums[2][1]),                   \
          "+f"(sums[2][2]), "+f"(sums[2][3]), "+f"(sums[3][0]), "+f"(sums[3][1]), "+f"(sums[3][2]),                   \
          "+f"(sums[3][3]), "+f"(sums[4][0]), "+f"(sums[4][1]), "+f"(sums[4][2]), "+f"(sums[4][3]),                   \
          "+f"(sums[5][0]), "+f"(sums[5][1]), "+f"(sums[5][2]), "+f"(sums[5][3]), "+f"(sums[6][0]),                   \
          "+f"(sums[6][1]), "+f"(sums[6][2]), "+f"(sums[6][3]), "+f"(sums[7][0]), "+f"(sums[7][1]),                   \
          "+f"(sums[7][2]), "+f"(sums[7][3])                                                                          \
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b.descriptor))

// Begins a product: its registers may be touched again after a wait.
template <bool is_transposed>
PASCALINE_INLINE void multiply_64x64x16(float (&sums)[8][4], const uint32_t (&a)[4], AttentionOperand b) {
    if constexpr (MATRIX_TYPE == FP16) {
        if constexpr (is_transposed) {
            MULTIPLY_64X64X16("f16", "1");
        } else {
            MULTIPLY_64X64X16("f16", "0");
        }
    } else {
        if constexpr (is_transposed) {
            MULTIPLY_64X64X16("bf16", "1");
        } else {
            MULTIPLY_64X64X16("bf16", "0");
        }
    }
}

#undef MULTIPLY_64X64X16

// What this thread's copies brought to shared memory is there for products that begin after a barrier.
PASCALINE_INLINE void publish_copies() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
// What was written to registers is seen by the products that begin now.
PASCALINE_INLINE void begin_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
// Those that began are a group.
PASCALINE_INLINE void close_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// No more than `pending` groups are under way.
template <int pending>
PASCALINE_INLINE void wait_for_products() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(pending) : "memory");
}

#endif
