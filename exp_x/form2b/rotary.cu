// y = x with the halves of each head, or of its first part, rotated by the token's position (rotation.cuh).
//
// x (tokens, heads, head_dim), heads and tokens at strides of their own; y in one piece. A thread takes a vector.
// Definitions: WIDTH.
#include "rotation.cuh"

constexpr int THREADS = 256;

// vectors: of y; head_vectors: of a head.
extern "C" __global__ void __launch_bounds__(THREADS)
rotary(const float* __restrict__ x, const int64_t* __restrict__ positions, const float* __restrict__ cosine,
       const float* __restrict__ sine, float* __restrict__ y, int vectors, int heads, int head_vectors, int half,
       int token_stride, int head_stride) {
    let_next_launch_begin();
    const int index = blockIdx.x * THREADS + threadIdx.x;
    if (index >= vectors) return;
    const int row = index / head_vectors, column = (index - row * head_vectors) * WIDTH;
    const int token = row / heads, head = row - token * heads;
    const float* const own = x + size_t(token) * token_stride + size_t(head) * head_stride;
    wait_for_launches_before();
    const int64_t position = load_handed_on(positions + token);
    const Vector values = rotated(column, half, table_row(cosine, position, half), table_row(sine, position, half),
                                  [&](int from) { return load_activation(own + from); });
    store_vector<FP32>(y + size_t(index) * WIDTH, values);
}
