// y = an operation on each element of x, or of x and `second`. Rows may be parts of wider ones; y may be x.
//
// A thread takes a vector. Definitions: WIDTH; OPERATION, of operations.cuh.
#include "operations.cuh"
#include "row_vectors.cuh"

constexpr int THREADS = 256;

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
        values.values[i] = operated(first.values[i], other.values[i], bits_to_float(number_bits));
    }
    store_vector<FP32>(y + size_t(row) * y_stride + column, values);
}
