// What the card gives: a plain read, and chains of one instruction.
#include "platform.cuh"

// Reads `count` times 16 bytes, UNROLL of them in flight a thread.
extern "C" __global__ void __launch_bounds__(512) read_only(const uint4* __restrict__ source,
                                                            uint32_t* __restrict__ found, int64_t count) {
    uint32_t combined = 0;
    const int64_t stride = int64_t(gridDim.x) * blockDim.x;
    int64_t index = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    for (; index + (UNROLL - 1) * stride < count; index += UNROLL * stride) {
        uint4 values[UNROLL];
#pragma unroll
        for (int i = 0; i < UNROLL; i++) values[i] = load_once(source + index + i * stride);
#pragma unroll
        for (int i = 0; i < UNROLL; i++) combined ^= values[i].x ^ values[i].y ^ values[i].z ^ values[i].w;
    }
    for (; index < count; index += stride) {
        const uint4 value = load_once(source + index);
        combined ^= value.x ^ value.y ^ value.z ^ value.w;
    }
    if (combined == 0x12345678u) found[0] = combined;  // never in practice: it keeps the loads
}

constexpr int CHAINS = 16, REPEATS = 8;

// rounds * 128 dependent-in-16-chains dp4a a thread.
extern "C" __global__ void dp4a_rate(int32_t* __restrict__ found, int rounds) {
    int32_t sums[CHAINS];
#pragma unroll
    for (int i = 0; i < CHAINS; i++) sums[i] = int32_t(threadIdx.x) + i;
    const uint32_t a = uint32_t(found[0]), b = uint32_t(found[1]);
    for (int round = 0; round < rounds; round++) {
#pragma unroll
        for (int repeat = 0; repeat < REPEATS; repeat++) {
#pragma unroll
            for (int i = 0; i < CHAINS; i++) sums[i] = dot4(a, b, sums[i]);
        }
    }
    int32_t total = 0;
    for (int i = 0; i < CHAINS; i++) total += sums[i];
    if (total == 123) found[2] = total;
}

// rounds * 128 fused multiply-adds a thread.
extern "C" __global__ void ffma_rate(float* __restrict__ found, int rounds) {
    float sums[CHAINS];
#pragma unroll
    for (int i = 0; i < CHAINS; i++) sums[i] = float(threadIdx.x + i);
    const float a = found[0], b = found[1];
    for (int round = 0; round < rounds; round++) {
#pragma unroll
        for (int repeat = 0; repeat < REPEATS; repeat++) {
#pragma unroll
            for (int i = 0; i < CHAINS; i++) sums[i] = sums[i] * a + b;
        }
    }
    float total = 0.0f;
    for (int i = 0; i < CHAINS; i++) total += sums[i];
    if (total == 123.0f) found[2] = total;
}

// What a node of a graph costs.
extern "C" __global__ void nothing(int) {}
