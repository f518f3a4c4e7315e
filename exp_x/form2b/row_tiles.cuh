// What linear_rows.cu's warps have of a weight, slab after slab, and what becomes of their sums.
//
// Definitions: those of packed_weight.cuh and epilogue.cuh; ROWS; TILES; WARPS; K_WARPS.
#pragma once
#include "arrivals.cuh"
#include "epilogue.cuh"
#include "packed_weight.cuh"
#include "reduction.cuh"

constexpr int THREADS = 32 * WARPS;
constexpr int UNITS = TILES / (1 + GATE);  // tiles, or gate tiles with their up tiles

constexpr int OUTPUT_WARPS = WARPS / K_WARPS;
constexpr int OUTPUT_THREADS = 32 * OUTPUT_WARPS;
constexpr int OWN_ROWS = (ROWS + K_WARPS - 1) / K_WARPS;  // of a thread, when warps along K are added up

static_assert(TILES == 2 || TILES == 4, "lanes of a quarter share them");
static_assert(WARPS % K_WARPS == 0, "all have tiles");

// A warp's tiles of one slab, as they lie in memory.
struct LoadedTiles {
    QuarterCodes codes[TILES];
    QuarterNumbers numbers[TILES];
};

// Where a warp's tiles lie, slab after slab: addresses are added to, since products of 64 bits take long.
class TilePlaces {
  public:
    // Of `count` units, the first of which is `unit`.
    PASCALINE_INLINE TilePlaces(const PackedWeight& weight, int slab, int slabs, int unit, int count, int lane)
        : outputs(weight.padded_outputs), slab(slab), slabs(slabs), count(count), lane(lane) {
#pragma unroll
        for (int kind = 0; kind <= GATE; kind++) {
            const int tile = unit + kind * (outputs / TILE_OUTPUTS / 2);
            codes[kind] = codes_place(weight, slab, tile, lane);
            numbers[kind] = number_place(weight, slab, tile * TILE_OUTPUTS + lane / 4, lane % 4);
        }
    }

    // Past the last slab nothing: inputs are zeros there.
    PASCALINE_INLINE void load(LoadedTiles& loaded) const {
        if (K_WARPS > 1 && slab >= slabs) return;
#pragma unroll
        for (int tile = 0; tile < TILES; tile++) {
            const int kind = tile / UNITS, unit = tile % UNITS;
            if (unit >= count) continue;
            loaded.codes[tile] = load_codes(codes[kind] + unit * TILE_BYTES, lane);
            loaded.numbers[tile] = load_numbers(numbers[kind], unit);
        }
    }

    // To the warp's next slab.
    PASCALINE_INLINE void advance() {
        constexpr int slabs_per_row = SUPER_SIZE > SLAB ? SUPER_SIZE / SLAB : 1;
#pragma unroll
        for (int i = 0; i < K_WARPS; i++) {
            slab++;
            const bool is_next_row = SUPER_SIZE != 0 && slab % slabs_per_row == 0;
#pragma unroll
            for (int kind = 0; kind <= GATE; kind++) {
                codes[kind] += size_t(outputs) * (TILE_BYTES / TILE_OUTPUTS);
                NumberPlace& number = numbers[kind];
                if (is_next_row) {
                    number.scale += size_t(outputs) * (NumberPlace::SCALE_STRIDE / TILE_OUTPUTS);
                    number.zero += size_t(outputs) * NumberPlace::ZERO_STRIDE / TILE_OUTPUTS;
                }
                number.integers += size_t(outputs) * (NumberPlace::INTEGERS_STRIDE / TILE_OUTPUTS);
                if (slab % 2 == 0) number.integers_high += size_t(outputs) * 4;
                number.integers_shift = 4 * (slab & 1);
            }
        }
    }

  private:
    const uint8_t* codes[1 + GATE];
    NumberPlace numbers[1 + GATE];
    int outputs, slab, slabs, count, lane;
};

// The steps that each block has, of all groups of tiles and their slabs: `fewest`, and the first
// `larger_blocks` one more. 64 bits would take divisions of which each is as long as a load from memory.
struct Share {
    int fewest, larger_blocks;

    PASCALINE_INLINE int begin_of(int block) const { return block * fewest + min(block, larger_blocks); }
    PASCALINE_INLINE int block_of(int step) const {
        const int larger_steps = larger_blocks * (fewest + 1);
        return step < larger_steps ? step / (fewest + 1) : larger_blocks + (step - larger_steps) / fewest;
    }
};

