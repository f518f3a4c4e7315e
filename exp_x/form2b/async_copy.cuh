// Copies from global to shared memory that a thread need not wait for, in groups; from sm_80 on. Older chips copy
// at once.
#pragma once
#include "platform.cuh"

#if !defined(PASCALINE_HOST) && __CUDA_ARCH__ >= 800

typedef uint32_t SharedAddress;

PASCALINE_INLINE SharedAddress shared_address(const void* shared) {
    SharedAddress address;
    asm("{ .reg .u64 place; cvta.to.shared.u64 place, %1; cvt.u32.u64 %0, place; }" : "=r"(address) : "l"(shared));
    return address;
}

// 16 bytes, or 16 zeros where `is_there` is false (the source is then not read).
PASCALINE_INLINE void copy_or_clear(SharedAddress shared, const uint4* source, bool is_there) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :
                 : "r"(shared), "l"(source), "r"(is_there ? 16 : 0)
                 : "memory");
}

// 16, 8 or 4 bytes.
template <int nbytes>
PASCALINE_INLINE void copy_bytes(SharedAddress shared, const uint8_t* source) {
    if constexpr (nbytes == 16) {
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" : : "r"(shared), "l"(source) : "memory");
    } else {
        asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" : : "r"(shared), "l"(source), "n"(nbytes) : "memory");
    }
}

// What was copied since the last call is a group.
PASCALINE_INLINE void close_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Until at most `pending` of the own groups, the youngest, are on their way.
template <int pending>
PASCALINE_INLINE void wait_for_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

#else

typedef uint64_t SharedAddress;

PASCALINE_INLINE SharedAddress shared_address(const void* shared) { return reinterpret_cast<SharedAddress>(shared); }

PASCALINE_INLINE void copy_or_clear(SharedAddress shared, const uint4* source, bool is_there) {
    *reinterpret_cast<uint4*>(shared) = is_there ? load_constant(source) : make_uint4(0, 0, 0, 0);
}
template <int nbytes>
PASCALINE_INLINE void copy_bytes(SharedAddress shared, const uint8_t* source) {
#pragma unroll
    for (int i = 0; i < nbytes; i += 4) {
        *reinterpret_cast<uint32_t*>(shared + i) = load_constant(reinterpret_cast<const uint32_t*>(source + i));
    }
}
PASCALINE_INLINE void close_copies() {}
template <int pending>
PASCALINE_INLINE void wait_for_copies() {}

#endif
