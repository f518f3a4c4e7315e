// y[row, output] = sum over inputs of x[row, input] * w[output, input], by tensor cores: a packed weight (rows 3 to
// some hundreds), x and w as fp16 or bf16 numbers, sums in fp32.
//
// A warp multiplies TILES tiles of 8 outputs by all of the block's rows, slab by slab of 128 inputs: two tiles are the
// 16 rows of A, eight rows of x the columns of B. Weights go from memory to registers to the tensor cores, a slab
// ahead of their use: their layout is that of the operand (matrix_weight.cuh). With blocks of 8 rows, lines of a third
// slab come to L2. Of a block's warps, WARPS_ALONG_OUTPUTS share the inputs, which lie in shared memory some slabs
// ahead too, and WARPS_ALONG_INPUTS groups of them take turns at slabs; the groups' sums are added at the end, in the
// order of their numbers.
//
// A block of the result is BLOCK_ROWS rows and some outputs; of which turns at its slabs: matrix_shares.cuh.
//
// Definitions: those of matrix_weight.cuh, matrix_input.cuh, matrix_sums.cuh and wide_epilogue.cuh; MIN_BLOCKS a
// multiprocessor; IS_NARROW: the weight has fewer tiles than a warp takes side by side.
#include "matrix_input.cuh"
#include "matrix_shares.cuh"
#include "matrix_sums.cuh"
#include "matrix_weight.cuh"
#include "wide_epilogue.cuh"

constexpr int WARPS = WARPS_ALONG_OUTPUTS * WARPS_ALONG_INPUTS;
// A warp's tiles are neighbours, or with GATE half of them and the half that those are the gates of.
constexpr int SEGMENTS = GATE ? 2 : 1;
constexpr int SEGMENT_TILES = TILES / SEGMENTS;
// Outputs of a segment of all of a block's warps.
constexpr int BLOCK_OUTPUTS = WARPS_ALONG_OUTPUTS * SEGMENT_TILES * TILE_OUTPUTS;
// Not a multiple of 8: what a warp writes at once lies in different banks.
constexpr int SUM_STRIDE = SEGMENTS * BLOCK_OUTPUTS + 4;
// Sums of a part of a block's turns, four together.
constexpr int PART_QUADS = WARPS * 32 * ROW_BLOCKS * TILES / 2;

// PERF: registers hold two slabs, which is less than memory has on its way: lines of a third come to L2, each by a lane.
// With more rows registers would be spilled for it.
constexpr bool BRINGS_LINES = BLOCK_ROWS == 8;

// PERF: a part of many rows takes longer to read than a question at each of its numbers; of few rows it does not.
constexpr bool KEEPS_OWN_PART = BLOCK_ROWS >= 64;

struct TileLoads {
    QuarterCodes codes;
    QuarterNumbers numbers;
};

// Adds one slab's products to `totals`. `load_next` is called when the slab's own loads have come, with a number that
// is not known before: a chip's wait for some of a warp's loads waits for those begun since, too, so that the next may
// only begin then. `copy_next` is called where it delays no product.
template <typename LoadNext, typename CopyNext>
PASCALINE_INLINE void multiply_slab(Sums& totals, const TileLoads (&loads)[TILES], const uint4* stage,
                                    const InputPlaces& places, int lane, LoadNext load_next,
                                    CopyNext copy_next) {
    FragmentFactors factors[TILES];
#pragma unroll
    for (int tile = 0; tile < TILES; tile++) factors[tile] = fragment_factors(loads[tile].numbers);
    Sums products = {};
    InputSums input_sums[ROW_BLOCKS] = {};
#pragma unroll
    for (int j = 0; j < WORDS / 2; j++) {
        uint32_t a[2][TILES / 2][4];
#pragma unroll
        for (int step = 0; step < 2; step++) {
#pragma unroll
            for (int tile = 0; tile < TILES; tile++) {
                uint32_t fragment[2];
                fragment_of(loads[tile].codes, factors[tile], 2 * j + step, fragment);
                a[step][tile / 2][tile % 2] = fragment[0];
                a[step][tile / 2][tile % 2 + 2] = fragment[1];
            }
        }
        if (j == 0) load_next(a[0][TILES / 2 - 1][3]);
        if (j == 1) copy_next();
#pragma unroll
        for (int block = 0; block < ROW_BLOCKS; block++) {
            const uint4 four = places.piece(stage, block, j);
            const uint32_t b[2][2] = {{four.x, four.y}, {four.z, four.w}};
#pragma unroll
            for (int step = 0; step < 2; step++) {
#pragma unroll
                for (int pair = 0; pair < TILES / 2; pair++) {
                    multiply(IS_SCALED ? totals[block][pair] : products[block][pair], a[step][pair], b[step]);
                }
                if constexpr (HAS_SLAB_OFFSETS) input_sums[block].add(b[step], 2 * j + step, lane);
            }
        }
    }
    if constexpr (!IS_SCALED) add_scaled(totals, products, input_sums, factors, lane);
}

