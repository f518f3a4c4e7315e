// What a lane keeps of the inputs that it multiplies: a row's quarter of a slab, ready for whole columns of tiles.
//
// Definitions: those of packed_weight.cuh and slab_input.cuh; ROWS; ARITHMETIC, DOT4 or FMA; QUANTISED_INPUT.
#pragma once
#include "packed_weight.cuh"
#include "slab_input.cuh"
#include "weight_stream.cuh"

constexpr int DOT4 = 0, FMA = 1;

static_assert(ARITHMETIC == DOT4 || !QUANTISED_INPUT, "quantised inputs are multiplied as integers");

// Sums of inputs are needed for zeros and offsets that differ from place to place.
constexpr bool NEEDS_SUMS = ZERO_BITS != 0 || HAS_OFFSETS;

// FMA: codes become floats without a conversion, 1 + code / 2^FIELD_BITS, by their bits in the mantissa's top.
constexpr bool HAS_SIGNED_CODES = BITS == 8 || HAS_TABLE;
constexpr int FIELD_BITS = HAS_SIGNED_CODES ? 8 : BITS;
constexpr uint32_t FLOAT_ONE = 0x3F800000u;
// Both nibbles of a byte in place: one has 4 bits of the mantissa below it.
constexpr bool HAS_NIBBLES = BITS == 4 && !HAS_TABLE;

struct QuarterInput {
#if ARITHMETIC == DOT4
    uint32_t words[PLANES][WORDS];
    float scale;
    int32_t start[HALVES];  // sums begin here: - ZERO * the sum of integers
#else
    float values[QUARTER];  // times what the code is divided by
    float start[HALVES];
#endif
    float sums[HALVES];  // of the inputs; with slab numbers that of the whole slab
};

// Codes by bytes, in the order that inputs are kept in.
PASCALINE_INLINE void unpack(const QuarterCodes& codes, uint32_t zero, uint32_t (&words)[WORDS]) {
    if constexpr (HAS_TABLE) {
#pragma unroll
        for (int word = 0; word < WORDS / 2; word++) {
            const uint2 two = look_up_word(codes.words[word % BITS], zero);
            words[2 * word] = two.x;
            words[2 * word + 1] = two.y;
        }
    } else if constexpr (BITS == 3) {
        // Both planes are joined in nibbles, so that a shift and a mask serve two words.
#pragma unroll
        for (int odd = 0; odd < 2; odd++) {
            const uint32_t two_bits = codes.words[odd], one_bit = codes.words[2];
            const uint32_t even_fields = (two_bits & 0x33333333u) | (shifted(one_bit, 2 - odd) & 0x44444444u);
            const uint32_t odd_fields = ((two_bits >> 2) & 0x33333333u) | (shifted(one_bit, -odd) & 0x44444444u);
            words[odd] = even_fields & 0x0F0F0F0Fu;
            words[2 + odd] = odd_fields & 0x0F0F0F0Fu;
            words[4 + odd] = (even_fields >> 4) & 0x0F0F0F0Fu;
            words[6 + odd] = (odd_fields >> 4) & 0x0F0F0F0Fu;
        }
    } else {
#pragma unroll
        for (int word = 0; word < WORDS; word++) words[word] = code_word(codes, word);
    }
}

#if ARITHMETIC == DOT4

// Bytes in the order of `look_up_word`.
PASCALINE_INLINE void pair_words(uint32_t (&words)[WORDS]) {
    uint32_t paired[WORDS];
#pragma unroll
    for (int word = 0; word < 4; word++) {
        paired[2 * word] = permute_bytes(words[word], words[word + 4], 0x5140);
        paired[2 * word + 1] = permute_bytes(words[word], words[word + 4], 0x7362);
    }
#pragma unroll
    for (int word = 0; word < WORDS; word++) words[word] = paired[word];
}

// The sums are of the integers of the quarter's halves of 16 inputs.
PASCALINE_INLINE void finish_input(QuarterInput& input, int32_t first_sum, int32_t second_sum) {
    const int32_t sums[2] = {first_sum, second_sum};
#pragma unroll
    for (int half = 0; half < HALVES; half++) {
        const int32_t sum = HALVES == 2 ? sums[half] : sums[0] + sums[1];
        input.start[half] = -ZERO * sum;
        input.sums[half] = NEEDS_SUMS ? input.scale * float(sum) : 0.0f;
    }
    if constexpr (NEEDS_SUMS && HAS_SLAB_NUMBERS) {
        input.sums[0] += shuffle_xor(input.sums[0], 1);
        input.sums[0] += shuffle_xor(input.sums[0], 2);
    }
    if constexpr (HAS_TABLE) {
#pragma unroll
        for (int plane = 0; plane < PLANES; plane++) pair_words(input.words[plane]);
    }
}

