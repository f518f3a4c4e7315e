// y = x W^T for many rows without tensor cores: a tiled product of signed bytes, four to an instruction.
//
// A block makes 32 WARPS_M rows x 32 WARPS_N outputs, a warp 32 x 32, a thread 8 rows x 4 outputs: that many
// integers and as many fp32 totals leave room for two blocks of 256 threads in a multiprocessor's registers.
// Weights become signed bytes, zeros taken off, once a slab on their way to shared memory; inputs come as
// they are, half a slab of one plane at a time, while the half before is multiplied. Words of 4 inputs of all
// rows lie side by side, so that one 128-bit read brings the words of 4 rows or outputs, in as many register
// banks.
//
// The integers of a group (GROUP inputs that share all factors) start at 1.5 * 2^23: their bits are then that
// number plus the sum as fp32, |sum| <= 128 * 128 * 128 < 2^22, and one fused multiply-add takes it off and
// scales, exactly, because a weight's scale has at most 22 significant bits here. The high plane's factor of
// 256 goes to its scale.
//
// Definitions: those of packed_weight.cuh; PLANES; SCALE_GROUP, inputs of a scale of theirs: 32, 64 or 128;
// WARPS_M, WARPS_N, MIN_BLOCKS a multiprocessor; those of wide_epilogue.cuh (STORED_TOGETHER 1 with GATE).
//
// Slabs are split over gridDim.z; the last block of a tile to arrive adds the parts up in their order.
#include "partial_sums.cuh"
#include "tile_stages.cuh"
#include "wide_epilogue.cuh"

struct Accumulators {
    float totals[THREAD_ROWS][THREAD_OUTPUTS];
    int32_t sums[THREAD_ROWS][THREAD_OUTPUTS];

    // Half a slab of one plane.
    template <int half>
    PASCALINE_INLINE void multiply(const SharedSlab& shared, const SharedInputs& shared_inputs, int plane) {
        const uint32_t* weights = shared.weights + first_output();
        const uint32_t* inputs = shared_inputs.words + first_row();
#pragma unroll
        for (int word = 0; word < HALF_WORDS; word++) {
            const int slab_word = half * HALF_WORDS + word;
            const bool is_first = slab_word % GROUP_WORDS == 0;
            const uint4 four = *reinterpret_cast<const uint4*>(weights + weight_place(slab_word));
            const uint4 upper = *reinterpret_cast<const uint4*>(inputs + input_place(word));
            const uint4 lower = *reinterpret_cast<const uint4*>(inputs + input_place(word) + 16);
            const uint32_t rows[THREAD_ROWS] = {upper.x, upper.y, upper.z, upper.w,
                                                lower.x, lower.y, lower.z, lower.w};
            const uint32_t columns[THREAD_OUTPUTS] = {four.x, four.y, four.z, four.w};
#pragma unroll
            for (int i = 0; i < THREAD_ROWS; i++) {
#pragma unroll
                for (int step = 0; step < THREAD_OUTPUTS; step++) {
                    // To and fro: each product shares an operand with the one before, which chips up to 6.x
                    // then need not read from its register bank again. Beginning with the second output
                    // leaves them the fewest conflicts.
                    const int j = ((i % 2 ? THREAD_OUTPUTS - 1 - step : step) + 1) % THREAD_OUTPUTS;
                    sums[i][j] = dot4(rows[i], columns[j], is_first ? int32_t(START) : sums[i][j]);
                }
            }
            if ((slab_word + 1) % GROUP_WORDS == 0) add_group(shared, slab_word / GROUP_WORDS, plane);
        }
    }

    // Of the block's rows the thread has this one and three more, and as many 16 below; of its outputs four.
    static PASCALINE_INLINE int first_row() { return warp_row() * 32 + thread_row() * 4; }
    static PASCALINE_INLINE int first_output() { return warp_column() * 32 + thread_column() * 4; }
    static PASCALINE_INLINE int row_of(int i) { return i < 4 ? i : i + 12; }

  private:
    static PASCALINE_INLINE int warp_row() { return (threadIdx.x >> 5) / WARPS_N; }
    static PASCALINE_INLINE int warp_column() { return (threadIdx.x >> 5) % WARPS_N; }
    // A wide read goes half a warp at a time if each lane shares its address with the lane one or two away:
    // lanes' bits 0, 2 and 4 make the column of 8, bits 1 and 3 the row of 4.
    static PASCALINE_INLINE int thread_column() {
        const int lane = threadIdx.x;
        return (lane & 1) | ((lane >> 1) & 2) | ((lane >> 2) & 4);
    }
    static PASCALINE_INLINE int thread_row() {
        const int lane = threadIdx.x;
        return ((lane >> 1) & 1) | ((lane >> 2) & 2);
    }

