// y = an operation on each element of x, or of x and `second`. Rows may be parts of wider ones; y may be x.
//
// A thread takes a vector. Definitions: WIDTH; OPERATION, one of those below.
#include "row_vectors.cuh"

constexpr int ADD = 0, SCALE = 1, SOFT_CAP = 2, SILU_AND_MUL = 3, GELU_AND_MUL = 4;
constexpr bool HAS_SECOND = OPERATION != SCALE && OPERATION != SOFT_CAP;
constexpr int THREADS = 256;

#include "gates.cuh"

PASCALINE_INLINE float result(float x, float second, float number) {
    if constexpr (OPERATION == ADD) return x + second;
    if constexpr (OPERATION == SCALE) return number * x;
    if constexpr (OPERATION == SOFT_CAP) return number * tanhf(x / number);
    if constexpr (OPERATION == SILU_AND_MUL) return silu(x) * second;
    return gelu(x) * second;
}

// vectors: of all rows; row_vectors: of one.
extern "C" __global__ void __launch_bounds__(THREADS)
elementwise(const float* x, const float* second, float* y, int vectors, int row_vectors, int x_stride,
            int second_stride, int y_stride, uint32_t number_bits) {
    let_next_launch_begin();
    const int index = blockIdx.x * THREADS + threadIdx.x;
    if (index >= vectors) return;
    const int row = index / row_vectors, column = (index - row * row_vectors) * WIDTH;
    wait_for_launches_before();
    const Vector first = load_changing(x + size_t(row) * x_stride + column);
    Vector other = {}, values;
    if constexpr (HAS_SECOND) other = load_changing(second + size_t(row) * second_stride + column);
#pragma unroll
    for (int i = 0; i < WIDTH; i++) {
        values.values[i] = result(first.values[i], other.values[i], bits_to_float(number_bits));
    }
    store_vector<FP32>(y + size_t(row) * y_stride + column, values);
}
