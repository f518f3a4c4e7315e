// y = x / sqrt(mean(x^2) + epsilon) * gain over rows of `columns` numbers: of tokens, or of each head of tokens.
//
// A row is taken by a block, or, where it is short, by a warp, several rows a block. y is in one piece.
//
// Definitions: those of row_norm.cuh; ROWS, that a block takes; GAIN_TYPE.
#include "row_norm.cuh"

extern "C" __global__ void __launch_bounds__(ROWS * ROW_THREADS)
rms_norm(const float* __restrict__ x, const void* __restrict__ gain, float* __restrict__ y, int rows, int heads,
         int columns, int token_stride, int head_stride, uint32_t epsilon_bits) {
    let_next_launch_begin();
    const int index = blockIdx.x * ROWS + threadIdx.x / ROW_THREADS;
    if (ROWS > 1 && index >= rows) return;
    Row gains, row;
    gains.fill(columns, [&](int column) {
        return load_parameter<GAIN_TYPE>(static_cast<const Element<GAIN_TYPE>::Stored*>(gain) + column);
    });
    const int token = index / heads, head = index - token * heads;
    const float* const own = x + size_t(token) * token_stride + size_t(head) * head_stride;
    wait_for_launches_before();
    row.fill(columns, [&](int column) { return load_activation(own + column); });
    const float inverse = inverse_root_mean_square(row, columns, bits_to_float(epsilon_bits));
    float* const result = y + size_t(index) * columns;
#pragma unroll
    for (int i = 0; i < VECTORS; i++) {
        if (Row::column(i) >= columns) break;
        store_vector<FP32>(result + Row::column(i), normalised(row.vectors[i], inverse, gains.vectors[i]));
    }
}
