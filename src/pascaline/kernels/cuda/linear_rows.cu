// y = x * W^T for 2 to 16 rows of quantised inputs, W packed in slabs: W is read once and multiplied as it
// comes.
//
// A warp has TILES tiles of 8 outputs (with GATE half of them gates, the others their ups) and walks along K.
// Each slab's codes go from memory to registers and are unpacked there, the next slab's follow at once; a
// lane has one output's quarter of each tile. The block's warps have the same slab of the inputs in shared
// memory at a time: the four quarters of a row are four pieces of 16 bytes in different banks, and each is
// multiplied with TILES outputs. A quarter's products are scaled where they are made; lanes are summed up at
// the end.
//
// The steps of all groups of tiles, slabs within a group, are dealt out evenly to blocks that are all there
// from the beginning. Where a group's steps are of several blocks, each leaves its part, and the last to
// arrive adds them in order.
//
// Definitions: those of packed_weight.cuh, quantised_input.cuh and epilogue.cuh; ROWS, of which the first
// `rows` are there; TILES, 2 or 4; WARPS of a block; BLOCKS that a multiprocessor is to hold.
#include "epilogue.cuh"
#include "packed_weight.cuh"
#include "quantised_input.cuh"
#include "reduction.cuh"

constexpr int THREADS = 32 * WARPS;
constexpr int UNITS = TILES / (1 + GATE);  // tiles, or gate tiles with their up tiles

// Slabs of inputs that are brought at once: a thread brings one quarter of a row's plane.
constexpr int STAGE_SLABS = THREADS / (4 * ROWS * PLANES) < 8 ? THREADS / (4 * ROWS * PLANES) : 8;

static_assert(TILES == 2 || TILES == 4, "lanes of a quarter share them");
static_assert(STAGE_SLABS > 0, "there are threads for a slab's inputs");

// One slab of the inputs, as lanes take it.
struct Stage {
    uint4 codes[ROWS][PLANES][8];  // two a quarter
    float4 numbers[ROWS][4];       // the scale, and where each half's sums of integers begin: -ZERO * sum
    float2 sums[ROWS][4];          // of the inputs, of each half
};

// What a thread brings to the next stages.
class StagedPart {
  public:
    PASCALINE_INLINE StagedPart() {
        const int thread = threadIdx.x;
        stage = thread / (4 * PLANES * ROWS);
        row = thread / (4 * PLANES) % ROWS;
        plane = thread / 4 % PLANES;
        number_stage = thread / (4 * ROWS);
        number_row = thread / 4 % ROWS;
        quarter = thread % 4;
    }

    // Of slabs first_slab ...
    PASCALINE_INLINE void load(const QuantisedInput& input, int first_slab, int slabs) {
        first = second = make_uint4(0, 0, 0, 0);
        scale = 0.0f;
        sums = make_int2(0, 0);
        const int slab = first_slab + stage, number_slab = first_slab + number_stage;
        if (stage < STAGE_SLABS && slab < slabs && row < input.rows) {
            const auto* words = reinterpret_cast<const uint32_t*>(input.codes);
            const auto* fours =
                reinterpret_cast<const uint4*>(words + input.word_index(slab, row, plane, 8 * quarter));
            first = load_constant(fours);
            second = load_constant(fours + 1);
        }
        if (number_stage < STAGE_SLABS && number_slab < slabs && number_row < input.rows) {
            const size_t place = (size_t(number_slab) * input.rows + number_row) * 4 + quarter;
            scale = load_constant(input.scales + place);
            sums = load_constant(reinterpret_cast<const int2*>(input.sums) + place);
        }
    }

