// A packed weight in slabs of 128 inputs (weights/slabbed.py has the layout): from memory to what multiplies.
//
// A warp owns a tile of 8 outputs x 128 inputs; lane = 4 * (output % 8) + quarter. Of each (output, quarter) a
// kernel gets 8 words of 4 codes, a byte each, and per half (16 inputs if groups are of 16, else all 32)
//
//     w[output, input] = scale[half] * (code - zero) - offset[half]
//
// Definitions: BITS; SUPER_SIZE, 0 if a row has one scale; SCALE_TYPE; HAS_OFFSETS; INTEGERS, the layout of a
// quarter's small integers; GROUP_SCALE_ZERO, taken off those of 6 bits; ZERO; ZERO_BITS; HAS_TABLE, TABLE_0 ...
// TABLE_3.
#pragma once
#include "platform.cuh"
#include "slab.cuh"

constexpr int NO_INTEGERS = 0;
constexpr int SCALE_8 = 1;         // one signed byte
constexpr int SCALES_8_8 = 2;      // two signed bytes: groups of 16
constexpr int SCALES_OFFSETS_4 = 3;  // two scales, then two offsets, of 4 bits: groups of 16
constexpr int SCALES_6_6 = 4;      // two scales of 6 bits: groups of 16
constexpr int SCALE_OFFSET_6 = 5;  // a scale and an offset of 6 bits: groups of 32

constexpr int HALVES = INTEGERS == SCALES_8_8 || INTEGERS == SCALES_OFFSETS_4 || INTEGERS == SCALES_6_6 ? 2 : 1;
constexpr int WORDS_PER_HALF = WORDS / HALVES;
constexpr int SCALE_BYTES = (SCALE_TYPE == FP32 ? 4 : SCALE_TYPE == EXPONENT ? 1 : 2) * (1 + HAS_OFFSETS);
constexpr int SCALES_PER_SLAB = SUPER_SIZE != 0 && SUPER_SIZE < SLAB ? SLAB / SUPER_SIZE : 1;
constexpr int TILE_BYTES = SLAB * BITS;

struct PackedWeight {
    const uint8_t* codes;
    const uint8_t* scales;
    const uint8_t* integers;
    const uint8_t* integers_high;
    const uint8_t* zeros;
    int padded_outputs;  // a multiple of 8
};

// The word shifted left, or right where `bits` is negative.
PASCALINE_INLINE uint32_t shifted(uint32_t word, int bits) { return bits >= 0 ? word << bits : word >> -bits; }

struct QuarterCodes {
    uint32_t words[BITS];
};

// Bytes of a lane in the first plane.
constexpr int LANE_BYTES = BITS >= 4 ? 16 : BITS >= 2 ? 8 : 4;

// Where a lane's codes of a tile begin; `tile` counts outputs / 8. Tiles of a slab follow every TILE_BYTES.
PASCALINE_INLINE const uint8_t* codes_place(const PackedWeight& weight, int slab, int tile, int lane) {
    const size_t index = size_t(slab) * (weight.padded_outputs / TILE_OUTPUTS) + tile;
    return weight.codes + index * TILE_BYTES + lane * LANE_BYTES;
}

// Where codes and numbers are read.
struct FromMemory {
    template <typename Value>
    static PASCALINE_INLINE Value streamed(const Value* address) {
        return load_once(address);
    }
    template <typename Value>
    static PASCALINE_INLINE Value number(const Value* address) {
        return load_constant(address);
    }
};

struct FromShared {
    template <typename Value>
    static PASCALINE_INLINE Value streamed(const Value* address) {
        return *address;
    }
    template <typename Value>
    static PASCALINE_INLINE Value number(const Value* address) {
        return *address;
    }
};

