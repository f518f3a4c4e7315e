// A stand-in for a card: what platform.cuh has from intrinsics and PTX, and what CUDA C++ has beside C++.
//
// A kernel's source is compiled by the C++ compiler with -DPASCALINE_HOST; host_entry.cpp makes a library of
// it. Threads are fibers (host_fibers.h), blocks run one after another.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "host_collectives.h"
#include "host_launch.h"
#include "host_matrix.h"
#include "host_numbers.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __constant__ static
// Of a block's threads, not of the fiber; filled with poison before each block.
#define __shared__ static __attribute__((section("host_shared")))
#define __restrict__ __restrict

#define HOST_VECTORS(type, name, align2, align4)                               \
    struct alignas(align2) name##2 { type x, y; };                             \
    struct alignas(align4) name##4 { type x, y, z, w; };                       \
    PASCALINE_INLINE name##2 make_##name##2(type x, type y) { return {x, y}; } \
    PASCALINE_INLINE name##4 make_##name##4(type x, type y, type z, type w) { return {x, y, z, w}; }
HOST_VECTORS(unsigned, uint, 8, 16)
HOST_VECTORS(int, int, 8, 16)
HOST_VECTORS(float, float, 8, 16)
#undef HOST_VECTORS

// One processor runs all fibers: they see each other's writes in order.
PASCALINE_INLINE void __threadfence() {}
PASCALINE_INLINE void __threadfence_block() {}

PASCALINE_INLINE void __syncthreads(int line = __builtin_LINE()) {
    host::wait_for_block("__syncthreads", line, __builtin_return_address(0));
}

template <typename Value>
PASCALINE_INLINE Value load_once(const Value* address) {
    return *address;
}

template <typename Value>
PASCALINE_INLINE Value load_constant(const Value* address) {
    return *address;
}

// Fibers change only where they wait, so that every operation is atomic.
template <typename Value, typename Change>
PASCALINE_INLINE Value host_atomic(Value* address, Change change) {
    const Value before = *address;
    *address = change(before);
    return before;
}

template <typename Value>
PASCALINE_INLINE Value atomicAdd(Value* address, Value value) {
    return host_atomic(address, [=](Value before) { return Value(before + value); });
}
PASCALINE_INLINE unsigned atomicAdd(unsigned* address, int value) {
    return atomicAdd(address, unsigned(value));
}
template <typename Value>
PASCALINE_INLINE Value atomicMax(Value* address, Value value) {
    return host_atomic(address, [=](Value before) { return before < value ? value : before; });
}
template <typename Value>
PASCALINE_INLINE Value atomicExch(Value* address, Value value) {
    return host_atomic(address, [=](Value) { return value; });
}
template <typename Value>
PASCALINE_INLINE Value atomicCAS(Value* address, Value expected, Value value) {
    return host_atomic(address, [=](Value before) { return before == expected ? value : before; });
}
PASCALINE_INLINE unsigned atomicInc(unsigned* address, unsigned last) {
    return host_atomic(address, [=](unsigned before) { return before >= last ? 0u : before + 1u; });
}

// It ends at a page that cannot be touched.
#define DYNAMIC_SHARED(type, name) \
    type* const name = reinterpret_cast<type*>(host::shared_end - host::dynamic_shared_bytes)

// What only some kernels use; it needs all of the above.
#include "host_bulk.h"
#include "host_fragments.h"
#include "host_transpose.h"
#include "host_votes.h"
