// y = x * W^T for a few rows, W dense, (outputs, columns), in fp32 arithmetic: bound by reading W once.
//
// A warp takes OUTPUTS rows of W (with GATE, half of them gates and half the ups of the same outputs) and STEPS
// vectors of 16 bytes a lane of each at a time. Inputs come through the first cache.
//
// Definitions: those of epilogue.cuh; WEIGHT_TYPE, INPUT_TYPE; ROWS; OUTPUTS and STEPS; WARPS of a block.
#include "epilogue.cuh"
#include "reduction.cuh"

using WeightElement = Element<WEIGHT_TYPE>;
using InputElement = Element<INPUT_TYPE>;

constexpr int VECTOR = WEIGHT_TYPE == FP32 ? 4 : 8;  // columns of a lane's 16 bytes
constexpr int UNITS = OUTPUTS / (1 + GATE);          // outputs, or pairs of gate and up
constexpr int PADDED_ROWS = ROWS <= 2 ? ROWS : ROWS <= 4 ? 4 : 8;
constexpr int SUMS = OUTPUTS * PADDED_ROWS;
constexpr int HELD = SUMS > 32 ? SUMS / 32 : 1;

// The elements of a vector that begin at an aligned address.
template <int type>
PASCALINE_INLINE void widen_vector(const typename Element<type>::Stored* address, float (&values)[VECTOR]) {
    constexpr int words = VECTOR * (type == FP32 ? 4 : 2) / 4;
    uint32_t bits[words];
    if constexpr (words == 2) {
        const uint2 two = load_constant(reinterpret_cast<const uint2*>(address));
        bits[0] = two.x;
        bits[1] = two.y;
    } else {
#pragma unroll
        for (int i = 0; i < words / 4; i++) {
            const uint4 four = load_constant(reinterpret_cast<const uint4*>(address) + i);
            bits[4 * i] = four.x;
            bits[4 * i + 1] = four.y;
            bits[4 * i + 2] = four.z;
            bits[4 * i + 3] = four.w;
        }
    }
#pragma unroll
    for (int i = 0; i < VECTOR; i++) {
        if constexpr (type == FP32) {
            values[i] = bits_to_float(bits[i]);
        } else {
            values[i] = Element<type == FP32 ? FP16 : type>::widen(uint16_t(bits[i >> 1] >> (16 * (i & 1))));
        }
    }
}

PASCALINE_INLINE float weight_of(const uint4& four, int i) {
    const uint32_t words[4] = {four.x, four.y, four.z, four.w};
    if constexpr (WEIGHT_TYPE == FP32) return bits_to_float(words[i & 3]);
    return Element<WEIGHT_TYPE == FP32 ? FP16 : WEIGHT_TYPE>::widen(uint16_t(words[i >> 1] >> (16 * (i & 1))));
}

struct WeightRows {
    const WeightElement::Stored* first[OUTPUTS];
};

// Columns `start`, `start + 32 * VECTOR` ... of a lane, vector by vector.
PASCALINE_INLINE void add_vectors(const WeightRows& rows, const InputElement::Stored* x, int columns, int lane,
                                  float (&sums)[SUMS]) {
    constexpr int step = 32 * VECTOR;
#pragma unroll 1
    for (int start = VECTOR * lane; start < columns; start += STEPS * step) {
        uint4 weights[STEPS][OUTPUTS];
#pragma unroll
        for (int i = 0; i < STEPS; i++) {
#pragma unroll
            for (int output = 0; output < OUTPUTS; output++) {
                weights[i][output] = make_uint4(0, 0, 0, 0);
                if (start + i * step < columns) {
                    weights[i][output] = load_once(reinterpret_cast<const uint4*>(rows.first[output] + start + i * step));
                }
            }
        }
#pragma unroll
        for (int i = 0; i < STEPS; i++) {
            if (start + i * step >= columns) break;
#pragma unroll
            for (int row = 0; row < ROWS; row++) {
                float inputs[VECTOR];
                widen_vector<INPUT_TYPE>(x + size_t(row) * columns + start + i * step, inputs);
#pragma unroll
                for (int output = 0; output < OUTPUTS; output++) {
                    float& sum = sums[output * PADDED_ROWS + row];
#pragma unroll
                    for (int k = 0; k < VECTOR; k++) sum += inputs[k] * weight_of(weights[i][output], k);
                }
            }
        }
    }
}

// The same where rows are not aligned.
PASCALINE_INLINE void add_single(const WeightRows& rows, const InputElement::Stored* x, int columns, int lane,
                                 float (&sums)[SUMS]) {
#pragma unroll 1
    for (int column = lane; column < columns; column += 32) {
#pragma unroll
        for (int output = 0; output < OUTPUTS; output++) {
            const float weight = WeightElement::widen(load_constant(rows.first[output] + column));
#pragma unroll
            for (int row = 0; row < ROWS; row++) {
                const float input = InputElement::widen(load_constant(x + size_t(row) * columns + column));
                sums[output * PADDED_ROWS + row] += input * weight;
            }
        }
    }
}

extern "C" __global__ void __launch_bounds__(32 * WARPS)
linear_dense_decode(const void* __restrict__ weight, const void* __restrict__ x, const void* bias,
                    const void* residual, void* y, int columns, int outputs) {
    const Epilogue epilogue = {bias, residual, y, outputs};
    const int lane = threadIdx.x & 31;
    const int units = outputs / (1 + GATE);
    const int unit = (blockIdx.x * WARPS + (threadIdx.x >> 5)) * UNITS;
    if (unit >= units) return;
    WeightRows rows;
#pragma unroll
    for (int output = 0; output < OUTPUTS; output++) {
        // Beyond the last one it is read again, and thrown away.
        const int own = min(unit + output % UNITS, units - 1) + output / UNITS * units;
        rows.first[output] = static_cast<const WeightElement::Stored*>(weight) + size_t(own) * columns;
    }
    float sums[SUMS];
#pragma unroll
    for (float& sum : sums) sum = 0.0f;
    const auto* inputs = static_cast<const InputElement::Stored*>(x);
    if (columns % VECTOR == 0) {
        add_vectors(rows, inputs, columns, lane, sums);
    } else {
        add_single(rows, inputs, columns, lane, sums);
    }
    reduce_lanes<32>(sums, lane);
#pragma unroll
    for (int i = 0; i < HELD; i++) {
        const int held = lane * SUMS / 32 + i, output = held / PADDED_ROWS, row = held % PADDED_ROWS;
        const int own = unit + output % UNITS;
        const bool is_mine = lane * SUMS % 32 == 0 && row < ROWS && own < units;
        if constexpr (GATE) {
            // Ups are in the upper half of the lanes.
            const float up = shuffle_xor(sums[i], 16);
            if (is_mine && output < UNITS) epilogue.store_gated(row, own, sums[i], up);
        } else {
            if (is_mine) epilogue.store(row, own, sums[i]);
        }
    }
}