// The lane's codes at `place`.
template <typename Source = FromMemory>
PASCALINE_INLINE QuarterCodes load_codes(const uint8_t* place, int lane) {
    QuarterCodes codes;
    if constexpr (BITS >= 4) {
#pragma unroll
        for (int part = 0; part < (BITS == 8 ? 2 : 1); part++) {
            const uint4 four = Source::streamed(reinterpret_cast<const uint4*>(place + part * 512));
            codes.words[4 * part] = four.x;
            codes.words[4 * part + 1] = four.y;
            codes.words[4 * part + 2] = four.z;
            codes.words[4 * part + 3] = four.w;
        }
    }
    // Further planes have fewer bytes a lane.
    if constexpr (BITS == 2 || BITS == 3 || BITS == 6) {
        constexpr int first = BITS == 6 ? 4 : 0;
        const uint8_t* own = place - lane * (LANE_BYTES - 8) + first * 128;
        const uint2 two = Source::streamed(reinterpret_cast<const uint2*>(own));
        codes.words[first] = two.x;
        codes.words[first + 1] = two.y;
    }
    if constexpr (BITS == 1 || BITS == 3 || BITS == 5) {
        constexpr int first = BITS - 1;
        codes.words[first] =
            Source::streamed(reinterpret_cast<const uint32_t*>(place - lane * (LANE_BYTES - 4) + first * 128));
    }
    return codes;
}

PASCALINE_INLINE QuarterCodes load_codes(const PackedWeight& weight, int slab, int tile, int lane) {
    return load_codes(codes_place(weight, slab, tile, lane), lane);
}

#if HAS_TABLE
constexpr uint32_t TABLE[4] = {uint32_t(TABLE_0), uint32_t(TABLE_1), uint32_t(TABLE_2), uint32_t(TABLE_3)};
#else
constexpr uint32_t TABLE[4] = {0, 0, 0, 0};
#endif

// Four look-ups in 16 signed bytes: the four lowest nibbles of `codes`, in order. What is above them is ignored.
PASCALINE_INLINE uint32_t look_up_nibbles(uint32_t codes) {
    // Bit 3 of a selector asks for signs, so that each half of the table takes the codes of its own as they are
    // and makes nonsense of the others, which are then left out.
    const uint32_t low = permute_bytes(TABLE[0], TABLE[1], codes);
    const uint32_t high = permute_bytes(TABLE[2], TABLE[3], codes ^ 0x88888888u);
    return permute_bytes(low, high, ((codes & 0x88888888u) >> 1) | 0x32103210u);
}

// All eight nibbles of `codes`, in order, in eleven instructions. `zero` is a zero that the compiler does not know,
// so that it keeps half of the table in registers: of a permutation's operands one alone may be a constant.
PASCALINE_INLINE uint2 look_up_word(uint32_t codes, uint32_t zero) {
    const uint32_t lowest = TABLE[0] ^ zero, third = TABLE[2] ^ zero;
    const uint32_t within = codes & 0x77777777u;
    const uint32_t halves = ((codes & 0x88888888u) >> 1) | 0x32103210u;
    const uint32_t upper_within = upper_half(within), upper_halves = upper_half(halves);
    return make_uint2(
        permute_bytes(permute_bytes(lowest, TABLE[1], within), permute_bytes(third, TABLE[3], within), halves),
        permute_bytes(permute_bytes(lowest, TABLE[1], upper_within), permute_bytes(third, TABLE[3], upper_within),
                      upper_halves));
}

// A table in two halves of which a look-up in each adds up to the entry: a permutation answers a code of the other half
// with the sign, 0 or -1, of what is at its place, and that is taken off the other half's entry.
struct TableHalves {
    int first, second;  // the entries of a code below 8 and of the same plus 8
    bool are_there;
};

PASCALINE_INLINE constexpr int table_entry(int code) { return int8_t(TABLE[code / 4] >> (8 * (code % 4))); }

PASCALINE_INLINE constexpr TableHalves table_halves(int code) {
    for (int first_sign = 0; first_sign >= -1; first_sign--) {
        for (int second_sign = 0; second_sign >= -1; second_sign--) {
            const int first = table_entry(code) - second_sign, second = table_entry(code + 8) - first_sign;
            if ((first < 0) == (first_sign < 0) && (second < 0) == (second_sign < 0) && first < 128 && second < 128) {
                return {first, second, true};
            }
        }
    }
    return {0, 0, false};
}

