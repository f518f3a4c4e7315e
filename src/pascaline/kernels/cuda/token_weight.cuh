// Weights of tokens as integers, so that sums do not depend on the order in which they are added up, and the order in
// which tokens are taken: the most likely first, equals by their ids.
#pragma once
#include "platform_rounding.cuh"

constexpr float LARGEST = 3.402823466e38f;
constexpr uint32_t INFINITY_BITS = 0x7F800000u, MINUS_INFINITY = 0xFF800000u;

// What the largest logit weighs, as a power of two. Sums of 2^20 weights fit 63 bits.
constexpr int WEIGHT_BITS = 43;
// Tokens so many powers of two below the largest weigh nothing.
constexpr float DEEPEST = 45.0f;

// The sum of two fp32 numbers.
struct SplitNumber {
    float high, low;
};

constexpr SplitNumber LOG2_E = {1.44269502162933349609f, 1.92596299112661746887e-8f};

// a - b, to the bit (Knuth 1969).
PASCALINE_INLINE SplitNumber difference_of(float a, float b) {
    const float high = a - b, back = high - a;
    return {high, (a - (high - back)) - (b + back)};
}

// 2^WEIGHT_BITS * 2^((logit - most) * exponent), to 2^-29 of it and to 1. `exponent` is log2(e) / temperature. Taken as
// 2^(whole + quarter / 4 + rest), the last factor by its series to the sixth power.
PASCALINE_INLINE uint64_t weight_of(float logit, float most, SplitNumber exponent) {
    const SplitNumber below = difference_of(logit, most);
    const float high = multiply_rounded(below.high, exponent.high);
    if (!(high > -DEEPEST)) return 0;
    const float rounded_off = fmaf(below.high, exponent.high, -high);
    const float low = fmaf(below.high, exponent.low, fmaf(below.low, exponent.high, rounded_off));
    int32_t whole = round_to_int(high);
    // In units of 2^-31, from here on: -1/2 ... 1/2, then quarters and -1/8 ... 1/8.
    const int32_t fraction = round_to_int((high - float(whole)) * 2147483648.0f) + round_to_int(low * 2147483648.0f);
    int32_t quarter = (fraction + (1 << 28)) >> 29;
    const int32_t rest = fraction - quarter * (1 << 29);
    if (quarter < 0) {
        quarter += 4;
        whole -= 1;
    }
    const float x = float(rest) * (1.0f / 2147483648.0f);
    const float above_linear =
        x * x * (0.24022651f + x * (0.05550411f + x * (0.009618129f + x * (0.0013333558f + x * 0.00015403530f))));
    // 2^rest - 1 in units of 2^-32; ln(2) in those of 2^-31.
    const int32_t growth =
        int32_t((int64_t(rest * 4) * 0x58B90BFC) >> 32) + round_to_int(above_linear * 4294967296.0f);
    const uint32_t root = quarter & 2 ? (quarter & 1 ? 0xD744FCCBu : 0xB504F334u)
                                      : (quarter & 1 ? 0x9837F052u : 0x80000000u);  // 2^(quarter / 4), of 2^-31
    const uint32_t grown = root + uint32_t((int64_t(growth) * root) >> 32);
    const int shift = whole < 0 ? -whole : 0;
    return ((uint64_t(grown) << (WEIGHT_BITS - 31)) + (uint64_t(1) << shift >> 1)) >> shift;
}

// floor(a * b / 2^64), and whether anything was cut off.
PASCALINE_INLINE uint64_t multiply_high(uint64_t a, uint64_t b, bool& is_cut) {
    const uint64_t a0 = uint32_t(a), a1 = a >> 32, b0 = uint32_t(b), b1 = b >> 32;
    const uint64_t low = a0 * b0, middle = a1 * b0 + (low >> 32), other = a0 * b1 + uint32_t(middle);
    is_cut = uint32_t(low) != 0 || uint32_t(other) != 0;
    return a1 * b1 + (middle >> 32) + (other >> 32);
}

// NaN and infinity count as the largest number there is, so that whatever a row holds, some token is chosen.
PASCALINE_INLINE float bounded(float logit) { return logit <= LARGEST ? logit : LARGEST; }

// Ascending in the order of likelihood.
PASCALINE_INLINE uint64_t place_of(float logit, int id) {
    const uint32_t bits = float_to_bits(logit + 0.0f);  // -0 is 0
    const uint32_t rank = bits & 0x80000000u ? bits : ~bits & 0x7FFFFFFFu;
    return uint64_t(rank) << 32 | uint32_t(id);
}

PASCALINE_INLINE float logit_at(uint64_t place) {
    const uint32_t rank = uint32_t(place >> 32);
    return bits_to_float(rank & 0x80000000u ? rank : ~rank & 0x7FFFFFFFu);
}
