// What all threads of a block bring together: running sums, the first and the last of their values.
#pragma once
#include "platform.cuh"

// Sums over the threads up to the own one. `parts`: shared, of nobody else's use between two barriers of the block.
template <int WARPS, typename Value>
PASCALINE_INLINE Value running_sum(Value value, Value (&parts)[WARPS]) {
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    Value sum = value;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
        const Value before = shuffle_from(sum, (lane - step) & 31);
        if (lane >= step) sum += before;
    }
    __syncthreads();
    if (lane == 31) parts[warp] = sum;
    __syncthreads();
    Value warps = lane < WARPS ? parts[lane] : Value(0);
#pragma unroll
    for (int step = 1; step < WARPS; step *= 2) {
        const Value before = shuffle_from(warps, (lane - step) & 31);
        if (lane >= step) warps += before;
    }
    const Value before = shuffle_from(warps, (warp - 1) & 31);
    return warp == 0 ? sum : sum + before;
}

struct LeastValue {
    template <typename Value>
    static PASCALINE_INLINE Value of(Value a, Value b) {
        return b < a ? b : a;
    }
};
struct MostValue {
    template <typename Value>
    static PASCALINE_INLINE Value of(Value a, Value b) {
        return a < b ? b : a;
    }
};
struct SumOfValues {
    template <typename Value>
    static PASCALINE_INLINE Value of(Value a, Value b) {
        return a + b;
    }
};

// Of all threads' values; every thread gets it.
template <typename Operation, int WARPS, typename Value>
PASCALINE_INLINE Value over_block(Value value, Value (&parts)[WARPS]) {
#pragma unroll
    for (int mask = 16; mask > 0; mask /= 2) value = Operation::of(value, shuffle_xor(value, mask));
    __syncthreads();
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = value;
    __syncthreads();
    value = parts[threadIdx.x % WARPS];
#pragma unroll
    for (int mask = WARPS / 2; mask > 0; mask /= 2) value = Operation::of(value, shuffle_xor(value, mask));
    return value;
}
