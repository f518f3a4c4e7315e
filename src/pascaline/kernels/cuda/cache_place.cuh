// Where a token's keys and values lie in a cache of pages, and in which numbers. A warp stores a head.
//
// CACHE_TYPE is that of Element, or INT8: codes, and a scale a head of a token: value = scale * code.
//
// Definitions: CACHE_TYPE; those of row_norm.cuh, ROW_WARPS 1.
#pragma once
#include "row_norm.cuh"

static_assert(ROW_WARPS == 1, "a warp stores a head");

constexpr int INT8 = 3;

template <int type>
struct CacheNumbers {
    using Stored = typename Element<type>::Stored;

    // To the nearest: in fp16 the largest for those beyond. NaN stays NaN.
    static PASCALINE_INLINE void store(Stored* place, Vector vector, float) {
        constexpr float largest = 65504.0f;
#pragma unroll
        for (int i = 0; i < WIDTH; i++) {
            float& value = vector.values[i];
            if (type == FP16) value = value > largest ? largest : value < -largest ? -largest : value;
        }
        store_vector<type>(place, vector);
    }
};

template <>
struct CacheNumbers<INT8> {
    using Stored = int8_t;

    // Codes to the nearest, for inverse = 1 / scale.
    static PASCALINE_INLINE void store(Stored* place, const Vector& vector, float inverse) {
        union {
            uint32_t word;
            int8_t codes[4];
        } four;
#pragma unroll
        for (int i = 0; i < WIDTH; i++) four.codes[i] = int8_t(round_to_int(vector.values[i] * inverse));
        if (WIDTH == 4) {
            *reinterpret_cast<uint32_t*>(place) = four.word;
        } else {
            *place = four.codes[0];
        }
    }
};

using CacheStored = CacheNumbers<CACHE_TYPE>::Stored;

// Strides in elements; a head's are neighbours. Scales are (pages, heads, page_size).
struct CacheShape {
    int heads, page_size, page_stride, token_stride, head_stride;
};

// The largest magnitude of the warp's row: NaN is above all numbers, and stays.
PASCALINE_INLINE float largest_magnitude(const Row& row) {
    int32_t largest = 0;
#pragma unroll
    for (int i = 0; i < VECTORS; i++) {
#pragma unroll
        for (int j = 0; j < WIDTH; j++) {
            largest = max(largest, int32_t(float_to_bits(row.vectors[i].values[j]) & 0x7FFFFFFFu));
        }
    }
#pragma unroll
    for (int mask = 16; mask > 0; mask /= 2) largest = max(largest, shuffle_xor(largest, mask));
    return bits_to_float(uint32_t(largest));
}

// A head, zero beyond `columns`, of the token whose slot it is. A negative slot is no place. The whole warp takes part.
PASCALINE_INLINE void store_in_cache(void* cache, float* scales, const CacheShape& shape, int64_t slot, int head,
                                     const Row& row, int columns) {
    if (slot < 0) return;
    const int64_t page = slot / shape.page_size;
    const int inside = int(slot - page * shape.page_size);
    CacheStored* const place = static_cast<CacheStored*>(cache) + size_t(page) * shape.page_stride +
                               size_t(inside) * shape.token_stride + size_t(head) * shape.head_stride;
    float inverse = 0.0f;
    if constexpr (CACHE_TYPE == INT8) {
        const float magnitude = largest_magnitude(row);
        if (threadIdx.x % 32 == 0) {
            scales[(size_t(page) * shape.heads + head) * shape.page_size + inside] = magnitude * (1.0f / 127.0f);
        }
        // Smaller numbers are zeros: the inverse of their scale may be infinite.
        inverse = magnitude > 1e-30f ? 127.0f / magnitude : 0.0f;
    }
#pragma unroll
    for (int i = 0; i < VECTORS; i++) {
        const int column = Row::column(i);
        if (column >= columns) break;
        CacheNumbers<CACHE_TYPE>::store(place + column, row.vectors[i], inverse);
    }
}
