// The product as plainly as packed_weight.cuh allows: a warp a tile and row, without regard to speed.
//
// Definitions beside those of the headers: QUANTISED_INPUT; 0 takes x, 1 its integers.
#include "epilogue.cuh"
#include "packed_weight.cuh"
#include "quantised_input.cuh"

struct Operands {
    PackedWeight weight;
    const int32_t* inputs;
    const typename Element<INPUT_TYPE>::Stored* x;
    QuantisedInput quantised;
    int columns;
};

// One quarter of a slab for the lane's output.
PASCALINE_INLINE float quarter_product(const Operands& operands, int slab, int tile, int row, int lane) {
    const int quarter = lane % 4;
    const QuarterCodes codes = load_codes(operands.weight, slab, tile, lane);
    const QuarterFactors factors =
        factors_of(load_numbers(operands.weight, slab, tile * TILE_OUTPUTS + lane / 4, quarter));
    float sum = 0.0f;
    for (int word = 0; word < WORDS; word++) {
        const int half = word / WORDS_PER_HALF;
        const uint32_t four = code_word(codes, word);
#if QUANTISED_INPUT
        const QuantisedInput& quantised = operands.quantised;
        const uint32_t* words = reinterpret_cast<const uint32_t*>(quantised.codes);
        int32_t integer = 0;
        for (int plane = 0; plane < PLANES; plane++) {
            integer = (integer << 8) +
                      dot4(four, words[quantised.word_index(slab, row, plane, 8 * quarter + word)], 0);
        }
        sum += factors.scale[half] * float(integer);
        if (word % 4 == 3) {
            const size_t entry = size_t(slab) * quantised.rows + row;
            const int32_t total = quantised.sums[entry * 8 + 2 * quarter + word / 4];
            sum -= (factors.scale[half] * float(factors.zero) + factors.offset[half]) * float(total);
        }
#else
        for (int i = 0; i < 4; i++) {
            const int stored = slab * SLAB + quarter * QUARTER + 4 * word + i;
            const int input = operands.inputs != nullptr  ? operands.inputs[stored]
                              : stored < operands.columns ? stored
                                                          : -1;
            if (input < 0) continue;
            const float x = Element<INPUT_TYPE>::widen(operands.x[size_t(row) * operands.columns + input]);
            const int32_t code = int32_t(four << (24 - 8 * i)) >> 24;
            sum += x * (factors.scale[half] * float(code - factors.zero) - factors.offset[half]);
        }
#endif
    }
#if QUANTISED_INPUT
    sum *= operands.quantised.scales[(size_t(slab) * operands.quantised.rows + row) * 4 + quarter];
#endif
    return sum;
}

extern "C" __global__ void plain_linear(const uint8_t* codes, const uint8_t* scales, const uint8_t* integers,
                                        const uint8_t* integers_high, const uint8_t* zeros,
                                        const int32_t* inputs, const void* x, const int8_t* input_codes,
                                        const float* input_scales, const int32_t* input_sums,
                                        const void* bias, const void* residual, void* y, int outputs,
                                        int columns, int rows) {
    const int padded_outputs = (outputs + TILE_OUTPUTS - 1) / TILE_OUTPUTS * TILE_OUTPUTS;
    const Operands operands = {
        {codes, scales, integers, integers_high, zeros, padded_outputs},
        inputs,
        static_cast<const typename Element<INPUT_TYPE>::Stored*>(x),
        {input_codes, input_scales, input_sums, rows},
        columns,
    };
    const int tile = blockIdx.x, row = blockIdx.y, lane = threadIdx.x;
    const int output = tile * TILE_OUTPUTS + lane / 4;
    float sum = 0.0f;
    for (int slab = 0; slab * SLAB < columns; slab++) sum += quarter_product(operands, slab, tile, row, lane);
    sum += shuffle_xor(sum, 1);
    sum += shuffle_xor(sum, 2);
    const Epilogue epilogue = {bias, residual, y, outputs};
#if GATE
    // Halves of the outputs are whole tiles apart here: sums meet in shared memory.
    DYNAMIC_SHARED(float, sums);
    if (lane % 4 == 0) sums[output] = sum;
    for (int other = 0; other < padded_outputs / TILE_OUTPUTS; other++) {
        float of_other = 0.0f;
        for (int slab = 0; slab * SLAB < columns; slab++) {
            of_other += quarter_product(operands, slab, other, row, lane);
        }
        of_other += shuffle_xor(of_other, 1);
        of_other += shuffle_xor(of_other, 2);
        if (lane % 4 == 0) sums[other * TILE_OUTPUTS + lane / 4] = of_other;
    }
    sync_warp();
    if (lane % 4 == 0 && output < outputs / 2) {
        epilogue.store_gated(row, output, sums[output], sums[output + outputs / 2]);
    }
#else
    if (lane % 4 == 0) epilogue.store(row, output, sum);
#endif
}
