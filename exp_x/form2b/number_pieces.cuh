// Eight numbers of a matrix's row, as they lie in memory: loads run ahead of their use.
//
// Definitions: IS_VECTOR, 1 if the matrices' rows are whole pieces.
#pragma once
#include "platform.cuh"

constexpr int PIECE = 8;

PASCALINE_INLINE uint32_t bits_of(float value) { return float_to_bits(value); }
PASCALINE_INLINE uint32_t bits_of(uint16_t value) { return value; }

// IS_AHEAD: whole pieces are loaded where it is written that they are.
template <int type, bool IS_AHEAD = false>
struct Piece {
    using Stored = typename Element<type>::Stored;
    static constexpr int NUMBERS_PER_WORD = type == FP32 ? 1 : 2;
    uint32_t words[PIECE / NUMBERS_PER_WORD];

    // Numbers `first` ... first + 7 of a row; what is beyond its end is zero.
    PASCALINE_INLINE void load(const Stored* row, int first, int columns) {
        if constexpr (IS_VECTOR) {
#pragma unroll
            for (int part = 0; part < PIECE / NUMBERS_PER_WORD / 4; part++) {
                uint4 four = make_uint4(0, 0, 0, 0);
                const uint4* place = reinterpret_cast<const uint4*>(row + first) + part;
                if (first < columns) four = IS_AHEAD ? load_fresh(place) : load_handed_on(place);
                words[4 * part] = four.x;
                words[4 * part + 1] = four.y;
                words[4 * part + 2] = four.z;
                words[4 * part + 3] = four.w;
            }
        } else {
            put([&](int i) { return first + i < columns ? bits_of(load_handed_on(row + first + i)) : 0u; });
        }
    }

    // Those that `indices` gives; zero where it is negative.
    PASCALINE_INLINE void gather(const Stored* row, const int32_t* indices) {
        put([&](int i) {
            const int32_t index = load_constant(indices + i);
            return index >= 0 ? bits_of(load_handed_on(row + index)) : 0u;
        });
    }

    PASCALINE_INLINE float number(int i) const {
        if constexpr (type == FP32) return bits_to_float(words[i]);
        constexpr int narrow = type == FP32 ? FP16 : type;
        return Element<narrow>::widen(uint16_t(words[i / NUMBERS_PER_WORD] >> (16 * (i % NUMBERS_PER_WORD))));
    }

  private:
    template <typename Load>
    PASCALINE_INLINE void put(Load load) {
#pragma unroll
        for (int i = 0; i < PIECE; i += NUMBERS_PER_WORD) {
            words[i / NUMBERS_PER_WORD] = NUMBERS_PER_WORD == 1 ? load(i) : load(i) | load(i + 1) << 16;
        }
    }
};
