// y = x * W^T for a few rows, W packed in slabs: bound by reading W once.
//
// A warp takes slabs k_warp, k_warp + K_WARPS ... and streams tiles of 8 outputs from memory to registers,
// TILES_IN_FLIGHT at a time; its lanes keep their quarter of the slab's inputs in registers, quantised by the warp
// itself while the first tiles are on their way. A block has a contiguous range of tiles (with
// GATE, of gate tiles and the same of up tiles), in chunks of which the
// warps' partial sums fit into shared memory: (K_WARPS, ROWS, outputs of the chunk). They are added in a fixed order.
//
// Definitions: those of packed_weight.cuh, slab_input.cuh, epilogue.cuh, decode_input.cuh and weight_stream.cuh;
// K_WARPS and TILE_WARPS of a block, along K and along the chunk's tiles; BLOCKS that a multiprocessor is to hold.
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

// The sum over warps along K of one output: 4 lanes, 8 apart, take every fourth each.
PASCALINE_INLINE float sum_of_warps(const float* partial, int stride, int lane) {
    float sum = 0.0f;
#pragma unroll
    for (int first = 0; first < K_WARPS; first += 4) {
        const int k_warp = first + (lane >> 3);
        if (K_WARPS % 4 == 0 || k_warp < K_WARPS) sum += partial[k_warp * stride];
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
              const void* bias, const void* residual, void* y, int columns, int outputs, int padded_outputs, int slabs,
              int chunk_units) {
    DYNAMIC_SHARED(float, shared);
    const PackedWeight weight = {codes, scales, integers, integers_high, zeros, padded_outputs};
    const Epilogue epilogue = {bias, residual, y, outputs};
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    const Lane own = make_lane(lane);
    const int k_warp = TILE_WARPS == 1 ? warp : warp % K_WARPS;
    const int units = padded_outputs / TILE_OUTPUTS / KINDS;
    const Route route = {int((long long)(units)*blockIdx.x / gridDim.x),
                         int((long long)(units) * (blockIdx.x + 1) / gridDim.x),
                         chunk_units,
                         k_warp,
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
    load_rows(k_warp);
#endif
    // As only the caller knows; with the thread's number in it so that it is kept where permutations can take it.
    const uint32_t zero = uint32_t(columns + int(threadIdx.x)) >> 31;
    QuarterInput input[ROWS];

#pragma unroll 1
    for (int chunk = route.begin; chunk < route.end; chunk += chunk_units) {
        const int chunk_end = route.chunk_end(chunk);
#pragma unroll 1
        for (int slab = k_warp; slab < (ONE_SLAB ? k_warp + 1 : slabs); slab += K_WARPS) {
            if (!ONE_SLAB || chunk == route.begin) {  // one slab's are kept
#pragma unroll
                for (int row = 0; row < ROWS; row++) {
#if QUANTISED_INPUT
                    take_quantised(input[row], quantised, slab, row, lane);
#else
                    take_inputs(input[row], loaded[row], exchange, lane);
#endif
                }
#if !QUANTISED_INPUT && !ONE_SLAB
                load_rows(slab + K_WARPS < slabs ? slab + K_WARPS : k_warp);
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
                            sum = ONE_SLAB || slab == k_warp ? value : sum + value;
                        }
                    }
                }
            }
        }
        __syncthreads();
        // One row of one unit by a warp.
        const int chunk_size = chunk_end - chunk;
#pragma unroll 1
        for (int item = warp; item < ROWS * chunk_size; item += WARPS) {
            const int row = ROWS == 1 ? 0 : item / chunk_size, unit = item - row * chunk_size;
            const int output = (chunk + unit) * TILE_OUTPUTS + (lane & 7);
            const float* sums = partial + buffer + row * row_stride + unit * TILE_OUTPUTS + (lane & 7);
            const float sum = sum_of_warps(sums, warp_stride, lane);
            if constexpr (GATE) {
                const float up = sum_of_warps(sums + kind_stride, warp_stride, lane);
                if (lane < 8) epilogue.store_gated(row, output, sum, up);
            } else {
                if (lane < 8) epilogue.store(row, output, sum);
            }
        }
        // Sums of this chunk are read while those of the next are made.
        buffer = K_WARPS * warp_stride - buffer;
    }
}
