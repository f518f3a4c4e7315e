// What a warpgroup, four warps, does together on chips of capability 9.0: products whose second operand stays in shared
// memory, and copies that a barrier in shared memory counts.
//
// sums (64 x ROWS) += A (64 x 16) * B (16 x ROWS), fp16 in, sums in fp32. Warp w has rows 16 * w ... of A and of the
// sums, in fragments as matrix.cuh describes them; sums[block] are columns 8 * block .... B lies in blocks of 8 columns
// x 8 k, each of 128 bytes, a column's 8 numbers together: those of the upper k follow the lower, and the next 8
// columns come B_STRIDE bytes on (PTX ISA, "Matrix-Descriptor", K-major without swizzling).
#pragma once
#include "async_copy.cuh"
#include "matrix.cuh"

constexpr int B_BLOCK = 128, B_STRIDE = 2048;  // bytes

#if defined(PASCALINE_HOST)

typedef const uint8_t* SharedOperand;

PASCALINE_INLINE SharedOperand shared_operand(const void* b) { return static_cast<const uint8_t*>(b); }

template <int ROWS>
PASCALINE_INLINE void multiply_64x16(float (&sums)[ROWS / 8][4], const uint32_t (&a)[4], SharedOperand b) {
    const int own = threadIdx.x % 32 * 4;  // a column's 16 bytes are those of four lanes
    for (int block = 0; block < ROWS / 8; block++) {
        const auto* lower = reinterpret_cast<const uint32_t*>(b + block * B_STRIDE + own);
        const uint32_t fragment[2] = {lower[0], lower[B_BLOCK / 4]};
        multiply_16x8x16_half(sums[block], a, fragment);
    }
}

PASCALINE_INLINE void begin_products() {}
PASCALINE_INLINE void close_products() {}
template <int pending>
PASCALINE_INLINE void wait_for_products() {}

// There each copy is at once, and a wait of all threads comes after it.
struct CopyBarrier {
    PASCALINE_INLINE void start(int) {}
    PASCALINE_INLINE void expect(int) {}
    PASCALINE_INLINE void copy(void* shared, const void* source, int nbytes) {
        for (int i = 0; i < nbytes / 16; i++) {
            static_cast<uint4*>(shared)[i] = load_constant(static_cast<const uint4*>(source) + i);
        }
    }
    PASCALINE_INLINE void arrive() {}
    PASCALINE_INLINE void wait_all(int) { __syncthreads(); }
    PASCALINE_INLINE void wait_one(int) {}
};
PASCALINE_INLINE void publish_barriers() {}

#else

typedef uint64_t SharedOperand;

// B begins here, at a multiple of 16 bytes.
PASCALINE_INLINE SharedOperand shared_operand(const void* b) {
    constexpr uint64_t strides = uint64_t(B_BLOCK >> 4) << 16 | uint64_t(B_STRIDE >> 4) << 32;
    return strides | (shared_address(b) & 0x3FFFFu) >> 4;
}

// Begins a product: its registers may be touched again after a wait.
template <int ROWS>
PASCALINE_INLINE void multiply_64x16(float (&sums)[ROWS / 8][4], const uint32_t (&a)[4], SharedOperand b);

