// All that is an intrinsic or PTX. With PASCALINE_HOST the same names come from a stand-in for a card, on which
// the very same sources run.
#pragma once

#if defined(PASCALINE_HOST)
#include "host_cuda.h"
#else

typedef unsigned char uint8_t;
typedef signed char int8_t;
typedef unsigned short uint16_t;
typedef unsigned int uint32_t;
typedef int int32_t;
typedef unsigned long long uint64_t;
typedef long long int64_t;

#define PASCALINE_INLINE __device__ __forceinline__

// The block's dynamic shared memory, as an array of this type.
#define DYNAMIC_SHARED(type, name) extern __shared__ __align__(16) type name[]

// The bits of an fp16 number as fp32: exact.
PASCALINE_INLINE float half_to_float(uint16_t bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}

// To the nearest fp16 number, ties to even.
PASCALINE_INLINE uint16_t float_to_half(float value) {
    uint16_t bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}

PASCALINE_INLINE float bits_to_float(uint32_t bits) { return __uint_as_float(bits); }
PASCALINE_INLINE uint32_t float_to_bits(float value) { return __float_as_uint(value); }

// To the nearest integer, ties to even.
PASCALINE_INLINE int32_t round_to_int(float value) { return __float2int_rn(value); }

// Four products of signed bytes, added to `sum`. Chips below 6.1 have no such instruction.
PASCALINE_INLINE int32_t dot4(uint32_t a, uint32_t b, int32_t sum) {
#if __CUDA_ARCH__ >= 610
    int32_t result;
    asm("dp4a.s32.s32 %0, %1, %2, %3;" : "=r"(result) : "r"(a), "r"(b), "r"(sum));
    return result;
#else
#pragma unroll
    for (int byte = 0; byte < 4; byte++) {
        sum += (int32_t(a << (24 - 8 * byte)) >> 24) * (int32_t(b << (24 - 8 * byte)) >> 24);
    }
    return sum;
#endif
}

// Bytes of (high:low) picked by the four low nibbles of `selector`; bit 3 of one asks for its byte's sign, eight
// times.
PASCALINE_INLINE uint32_t permute_bytes(uint32_t low, uint32_t high, uint32_t selector) {
    uint32_t bytes;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(bytes) : "r"(low), "r"(high), "r"(selector));
    return bytes;
}

// The upper 16 bits, by a shift that the compiler does not take apart and put together otherwise.
PASCALINE_INLINE uint32_t upper_half(uint32_t word) {
    uint32_t half;
    asm("shr.u32 %0, %1, 16;" : "=r"(half) : "r"(word));
    return half;
}

// Weights are read once: they are not to push activations out of the first cache.
PASCALINE_INLINE uint4 load_once(const uint4* address) {
    uint4 value;
#if __CUDA_ARCH__ >= 700
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
                 : "l"(address));
#else
    asm volatile("ld.global.nc.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
                 : "l"(address));
#endif
    return value;
}

PASCALINE_INLINE uint2 load_once(const uint2* address) {
    uint2 value;
#if __CUDA_ARCH__ >= 700
    asm volatile("ld.global.nc.L1::no_allocate.v2.u32 {%0,%1}, [%2];"
                 : "=r"(value.x), "=r"(value.y)
                 : "l"(address));
#else
    asm volatile("ld.global.nc.v2.u32 {%0,%1}, [%2];" : "=r"(value.x), "=r"(value.y) : "l"(address));
#endif
    return value;
}

PASCALINE_INLINE uint32_t load_once(const uint32_t* address) {
    uint32_t value;
#if __CUDA_ARCH__ >= 700
    asm volatile("ld.global.nc.L1::no_allocate.u32 %0, [%1];" : "=r"(value) : "l"(address));
#else
    asm volatile("ld.global.nc.u32 %0, [%1];" : "=r"(value) : "l"(address));
#endif
    return value;
}

// What nothing writes during the kernel, through the read-only cache.
template <typename Value>
PASCALINE_INLINE Value load_constant(const Value* address) {
    return __ldg(address);
}

// The value that lane (own lane ^ mask) has.
template <typename Value>
PASCALINE_INLINE Value shuffle_xor(Value value, int mask) {
    return __shfl_xor_sync(0xFFFFFFFFu, value, mask);
}

// The value that `lane` has.
template <typename Value>
PASCALINE_INLINE Value shuffle_from(Value value, int lane) {
    return __shfl_sync(0xFFFFFFFFu, value, lane);
}

#endif  // PASCALINE_HOST

// What lanes wrote to memory before, all lanes of the warp read after.
PASCALINE_INLINE void sync_warp() { __syncwarp(); }

// To about two ulps; 0 for a denominator above 8.5e37.
PASCALINE_INLINE float divide_fast(float numerator, float denominator) { return __fdividef(numerator, denominator); }