PASCALINE_INLINE void set_words(uint32_t (&words)[WORDS], const uint4& first, const uint4& second) {
    words[0] = first.x;
    words[1] = first.y;
    words[2] = first.z;
    words[3] = first.w;
    words[4] = second.x;
    words[5] = second.y;
    words[6] = second.z;
    words[7] = second.w;
}

constexpr int EXCHANGE_WORDS = QUANTISED_INPUT ? 0 : 32 * PLANES;

// The quarters of a row's slab, from all lanes to those that multiply them. `exchange` is the warp's.
PASCALINE_INLINE void take_inputs(QuarterInput& input, const LoadedInputs& loaded, uint32_t* exchange, int lane) {
    const QuantisedFour four = quantise_four(loaded);
    const int quarter = lane & 3;
#pragma unroll
    for (int plane = 0; plane < PLANES; plane++) exchange[32 * plane + lane] = four.words[plane];
    input.scale = shuffle_from(four.scale, 8 * quarter);
    const int32_t first_sum = shuffle_from(four.sum, 8 * quarter);
    const int32_t second_sum = shuffle_from(four.sum, 8 * quarter + 4);
    sync_warp();
#pragma unroll
    for (int plane = 0; plane < PLANES; plane++) {
        const auto* words = reinterpret_cast<const uint4*>(exchange + 32 * plane + 8 * quarter);
        set_words(input.words[plane], words[0], words[1]);
    }
    sync_warp();
    finish_input(input, first_sum, second_sum);
}

PASCALINE_INLINE void take_quantised(QuarterInput& input, const QuantisedInput& x, int slab, int row, int lane) {
    const int quarter = lane & 3;
    const auto* codes = reinterpret_cast<const uint32_t*>(x.codes);
#pragma unroll
    for (int plane = 0; plane < PLANES; plane++) {
        const auto* words = reinterpret_cast<const uint4*>(codes + x.word_index(slab, row, plane, 8 * quarter));
        set_words(input.words[plane], load_handed_on(words), load_handed_on(words + 1));
    }
    const size_t place = size_t(slab) * x.rows + row;
    input.scale = load_handed_on(x.scales + place * 4 + quarter);
    const int2 sums = load_handed_on(reinterpret_cast<const int2*>(x.sums) + place * 4 + quarter);
    finish_input(input, sums.x, sums.y);
}

// A quarter's products with every row, by halves, in units of the weight's scale. `zero` is one that the compiler does
// not know.
PASCALINE_INLINE void multiply(const QuarterCodes& codes, const QuarterInput (&input)[ROWS], uint32_t zero,
                               float (&products)[ROWS][HALVES]) {
    int32_t high[ROWS][HALVES], low[ROWS][HALVES];
#pragma unroll
    for (int row = 0; row < ROWS; row++) {
#pragma unroll
        for (int half = 0; half < HALVES; half++) {
            high[row][half] = 0;
            low[row][half] = input[row].start[half];
        }
    }
    const auto add_products = [&](uint32_t four, int word) {
        const int half = word / WORDS_PER_HALF;
#pragma unroll
        for (int row = 0; row < ROWS; row++) {
            if constexpr (PLANES == 2) high[row][half] = dot4(four, input[row].words[0][word], high[row][half]);
            low[row][half] = dot4(four, input[row].words[PLANES - 1][word], low[row][half]);
        }
    };
    if constexpr (HAS_TABLE && ROWS == 1 && table_has_halves()) {
        // PERF: twice the products, which are not what is short of time: look-ups are, in 7 instructions for 11.
#pragma unroll
        for (int word = 0; word < WORDS / 2; word++) {
            const TableAddends addends = look_up_addends(codes.words[word % BITS], zero);
#pragma unroll
            for (int part = 0; part < 2; part++) {
                add_products(addends.first[part], 2 * word + part);
                add_products(addends.second[part], 2 * word + part);
            }
        }
    } else {
        uint32_t words[WORDS];
        unpack(codes, zero, words);
#pragma unroll
        for (int word = 0; word < WORDS; word++) add_products(words[word], word);
    }
#pragma unroll
    for (int row = 0; row < ROWS; row++) {
#pragma unroll
        for (int half = 0; half < HALVES; half++) {
            const int32_t sum = PLANES == 2 ? high[row][half] * 256 + low[row][half] : low[row][half];
            products[row][half] = input[row].scale * float(sum);
        }
    }
}