// Four entries of a half, from `code` on.
PASCALINE_INLINE constexpr uint32_t half_word(int code, bool is_second) {
    uint32_t word = 0;
    for (int i = 3; i >= 0; i--) {
        const TableHalves halves = table_halves(code + i);
        word = word << 8 | uint8_t(is_second ? halves.second : halves.first);
    }
    return word;
}

// Not where an entry of 127 needs an addend of 128.
PASCALINE_INLINE constexpr bool table_has_halves() {
    for (int code = 0; code < 8; code++) {
        if (!table_halves(code).are_there) return false;
    }
    return true;
}

// Addends of all eight nibbles of `codes`, in order, in seven instructions; see `look_up_word`.
struct TableAddends {
    uint32_t first[2], second[2];
};

PASCALINE_INLINE TableAddends look_up_addends(uint32_t codes, uint32_t zero) {
    constexpr uint32_t first_low = half_word(0, false), first_high = half_word(4, false);
    constexpr uint32_t second_low = half_word(0, true), second_high = half_word(4, true);
    const uint32_t others = codes ^ 0x88888888u;
    const uint32_t first = first_low ^ zero, second = second_low ^ zero;
    return {{permute_bytes(first, first_high, codes), permute_bytes(first, first_high, upper_half(codes))},
            {permute_bytes(second, second_high, others), permute_bytes(second, second_high, upper_half(others))}};
}

// Word `word` of all that `look_up_word` makes of the lane's code words.
PASCALINE_INLINE uint32_t paired_word(const QuarterCodes& codes, int word) {
    return look_up_nibbles(codes.words[word / 2 % BITS] >> (16 * (word & 1)));
}

// The input that byte `byte` of word `word` of those is of. Word 2 * w + s, made of the lane's code word w, has from
// the lowest byte up inputs i, 16 + i, i + 1 and 17 + i for i = 4 * w + 2 * s.
PASCALINE_INLINE constexpr int paired_input(int word, int byte) {
    return 16 * (byte & 1) + 4 * (word >> 1) + 2 * (word & 1) + (byte >> 1);
}

// Codes of inputs 4 * word ... 4 * word + 3 of the quarter, a byte each; `word` is a constant where it matters.
PASCALINE_INLINE uint32_t code_word(const QuarterCodes& codes, int word) {
    if constexpr (BITS == 8) return codes.words[word];
    // Each plane's field goes to its place in one shift and one operation on bits.
    uint32_t value = 0;
    if constexpr (BITS >= 4) value = (codes.words[word & 3] >> (4 * (word >> 2))) & 0x0F0F0F0Fu;
    if constexpr (BITS == 2 || BITS == 3 || BITS == 6) {
        constexpr int first = BITS == 6 ? 4 : 0;
        value |= shifted(codes.words[first + (word & 1)], first - 2 * (word >> 1)) & (0x03030303u << first);
    }
    if constexpr (BITS == 1 || BITS == 3 || BITS == 5) {
        value |= shifted(codes.words[BITS - 1], BITS - 1 - word) & (0x01010101u << (BITS - 1));
    }
    // The nibbles of the four bytes, brought together.
    if constexpr (HAS_TABLE) return look_up_nibbles(permute_bytes(value | (value >> 4), 0, 0x4420));
    return value;
}

// A quarter's scales and integers just as they lie in memory: what is loaded ahead of its use must not be touched
// before, since that waits for it.
struct QuarterNumbers {
    uint32_t scale, offset;  // bits; `scale` has both where a pair of them has 4 bytes or fewer
    uint32_t integers, integers_high;
    uint32_t zero;
    int integers_shift, zero_shift;  // of nibbles that are this quarter's
};

// Where they lie.
struct NumberPlace {
    const uint8_t* scale;
    const uint8_t* integers;
    const uint8_t* integers_high;
    const uint8_t* zero;
    int integers_shift, zero_shift;  // of the nibble