// What other blocks or launches have written: from L2, past the multiprocessor's own cache. The load stays where it is
// among accesses to memory and barriers; others compilers put off until shortly before their use.
template <typename Value>
PASCALINE_INLINE Value load_fresh(const Value* address) {
#if defined(PASCALINE_HOST)
    return *address;
#else
    static_assert(sizeof(Value) == 2 || sizeof(Value) == 4 || sizeof(Value) == 8 || sizeof(Value) == 16, "a vector");
    union Bits {
        uint32_t words[(sizeof(Value) + 3) / 4];
        uint16_t half;
        Value value;
    } bits;
    if constexpr (sizeof(Value) == 2) {
        asm volatile("ld.global.cg.u16 %0, [%1];" : "=h"(bits.half) : "l"(address) : "memory");
    } else if constexpr (sizeof(Value) == 4) {
        asm volatile("ld.global.cg.u32 %0, [%1];" : "=r"(bits.words[0]) : "l"(address) : "memory");
    } else if constexpr (sizeof(Value) == 8) {
        asm volatile("ld.global.cg.v2.u32 {%0,%1}, [%2];"
                     : "=r"(bits.words[0]), "=r"(bits.words[1])
                     : "l"(address)
                     : "memory");
    } else {
        asm volatile("ld.global.cg.v4.u32 {%0,%1,%2,%3}, [%4];"
                     : "=r"(bits.words[0]), "=r"(bits.words[1]), "=r"(bits.words[2]), "=r"(bits.words[3])
                     : "l"(address)
                     : "memory");
    }
    return bits.value;
#endif
}

// PERF: as fp32 numbers from the start. As words, parts of sums take more registers in code for sm_61.
PASCALINE_INLINE float4 load_fresh(const float4* address) {
#if defined(PASCALINE_HOST)
    return *address;
#else
    float4 value;
    asm volatile("ld.global.cg.v4.f32 {%0,%1,%2,%3}, [%4];"
                 : "=f"(value.x), "=f"(value.y), "=f"(value.z), "=f"(value.w)
                 : "l"(address)
                 : "memory");
    return value;
#endif
}

// Has a line of 128 bytes brought to L2.
PASCALINE_INLINE void bring_line(const uint8_t* address) {
#if defined(PASCALINE_HOST)
    static_cast<void>(*static_cast<const volatile uint8_t*>(address));  // what is out of bounds is caught
#else
    asm volatile("prefetch.global.L2 [%0];" : : "l"(address));
#endif
}

// Launches that may begin before those before them are done (`LaunchPlan.begins_early`; chips from 9.0 on).
#if !defined(PASCALINE_HOST) && __CUDA_ARCH__ >= 900
constexpr bool LAUNCHES_OVERLAP = true;

// Until all launches before are done and what they wrote can be read: nothing that they write is read, and nothing is
// written, before. Weights, with the orders of their inputs and their biases, are no launch's to write.
PASCALINE_INLINE void wait_for_launches_before() { asm volatile("griddepcontrol.wait;" ::: "memory"); }

// Once all blocks have come here, or are done, the next launch's take the places that are left.
PASCALINE_INLINE void let_next_launch_begin() { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }
#else
constexpr bool LAUNCHES_OVERLAP = false;

PASCALINE_INLINE void wait_for_launches_before() {}
PASCALINE_INLINE void let_next_launch_begin() {}
#endif

// What launches before wrote and this one does not, after `wait_for_launches_before`. Where launches overlap it is not
// read through caches of constants, which compilers may do before the wait, and which may have what was there when this
// launch began.
template <typename Value>
PASCALINE_INLINE Value load_handed_on(const Value* address) {
    return LAUNCHES_OVERLAP ? load_fresh(address) : load_constant(address);
}

// bf16 is the upper half of fp32: widening is a shift.
PASCALINE_INLINE float bfloat16_to_float(uint16_t bits) { return bits_to_float(uint32_t(bits) << 16); }

// To the nearest bf16 number, ties to even; NaN stays NaN.
PASCALINE_INLINE uint16_t float_to_bfloat16(float value) {
    const uint32_t bits = float_to_bits(value);
    const uint32_t rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
    return value != value ? uint16_t((bits >> 16) | 0x40u) : uint16_t(rounded);
}

// Number types of operands, as definitions name them.
constexpr int FP32 = 0, FP16 = 1, BF16 = 2, EXPONENT = 3;

template <int type>
struct Element {
    using Stored = uint16_t;
    static PASCALINE_INLINE float widen(Stored bits) {
        return type == FP16 ? half_to_float(bits) : bfloat16_to_float(bits);
    }
    static PASCALINE_INLINE Stored narrow(float value) {
        return type == FP16 ? float_to_half(value) : float_to_bfloat16(value);
    }
};

template <>
struct Element<FP32> {
    using Stored = float;
    static PASCALINE_INLINE float widen(Stored value) { return value; }
    static PASCALINE_INLINE Stored narrow(float value) { return value; }
};