#else  // FMA

constexpr int EXCHANGE_WORDS = 128;

PASCALINE_INLINE void take_inputs(QuarterInput& input, const LoadedInputs& loaded, uint32_t* exchange, int lane) {
    const int quarter = lane & 3;
    auto* values = reinterpret_cast<float4*>(exchange);
    values[lane] = make_float4(widened_input(loaded, 0), widened_input(loaded, 1), widened_input(loaded, 2),
                               widened_input(loaded, 3));
    sync_warp();
#pragma unroll
    for (int half = 0; half < HALVES; half++) input.sums[half] = input.start[half] = 0.0f;
#pragma unroll
    for (int word = 0; word < WORDS; word++) {
        const float4 four = values[8 * quarter + word];
        const float multiple = HAS_NIBBLES && word >= 4 ? 16.0f : float(1 << (HAS_NIBBLES ? 8 : FIELD_BITS));
        const int half = word / WORDS_PER_HALF;
        const float sum = (four.x + four.y) + (four.z + four.w);
        input.sums[half] += sum;
        input.start[half] -= (multiple + float(ZERO + (HAS_SIGNED_CODES ? 128 : 0))) * sum;
        input.values[4 * word] = multiple * four.x;
        input.values[4 * word + 1] = multiple * four.y;
        input.values[4 * word + 2] = multiple * four.z;
        input.values[4 * word + 3] = multiple * four.w;
    }
    sync_warp();
    if constexpr (NEEDS_SUMS && HAS_SLAB_NUMBERS) {
        input.sums[0] += shuffle_xor(input.sums[0], 1);
        input.sums[0] += shuffle_xor(input.sums[0], 2);
    }
}

// As above. (word & mask) | one is a single instruction if the compiler does not know `one`.
PASCALINE_INLINE void multiply(const QuarterCodes& codes, const QuarterInput (&input)[ROWS], uint32_t zero,
                               float (&products)[ROWS][HALVES]) {
    const uint32_t one = FLOAT_ONE | zero;
#pragma unroll
    for (int row = 0; row < ROWS; row++) {
#pragma unroll
        for (int half = 0; half < HALVES; half++) products[row][half] = input[row].start[half];
    }
    if constexpr (HAS_NIBBLES) {
#pragma unroll
        for (int word = 0; word < 4; word++) {
#pragma unroll
            for (int byte = 0; byte < 4; byte++) {
                const uint32_t fields = shifted(codes.words[word], 15 - 8 * byte);
                const float low = bits_to_float((fields & 0x00078000u) | one);
                const float high = bits_to_float((fields & 0x00780000u) | one);
#pragma unroll
                for (int row = 0; row < ROWS; row++) {
                    float& first = products[row][0];
                    float& second = products[row][HALVES - 1];
                    first += input[row].values[4 * word + byte] * low;
                    second += input[row].values[16 + 4 * word + byte] * high;
                }
            }
        }
    } else {
        constexpr uint32_t field = ((1u << FIELD_BITS) - 1) << (23 - FIELD_BITS);
        uint32_t words[WORDS];
        unpack(codes, zero, words);
#pragma unroll
        for (int word = 0; word < WORDS; word++) {
            const uint32_t four = HAS_SIGNED_CODES ? words[word] ^ 0x80808080u : words[word];
#pragma unroll
            for (int byte = 0; byte < 4; byte++) {
                const float code = bits_to_float((shifted(four, 23 - FIELD_BITS - 8 * byte) & field) | one);
                const int index = HAS_TABLE ? paired_input(word, byte) : 4 * word + byte;
#pragma unroll
                for (int row = 0; row < ROWS; row++) {
                    products[row][word / WORDS_PER_HALF] += input[row].values[index] * code;
                }
            }
        }
    }
}

#endif
