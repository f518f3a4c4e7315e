// One operation of the stand-in a kernel, for test_host_shim.py.
#include "matrix.cuh"

extern "C" __global__ void to_half(const float* x, uint16_t* y) {
    const int index = blockIdx.x * blockDim.x + threadIdx.x;
    y[index] = float_to_half(x[index]);
}

extern "C" __global__ void from_half(const uint16_t* x, float* y) {
    const int index = blockIdx.x * blockDim.x + threadIdx.x;
    y[index] = half_to_float(x[index]);
}

extern "C" __global__ void to_bfloat16(const float* x, uint16_t* y) {
    const int index = blockIdx.x * blockDim.x + threadIdx.x;
    y[index] = float_to_bfloat16(x[index]);
}

extern "C" __global__ void dots(const uint32_t* x, int32_t* y) {
    const int index = threadIdx.x;
    y[index] = dot4(x[2 * index], x[2 * index + 1], 7);
}

extern "C" __global__ void bytes(const uint32_t* x, uint32_t* y) {
    const int index = threadIdx.x;
    y[index] = permute_bytes(x[3 * index], x[3 * index + 1], x[3 * index + 2]);
}

extern "C" __global__ void shuffles(const int* x, int* y) {
    const int thread = threadIdx.x, value = x[thread];
    y[thread] = shuffle_xor(value, 5);
    y[64 + thread] = shuffle_from(value, 3);
    y[128 + thread] = __shfl_down_sync(0xFFFFFFFFu, value, 4);
    y[192 + thread] = __shfl_up_sync(0xFFFFFFFFu, value, 4);
    y[256 + thread] = __shfl_sync(0xFFFFFFFFu, value, thread + 1, 8);
    y[320 + thread] = int(__ballot_sync(0xFFFFFFFFu, value % 3 == 0));
}

// One tile: a (16, k) and b (8, k) as they lie in memory, 32-bit words along k.
template <int k_parts>
struct Fragments {
    uint32_t a[2 * k_parts], b[k_parts];
    PASCALINE_INLINE Fragments(const uint32_t* left, const uint32_t* right) {
        const int group = threadIdx.x / 4, member = threadIdx.x % 4;
        for (int part = 0; part < k_parts; part++) {
            for (int half = 0; half < 2; half++) {
                a[part * 2 + half] = left[(group + 8 * half) * 4 * k_parts + 4 * part + member];
            }
            b[part] = right[group * 4 * k_parts + 4 * part + member];
        }
    }
};

PASCALINE_INLINE void store(float* y, const float (&sums)[4]) {
    for (int i = 0; i < 4; i++) {
        y[(threadIdx.x / 4 + 8 * (i / 2)) * 8 + 2 * (threadIdx.x % 4) + i % 2] = sums[i];
    }
}

extern "C" __global__ void half_16x8x16(const uint32_t* a, const uint32_t* b, float* y) {
    const Fragments<2> tile(a, b);
    float sums[4] = {1.0f, 1.0f, 1.0f, 1.0f};
    multiply_16x8x16_half(sums, tile.a, tile.b);
    store(y, sums);
}

extern "C" __global__ void bfloat16_16x8x16(const uint32_t* a, const uint32_t* b, float* y) {
    const Fragments<2> tile(a, b);
    float sums[4] = {1.0f, 1.0f, 1.0f, 1.0f};
    multiply_16x8x16_bfloat16(sums, tile.a, tile.b);
    store(y, sums);
}

extern "C" __global__ void half_16x8x8(const uint32_t* a, const uint32_t* b, float* y) {
    const Fragments<1> tile(a, b);
    float sums[4] = {1.0f, 1.0f, 1.0f, 1.0f};
    multiply_16x8x8_half(sums, tile.a, tile.b[0]);
    store(y, sums);
}