    static constexpr int INTEGERS_BYTES = INTEGERS == SCALES_8_8 || INTEGERS == SCALES_OFFSETS_4 ? 2 : 1;
    // Bytes from a tile's to the next one's.
    static constexpr int SCALE_STRIDE = TILE_OUTPUTS * SCALES_PER_SLAB * SCALE_BYTES;
    static constexpr int INTEGERS_STRIDE = 4 * TILE_OUTPUTS * INTEGERS_BYTES;
    static constexpr int ZERO_STRIDE = TILE_OUTPUTS * SCALES_PER_SLAB / (ZERO_BITS == 4 ? 2 : 1);
};

PASCALINE_INLINE NumberPlace number_place(const PackedWeight& weight, int slab, int output, int quarter) {
    constexpr int slabs_per_row = SUPER_SIZE > SLAB ? SUPER_SIZE / SLAB : 1;
    // Indices of 32 bits: four fields a slab are less than 2^32 in all weights of less than 2^37 numbers.
    const uint32_t outputs = weight.padded_outputs;
    const uint32_t row = SUPER_SIZE == 0 ? 0 : uint32_t(slab) / slabs_per_row;
    const uint32_t entry = SCALES_PER_SLAB == 1 ? 0 : quarter * SCALES_PER_SLAB / 4;
    const uint32_t index = (row * outputs + output) * SCALES_PER_SLAB + entry;
    const uint32_t field = (slab * outputs + output) * 4 + quarter;
    NumberPlace place;
    place.scale = weight.scales + size_t(index) * SCALE_BYTES;
    place.integers = weight.integers + size_t(field) * NumberPlace::INTEGERS_BYTES;
    place.integers_high = weight.integers_high + ((slab >> 1) * outputs + output) * 4 + quarter;
    place.integers_shift = 4 * (slab & 1);
    const uint32_t pair = SCALES_PER_SLAB == 1 ? index >> 1  // outputs are even
                                               : (row * (outputs / 2) + (output >> 1)) * SCALES_PER_SLAB + entry;
    place.zero = weight.zeros + (ZERO_BITS == 4 ? pair : index);
    place.zero_shift = ZERO_BITS == 4 ? 4 * (output & 1) : 0;
    return place;
}

// Of the output `tiles` tiles further on.
template <typename Source = FromMemory>
PASCALINE_INLINE QuarterNumbers load_numbers(const NumberPlace& place, int tiles) {
    QuarterNumbers numbers = {0, 0, 0, 0, 0, place.integers_shift, place.zero_shift};
    const uint8_t* scale = place.scale + tiles * NumberPlace::SCALE_STRIDE;
    if constexpr (SCALE_BYTES == 1) {
        numbers.scale = Source::number(scale);
    } else if constexpr (SCALE_BYTES == 2) {
        numbers.scale = Source::number(reinterpret_cast<const uint16_t*>(scale));
    } else if constexpr (SCALE_BYTES == 4) {
        numbers.scale = Source::number(reinterpret_cast<const uint32_t*>(scale));
    } else {
        const uint2 pair = Source::number(reinterpret_cast<const uint2*>(scale));
        numbers.scale = pair.x;
        numbers.offset = pair.y;
    }
    const uint8_t* integers = place.integers + tiles * NumberPlace::INTEGERS_STRIDE;
    if constexpr (INTEGERS == SCALE_8) {
        numbers.integers = Source::number(integers);
    } else if constexpr (INTEGERS == SCALES_8_8 || INTEGERS == SCALES_OFFSETS_4) {
        numbers.integers = Source::number(reinterpret_cast<const uint16_t*>(integers));
    } else if constexpr (INTEGERS == SCALES_6_6 || INTEGERS == SCALE_OFFSET_6) {
        numbers.integers = Source::number(integers);
        numbers.integers_high = Source::number(place.integers_high + tiles * 4 * TILE_OUTPUTS);
    }
    if constexpr (ZERO_BITS != 0) numbers.zero = Source::number(place.zero + tiles * NumberPlace::ZERO_STRIDE);
    return numbers;
}

