// Products of linear_rows.cu with inputs that are quantised, by tensor cores: products of bytes (sm_80 and up).
//
// Two tiles are the 16 rows of A: a lane has 32 inputs of an output of each, of which words 2 * step and 2 * step + 1
// of all four quarters are the product's 32 inputs (any order does, if B has the same). B's columns are planes of
// inputs, those of a row side by side. A sum is of inputs that share their scale and the weight's: a piece of the
// slab, of some quarters. For it lanes of the other quarters take zeros.
//
// Definitions: those of row_tiles.cuh and quantised_input.cuh, PLANES 1 or 2; SCALE_GROUP, the inputs of a scale.
#pragma once
#include "matrix.cuh"
#include "row_quantised.cuh"

constexpr int COLUMN_BLOCKS = (ROWS * PLANES + 7) / 8;
constexpr int LANE_ROWS = 2 / PLANES;  // whose sums a lane has, of each block of columns
constexpr int LANES_ROWS = 4 * COLUMN_BLOCKS;

// Where a slab has one scale, all lanes of an output have it; else each has its quarter's.
constexpr bool HAS_SLAB_NUMBERS = SCALES_PER_SLAB == 1 && INTEGERS == NO_INTEGERS;
constexpr int WEIGHT_PIECES = INTEGERS != NO_INTEGERS ? 4 : SCALES_PER_SLAB;
constexpr int INPUT_PIECES = SLAB / SCALE_GROUP;
constexpr int PIECES = WEIGHT_PIECES > INPUT_PIECES ? WEIGHT_PIECES : INPUT_PIECES;
constexpr int PIECE_QUARTERS = 4 / PIECES;
constexpr bool NEEDS_SUMS = ZERO != 0 || ZERO_BITS != 0 || HAS_OFFSETS;

// Of the rows whose sums a lane has.
struct alignas(sizeof(float) * LANE_ROWS) LaneRows {
    float values[LANE_ROWS];
};

// Numbers of a piece's half.
struct StagedNumbers {
    LaneRows scales[LANES_ROWS];
    LaneRows sums[NEEDS_SUMS ? LANES_ROWS : 1];  // of the inputs
};

// One slab of the inputs, as lanes take it.
struct Stage {
    uint4 codes[COLUMN_BLOCKS][2][32];  // halves of quarters: lane 4 * column + quarter
    alignas(16) StagedNumbers numbers[PIECES][HALVES];
};

// What lanes take instead of the quarters that are not a piece's. PERF: as far apart as codes are, so that one address
// serves all blocks of columns.
PASCALINE_INLINE uint4* zeros_of_block() {
    __shared__ uint4 zeros[PIECES == 1 ? 1 : 64 * COLUMN_BLOCKS];
    return zeros;
}

class StagedPart : public QuantisedPart {
  public:
    PASCALINE_INLINE StagedPart() {
        if constexpr (PIECES != 1) {
            for (int i = threadIdx.x; i < 64 * COLUMN_BLOCKS; i += THREADS) {
                zeros_of_block()[i] = make_uint4(0, 0, 0, 0);
            }
        }
    }

    // All threads of the block take part.
    PASCALINE_INLINE void store(Stage (&stages)[STAGE_SLABS]) const {
        if (stage < STAGE_SLABS) {
            const int column = row * PLANES + plane, lane = 4 * (column % 8) + quarter;
            uint4(&codes)[2][32] = stages[stage].codes[column / 8];
            store_codes(codes[0][lane], codes[1][lane]);
        }
        int32_t halves[HALVES];
        halves[0] = HALVES == 2 ? sums.x : sums.x + sums.y;
        if constexpr (HALVES == 2) halves[HALVES - 1] = sums.y;
#pragma unroll
        for (int32_t& half : halves) {
#pragma unroll
            for (int mask = 1; mask < PIECE_QUARTERS; mask *= 2) half += shuffle_xor(half, mask);
        }
        if (number_stage < STAGE_SLABS && quarter % PIECE_QUARTERS == 0) {
            const int place = number_row / LANE_ROWS, i = number_row % LANE_ROWS;
#pragma unroll
            for (int half = 0; half < HALVES; half++) {
                StagedNumbers& own = stages[number_stage].numbers[quarter / PIECE_QUARTERS][half];
                own.scales[place].values[i] = scale;
                if constexpr (NEEDS_SUMS) own.sums[place].values[i] = scale * float(halves[half]);
            }
        }
    }
};

struct UnpackedTiles : TileWords {
    using Sums = float[COLUMN_BLOCKS][LANE_ROWS][TILES];