    PASCALINE_INLINE void store(Stage (&stages)[STAGE_SLABS]) const {
        if (stage < STAGE_SLABS) {
            uint4* const fours = &stages[stage].codes[row][plane][2 * quarter];
            if constexpr (HAS_TABLE) {  // bytes in the order of paired_word
                fours[0] = make_uint4(paired_low(first.x, second.x), paired_high(first.x, second.x),
                                      paired_low(first.y, second.y), paired_high(first.y, second.y));
                fours[1] = make_uint4(paired_low(first.z, second.z), paired_high(first.z, second.z),
                                      paired_low(first.w, second.w), paired_high(first.w, second.w));
            } else {
                fours[0] = first;
                fours[1] = second;
            }
        }
        if (number_stage < STAGE_SLABS) {
            const int32_t first_sum = HALVES == 2 ? sums.x : sums.x + sums.y;
            stages[number_stage].numbers[number_row][quarter] =
                make_float4(scale, bits_to_float(uint32_t(-ZERO * first_sum)),
                            bits_to_float(uint32_t(-ZERO * sums.y)), 0.0f);
            stages[number_stage].sums[number_row][quarter] =
                make_float2(scale * float(first_sum), scale * float(sums.y));
        }
    }

  private:
    int stage, row, plane, number_stage, number_row, quarter;
    uint4 first, second;
    float scale;
    int2 sums;

    static PASCALINE_INLINE uint32_t paired_low(uint32_t a, uint32_t b) {
        return permute_bytes(a, b, 0x5140);
    }
    static PASCALINE_INLINE uint32_t paired_high(uint32_t a, uint32_t b) {
        return permute_bytes(a, b, 0x7362);
    }
};

// A warp's tiles of one slab, as they lie in memory.
struct LoadedTiles {
    QuarterCodes codes[TILES];
    QuarterNumbers numbers[TILES];
};

// Where a warp's tiles lie, slab after slab: addresses are added to, since products of 64 bits take long.
class TilePlaces {
  public:
    // Of `count` units, the first of which is `unit`.
    PASCALINE_INLINE TilePlaces(const PackedWeight& weight, int slab, int unit, int count, int lane)
        : outputs(weight.padded_outputs), slab(slab), count(count), lane(lane) {
#pragma unroll
        for (int kind = 0; kind <= GATE; kind++) {
            const int tile = unit + kind * (outputs / TILE_OUTPUTS / 2);
            codes[kind] = codes_place(weight, slab, tile, lane);
            numbers[kind] = number_place(weight, slab, tile * TILE_OUTPUTS + lane / 4, lane % 4);
        }
    }

    PASCALINE_INLINE void load(LoadedTiles& loaded) const {
#pragma unroll
        for (int tile = 0; tile < TILES; tile++) {
            const int kind = tile / UNITS, unit = tile % UNITS;
            if (unit >= count) continue;
            loaded.codes[tile] = load_codes(codes[kind] + unit * TILE_BYTES, lane);
            loaded.numbers[tile] = load_numbers(numbers[kind], unit);
        }
    }

    PASCALINE_INLINE void next_slab() {
        constexpr int slabs_per_row = SUPER_SIZE > SLAB ? SUPER_SIZE / SLAB : 1;
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

  private:
    const uint8_t* codes[1 + GATE];
    NumberPlace numbers[1 + GATE];
    int outputs, slab, count, lane;
};

// A warp's tiles of one slab, ready to be multiplied.
struct UnpackedTiles {
    uint32_t words[TILES][WORDS];
    float scale[TILES][HALVES], offset[TILES][HALVES], zero[TILES];

    PASCALINE_INLINE void unpack(const LoadedTiles& loaded) {
#pragma unroll
        for (int tile = 0; tile < TILES; tile++) {
#pragma unroll
            for (int word = 0; word < WORDS; word++) {
                words[tile][word] =
                    HAS_TABLE ? paired_word(loaded.codes[tile], word) : code_word(loaded.codes[tile], word);
            }
            const QuarterFactors factors = factors_of(loaded.numbers[tile]);
            zero[tile] = float(factors.zero - ZERO);
#pragma unroll
            for (int half = 0; half < HALVES; half++) {
                scale[tile][half] = factors.scale[half];
                offset[tile][half] = factors.offset[half];
            }
        }
    }