template <>
PASCALINE_INLINE void multiply_64x16<16>(float (&sums)[2][4], const uint32_t (&a)[4], uint64_t b) {
    asm volatile(
        "{ .reg .pred adds; setp.eq.u32 adds, 0, 0;"
        " wgmma.mma_async.sync.aligned.m64n16k16.f32.f16.f16 {"
        "%0,%1,%2,%3,%4,%5,%6,%7"
        "}, {%8,%9,%10,%11}, %12, adds, 1, 1, 0; }"
        : "+f"(sums[0][0]), "+f"(sums[0][1]), "+f"(sums[0][2]), "+f"(sums[0][3]),
          "+f"(sums[1][0]), "+f"(sums[1][1]), "+f"(sums[1][2]), "+f"(sums[1][3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

template <>
PASCALINE_INLINE void multiply_64x16<32>(float (&sums)[4][4], const uint32_t (&a)[4], uint64_t b) {
    asm volatile(
        "{ .reg .pred adds; setp.eq.u32 adds, 0, 0;"
        " wgmma.mma_async.sync.aligned.m64n32k16.f32.f16.f16 {"
        "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15"
        "}, {%16,%17,%18,%19}, %20, adds, 1, 1, 0; }"
        : "+f"(sums[0][0]), "+f"(sums[0][1]), "+f"(sums[0][2]), "+f"(sums[0][3]),
          "+f"(sums[1][0]), "+f"(sums[1][1]), "+f"(sums[1][2]), "+f"(sums[1][3]),
          "+f"(sums[2][0]), "+f"(sums[2][1]), "+f"(sums[2][2]), "+f"(sums[2][3]),
          "+f"(sums[3][0]), "+f"(sums[3][1]), "+f"(sums[3][2]), "+f"(sums[3][3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

template <>
PASCALINE_INLINE void multiply_64x16<64>(float (&sums)[8][4], const uint32_t (&a)[4], uint64_t b) {
    asm volatile(
        "{ .reg .pred adds; setp.eq.u32 adds, 0, 0;"
        " wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 {"
        "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,"
        "%24,%25,%26,%27,%28,%29,%30,%31"
        "}, {%32,%33,%34,%35}, %36, adds, 1, 1, 0; }"
        : "+f"(sums[0][0]), "+f"(sums[0][1]), "+f"(sums[0][2]), "+f"(sums[0][3]),
          "+f"(sums[1][0]), "+f"(sums[1][1]), "+f"(sums[1][2]), "+f"(sums[1][3]),
          "+f"(sums[2][0]), "+f"(sums[2][1]), "+f"(sums[2][2]), "+f"(sums[2][3]),
          "+f"(sums[3][0]), "+f"(sums[3][1]), "+f"(sums[3][2]), "+f"(sums[3][3]),
          "+f"(sums[4][0]), "+f"(sums[4][1]), "+f"(sums[4][2]), "+f"(sums[4][3]),
          "+f"(sums[5][0]), "+f"(sums[5][1]), "+f"(sums[5][2]), "+f"(sums[5][3]),
          "+f"(sums[6][0]), "+f"(sums[6][1]), "+f"(sums[6][2]), "+f"(sums[6][3]),
          "+f"(sums[7][0]), "+f"(sums[7][1]), "+f"(sums[7][2]), "+f"(sums[7][3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

template <>
PASCALINE_INLINE void multiply_64x16<128>(float (&sums)[16][4], const uint32_t (&a)[4], uint64_t b) {
    asm volatile(
        "{ .reg .pred adds; setp.eq.u32 adds, 0, 0;"
        " wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 {"
        "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,"
        "%24,%25,%26,%27,%28,%29,%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,"
        "%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
        "}, {%64,%65,%66,%67}, %68, adds, 1, 1, 0; }"
        : "+f"(sums[0][0]), "+f"(sums[0][1]), "+f"(sums[0][2]), "+f"(sums[0][3]),
          "+f"(sums[1][0]), "+f"(sums[1][1]), "+f"(sums[1][2]), "+f"(sums[1][3]),
          "+f"(sums[2][0]), "+f"(sums[2][1]), "+f"(sums[2][2]), "+f"(sums[2][3]),
          "+f"(sums[3][0]), "+f"(sums[3][1]), "+f"(sums[3][2]), "+f"(sums[3][3]),
          "+f"(sums[4][0]), "+f"(sums[4][1]), "+f"(sums[4][2]), "+f"(sums[4][3]),
          "+f"(sums[5][0]), "+f"(sums[5][1]), "+f"(sums[5][2]), "+f"(sums[5][3]),
          "+f"(sums[6][0]), "+f"(sums[6][1]), "+f"(sums[6][2]), "+f"(sums[6][3]),
          "+f"(sums[7][0]), "+f"(sums[7][1]), "+f"(sums[7][2]), "+f"(sums[7][3]),
          "+f"(sums[8][0]), "+f"(sums[8][1]), "+f"(sums[8][2]), "+f"(sums[8][3]),
          "+f"(sums[9][0]), "+f"(sums[9][1]), "+f"(sums[9][2]), "+f"(sums[9][3]),
          "+f"(sums[10][0]), "+f"(sums[10][1]), "+f"(sums[10][2]), "+f"(sums[10][3]),
          "+f"(sums[11][0]), "+f"(sums[11][1]), "+f"(sums[11][2]), "+f"(sums[11][3]),
          "+f"(sums[12][0]), "+f"(sums[12][1]), "+f"(sums[12][2]), "+f"(sums[12][3]),
          "+f"(sums[13][0]), "+f"(sums[13][1]), "+f"(sums[13][2]), "+f"(sums[13][3]),
          "+f"(sums[14][0]), "+f"(sums[14][1]), "+f"(sums[14][2]), "+f"(sums[14][3]),
          "+f"(sums[15][0]), "+f"(sums[15][1]), "+f"(sums[15][2]), "+f"(sums[15][3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

// What was written to registers is seen by the products that begin now.
PASCALINE_INLINE void begin_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
// Those that began are a group.
PASCALINE_INLINE void close_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// No more than `pending` groups are under way.
template <int pending>
PASCALINE_INLINE void wait_for_products() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(pending) : "memory");
}

// Lies in shared memory. Its rounds end when all that were to have arrived and all bytes that were expected are there.
struct CopyBarrier {
    uint64_t state;

    // Before `publish_barriers` and a barrier of the block.
    PASCALINE_INLINE void start(int arrivals) {
        asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(this)), "r"(arrivals)
                     : "memory");
    }

    // Arrives, and has the round wait for so many bytes more.
    PASCALINE_INLINE void expect(int nbytes) {
        asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(this)),
                     "r"(nbytes)
                     : "memory");
    }

    // A multiple of 16 bytes, from and to multiples of 16.
    PASCALINE_INLINE void copy(void* shared, const void* source, int nbytes) {
        asm volatile(
            "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                shared_address(shared)),
            "l"(source), "r"(nbytes), "r"(shared_address(this))
            : "memory");
    }

    PASCALINE_INLINE void arrive() {
        asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(this)) : "memory");
    }

    // All threads wait for the end of a round; rounds are counted modulo 2.
    PASCALINE_INLINE void wait_all(int round) { wait_one(round); }

    // One thread does.
    PASCALINE_INLINE void wait_one(int round) {
        asm volatile(
            "{ .reg .pred done; again%=: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;"
            " @!done bra again%=; }" ::"r"(shared_address(this)),
            "r"(round)
            : "memory");
    }
};

PASCALINE_INLINE void publish_barriers() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }

#endif