    // Adds the products of the slab.
    PASCALINE_INLINE void multiply(const Stage& stage, int lane, Sums& sums) const {
        const int quarter = lane % 4;
#pragma unroll
        for (int piece = 0; piece < PIECES; piece++) {
            const bool is_own = PIECES == 1 || quarter / PIECE_QUARTERS == piece;
            const uint4* const codes = is_own ? stage.codes[0][0] + lane : zeros_of_block();
            // Of the piece, in all lanes of an output.
            float piece_scale[TILES][HALVES], piece_offset[TILES][HALVES], piece_zero[TILES];
            const auto of_piece = [&](float own) {
                return HAS_SLAB_NUMBERS ? own : shuffle_from(own, lane - quarter + piece * PIECE_QUARTERS);
            };
#pragma unroll
            for (int tile = 0; tile < TILES; tile++) {
                if constexpr (ZERO_BITS != 0) piece_zero[tile] = of_piece(zero[tile]);
#pragma unroll
                for (int half = 0; half < HALVES; half++) {
                    piece_scale[tile][half] = of_piece(scale[tile][half]);
                    if constexpr (HAS_OFFSETS) piece_offset[tile][half] = of_piece(offset[tile][half]);
                }
            }
#pragma unroll
            for (int block = 0; block < COLUMN_BLOCKS; block++) {
                const uint4 lower = codes[block * 64], upper = codes[block * 64 + 32];
                const uint32_t inputs[WORDS] = {lower.x, lower.y, lower.z, lower.w,
                                                upper.x, upper.y, upper.z, upper.w};
#pragma unroll
                for (int half = 0; half < HALVES; half++) {
                    const StagedNumbers& numbers = stage.numbers[piece][half];
                    int32_t integers[TILES / 2][4] = {};
                    multiply_half(half, inputs, integers);
                    const LaneRows scales = numbers.scales[4 * block + quarter];
                    LaneRows input_sums;
                    if constexpr (NEEDS_SUMS) input_sums = numbers.sums[4 * block + quarter];
#pragma unroll
                    for (int tile = 0; tile < TILES; tile++) {
#pragma unroll
                        for (int i = 0; i < LANE_ROWS; i++) {
                            const int32_t* const own = integers[tile / 2] + tile % 2 * 2;
                            const int32_t integer = PLANES == 2 ? own[0] * 256 + own[1] : own[i];
                            float product = scales.values[i] * float(integer);
                            if constexpr (ZERO != 0) product -= float(ZERO) * input_sums.values[i];
                            if constexpr (ZERO_BITS != 0) product -= piece_zero[tile] * input_sums.values[i];
                            float& sum = sums[block][i][tile];
                            sum += piece_scale[tile][half] * product;
                            if constexpr (HAS_OFFSETS) sum -= piece_offset[tile][half] * input_sums.values[i];
                        }
                    }
                }
            }
        }
    }

  private:
    // Products of all tiles with a block of columns, of words of one half.
    PASCALINE_INLINE void multiply_half(int half, const uint32_t (&inputs)[WORDS],
                                        int32_t (&integers)[TILES / 2][4]) const {
#pragma unroll
        for (int word = half * WORDS_PER_HALF; word < (half + 1) * WORDS_PER_HALF; word += 2) {
            const uint32_t b[2] = {inputs[word], inputs[word + 1]};
#pragma unroll
            for (int pair = 0; pair < TILES / 2; pair++) {
                const uint32_t(&first)[WORDS] = words[2 * pair], (&second)[WORDS] = words[2 * pair + 1];
                const uint32_t a[4] = {first[word], second[word], first[word + 1], second[word + 1]};
                multiply_16x8x32_bytes(integers[pair], a, b);
            }
        }
    }
};

// A warp's sums of each row, in a lane those of the tile that is its own; `sums` are zeros then.
PASCALINE_INLINE void take_sums(UnpackedTiles::Sums& sums, float (&totals)[ROWS], int lane) {
    const int own_tile = lane % 4 * TILES / 4;
#pragma unroll
    for (int row = 0; row < ROWS; row++) {
        const int block = row / (4 * LANE_ROWS), owner = row / LANE_ROWS % 4;
#pragma unroll
        for (int tile = 0; tile < TILES; tile++) {
            const float sum = shuffle_from(sums[block][row % LANE_ROWS][tile], lane / 4 * 4 + owner);
            if (tile == 0 || tile == own_tile) totals[row] = sum;
        }
    }
#pragma unroll
    for (auto& block : sums) {
#pragma unroll
        for (auto& row : block) {
#pragma unroll
            for (float& sum : row) sum = 0.0f;
        }
    }
}