// Which outputs a block's sums are of.
struct BlockOutputs {
    int tiles;           // of the weight
    int first[SEGMENTS]; // output of a segment
    int used;            // outputs of a segment; fewer with GATE, where the second half does not begin with a tile

    PASCALINE_INLINE BlockOutputs(int outputs, int block) {
        const int half = outputs / 2;
        tiles = (outputs + TILE_OUTPUTS - 1) / TILE_OUTPUTS;
        used = BLOCK_OUTPUTS - (GATE && half % TILE_OUTPUTS != 0 ? TILE_OUTPUTS : 0);
        first[0] = block * used;
        if constexpr (GATE) first[SEGMENTS - 1] = half + first[0];
    }

    // The first tile of a warp's segment, and all of them within the weight.
    PASCALINE_INLINE int first_tile(int segment, int warp) const {
        const int tile = first[segment] / TILE_OUTPUTS + warp * SEGMENT_TILES;
        return max(0, min(tile, tiles - SEGMENT_TILES));
    }

    // Where a tile's sums belong among the block's; negative if they do not.
    PASCALINE_INLINE int column_of(int segment, int tile) const {
        const int column = (tile - first[segment] / TILE_OUTPUTS) * TILE_OUTPUTS;
        return column < 0 ? -1 : segment * BLOCK_OUTPUTS + column;
    }
};

// A thread's sums among those of a part, which lie as they do in registers, all threads side by side.
PASCALINE_INLINE int place_in_part(int block, int pair) {
    return (block * (TILES / 2) + pair) * WARPS * 32 + int(threadIdx.x);
}

PASCALINE_INLINE void write_part(const Sums& totals, float4* part) {
#pragma unroll
    for (int block = 0; block < ROW_BLOCKS; block++) {
#pragma unroll
        for (int pair = 0; pair < TILES / 2; pair++) {
            const float(&own)[4] = totals[block][pair];
            part[place_in_part(block, pair)] = make_float4(own[0], own[1], own[2], own[3]);
        }
    }
}

// `totals` become the sums of all parts, in their order.
PASCALINE_INLINE void add_parts(Sums& totals, const float4* first_part, int own_part, int parts) {
    // So many blocks' sums are on their way at once.
    constexpr int blocks = ROW_BLOCKS % 4 == 0 ? 4 : ROW_BLOCKS % 3 == 0 ? 3 : ROW_BLOCKS;
#pragma unroll
    for (int first = 0; first < ROW_BLOCKS; first += blocks) {
        float sums[blocks][TILES / 2][4] = {};
        for (int part = 0; part < parts; part++) {
            const float4* const theirs = first_part + size_t(part) * PART_QUADS;
#pragma unroll
            for (int block = 0; block < blocks; block++) {
#pragma unroll
                for (int pair = 0; pair < TILES / 2; pair++) {
                    const float(&own)[4] = totals[first + block][pair];
                    float4 four = make_float4(own[0], own[1], own[2], own[3]);
                    if (!KEEPS_OWN_PART || part != own_part) {
                        four = load_fresh(theirs + place_in_part(first + block, pair));
                    }
                    sums[block][pair][0] += four.x;
                    sums[block][pair][1] += four.y;
                    sums[block][pair][2] += four.z;
                    sums[block][pair][3] += four.w;
                }
            }
        }
#pragma unroll
        for (int block = 0; block < blocks; block++) {
#pragma unroll
            for (int pair = 0; pair < TILES / 2; pair++) {
#pragma unroll
                for (int i = 0; i < 4; i++) totals[first + block][pair][i] = sums[block][pair][i];
            }
        }
    }
}