    // sums[row][tile] += the products of the lane's quarter.
    PASCALINE_INLINE void multiply(const Stage& stage, int quarter, float (&sums)[ROWS][TILES]) const {
#pragma unroll
        for (int row = 0; row < ROWS; row++) {
            const float4 numbers = stage.numbers[row][quarter];
            const float2 input_sums = stage.sums[row][quarter];
            const float input_sum[2] = {input_sums.x, input_sums.y};
            int32_t integers[TILES][HALVES] = {};
#pragma unroll
            for (int plane = 0; plane < PLANES; plane++) {
                if (plane == PLANES - 1) {
#pragma unroll
                    for (int tile = 0; tile < TILES; tile++) {
#pragma unroll
                        for (int half = 0; half < HALVES; half++) {
                            const float start = half == 0 ? numbers.y : numbers.z;
                            integers[tile][half] = integers[tile][half] * 256 + int32_t(float_to_bits(start));
                        }
                    }
                }
#pragma unroll
                for (int part = 0; part < 2; part++) {
                    const uint4 four = stage.codes[row][plane][2 * quarter + part];
                    const uint32_t inputs[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
                    for (int i = 0; i < 4; i++) {
                        const int word = 4 * part + i;
#pragma unroll
                        for (int tile = 0; tile < TILES; tile++) {
                            int32_t& integer = integers[tile][word / WORDS_PER_HALF];
                            integer = dot4(words[tile][word], inputs[i], integer);
                        }
                    }
                }
            }
#pragma unroll
            for (int tile = 0; tile < TILES; tile++) {
#pragma unroll
                for (int half = 0; half < HALVES; half++) {
                    float product = numbers.x * float(integers[tile][half]);
                    if constexpr (ZERO_BITS != 0) product -= zero[tile] * input_sum[half];
                    sums[row][tile] += scale[tile][half] * product;
                    if constexpr (HAS_OFFSETS) sums[row][tile] -= offset[tile][half] * input_sum[half];
                }
            }
        }
    }
};

// The steps that each block has, of all groups of tiles and their slabs.
struct Share {
    long long steps;  // of all blocks
    int slabs, blocks;

