// Products of linear_rows.cu with inputs that are quantised: integer dot products.
//
// Definitions: those of row_tiles.cuh and quantised_input.cuh, PLANES 1 or 2.
#pragma once
#include "quantised_input.cuh"
#include "row_tiles.cuh"

using RowInput = QuantisedInput;

// Slabs of inputs that are brought at once: a thread brings one quarter of a row's plane.
constexpr int MOST_STAGE_SLABS = ROWS * PLANES > 8 ? 4 : 8;  // of 48 KiB
constexpr int THREAD_SLABS = THREADS / (4 * ROWS * PLANES) / K_WARPS * K_WARPS;
constexpr int STAGE_SLABS = THREAD_SLABS < MOST_STAGE_SLABS ? THREAD_SLABS : MOST_STAGE_SLABS;

static_assert(STAGE_SLABS > 0 && STAGE_SLABS % K_WARPS == 0, "there are threads for a step's inputs");

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
            first = load_handed_on(fours);
            second = load_handed_on(fours + 1);
        }
        if (number_stage < STAGE_SLABS && number_slab < slabs && number_row < input.rows) {
            const size_t place = (size_t(number_slab) * input.rows + number_row) * 4 + quarter;
            scale = load_handed_on(input.scales + place);
            sums = load_handed_on(reinterpret_cast<const int2*>(input.sums) + place);
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
