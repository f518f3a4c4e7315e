// activation(gate) * up in fp16, each row by a power of two: what elementwise.cu and scale_rows.cu would make of it.
//
// A block takes a row. Definitions: OPERATION, of operations.cuh; those of row_scale.cuh.
#include "operations.cuh"
#include "row_scale.cuh"

extern "C" __global__ void __launch_bounds__(ROW_THREADS)
scale_gated(const float* __restrict__ gate, const float* __restrict__ up, const int32_t* __restrict__ inputs,
            uint16_t* __restrict__ scaled, float* __restrict__ factors, int columns, int gate_stride, int up_stride) {
    let_next_launch_begin();
    const float* const gates = gate + size_t(blockIdx.x) * gate_stride;
    const float* const ups = up + size_t(blockIdx.x) * up_stride;
    wait_for_launches_before();
    Row row, factor;
    row.fill(columns, [&](int column) { return load_activation(gates + column); });
    factor.fill(columns, [&](int column) { return load_activation(ups + column); });
#pragma unroll
    for (int i = 0; i < VECTORS; i++) {
#pragma unroll
        for (int j = 0; j < WIDTH; j++) {
            float& value = row.vectors[i].values[j];
            value = operated(value, factor.vectors[i].values[j], 0.0f);
        }
    }
    store_scaled(row, inputs, scaled + size_t(blockIdx.x) * columns, factors + blockIdx.x, columns);
}
