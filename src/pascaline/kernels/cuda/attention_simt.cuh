// What both kernels of attention over pages without tensor cores share: keys and values as fp32, and scores.
//
// Scores are kept times log2(e), so that weights are powers of two. A running maximum follows the scores only when one
// is HEADROOM above it: until then weights are above 1, which fp32 has room for, and nothing need be scaled anew.
//
// Definitions: HEAD_DIM, a multiple of 8; GROUP, query heads a key/value head; CACHE_TYPE, FP32, FP16, BF16 or INT8;
// HAS_WINDOW; HAS_SOFT_CAP.
#pragma once
#include "platform_exponential.cuh"
#include "platform_lanes.cuh"

constexpr int INT8 = 3;  // of CACHE_TYPE
constexpr int PAGE_SIZE = 16;
constexpr int VECTOR = 8;  // numbers that a thread loads at once
constexpr int VECTORS = HEAD_DIM / VECTOR;
constexpr float HEADROOM = 8.0f;
constexpr float NOTHING_SEEN = -1e30f;  // the maximum of no scores: finite, so that differences are

static_assert(HEAD_DIM % VECTOR == 0, "heads are whole vectors");

PASCALINE_INLINE float minus_infinity() { return bits_to_float(0xFF800000u); }

template <int type>
struct CacheNumber {
    using Stored = typename Element<type>::Stored;
    static constexpr int PER_WORD = type == FP32 ? 1 : 2;
    static PASCALINE_INLINE float of(uint32_t word, int i) {
        if constexpr (type == FP32) return bits_to_float(word);
        return Element<type == FP32 ? FP16 : type>::widen(uint16_t(word >> (16 * i)));
    }
};

template <>
struct CacheNumber<INT8> {
    using Stored = int8_t;
    static constexpr int PER_WORD = 4;
    static PASCALINE_INLINE float of(uint32_t word, int i) { return float(int8_t(word >> (8 * i))); }
};

using Number = CacheNumber<CACHE_TYPE>;
using Stored = Number::Stored;

// Eight numbers of a key or a value, as they lie in memory.
struct CacheVector {
    static constexpr int WORDS = VECTOR / Number::PER_WORD;
    uint32_t words[WORDS];

    PASCALINE_INLINE void load(const Stored* address) {
        if constexpr (WORDS == 2) {
            const uint2 two = load_fresh(reinterpret_cast<const uint2*>(address));
            words[0] = two.x;
            words[1] = two.y;
        } else {
#pragma unroll
            for (int i = 0; i < WORDS; i += 4) {
                const uint4 four = load_fresh(reinterpret_cast<const uint4*>(address) + i / 4);
                words[i] = four.x;
                words[i + 1] = four.y;
                words[i + 2] = four.z;
                words[i + 3] = four.w;
            }
        }
    }

    PASCALINE_INLINE void clear() {
#pragma unroll
        for (int i = 0; i < WORDS; i++) words[i] = 0u;
    }

    PASCALINE_INLINE float number(int i) const { return Number::of(words[i / Number::PER_WORD], i % Number::PER_WORD); }
};

// How products of queries and keys become scores times log2(e).
struct Scoring {
    float factor, cap;

    PASCALINE_INLINE Scoring(uint32_t scale_bits, uint32_t soft_cap_bits) {
        const float scale = bits_to_float(scale_bits), soft_cap = bits_to_float(soft_cap_bits);
        factor = HAS_SOFT_CAP ? scale / soft_cap : scale * LOG2_E;
        cap = soft_cap * LOG2_E;
    }

    // Of a product times `factor`.
    PASCALINE_INLINE float score(float scaled) const { return HAS_SOFT_CAP ? cap * tanhf(scaled) : scaled; }
};
