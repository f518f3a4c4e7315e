// Products of linear_rows.cu with inputs that are quantised: integer dot products. The four quarters of a row are four
// pieces of 16 bytes in different banks; lanes are summed up at the end.
//
// Definitions: those of row_tiles.cuh and quantised_input.cuh, PLANES 1 or 2.
#pragma once
#include "row_quantised.cuh"

// One slab of the inputs, as lanes take it.
struct Stage {
    uint4 codes[ROWS][PLANES][8];  // two a quarter
    float4 numbers[ROWS][4];       // the scale, and where each half's sums of integers begin: -ZERO * sum
    float2 sums[ROWS][4];          // of the inputs, of each half
};

class StagedPart : public QuantisedPart {
  public:
    PASCALINE_INLINE void store(Stage (&stages)[STAGE_SLABS]) const {
        if (stage < STAGE_SLABS) {
            uint4* const fours = &stages[stage].codes[row][plane][2 * quarter];
            store_codes(fours[0], fours[1]);
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
};

struct UnpackedTiles : TileWords {
    using Sums = QuarterSums;

    // sums[row][tile] += the products of the lane's quarter.
    PASCALINE_INLINE void multiply(const Stage& stage, int lane, Sums& sums) const {
        const int quarter = lane % 4;
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
