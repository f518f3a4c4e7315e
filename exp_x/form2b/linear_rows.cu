// y = x * W^T for 1 to 16 rows, W packed in slabs: W is read once and multiplied as it comes, by quantised
// inputs (by integer dot products or tensor cores) or, for chips that have neither, by inputs as they are.
//
// A warp has TILES tiles of 8 outputs (with GATE half of them gates, the others their ups) and walks along K.
// Each slab's codes go from memory to registers and are unpacked there, the next slab's follow at once; a
// lane has one output's quarter of each tile. The block's warps have the same slabs of the inputs in shared
// memory at a time, of which each piece is multiplied with TILES outputs.
//
// K_WARPS warps of a block have the same tiles and neighbouring slabs: they add up in shared memory what
// blocks would add up through memory. The steps of all groups of tiles, K_WARPS slabs each, are dealt out
// evenly to blocks that are all there from the beginning. Where a group's steps are of several blocks, each
// leaves its part, and the last to arrive adds them in order.
//
// Definitions: those of packed_weight.cuh, epilogue.cuh and of row_matrix.cuh (BY_TENSOR_CORES), else of
// row_integers.cuh (PLANES 1 or 2) or row_numbers.cuh (PLANES 0); ROWS, of which the first `rows` are there;
// TILES, 2 or 4; WARPS of a block, K_WARPS of them along K; BLOCKS that a multiprocessor is to hold.
#include "row_tiles.cuh"
#if BY_TENSOR_CORES
#include "row_matrix.cuh"
#elif PLANES == 0
#include "row_numbers.cuh"
#else
#include "row_integers.cuh"
#endif

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
    linear_rows(const uint8_t* __restrict__ codes, const uint8_t* __restrict__ scales,
                const uint8_t* __restrict__ integers, const uint8_t* __restrict__ integers_high,
                const uint8_t* __restrict__ zeros,
#if PLANES == 0
                const void* __restrict__ x, const int32_t* __restrict__ inputs, int columns,
#else
                const int8_t* __restrict__ input_codes, const float* __restrict__ input_scales,
                const int32_t* __restrict__ input_sums,
#endif
                const void* bias, const void* residual, void* y, float* partials, uint32_t* arrivals,
                int rows, int outputs, int slabs, int fewest_steps, int larger_blocks) {
    constexpr int stage_floats = 2 * STAGE_SLABS * sizeof(Stage) / sizeof(float);
    constexpr int exchange_floats = K_WARPS > 1 ? ROWS * THREADS : 0;
    __shared__ uint4 memory[(stage_floats > exchange_floats ? stage_floats : exchange_floats) / 4];
    auto& stages = *reinterpret_cast<Stage(*)[2][STAGE_SLABS]>(memory);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int output_warp = warp % OUTPUT_WARPS, k_warp = warp / OUTPUT_WARPS;
    const int tiles = (outputs + TILE_OUTPUTS - 1) / TILE_OUTPUTS, units = tiles / (1 + GATE);
    const int group_steps = (slabs + K_WARPS - 1) / K_WARPS;
    const PackedWeight weight = {codes, scales, integers, integers_high, zeros, tiles * TILE_OUTPUTS};
#if PLANES == 0
    const RowInput input = {x, inputs, columns, rows};
#else
    const RowInput input = {input_codes, input_scales, input_sums, rows};
#endif
    const Epilogue epilogue = {bias, residual, y, outputs};
    const Share share = {fewest_steps, larger_blocks};
    const int begin = share.begin_of(blockIdx.x);
    int steps = share.begin_of(blockIdx.x + 1) - begin;  // that are left
    int group = begin / group_steps, step = begin - group * group_steps;

    const auto unit_of = [&](int group) { return (group * OUTPUT_WARPS + output_warp) * UNITS; };
    const auto places_of = [&](int group, int step) {
        const int unit = unit_of(group);
        return TilePlaces(weight, step * K_WARPS + k_warp, slabs, unit, units - unit, lane);
    };
    TilePlaces places = places_of(group, step);
    LoadedTiles loaded = {};  // what is left out is multiplied, for outputs that there are not
    if constexpr (LAUNCHES_OVERLAP) places.load(loaded);
    wait_for_launches_before();
    let_next_launch_begin();
    StagedPart staged;
    staged.load(input, step * K_WARPS, slabs);
    // PERF: after the inputs, which would wait until all weights have come.
    if constexpr (!LAUNCHES_OVERLAP) places.load(loaded);
    staged.store(stages[0]);
    __syncthreads();
    int turn = 0, stage = 0;
    UnpackedTiles::Sums sums = {};
#pragma unroll 1
    while (steps > 0) {  // a group's
        const int end = min(group_steps, step + steps);
        const bool is_whole = end - step == group_steps;
        steps -= end - step;
#pragma unroll 1
        while (step < end) {
            if (stage == STAGE_SLABS) {
                // PERF: from the second cache, waited for: other warps' weights come meanwhile, and registers
                // are scarce.
                staged.load(input, step * K_WARPS, slabs);
                turn ^= 1;
                stage = 0;
                staged.store(stages[turn]);
                __syncthreads();
            }
            UnpackedTiles unpacked;
            unpacked.unpack(loaded);
            step++;
            if (step < end) {
                places.advance();
                places.load(loaded);
            }
            unpacked.multiply(stages[turn][stage + k_warp], lane, sums);
            stage += K_WARPS;
        }
        if (steps > 0) {
            places = places_of(group + 1, 0);
            places.load(loaded);
        }
        float warp_totals[ROWS], totals[OWN_ROWS];
        take_sums(sums, warp_totals, lane);
        if constexpr (K_WARPS > 1) __syncthreads();  // the inputs' place is used
        add_warps(warp_totals, totals, reinterpret_cast<float*>(memory), k_warp, threadIdx.x % OUTPUT_THREADS);
        if (is_whole || gather_parts(totals, share, group, group_steps, partials, arrivals)) {
            store_totals(epilogue, totals, rows, k_warp, unit_of(group), lane);
        }
        group++;
        step = 0;
        stage = STAGE_SLABS;  // none is there
    }
}