    PASCALINE_INLINE void add_group(const SharedSlab& shared, int group, int plane) {
        const int weight_group = group * WEIGHT_GROUPS / GROUPS, input_group = group * INPUT_GROUPS / GROUPS;
        const int column = first_output(), row = first_row();
        const float4 four = *reinterpret_cast<const float4*>(&shared.weight_scales[weight_group][column]);
        float scale[THREAD_OUTPUTS] = {four.x, four.y, four.z, four.w}, start[THREAD_OUTPUTS];
#pragma unroll
        for (int j = 0; j < THREAD_OUTPUTS; j++) {
            if (PLANES == 2) scale[j] *= plane == 0 ? 256.0f : 1.0f;
            start[j] = scale[j] * -START_VALUE;
        }
#pragma unroll
        for (int i = 0; i < THREAD_ROWS; i++) {
            const float input_scale = shared.input_scales[input_group][row + row_of(i)];
#pragma unroll
            for (int j = 0; j < THREAD_OUTPUTS; j++) {
                const float product = fmaf(bits_to_float(uint32_t(sums[i][j])), scale[j], start[j]);
                totals[i][j] = fmaf(input_scale, product, totals[i][j]);
            }
        }
        if constexpr (HAS_TOTALS) {
            if (PLANES == 2 && plane == 0) return;
            const float4 offset =
                *reinterpret_cast<const float4*>(&shared.weight_offsets[weight_group][column]);
#pragma unroll
            for (int i = 0; i < THREAD_ROWS; i++) {
                const float total = -shared.input_totals[group][row + row_of(i)];
                totals[i][0] = fmaf(total, offset.x, totals[i][0]);
                totals[i][1] = fmaf(total, offset.y, totals[i][1]);
                totals[i][2] = fmaf(total, offset.z, totals[i][2]);
                totals[i][3] = fmaf(total, offset.w, totals[i][3]);
            }
        }
    }
};

extern "C" __global__ void __launch_bounds__(THREADS, MIN_BLOCKS)
linear_tile(const int8_t* input_codes, const float* input_scales, const int32_t* input_sums,
            const uint8_t* codes, const uint8_t* scales, const uint8_t* integers,
            const uint8_t* integers_high, const uint8_t* zeros,
            const void* bias, const void* residual, void* y, float* partials, uint32_t* arrivals,
            int rows, int outputs, int slabs) {
    __shared__ SharedSlab shared[2];
    __shared__ SharedInputs shared_inputs[2];

    const int padded_outputs = (outputs + TILE_OUTPUTS - 1) / TILE_OUTPUTS * TILE_OUTPUTS;
    int first_slab = 0, end_slab = slabs;
    if (gridDim.z > 1) {
        first_slab = uint32_t(slabs) * blockIdx.z / gridDim.z;
        end_slab = uint32_t(slabs) * (blockIdx.z + 1) / gridDim.z;
    }
    const QuantisedInput input = {input_codes, input_scales, input_sums, rows};

    Accumulators accumulators;
#pragma unroll
    for (int i = 0; i < THREAD_ROWS; i++) {
#pragma unroll
        for (int j = 0; j < THREAD_OUTPUTS; j++) accumulators.totals[i][j] = 0.0f;
    }

    InputStage inputs(input, first_slab);
    WeightStage weights({codes, scales, integers, integers_high, zeros, padded_outputs}, outputs, first_slab);
    InputNumberStage numbers(input, first_slab);
    inputs.load<0>();
    weights.load<0>(first_slab);
    weights.load<1>(first_slab);
    numbers.load(input);
    inputs.store(shared_inputs[0]);
    weights.store<0>(shared[first_slab & 1], first_slab);
    weights.store<1>(shared[first_slab & 1], first_slab);
    numbers.store(shared[first_slab & 1]);
    __syncthreads();

    int slab = first_slab;
    // Planes of slabs that come after this one; few variables, since registers are all taken.
    for (int left = (end_slab - first_slab) * PLANES - 1;; left--) {
        const int plane = PLANES == 2 ? 1 - (left & 1) : 0;
        const bool is_last = left == 0, is_last_plane = plane == PLANES - 1;
        const bool is_slab_next = is_last_plane && !is_last;
        inputs.load<1>();
        if (is_slab_next) {
            weights.advance();
            weights.load<0>(slab + 1);
        }
        accumulators.multiply<0>(shared[slab & 1], shared_inputs[0], plane);
        inputs.store(shared_inputs[1]);
        if (is_slab_next) weights.store<0>(shared[(slab & 1) ^ 1], slab + 1);
        __syncthreads();

        if (!is_last) {
            inputs.place += is_last_plane ? uint32_t(rows * PLANES - (PLANES - 1)) * SLAB : SLAB;
            inputs.load<0>();
        }
        if (is_slab_next) {
            numbers.load(input);
            weights.load<1>(slab + 1);
        }
        accumulators.multiply<1>(shared[slab & 1], shared_inputs[1], plane);
        if (is_last) break;
        inputs.store(shared_inputs[0]);
        if (is_slab_next) {
            slab++;
            numbers.store(shared[slab & 1]);
            weights.store<1>(shared[slab & 1], slab);
        }
        __syncthreads();
    }

    if (gridDim.z > 1) {
        uint32_t& arrived = shared_inputs[0].words[0];
        if (!gather_parts<THREADS>(accumulators.totals, partials, arrivals, arrived)) return;
    }

    const WideEpilogue epilogue = {{bias, residual, y, outputs}};
    const int column = Accumulators::first_output();
#pragma unroll
    for (int i = 0; i < THREAD_ROWS; i++) {
        const int row = blockIdx.x * BLOCK_ROWS + Accumulators::first_row() + Accumulators::row_of(i);
        if (row >= rows) break;
        const float(&totals)[THREAD_OUTPUTS] = accumulators.totals[i];
        if constexpr (GATE == 0) {
            const int output = blockIdx.y * BLOCK_OUTPUTS + column;
#pragma unroll
            for (int j = 0; j < THREAD_OUTPUTS; j += STORED_TOGETHER) {
                Neighbours sums;
#pragma unroll
                for (int k = 0; k < STORED_TOGETHER; k++) sums.values[k] = totals[j + k];
                epilogue.store(row, output + j, sums);
            }
        } else {
            const int output = blockIdx.y * (BLOCK_OUTPUTS / 2) + (column >> 1);
            epilogue.store_gated(row, output, {totals[0]}, {totals[2]});
            epilogue.store_gated(row, output + 1, {totals[1]}, {totals[3]});
        }
    }
}
