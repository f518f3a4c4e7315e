// activation(gate) * up in bf16: what elementwise.cu and round_rows.cu would make of it, with the same bits.
//
// A thread takes a vector. Definitions: OPERATION, of operations.cuh; those of brain_numbers.cuh.
#include "brain_numbers.cuh"
#include "operations.cuh"

constexpr int THREADS = 256;

// vectors: of all rows; row_vectors: of one.
extern "C" __global__ void __launch_bounds__(THREADS)
round_gated(const float* __restrict__ gate, const float* __restrict__ up, uint16_t* __restrict__ halves, int vectors,
            int row_vectors, int gate_stride, int up_stride) {
    let_next_launch_begin();
    const int index = blockIdx.x * THREADS + threadIdx.x;
    if (index >= vectors) return;
    const int row = index / row_vectors, column = (index - row * row_vectors) * WIDTH;
    wait_for_launches_before();
    const Vector gates = load_activation(gate + size_t(row) * gate_stride + column);
    const Vector ups = load_activation(up + size_t(row) * up_stride + column);
    Vector gated;
#pragma unroll
    for (int i = 0; i < WIDTH; i++) gated.values[i] = operated(gates.values[i], ups.values[i], 0.0f);
    store_brain_numbers(gated, halves + size_t(index) * WIDTH, size_t(vectors) * WIDTH);
}