// Of the products of a lane's quarter.
using QuarterSums = float[ROWS][TILES];

// A warp's sums of each row, in a lane those of the tile that is its own; `sums` are zeros then.
PASCALINE_INLINE void take_sums(QuarterSums& sums, float (&totals)[ROWS], int lane) {
#pragma unroll
    for (int row = 0; row < ROWS; row++) {
        reduce_lanes<4>(sums[row], lane % 4);
        totals[row] = sums[row][0];
#pragma unroll
        for (float& sum : sums[row]) sum = 0.0f;
    }
}

// Each warp's sums of ROWS become those of all warps along K, of the thread's rows: `k_warp`, and each
// K_WARPS further. exchange: (K_WARPS, ROWS, OUTPUT_THREADS), which all threads have stopped using.
PASCALINE_INLINE void add_warps(const float (&sums)[ROWS], float (&totals)[OWN_ROWS], float* exchange,
                                int k_warp, int output_thread) {
    if constexpr (K_WARPS == 1) {
#pragma unroll
        for (int row = 0; row < ROWS; row++) totals[row] = sums[row];
    } else {
#pragma unroll
        for (int row = 0; row < ROWS; row++) {
            exchange[(k_warp * ROWS + row) * OUTPUT_THREADS + output_thread] = sums[row];
        }
        __syncthreads();
#pragma unroll
        for (int i = 0; i < OWN_ROWS; i++) {
            const int row = i * K_WARPS + k_warp;
            totals[i] = 0.0f;
            if (row >= ROWS) continue;
#pragma unroll
            for (int warp = 0; warp < K_WARPS; warp++) {
                totals[i] += exchange[(warp * ROWS + row) * OUTPUT_THREADS + output_thread];
            }
        }
        __syncthreads();
    }
}

// True in the block that arrives last of those that share a group: totals are then the sums of all parts.
//
// partials: (blocks, 2, OWN_ROWS, THREADS): a block has parts of the group that it begins with, and of that it
// ends with; arrivals: a zero for each group, and zero again at the end.
PASCALINE_INLINE bool gather_parts(float (&totals)[OWN_ROWS], const Share& share, int group, int group_steps,
                                   float* partials, uint32_t* arrivals) {
    __shared__ uint32_t arrived;
    const int first_step = group * group_steps;
    const auto part_of = [&](int block) {
        const int place = share.begin_of(block) < first_step ? 1 : 0;
        return partials + (size_t(block) * 2 + place) * (OWN_ROWS * THREADS) + threadIdx.x;
    };
    float* const own = part_of(blockIdx.x);
#pragma unroll
    for (int i = 0; i < OWN_ROWS; i++) own[i * THREADS] = totals[i];
    const int first = share.block_of(first_step), last = share.block_of(first_step + group_steps - 1);
    if (!comes_last(arrivals + group, last - first + 1, arrived)) return false;
#pragma unroll
    for (int i = 0; i < OWN_ROWS; i++) totals[i] = 0.0f;
#pragma unroll 2
    for (int block = first; block <= last; block++) {
        const float* const part = part_of(block);
#pragma unroll
        for (int i = 0; i < OWN_ROWS; i++) totals[i] += load_fresh(part + i * THREADS);
    }
    return true;
}

// What a lane has of a tile's sums, of the thread's rows, to y.
PASCALINE_INLINE void store_totals(const Epilogue& epilogue, const float (&totals)[OWN_ROWS], int rows,
                                   int k_warp, int unit, int lane) {
    // Each lane of a quarter has one tile's; two have the same where there are two tiles.
    const int quarter = lane % 4, tile = quarter * TILES / 4;
    const bool is_first = TILES == 4 || quarter % 2 == 0;
    const int output = (unit + tile % UNITS) * TILE_OUTPUTS + lane / 4;
#pragma unroll
    for (int i = 0; i < OWN_ROWS; i++) {
        const int row = i * K_WARPS + k_warp;
        if constexpr (GATE) {
            const float up = shuffle_xor(totals[i], 2);
            if (row < rows && tile < UNITS && is_first) epilogue.store_gated(row, output, totals[i], up);
        } else {
            if (row < rows && is_first) epilogue.store(row, output, totals[i]);
        }
    }
}
