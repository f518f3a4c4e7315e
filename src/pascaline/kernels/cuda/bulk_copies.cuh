// Copies from global to shared memory that one thread asks for in one instruction each, of many bytes; from sm_90 on. A
// barrier in shared memory counts the bytes that have come.
#pragma once
#include "async_copy.cuh"

#if defined(PASCALINE_HOST)
#include "host_bulk.h"
#else

// Of one warp. Its rounds, counted modulo 2, end when all bytes are there that the round's `expect` spoke of.
struct BytesBarrier {
    uint64_t state;

    // One lane does, then publishes all that it has begun; a barrier of the warp comes before others use them.
    PASCALINE_INLINE void start() {
        asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(shared_address(this)) : "memory");
    }
    static PASCALINE_INLINE void publish() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }

    // One lane does, once a round, before it copies.
    PASCALINE_INLINE void expect(int nbytes) {
        asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(this)), "r"(nbytes)
                     : "memory");
    }

    // A multiple of 16 bytes, from and to multiples of 16.
    PASCALINE_INLINE void copy(SharedAddress target, const uint8_t* source, int nbytes) {
        asm volatile(
            "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(target),
            "l"(source), "r"(nbytes), "r"(shared_address(this))
            : "memory");
    }

    // All lanes do.
    PASCALINE_INLINE void wait(int round) {
        asm volatile(
            "{ .reg .pred done; again%=: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;"
            " @!done bra again%=; }" ::"r"(shared_address(this)),
            "r"(round)
            : "memory");
    }
};

#endif

// What bulk copies brought to shared memory.
PASCALINE_INLINE uint4 load_copied(SharedAddress place) {
#if defined(PASCALINE_HOST)
    return *reinterpret_cast<const uint4*>(place);
#else
    uint4 value;
    asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
                 : "r"(place)
                 : "memory");
    return value;
#endif
}
