// activation(gate) * up, as the QuantisedInput of a linear: what elementwise.cu and quantise_input.cu would make of it.
//
// A warp takes a slab of a row. Definitions: OPERATION, of operations.cuh; those of slab_input.cuh; IS_WHOLE: rows are whole
// vectors of four, not permuted.
#include "operations.cuh"
#include "slab_output.cuh"

constexpr int WARPS = 8;

extern "C" __global__ void __launch_bounds__(32 * WARPS)
quantise_gated(const float* __restrict__ gate, const float* __restrict__ up, const int32_t* __restrict__ inputs,
               uint32_t* __restrict__ codes, float* __restrict__ scales, int32_t* __restrict__ sums, int rows, int columns,
               int slabs, int gate_stride, int up_stride) {
    let_next_launch_begin();
    wait_for_launches_before();
    const int lane = threadIdx.x & 31;
    // Warps take the slabs of a row one after another: their reads are neighbours.
    const int item = blockIdx.x * WARPS + (threadIdx.x >> 5);
    if (item >= rows * slabs) return;
    const int row = item / slabs, slab = item - row * slabs, first = slab * SLAB + 4 * lane;
    const float* const gates = gate + size_t(row) * gate_stride;
    const float* const ups = up + size_t(row) * up_stride;
    float values[4] = {};
    if constexpr (IS_WHOLE) {
        if (first < columns) {
            const float4 four = load_handed_on(reinterpret_cast<const float4*>(gates + first));
            const float4 factors = load_handed_on(reinterpret_cast<const float4*>(ups + first));
            values[0] = operated(four.x, factors.x, 0.0f);
            values[1] = operated(four.y, factors.y, 0.0f);
            values[2] = operated(four.z, factors.z, 0.0f);
            values[3] = operated(four.w, factors.w, 0.0f);
        }
    } else {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int stored = first + i;
            const int input = HAS_PERMUTATION ? load_constant(inputs + stored) : stored < columns ? stored : -1;
            if (input >= 0) values[i] = operated(load_handed_on(gates + input), load_handed_on(ups + input), 0.0f);
        }
    }
    QuantisedOutput{codes, scales, sums, rows}.store(slab, row, lane, values);
}
