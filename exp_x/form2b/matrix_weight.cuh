// A packed weight as tensor cores take it: 16-bit numbers in pairs, from registers to registers.
//
// A tile's lane owns 32 inputs of one output, which is what a lane of the A operand of a 16x8x16 product owns of
// one of its halves of 8 rows: word w of the four quarters is the product's 16 inputs. (Any order of inputs does, if
// B has the same.) Two codes are made numbers by a byte permutation and a multiply-add of the pair.
//
// Where scales are of whole slabs or more, fragments are a * (code - zero) * 2^-16, a the small integer of the group
// or 1: exact as long as it has 11 bits (8 with MATRIX_TYPE BF16), and slab sums are scaled in fp32. Where they are
// of fewer inputs, or with ROUNDS_WEIGHTS, fragments are the weights, D * (code - zero) - E, rounded to MATRIX_TYPE:
// one set of sums is then enough.
//
// Definitions: those of packed_weight.cuh; MATRIX_TYPE; ROUNDS_WEIGHTS.
#pragma once
#include "number_pairs.cuh"
#include "packed_weight.cuh"

// Scales are within the fragments.
constexpr bool IS_SCALED = (SUPER_SIZE != 0 && SUPER_SIZE < SLAB) || ROUNDS_WEIGHTS;
static_assert(!ROUNDS_WEIGHTS || INTEGERS == NO_INTEGERS, "a product of two scales would be rounded twice");
// Sums of fragments times inputs are this many times the product over the scale D.
constexpr float FRAGMENT_UNIT = IS_SCALED ? 1.0f : 0x1p-16f;
// What is left to take off is the group's small integer b times the scale E.
constexpr bool HAS_SLAB_OFFSETS = HAS_OFFSETS && !IS_SCALED;

// A code word's fields can be left where they are in their bytes, times 2^(bits of the shift).
constexpr bool IN_PLACE = (BITS == 1 || BITS == 2 || BITS == 4) && !HAS_TABLE && !(IS_SCALED && MATRIX_TYPE == BF16);
constexpr int FIELDS = IN_PLACE ? 8 / BITS : 1;
// Signed codes are made unsigned.
constexpr bool IS_SIGNED = BITS == 8 || HAS_TABLE;
constexpr int SIGN_OFFSET = IS_SIGNED ? 128 : 0;

// Bytes u become the numbers u * 2^-24 (fp16) or u * 2^-133 (bf16): the smallest there are. fp16 has the room to
// make them 1024 + u where no small integer is multiplied.
constexpr bool IS_BIASED = IS_SCALED && MATRIX_TYPE == FP16;
constexpr uint32_t UPPER_BYTES = IS_BIASED ? 0x64646464u : 0u;
// From such a number to the code times FRAGMENT_UNIT.
constexpr float TO_UNIT = IS_BIASED ? 1.0f : MATRIX_TYPE == FP16 ? 0x1p8f : 0x1p117f;

// What makes a lane's codes of one tile fragments.
struct FragmentFactors {
    uint32_t factor[HALVES][FIELDS], addend[HALVES][FIELDS];  // pairs of equal numbers
    uint32_t scale, offset;                                   // likewise, where IS_SCALED
    float float_scale, float_offset, float_addend;            // where IS_SCALED and MATRIX_TYPE is BF16
    float slab_scale, slab_offset;                            // D and E * FRAGMENT_UNIT, where not IS_SCALED
    uint32_t offsets[2];                                      // the small integers b of both halves, in SUM_TYPE
};

// Tensor cores sum inputs up in this type where they multiply small integers b.
#if !defined(PASCALINE_HOST) && __CUDA_ARCH__ < 800
constexpr int SUM_TYPE = FP16;
#else
constexpr int SUM_TYPE = BF16;
#endif

// 2^-(place of a field in its byte)
PASCALINE_INLINE constexpr float in_place(int field) { return 1.0f / float(1 << (IN_PLACE ? field * BITS : 0)); }