// The sum over all groups of warps, in shared memory.
PASCALINE_INLINE Neighbours sum_of_groups(const float* sums, int row, int column) {
    Neighbours sum = {};
#pragma unroll
    for (int group = 0; group < WARPS_ALONG_INPUTS; group++) {
        const float* const place = sums + (group * BLOCK_ROWS + row) * SUM_STRIDE + column;
        sum.add(*reinterpret_cast<const Neighbours*>(place));
    }
    return sum;
}

extern "C" __global__ void __launch_bounds__(WARPS * 32, MIN_BLOCKS)
linear_mma(const uint8_t* codes, const uint8_t* scales, const uint8_t* integers, const uint8_t* integers_high,
           const uint8_t* zeros, const void* x, const int* inputs, const void* bias, const void* residual, void* y,
           float* partial_sums, uint32_t* arrivals, int rows, int outputs, int columns, int whole_blocks, int blocks,
           int sharers) {
    DYNAMIC_SHARED(uint4, shared);
    const int lane = threadIdx.x % 32;
    const int warp = threadIdx.x / 32;
    const int input_group = warp / WARPS_ALONG_OUTPUTS, output_warp = warp % WARPS_ALONG_OUTPUTS;
    const int row_blocks = (rows + BLOCK_ROWS - 1) / BLOCK_ROWS;
    const int all_slabs = (columns + SLAB - 1) / SLAB;
    Shares shares((all_slabs + WARPS_ALONG_INPUTS - 1) / WARPS_ALONG_INPUTS, whole_blocks, blocks, sharers);
    const uint32_t nothing = uint32_t(rows) >> 31;  // zero, which the compiler does not know
    while (!shares.is_done()) {
        const Stretch stretch = shares.take();
        const int output_block = stretch.block / row_blocks;
        const int first_row = (stretch.block - output_block * row_blocks) * BLOCK_ROWS;
        const BlockOutputs block_outputs(outputs, output_block);
        const PackedWeight weight = {codes, scales, integers, integers_high, zeros,
                                     block_outputs.tiles * TILE_OUTPUTS};
        // Neighbours along outputs are a turn apart.
        SlabTurns own_turns(stretch.first_turn, stretch.turns, output_block % stretch.turns, all_slabs, input_group);

        int first_tiles[SEGMENTS];
#pragma unroll
        for (int segment = 0; segment < SEGMENTS; segment++) {
            first_tiles[segment] = block_outputs.first_tile(segment, output_warp);
        }
        const auto load_tiles = [&](TileLoads(&loads)[TILES], int slab) {
#pragma unroll
            for (int segment = 0; segment < SEGMENTS; segment++) {
                const int first = first_tiles[segment];
                const uint8_t* const place = codes_place(weight, slab, first, lane);
                const NumberPlace numbers = number_place(weight, slab, first * TILE_OUTPUTS + lane / 4, lane % 4);
#pragma unroll
                for (int tile = 0; tile < SEGMENT_TILES; tile++) {
                    const int number = IS_NARROW ? min(tile, block_outputs.tiles - 1) : tile;
                    TileLoads& own = loads[segment * SEGMENT_TILES + tile];
                    own.codes = load_codes(place + number * TILE_BYTES, lane);
                    own.numbers = load_numbers(numbers, number);
                }
            }
        };

        // Those of each segment's codes, and one of its scales.
        const auto bring_lines = [&](int slab) {
            constexpr int tile_lines = TILE_BYTES / 128;
            const int lines = tile_lines * (IS_NARROW ? block_outputs.tiles : SEGMENT_TILES);
            if (slab >= own_turns.last) return;
#pragma unroll
            for (int from = 0; from <= tile_lines * SEGMENT_TILES; from += 32) {
                const int line = from + lane;
                if (line > lines) return;
#pragma unroll
                for (int segment = 0; segment < SEGMENTS; segment++) {
                    const int first = first_tiles[segment];
                    bring_line(line < lines ? codes_place(weight, slab, first, 0) + line * 128
                                            : number_place(weight, slab, first * TILE_OUTPUTS, 0).scale);
                }
            }
        };

        TileLoads loads[2][TILES];
        load_tiles(loads[0], own_turns.existing());
        if constexpr (BRINGS_LINES) bring_lines(own_turns.slab + WARPS_ALONG_INPUTS);
        wait_for_launches_before();
        let_next_launch_begin();
        InputStages input(x, inputs, rows, columns, first_row, own_turns, shared, input_group);
        input.load_first();
        const InputPlaces places(lane);
        Sums totals = {};
        for (int first_turn = 0; first_turn < stretch.turns; first_turn += 2) {
#pragma unroll
            for (int place = 0; place < 2; place++) {
                const int turn = first_turn + place;
                if (turn >= stretch.turns) break;
                if (turn % TURNS_PER_STAGE == 0) {
                    wait_for_copies<InputStages::PENDING>();
                    if constexpr (WARPS_ALONG_OUTPUTS == 1) {
                        __syncwarp();
                    } else {
                        __syncthreads();
                    }
                }
                const bool is_there = own_turns.is_there();
                own_turns.step();
                // What is loaded ahead in the last turn is never used.
                const auto load_next = [&](uint32_t known) {
                    load_tiles(loads[1 - place], own_turns.existing() + int(known & nothing));
                    if constexpr (BRINGS_LINES) bring_lines(own_turns.slab + WARPS_ALONG_INPUTS);
                };
                // In place of a slab read before the barrier: all warps that read it are past it.
                const auto copy_next = [&] { input.load_next(); };
                const uint4* const stage = input.take();
                if (is_there) {
                    multiply_slab(totals, loads[place], stage, places, lane, load_next, copy_next);
                } else {
                    load_next(0);
                    copy_next();
                }
            }
        }

        // Before others are begun: those of the last turns clear places that are not read.
        wait_for_copies<0>();
        if (!shares.is_whole(stretch)) {
            float4* const parts = reinterpret_cast<float4*>(partial_sums);
            write_part(totals, parts + size_t(shares.slot(stretch, shares.own_sharer())) * PART_QUADS);
            if (!shares.is_last(stretch, arrivals)) continue;
            const int first = shares.first_sharer(stretch);
            add_parts(totals, parts + size_t(shares.slot(stretch, first)) * PART_QUADS, shares.own_sharer() - first,
                      shares.last_sharer(stretch) - first + 1);
        }

        // The groups' sums, one after another, in place of the stages.
        __syncthreads();
        float* const sums = reinterpret_cast<float*>(shared);
#pragma unroll
        for (int tile = 0; tile < TILES; tile++) {
            const int segment = tile / SEGMENT_TILES;
            const int column = block_outputs.column_of(segment, first_tiles[segment] + tile % SEGMENT_TILES);
            if (column < 0) continue;
#pragma unroll
            for (int block = 0; block < ROW_BLOCKS; block++) {
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    const int row = input_group * BLOCK_ROWS + 8 * block + 2 * (lane % 4) + i;
                    sums[row * SUM_STRIDE + column + lane / 4] =
                        totals[block][tile / 2][tile % 2 * 2 + i] * (1.0f / FRAGMENT_UNIT);
                }
            }
        }
        __syncthreads();
        const int block_rows = min(rows - first_row, BLOCK_ROWS);
        const WideEpilogue epilogue = {{bias, residual, y, outputs}};
        constexpr int row_places = BLOCK_OUTPUTS / STORED_TOGETHER;
#pragma unroll 4
        for (int index = threadIdx.x; index < block_rows * row_places; index += WARPS * 32) {
            const int row = index / row_places, column = index % row_places * STORED_TOGETHER;
            if (column >= block_outputs.used) continue;
            const int output = block_outputs.first[0] + column;
            const Neighbours sum = sum_of_groups(sums, row, column);
            if constexpr (GATE) {
                const int up = BLOCK_OUTPUTS + block_outputs.first[SEGMENTS - 1] % TILE_OUTPUTS + column;
                epilogue.store_gated(first_row + row, output, sum, sum_of_groups(sums, row, up));
            } else {
                epilogue.store(first_row + row, output, sum);
            }
        }
        __syncthreads();
    }
}