PASCALINE_INLINE QuarterNumbers load_numbers(const PackedWeight& weight, int slab, int output, int quarter) {
    return load_numbers(number_place(weight, slab, output, quarter), 0);
}

// w = scale[half] * (code - zero) - offset[half]
struct QuarterFactors {
    float scale[HALVES];
    float offset[HALVES];
    int32_t zero;
};

PASCALINE_INLINE float scale_to_float(uint32_t bits) {
    if constexpr (SCALE_TYPE == FP32) return bits_to_float(bits);
    if constexpr (SCALE_TYPE == FP16) return half_to_float(uint16_t(bits));
    if constexpr (SCALE_TYPE == BF16) return bfloat16_to_float(uint16_t(bits));
    // 2^(bits - 128), by twice as much: 2^-127 is no normal number.
    return 0.5f * bits_to_float(max(bits << 23, 0x00400000u));
}

// D and E.
struct SuperScales {
    float scale, offset;
};

PASCALINE_INLINE SuperScales super_scales(const QuarterNumbers& numbers) {
    // Pairs of 4 bytes are two halves, pairs of 2 bytes two exponents.
    constexpr int pair_bits = HAS_OFFSETS && SCALE_BYTES <= 4 ? 4 * SCALE_BYTES : 0;
    const uint32_t scale_bits = pair_bits ? numbers.scale & ((1u << pair_bits) - 1) : numbers.scale;
    const uint32_t offset_bits = pair_bits ? numbers.scale >> pair_bits : numbers.offset;
    return {scale_to_float(scale_bits), HAS_OFFSETS ? scale_to_float(offset_bits) : 0.0f};
}

// The quarter's factors for these D and E.
PASCALINE_INLINE QuarterFactors factors_of(const QuarterNumbers& numbers, const SuperScales& scales) {
    QuarterFactors factors;
    const float scale = scales.scale, offset = scales.offset;
    uint32_t integers = numbers.integers;
    if constexpr (INTEGERS == SCALES_6_6 || INTEGERS == SCALE_OFFSET_6) {
        integers |= ((numbers.integers_high >> numbers.integers_shift) & 15u) << 8;
    }
    const uint32_t zero = ZERO_BITS == 4 ? (numbers.zero >> numbers.zero_shift) & 15u : numbers.zero;
    factors.zero = ZERO + int32_t(zero);
    factors.scale[0] = scale;
    factors.offset[0] = offset;
    if constexpr (INTEGERS == SCALE_8) {
        factors.scale[0] = scale * float(int32_t(integers << 24) >> 24);
    } else if constexpr (INTEGERS == SCALES_8_8) {
        factors.scale[0] = scale * float(int32_t(integers << 24) >> 24);
        factors.scale[HALVES - 1] = scale * float(int32_t(integers << 16) >> 24);
        factors.offset[HALVES - 1] = offset;
    } else if constexpr (INTEGERS == SCALES_OFFSETS_4) {
        factors.scale[0] = scale * float(integers & 15u);
        factors.scale[HALVES - 1] = scale * float((integers >> 4) & 15u);
        factors.offset[0] = offset * float((integers >> 8) & 15u);
        factors.offset[HALVES - 1] = offset * float(integers >> 12);
    } else if constexpr (INTEGERS == SCALES_6_6) {
        factors.scale[0] = scale * float(int32_t(integers & 63u) - GROUP_SCALE_ZERO);
        factors.scale[HALVES - 1] = scale * float(int32_t(integers >> 6) - GROUP_SCALE_ZERO);
        factors.offset[HALVES - 1] = offset;
    } else if constexpr (INTEGERS == SCALE_OFFSET_6) {
        factors.scale[0] = scale * float(int32_t(integers & 63u) - GROUP_SCALE_ZERO);
        factors.offset[0] = offset * float(integers >> 6);
    }
    return factors;
}

PASCALINE_INLINE QuarterFactors factors_of(const QuarterNumbers& numbers) {
    return factors_of(numbers, super_scales(numbers));
}