PASCALINE_INLINE FragmentFactors fragment_factors(const QuarterNumbers& numbers) {
    constexpr bool has_group_scales = !IS_SCALED && INTEGERS != NO_INTEGERS;
    FragmentFactors result = {};
    const SuperScales scales = super_scales(numbers);
    result.slab_scale = scales.scale;
    result.slab_offset = scales.offset * FRAGMENT_UNIT;
    const QuarterFactors factors = factors_of(numbers, IS_SCALED ? scales : SuperScales{1.0f, 1.0f});
    const float zero = float(factors.zero + SIGN_OFFSET);
    if constexpr (IS_SCALED && MATRIX_TYPE == BF16) {
        result.float_scale = factors.scale[0];
        result.float_offset = factors.offset[0];
        result.float_addend = -8388608.0f - zero;
    } else {
#pragma unroll
        for (int half = 0; half < HALVES; half++) {
            const uint32_t group = has_group_scales ? twice(factors.scale[half] * TO_UNIT) : 0u;
            const float group_zero = has_group_scales ? factors.scale[half] * zero : zero;
#pragma unroll
            for (int field = 0; field < FIELDS; field++) {
                if constexpr (has_group_scales) {
                    const uint32_t power = constant_pair(in_place(field));
                    result.factor[half][field] =
                        field == 0 ? group : multiply_add_pairs(group, power, 0x80008000u);
                } else {
                    result.factor[half][field] = constant_pair(TO_UNIT * in_place(field));
                }
                const float bias = IS_BIASED ? 1024.0f * in_place(field) : 0.0f;
                if constexpr (ZERO_BITS == 0 && !has_group_scales) {
                    constexpr float constant_zero = ZERO + SIGN_OFFSET;
                    result.addend[half][field] = constant_pair(-bias - constant_zero * FRAGMENT_UNIT);
                } else {
                    result.addend[half][field] = twice(-bias - group_zero * FRAGMENT_UNIT);
                }
            }
        }
        if constexpr (IS_SCALED) {
            result.scale = twice(factors.scale[0]);
            result.offset = HAS_OFFSETS ? twice(-factors.offset[0]) : 0x80008000u;
        }
    }
    if constexpr (HAS_SLAB_OFFSETS) {
        result.offsets[0] = twice<SUM_TYPE>(factors.offset[0]);
        result.offsets[1] = twice<SUM_TYPE>(factors.offset[HALVES - 1]);
    }
    return result;
}

// The two registers of inputs of product `word` (0 ... 7, a constant) of a slab.
PASCALINE_INLINE void fragment_of(const QuarterCodes& codes, const FragmentFactors& factors, int word,
                                  uint32_t (&fragment)[2]) {
    constexpr int code_words = IN_PLACE ? BITS : 1;
    const int field = IN_PLACE ? word / code_words : 0;
    const int half = word / WORDS_PER_HALF;
    uint32_t bytes;
    if constexpr (IN_PLACE) {
        bytes = codes.words[word % code_words] & (uint32_t((1 << BITS) - 1) * 0x01010101u << (field * BITS));
    } else {
        bytes = code_word(codes, word);
        if constexpr (IS_SIGNED) bytes ^= 0x80808080u;
    }
    if constexpr (IS_SCALED && MATRIX_TYPE == BF16) {
        float weights[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const float code = bits_to_float(permute_bytes(bytes, 0x4B000000u, 0x7440u + i)) + factors.float_addend;
            weights[i] = code * factors.float_scale - factors.float_offset;
        }
        fragment[0] = pair_of(weights[0], weights[1]);
        fragment[1] = pair_of(weights[2], weights[3]);
    } else {
#pragma unroll
        for (int pair = 0; pair < 2; pair++) {
            const uint32_t numbers = permute_bytes(bytes, UPPER_BYTES, pair == 0 ? 0x4140u : 0x4342u);
            fragment[pair] =
                multiply_add_pairs(numbers, factors.factor[half][field], factors.addend[half][field]);
            if constexpr (IS_SCALED) {
                fragment[pair] = multiply_add_pairs(fragment[pair], factors.scale, factors.offset);
            }
        }
    }
}
