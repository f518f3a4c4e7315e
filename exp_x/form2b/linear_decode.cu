// y = x * W^T for a few rows, W packed in slabs: bound by reading W once.
//
// A warp takes slabs k_warp, k_warp + K_WARPS ... and streams tiles of 8 outputs from memory to registers,
// TILES_IN_FLIGHT at a time; its lanes keep their quarter of the slab's inputs in registers, quantised by the warp
// itself while the first tiles are on their way. A block has a contiguous range of outputs (with GATE, of gates and the
// same of ups), in chunks of which the warps' partial sums fit into shared memory: (K_WARPS, ROWS, outputs of the
// chunk). They are added in a fixed order.
//
// With PARTS > 1, so many blocks (along y) share outputs, and each has a part of the slabs: fewer inputs to quantise
// for as many tiles. Each leaves its sums in memory, and the last to arrive adds them, also in a fixed order.
//
// Definitions: those of packed_weight.cuh, slab_input.cuh, epilogue.cuh, decode_input.cuh and weight_stream.cuh;
// K_WARPS and TILE_WARPS of a block, along K and along the chunk's tiles; BLOCKS that a multiprocessor is to hold;
// PARTS.
#include "arrivals.cuh"
#include "decode_input.cuh"
#include "epilogue.cuh"
#include "reduction.cuh"
#include "weight_stream.cuh"

constexpr int WARPS = K_WARPS * TILE_WARPS;

// values[row][u]: a tile's products with every row, in the weight's scales.
PASCALINE_INLINE void scale_products(const QuarterFactors& factors, const QuarterInput (&input)[ROWS],
                                     const float (&products)[ROWS][HALVES], int u,
                                     float (&values)[ROWS][TILES_IN_FLIGHT]) {
#pragma unroll
    for (int row = 0; row < ROWS; row++) {
        float value = 0.0f;
#pragma unroll
        for (int half = 0; half < HALVES; half++) {
            float sum = products[row][half];
            if constexpr (ZERO_BITS != 0) sum -= float(factors.zero - ZERO) * input[row].sums[half];
            value += factors.scale[half] * sum;
            if constexpr (HAS_OFFSETS) value -= factors.offset[half] * input[row].sums[half];
        }
        values[row][u] = value;
    }
}

// One output's sum over what other blocks have left.
PASCALINE_INLINE float sum_of_parts(const float* partial, size_t stride) {
    float parts[PARTS];
#pragma unroll
    for (int part = 0; part < PARTS; part++) parts[part] = load_fresh(partial + part * stride);
    float sum = parts[0];
#pragma unroll
    for (int part = 1; part < PARTS; part++) sum += parts[part];
    return sum;
}

// The sum over warps along K of one output: 4 lanes, 8 apart, take every fourth each.
PASCALINE_INLINE float sum_of_warps(const float* partial, int warps, int stride, int lane) {
    float sum = 0.0f;
#pragma unroll
    for (int first = 0; first < K_WARPS; first += 4) {
        const int k_warp = first + (lane >> 3);
        if ((K_WARPS % 4 == 0 && PARTS == 1) || k_warp < warps) sum += partial[k_warp * stride];
    }
    sum += shuffle_xor(sum, 8);
    return sum + shuffle_xor(sum, 16);
}

