// Kernels that do one thing wrong each, and their right neighbours; see test_host_shim.py.
#include "platform.cuh"

extern "C" __global__ void reversed(const int* x, int* y, int count) {
    DYNAMIC_SHARED(int, tile);
    const int thread = threadIdx.x, index = blockIdx.x * blockDim.x + thread;
    tile[thread] = index < count ? x[index] : 0;
    __syncthreads();
    const int from = blockDim.x - 1 - thread;
    if (index < count) y[index] = tile[from];
}

extern "C" __global__ void reversed_without_barrier(const int* x, int* y, int count) {
    DYNAMIC_SHARED(int, tile);
    const int thread = threadIdx.x, index = blockIdx.x * blockDim.x + thread;
    tile[thread] = index < count ? x[index] : 0;
    if (index < count) y[index] = tile[blockDim.x - 1 - thread];
}

extern "C" __global__ void barrier_after_return(const int* x, int* y, int count) {
    const int index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= count) return;
    __syncthreads();
    y[index] = x[index];
}

extern "C" __global__ void barriers_in_two_branches(const int* x, int* y, int count) {
    const int index = blockIdx.x * blockDim.x + threadIdx.x;
    if (threadIdx.x < 32) {
        __syncthreads();
    } else {
        __syncthreads();
    }
    if (index < count) y[index] = x[index];
}

extern "C" __global__ void shuffle_in_a_branch(const int* x, int* y, int count) {
    const int index = blockIdx.x * blockDim.x + threadIdx.x;
    int value = threadIdx.x;
    if (threadIdx.x % 32 < 16) value = shuffle_xor(value, 1);
    if (index < count) y[index] = value + 0 * x[index];
}

extern "C" __global__ void not_aligned(const int* x, int* y, int count) {
    const int index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= count) return;
    const uint4 four = load_once(reinterpret_cast<const uint4*>(x + index % 4));
    y[index] = int(four.x);
}

extern "C" __global__ void static_shared_overrun(const int* x, int* y, int count) {
    __shared__ int tile[16];
    const int index = blockIdx.x * blockDim.x + threadIdx.x;
    tile[threadIdx.x] = x[index];
    __syncthreads();
    if (index < count) y[index] = tile[threadIdx.x];
}

extern "C" __global__ void dynamic_shared_overrun(const int* x, int* y, int count) {
    DYNAMIC_SHARED(int, tile);
    const int index = blockIdx.x * blockDim.x + threadIdx.x;
    tile[threadIdx.x + 4] = 0;
    if (index < count) y[index] = x[index];
}

extern "C" __global__ void shared_read_before_write(const int* x, int* y, int count) {
    __shared__ int tile[64];
    const int index = blockIdx.x * blockDim.x + threadIdx.x;
    if (threadIdx.x % 2 == 0) tile[threadIdx.x] = x[index % count];
    __syncthreads();
    if (index < count) y[index] = tile[threadIdx.x];
}

extern "C" __global__ void writes_input(int* x, int* y, int count) {
    const int index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index < count) x[index] = y[index] = 0;
}

extern "C" __global__ void one_too_many(const int* x, int* y, int count) {
    const int index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index <= count) y[index] = x[0];
}

extern "C" __global__ void one_too_few(const int* x, int* y, int count) {
    const int index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index < count - 1) y[index] = x[index];
}

extern "C" __global__ void endless_shift(const int* x, int* y, int count) {
    const int index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index < count) y[index] = 1u << (x[index] + 32);
}

extern "C" __global__ void narrow_offset(const uint8_t* x, int* y, int stride) {
    y[threadIdx.x] = x[int(threadIdx.x) * stride];
}

extern "C" __global__ void wide_offset(const uint8_t* x, int* y, int stride) {
    y[threadIdx.x] = x[size_t(threadIdx.x) * stride];
}

// The last block to come sums what all have left, and leaves the counter as it was.
extern "C" __global__ void counted(const int* x, int* y, int* parts, unsigned* counter, int count) {
    __shared__ bool is_last;
    if (threadIdx.x == 0) {
        parts[blockIdx.x] = x[blockIdx.x];
        __threadfence();
        is_last = atomicInc(counter, gridDim.x - 1) == gridDim.x - 1;
    }
    __syncthreads();
    if (!is_last || threadIdx.x != 0) return;
    int sum = 0;
    for (int i = 0; i < count; i++) sum += parts[i];
    y[0] = sum;
}

extern "C" __global__ void counted_for_ever(const int* x, int* y, int* parts, unsigned* counter, int count) {
    if (threadIdx.x == 0) parts[blockIdx.x] = x[blockIdx.x];
    if (threadIdx.x == 0 && atomicAdd(counter, 1) == gridDim.x - 1) y[0] = count;
}