    PASCALINE_INLINE long long begin_of(int block) const { return steps * block / blocks; }
    PASCALINE_INLINE int block_of(long long step) const { return int(((step + 1) * blocks - 1) / steps); }
};

// True in the block that arrives last of those that share a group: totals are then the sums of all parts.
//
// partials: (blocks, 2, ROWS, THREADS): a block has parts of the group that it begins with, and of that it
// ends with; arrivals: a zero for each group, and zero again at the end.
PASCALINE_INLINE bool gather_parts(float (&totals)[ROWS], const Share& share, int group, float* partials,
                                   uint32_t* arrivals) {
    __shared__ uint32_t arrived;
    const long long first_step = (long long)(group)*share.slabs;
    const int first = share.block_of(first_step), last = share.block_of(first_step + share.slabs - 1);
    const auto part_of = [&](int block) {
        const int place = share.begin_of(block) < first_step ? 1 : 0;
        return partials + (size_t(block) * 2 + place) * (ROWS * THREADS) + threadIdx.x;
    };
    float* const own = part_of(blockIdx.x);
#pragma unroll
    for (int row = 0; row < ROWS; row++) own[row * THREADS] = totals[row];
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) arrived = atomicAdd(arrivals + group, 1u);
    __syncthreads();
    if (arrived != uint32_t(last - first)) return false;
    __threadfence();
    if (threadIdx.x == 0) arrivals[group] = 0;
#pragma unroll
    for (int row = 0; row < ROWS; row++) totals[row] = 0.0f;
#pragma unroll 1
    for (int block = first; block <= last; block++) {
        const float* const part = part_of(block);
#pragma unroll
        for (int row = 0; row < ROWS; row++) totals[row] += load_fresh(part + row * THREADS);
    }
    return true;
}

// What a lane has of a tile's sums, to y.
PASCALINE_INLINE void store_totals(const Epilogue& epilogue, const float (&totals)[ROWS], int rows, int unit,
                                   int lane) {
    // Each lane of a quarter has one tile's; two have the same where there are two tiles.
    const int quarter = lane % 4, tile = quarter * TILES / 4;
    const bool is_first = TILES == 4 || quarter % 2 == 0;
    const int output = (unit + tile % UNITS) * TILE_OUTPUTS + lane / 4;
#pragma unroll
    for (int row = 0; row < ROWS; row++) {
        if constexpr (GATE) {
            const float up = shuffle_xor(totals[row], 2);
            if (row < rows && tile < UNITS && is_first) epilogue.store_gated(row, output, totals[row], up);
        } else {
            if (row < rows && is_first) epilogue.store(row, output, totals[row]);
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
    linear_rows(const uint8_t* __restrict__ codes, const uint8_t* __restrict__ scales,
                const uint8_t* __restrict__ integers, const uint8_t* __restrict__ integers_high,
                const uint8_t* __restrict__ zeros, const int8_t* __restrict__ input_codes,
                const float* __restrict__ input_scales, const int32_t* __restrict__ input_sums,
                const void* bias, const void* residual, void* y, float* partials, uint32_t* arrivals,
                int rows, int outputs, int slabs) {
    __shared__ Stage stages[2][STAGE_SLABS];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, quarter = lane % 4;
    const int tiles = (outputs + TILE_OUTPUTS - 1) / TILE_OUTPUTS, units = tiles / (1 + GATE);
    const int groups = (units + WARPS * UNITS - 1) / (WARPS * UNITS);
    const PackedWeight weight = {codes, scales, integers, integers_high, zeros, tiles * TILE_OUTPUTS};
    const QuantisedInput input = {input_codes, input_scales, input_sums, rows};
    const Epilogue epilogue = {bias, residual, y, outputs};
    const Share share = {(long long)(groups)*slabs, slabs, int(gridDim.x)};
    const long long begin = share.begin_of(blockIdx.x);
    int steps = int(share.begin_of(blockIdx.x + 1) - begin);  // that are left
    int group = int(begin / slabs), slab = int(begin - (long long)(group)*slabs);

    const auto places_of = [&](int group, int slab) {
        const int unit = (group * WARPS + warp) * UNITS;
        return TilePlaces(weight, slab, unit, units - unit, lane);
    };
    TilePlaces places = places_of(group, slab);
    LoadedTiles loaded = {};  // what is left out is multiplied, for outputs that there are not
    places.load(loaded);
    StagedPart staged;
    int turn = 0;
    float sums[ROWS][TILES] = {};
#pragma unroll 1
    while (steps > 0) {  // a group's
        const int end = min(slabs, slab + steps);
        const bool is_whole = end - slab == slabs;
        steps -= end - slab;
        int stage = STAGE_SLABS;  // none is there
#pragma unroll 1
        while (slab < end) {
            if (stage == STAGE_SLABS) {
                // PERF: from the second cache, waited for: other blocks' warps run meanwhile, and registers
                // are scarce.
                staged.load(input, slab, slabs);
                turn ^= 1;
                stage = 0;
                staged.store(stages[turn]);
                __syncthreads();
            }
            UnpackedTiles unpacked;
            unpacked.unpack(loaded);
            slab++;
            if (slab < end) {
                places.next_slab();
                places.load(loaded);
            }
            unpacked.multiply(stages[turn][stage], quarter, sums);
            stage++;
        }
        if (steps > 0) {
            places = places_of(group + 1, 0);
            places.load(loaded);
        }
        float totals[ROWS];
#pragma unroll
        for (int row = 0; row < ROWS; row++) {
            reduce_lanes<4>(sums[row], quarter);
            totals[row] = sums[row][0];
#pragma unroll
            for (int tile = 0; tile < TILES; tile++) sums[row][tile] = 0.0f;
        }
        if (is_whole || gather_parts(totals, share, group, partials, arrivals)) {
            store_totals(epilogue, totals, rows, (group * WARPS + warp) * UNITS, lane);
        }
        group++;
        slab = 0;
    }
}
