// y[r] = w[indices[r]]: some outputs of a packed weight in fp32, inputs in their own order.
//
// A warp takes eight slabs of a row, four lanes a slab, a quarter each. Shared memory turns a lane's 32 numbers into
// whole lines; piece p of four numbers lies at p xor (p / 8), so that lanes that write or read at once meet all banks.
//
// Definitions: those of packed_weight.cuh; HAS_PERMUTATION: column c is input `inputs[c]`, -1 for padding; WIDTH, 4 if
// rows of y are whole vectors that are not permuted, else 1.
#include "packed_weight.cuh"

constexpr int WARPS = 4, WARP_SLABS = 8;
constexpr int PIECES = WARP_SLABS * SLAB / 4;

PASCALINE_INLINE int place_of(int piece) { return piece ^ (piece / 8 % 8); }

// Word `word` of the lane's quarter; it is a constant.
PASCALINE_INLINE float4 word_values(const QuarterCodes& codes, const QuarterFactors& factors, int word) {
    constexpr bool is_signed = BITS == 8 || HAS_TABLE;
    // Codes as bytes u are the floats 2^23 + u, from which this is taken off, exactly.
    const float zero = 8388608.0f + float(factors.zero + (is_signed ? 128 : 0));
    const uint32_t bytes = code_word(codes, word) ^ (is_signed ? 0x80808080u : 0u);
    const int half = word / WORDS_PER_HALF;
    float values[4];
#pragma unroll
    for (int byte = 0; byte < 4; byte++) {
        const float code = bits_to_float(permute_bytes(bytes, 0x4B000000u, 0x7440u + byte)) - zero;
        values[byte] = code * factors.scale[half] - (HAS_OFFSETS ? factors.offset[half] : 0.0f);
    }
    return make_float4(values[0], values[1], values[2], values[3]);
}

// parts: groups of eight slabs of a row.
extern "C" __global__ void __launch_bounds__(WARPS * 32)
gather_packed(const uint8_t* codes, const uint8_t* scales, const uint8_t* integers, const uint8_t* integers_high,
              const uint8_t* zeros, const int32_t* inputs, const int64_t* indices, float* y, int rows, int parts,
              int outputs, int columns) {
    __shared__ float4 staged[WARPS][PIECES];
    let_next_launch_begin();
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int item = blockIdx.x * WARPS + warp;
    if (item >= rows * parts) return;
    const int row = item / parts, first_slab = (item - row * parts) * WARP_SLABS;
    const int slabs = (columns + SLAB - 1) / SLAB;
    const PackedWeight weight = {codes,         scales, integers,
                                 integers_high, zeros,  (outputs + TILE_OUTPUTS - 1) / TILE_OUTPUTS * TILE_OUTPUTS};
    wait_for_launches_before();
    const int output = int(load_handed_on(indices + row));
    // Past the end any slab will do: it is not stored.
    const int slab = min(first_slab + lane / 4, slabs - 1), quarter = lane % 4;
    const QuarterCodes own = load_codes(weight, slab, output / TILE_OUTPUTS, 4 * (output % TILE_OUTPUTS) + quarter);
    const QuarterFactors factors = factors_of(load_numbers(weight, slab, output, quarter));
#pragma unroll
    for (int word = 0; word < WORDS; word++) {
        staged[warp][place_of(WORDS * lane + word)] = word_values(own, factors, word);
    }
    sync_warp();
    float* const result = y + size_t(row) * columns;
#pragma unroll
    for (int step = 0; step < PIECES / 32; step++) {
        const int piece = step * 32 + lane, column = first_slab * SLAB + 4 * piece;
        if (column >= columns) break;
        const float4 four = staged[warp][place_of(piece)];
        if constexpr (WIDTH == 4) {
            *reinterpret_cast<float4*>(result + column) = four;
        } else {
            const float values[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
            for (int i = 0; i < 4; i++) {
                if (column + i >= columns) break;
                const int input = HAS_PERMUTATION ? load_constant(inputs + column + i) : column + i;
                result[input] = values[i];
            }
        }
    }
}