extern "C" __global__ void __launch_bounds__(32 * WARPS, BLOCKS)
linear_decode(const uint8_t* __restrict__ codes, const uint8_t* __restrict__ scales,
              const uint8_t* __restrict__ integers, const uint8_t* __restrict__ integers_high,
              const uint8_t* __restrict__ zeros,
#if QUANTISED_INPUT
              const int8_t* __restrict__ input_codes, const float* __restrict__ input_scales,
              const int32_t* __restrict__ input_sums,
#else
              const int32_t* __restrict__ inputs, const void* __restrict__ x,
#endif
              const void* bias, const void* residual, void* y, float* partials, uint32_t* arrivals, int columns,
              int outputs, int padded_outputs, int all_slabs, int chunk_units) {
    DYNAMIC_SHARED(float, shared);
    const PackedWeight weight = {codes, scales, integers, integers_high, zeros, padded_outputs};
    const Epilogue epilogue = {bias, residual, y, outputs};
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    const Lane own = make_lane(lane);
    const int k_warp = TILE_WARPS == 1 ? warp : warp % K_WARPS;
    const uint32_t grains = padded_outputs / KINDS / GRAIN;
    const int first_output = GRAIN * int(uint64_t(grains) * blockIdx.x / gridDim.x);
    const int end_output = GRAIN * int(uint64_t(grains) * (blockIdx.x + 1) / gridDim.x);
    const int own_outputs = end_output - first_output, units = (own_outputs + TILE_OUTPUTS - 1) / TILE_OUTPUTS;
    const int first_slab = PARTS == 1 ? k_warp : all_slabs * int(blockIdx.y) / PARTS + k_warp;
    const int slabs = PARTS == 1 ? all_slabs : all_slabs * int(blockIdx.y + 1) / PARTS;
    // Of a part there may be one slab less than warps.
    const bool is_idle = PARTS > 1 && first_slab >= slabs;
    const Route route = {first_output,
                         is_idle ? 0 : own_outputs,
                         is_idle ? 0 : units,
                         chunk_units,
                         first_slab,
                         K_WARPS,
                         slabs,
                         TILE_WARPS == 1 ? 0 : UNITS * (warp / K_WARPS),
                         UNITS * TILE_WARPS};
    auto* bytes = reinterpret_cast<uint8_t*>(shared);
    WeightStream stream(weight, route, own, bytes + warp * WeightStream::SHARED_BYTES);
    uint32_t* exchange =
        reinterpret_cast<uint32_t*>(bytes + WARPS * WeightStream::SHARED_BYTES) + warp * EXCHANGE_WORDS;
    float* partial = reinterpret_cast<float*>(bytes + WARPS * (WeightStream::SHARED_BYTES + 4 * EXCHANGE_WORDS));
    // A stride of 8 more than whole lines: four warps' sums of 8 outputs lie in different banks.
    const int kind_stride = chunk_units * TILE_OUTPUTS, row_stride = KINDS * kind_stride;
    const int warp_stride = ROWS * row_stride + 8;
    int buffer = 0;  // where the chunk's sums begin: two take turns
    const int own_partial = k_warp * warp_stride + own.held_tile / UNITS * kind_stride +
                            own.held_unit * TILE_OUTPUTS + own.output;
    wait_for_launches_before();
    let_next_launch_begin();
#if QUANTISED_INPUT
    const QuantisedInput quantised = {input_codes, input_scales, input_sums, ROWS};
#else
    LoadedInputs loaded[ROWS];
    auto load_rows = [&](int slab) {
#pragma unroll
        for (int row = 0; row < ROWS; row++) {
            const auto* row_inputs = static_cast<const InputElement::Stored*>(x) + size_t(row) * columns;
            loaded[row] = load_inputs(row_inputs, inputs, slab, columns, lane);
        }
    };
    load_rows(is_idle ? 0 : first_slab);
#endif
    // As only the caller knows; with the thread's number in it so that it is kept where permutations can take it.
    const uint32_t zero = uint32_t(columns + int(threadIdx.x)) >> 31;
    QuarterInput input[ROWS];

#pragma unroll 1
    for (int chunk = 0; chunk < units; chunk += chunk_units) {
        const int chunk_end = min(chunk + chunk_units, units);
#pragma unroll 1
        for (int slab = first_slab; slab < (ONE_SLAB && PARTS == 1 ? first_slab + 1 : slabs); slab += K_WARPS) {
            if (!ONE_SLAB || chunk == 0) {  // one slab's are kept
#pragma unroll
                for (int row = 0; row < ROWS; row++) {
#if QUANTISED_INPUT
                    take_quantised(input[row], quantised, slab, row, lane);
#else
                    take_inputs(input[row], loaded[row], exchange, lane);
#endif
                }
#if !QUANTISED_INPUT && !ONE_SLAB
                load_rows(slab + K_WARPS < slabs ? slab + K_WARPS : first_slab);
#endif
            }
#pragma unroll 1
            for (int unit = chunk + route.first_unit; unit < chunk_end; unit += UNITS * TILE_WARPS) {
                stream.begin_batch();
                float values[ROWS][TILES_IN_FLIGHT];
#pragma unroll
                for (int u = 0; u < TILES_IN_FLIGHT; u++) {
                    float products[ROWS][HALVES];
                    multiply(stream.codes(u), input, zero, products);
                    if constexpr (HAS_SLAB_NUMBERS) {
#pragma unroll
                        for (int row = 0; row < ROWS; row++) values[row][u] = products[row][0];
                    } else {
                        scale_products(factors_of(stream.numbers(u, slab)), input, products, u, values);
                    }
                }
                stream.free_codes();
                QuarterFactors factors[HELD];
                if constexpr (HAS_SLAB_NUMBERS) {
#pragma unroll
                    for (int i = 0; i < HELD; i++) factors[i] = factors_of(stream.numbers(i, slab));
                }
                stream.free_numbers();
                float* sums = partial + buffer + own_partial + (unit - chunk) * TILE_OUTPUTS;
#pragma unroll
                for (int row = 0; row < ROWS; row++) {
                    reduce_lanes<4>(values[row], own.quarter);
#pragma unroll
                    for (int i = 0; i < HELD; i++) {
                        float value = values[row][i];
                        if constexpr (HAS_SLAB_NUMBERS) {
                            if constexpr (ZERO_BITS != 0) value -= float(factors[i].zero - ZERO) * input[row].sums[0];
                            value *= factors[i].scale[0];
                            if constexpr (HAS_OFFSETS) value -= factors[i].offset[0] * input[row].sums[0];
                        }
                        if (unit + own.held_unit + i < chunk_end && own.quarter % SHARING == 0) {
                            float& sum = sums[row * row_stride + i * TILE_OUTPUTS];
                            sum = ONE_SLAB || slab == first_slab ? value : sum + value;
                        }
                    }
                }
            }
        }
        __syncthreads();
        // One row of one unit by a warp. Warps that have no slab have no sums.
        const int warps = PARTS == 1 ? K_WARPS : min(K_WARPS, slabs - (first_slab - k_warp));
        const int chunk_size = chunk_end - chunk;
#pragma unroll 1
        for (int item = warp; item < ROWS * chunk_size; item += WARPS) {
            const int row = ROWS == 1 ? 0 : item / chunk_size, unit = item - row * chunk_size;
            const int further = (chunk + unit) * TILE_OUTPUTS + (lane & 7), output = first_output + further;
            const bool is_own = lane < 8 && (!HAS_HALF_TILES || further < own_outputs);
            const float* sums = partial + buffer + row * row_stride + unit * TILE_OUTPUTS + (lane & 7);
            const float sum = sum_of_warps(sums, warps, warp_stride, lane);
            const float up = GATE ? sum_of_warps(sums + kind_stride, warps, warp_stride, lane) : 0.0f;
            if (!is_own) continue;
            if constexpr (PARTS > 1) {
                float* part = partials + (size_t(blockIdx.y) * ROWS + row) * padded_outputs + output;
                part[0] = sum;
                if constexpr (GATE) part[padded_outputs / 2] = up;
            } else if constexpr (GATE) {
                epilogue.store_gated(row, output, sum, up);
            } else {
                epilogue.store(row, output, sum);
            }
        }
        // Sums of this chunk are read while those of the next are made.
        buffer = K_WARPS * warp_stride - buffer;
    }
    if constexpr (PARTS > 1) {
        __shared__ uint32_t arrived;
        if (!comes_last(arrivals + blockIdx.x, PARTS, arrived)) return;
        for (int item = threadIdx.x; item < ROWS * own_outputs; item += 32 * WARPS) {
            const int row = ROWS == 1 ? 0 : item / own_outputs, output = first_output + item - row * own_outputs;
            const float* part = partials + size_t(row) * padded_outputs + output;
            const float sum = sum_of_parts(part, size_t(ROWS) * padded_outputs);
            if constexpr (GATE) {
                const float up = sum_of_parts(part + padded_outputs / 2, size_t(ROWS) * padded_outputs);
                epilogue.store_gated(row, output, sum, up);
            } else {
                epilogue.store(row, output, sum);
            }
        }
    }
}
