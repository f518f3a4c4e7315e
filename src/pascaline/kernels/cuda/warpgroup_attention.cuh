// Products of a warpgroup, four warps, whose second operand stays in shared memory, as attention has them on chips of
// capability 9.0: 64 rows by 64 columns, 16 deep.
//
// sums (64 x 64) += A (64 x 16) * B (16 x 64): warp w has rows 16 * w ... of A and of the sums, in fragments as
// matrix.cuh describes them; sums[block] are columns 8 * block .... B lies in rows of 128 bytes, 64 numbers: a row is a
// column's k, of which 16 are taken, or, of a transposed B, 64 columns of one k. Of eight rows, which begin at a multiple
// of 1024 bytes, row r has its piece p of 16 bytes in place p ^ r (PTX ISA, "Matrix-Descriptor", swizzling by 128 bytes).
//
// Definitions: MATRIX_TYPE, FP16 or BF16.
#pragma once
#include "async_copy.cuh"
#include "matrix.cuh"

#if defined(PASCALINE_HOST)

typedef const uint8_t* SwizzledOperand;

PASCALINE_INLINE SwizzledOperand swizzled_operand(const uint8_t* b) { return b; }
PASCALINE_INLINE SwizzledOperand forward(SwizzledOperand b, int nbytes) { return b + nbytes; }

template <bool is_transposed>
PASCALINE_INLINE void multiply_64x64x16(float (&sums)[8][4], const uint32_t (&a)[4], SwizzledOperand b) {
    const int group = threadIdx.x % 32 / 4, member = threadIdx.x % 4;
    const auto number = [b](int row, int column) {
        const uint64_t place = reinterpret_cast<uint64_t>(b + row * 128 + column * 2);
        return uint32_t(*reinterpret_cast<const uint16_t*>(place ^ (place >> 3 & 0x70u)));
    };
    for (int block = 0; block < 8; block++) {
        uint32_t fragment[2] = {};
        for (int i = 0; i < 4; i++) {
            const int k = 2 * member + i % 2 + 8 * (i / 2), column = 8 * block + group;
            fragment[i / 2] |= (is_transposed ? number(k, column) : number(column, k)) << 16 * (i % 2);
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

typedef uint64_t SwizzledOperand;

// B begins here: at a multiple of 1024 bytes, and of 32 bytes in its rows.
PASCALINE_INLINE SwizzledOperand swizzled_operand(const uint8_t* b) {
    // Of eight rows, to the next; the other stride is of what does not occur, columns beyond 64.
    constexpr uint64_t swizzling = uint64_t(1) << 62, strides = uint64_t(1) << 16 | uint64_t(1024 >> 4) << 32;
    return swizzling | strides | (shared_address(b) & 0x3FFFFu) >> 4;
}
PASCALINE_INLINE SwizzledOperand forward(SwizzledOperand b, int nbytes) { return b + uint64_t(nbytes >> 4); }

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
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b))

// Begins a product: its registers may be touched again after a wait.
template <bool is_transposed>
PASCALINE_INLINE void multiply_64x64x16(float (&sums)[8][4], const uint32_t (&a)[4], SwizzledOperand b) {
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
