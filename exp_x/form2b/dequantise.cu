// dense[output - first_output, input] = w[output, input], row-major in another number type, inputs in the order that the
// weight stores them in: what a library's product then takes. w is found in fp32 and rounded once.
//
// A warp takes TILES neighbouring tiles of a slab, a block's warps neighbouring slabs. A lane's 32 inputs are some
// pieces of 16 bytes of a row; shared memory turns them into whole rows of a tile, which are stored a quarter
// kilobyte at a time. Piece p of row n lies at place p xor s, so that the eight lanes that write or read at once
// meet all banks.
//
// Definitions: those of packed_weight.cuh; OUTPUT_TYPE; TILES; WARPS; IS_ALIGNED: its rows begin at multiples of 16
// bytes.
#include "packed_weight.cuh"

using Number = Element<OUTPUT_TYPE>;
using Stored = Number::Stored;

constexpr int PER_PIECE = 16 / sizeof(Stored);
constexpr int QUARTER_PIECES = QUARTER / PER_PIECE;
constexpr int ROW_PIECES = 4 * QUARTER_PIECES;
constexpr int WORDS_PER_PIECE = PER_PIECE / 4;

union Piece {
    uint4 four;
    Stored numbers[PER_PIECE];
};

PASCALINE_INLINE int place_of(int row, int piece) {
    const int swap = OUTPUT_TYPE == FP32 ? piece / 8 | (row & 1) << 2 : piece / 8 | (row & 1) << 1;
    return row * ROW_PIECES + (piece ^ swap);
}

// The numbers of one piece of the lane's quarter; `piece` is a constant.
PASCALINE_INLINE uint4 dequantised(const QuarterCodes& codes, const QuarterFactors& factors, int piece) {
    constexpr bool is_signed = BITS == 8 || HAS_TABLE;
    // Codes as bytes u are the floats 2^23 + u, from which this is taken off, exactly.
    const float zero = 8388608.0f + float(factors.zero + (is_signed ? 128 : 0));
    Piece result;
#pragma unroll
    for (int i = 0; i < WORDS_PER_PIECE; i++) {
        const int word = piece * WORDS_PER_PIECE + i;
        const uint32_t bytes = code_word(codes, word) ^ (is_signed ? 0x80808080u : 0u);
        const int half = word / WORDS_PER_HALF;
#pragma unroll
        for (int byte = 0; byte < 4; byte++) {
            const float code = bits_to_float(permute_bytes(bytes, 0x4B000000u, 0x7440u + byte)) - zero;
            result.numbers[4 * i + byte] =
                Number::narrow(code * factors.scale[half] - (HAS_OFFSETS ? factors.offset[half] : 0.0f));
        }
    }
    return result.four;
}

extern "C" __global__ void __launch_bounds__(WARPS * 32)
dequantise(const uint8_t* codes, const uint8_t* scales, const uint8_t* integers, const uint8_t* integers_high,
           const uint8_t* zeros, void* dense, int first_output, int last_output, int outputs, int columns) {
    __shared__ uint4 rows[WARPS][TILE_OUTPUTS * ROW_PIECES];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int slab = blockIdx.x * WARPS + warp;
    if (slab >= (columns + SLAB - 1) / SLAB) return;
    const int tiles = (outputs + TILE_OUTPUTS - 1) / TILE_OUTPUTS;
    const PackedWeight weight = {codes, scales, integers, integers_high, zeros, tiles * TILE_OUTPUTS};
    const int first_tile = first_output / TILE_OUTPUTS + blockIdx.y * TILES;

    QuarterCodes tile_codes[TILES];
    QuarterNumbers tile_numbers[TILES];
#pragma unroll
    for (int i = 0; i < TILES; i++) {
        // Past the end anything that can be read will do: it is not stored.
        const int tile = min(first_tile + i, tiles - 1);
        tile_codes[i] = load_codes(weight, slab, tile, lane);
        tile_numbers[i] = load_numbers(weight, slab, tile * TILE_OUTPUTS + lane / 4, lane % 4);
    }
#pragma unroll
    for (int i = 0; i < TILES; i++) {
        const QuarterFactors factors = factors_of(tile_numbers[i]);
        __syncwarp();
#pragma unroll
        for (int piece = 0; piece < QUARTER_PIECES; piece++) {
            rows[warp][place_of(lane / 4, lane % 4 * QUARTER_PIECES + piece)] =
                dequantised(tile_codes[i], factors, piece);
        }
        __syncwarp();
#pragma unroll
        for (int step = 0; step < TILE_OUTPUTS * ROW_PIECES / 32; step++) {
            const int index = step * 32 + lane;
            const int row = index / ROW_PIECES, piece = index % ROW_PIECES;
            const int output = (first_tile + i) * TILE_OUTPUTS + row;
            const int column = slab * SLAB + piece * PER_PIECE;
            if (output >= last_output || column >= columns) continue;
            Piece value;
            value.four = rows[warp][place_of(row, piece)];
            Stored* const place = static_cast<Stored*>(dense) + size_t(output - first_output) * columns + column;
            if constexpr (IS_ALIGNED) {
                *reinterpret_cast<uint4*>(place) = value.four;
            } else {
#pragma unroll
                for (int number = 0; number < PER_PIECE; number++) {
                    if (column + number < columns) place[number] = value.numbers[number];
                }
            }
        }
    }
}
