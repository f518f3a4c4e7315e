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

// One tile: a (rows, k) and b (8, k) as they lie in memory, 32-bit words along k.
template <int row_halves, int k_parts>
struct Fragments {
    uint32_t a[row_halves * k_parts], b[k_parts];
    PASCALINE_INLINE Fragments(const uint32_t* left, const uint32_t* right) {
        const int group = threadIdx.x / 4, member = threadIdx.x % 4;
        for (int part = 0; part < k_parts; part++) {
            for (int half = 0; half < row_halves; half++) {
                a[part * row_halves + half] = left[(group + 8 * half) * 4 * k_parts + 4 * part + member];
            }
            b[part] = right[group * 4 * k_parts + 4 * part + member];
        }
    }
};

template <typename Sum, int count>
PASCALINE_INLINE void store(Sum* y, const Sum (&sums)[count]) {
    for (int i = 0; i < count; i++) {
        y[(threadIdx.x / 4 + 8 * (i / 2)) * 8 + 2 * (threadIdx.x % 4) + i % 2] = sums[i];
    }
}

extern "C" __global__ void half_16x8x16(const uint32_t* a, const uint32_t* b, float* y) {
    const Fragments<2, 2> tile(a, b);
    float sums[4] = {1.0f, 1.0f, 1.0f, 1.0f};
    multiply_16x8x16_half(sums, tile.a, tile.b);
    store(y, sums);
}

extern "C" __global__ void bfloat16_16x8x16(const uint32_t* a, const uint32_t* b, float* y) {
    const Fragments<2, 2> tile(a, b);
    float sums[4] = {1.0f, 1.0f, 1.0f, 1.0f};
    multiply_16x8x16_bfloat16(sums, tile.a, tile.b);
    store(y, sums);
}

extern "C" __global__ void half_16x8x8(const uint32_t* a, const uint32_t* b, float* y) {
    const Fragments<2, 1> tile(a, b);
    float sums[4] = {1.0f, 1.0f, 1.0f, 1.0f};
    multiply_16x8x8_half(sums, tile.a, tile.b[0]);
    store(y, sums);
}

extern "C" __global__ void int8_16x8x32(const uint32_t* a, const uint32_t* b, int32_t* y) {
    const Fragments<2, 2> tile(a, b);
    int32_t sums[4] = {1, 1, 1, 1};
    multiply_16x8x32_int8(sums, tile.a, tile.b);
    store(y, sums);
}

extern "C" __global__ void int8_8x8x16(const uint32_t* a, const uint32_t* b, int32_t* y) {
    const Fragments<1, 1> tile(a, b);
    int32_t sums[2] = {1, 1};
    multiply_8x8x16_int8(sums, tile.a[0], tile.b[0]);
    store(y, sums);
}

// As the product above, with a of 16 x 16 halves fetched from shared memory.
extern "C" __global__ void half_from_matrices(const uint32_t* a, const uint32_t* b, float* y) {
    __shared__ uint4 rows[32];  // 16 rows of two pieces of 8 halves
    rows[threadIdx.x] = reinterpret_cast<const uint4*>(a)[threadIdx.x];
    __syncthreads();
    const int matrix = threadIdx.x / 8, row = threadIdx.x % 8 + 8 * (matrix % 2);
    uint32_t left[4];
    load_four_matrices(left, &rows[2 * row + matrix / 2]);
    const Fragments<2, 2> tile(a, b);
    float sums[4] = {1.0f, 1.0f, 1.0f, 1.0f};
    multiply_16x8x16_half(sums, left, tile.b);
    store(y, sums);
}
