// Where a token's keys and values lie in a cache of pages, and in which numbers.
//
// Definitions: CACHE_TYPE, that of Element.
#pragma once
#include "row_vectors.cuh"

using CacheElement = Element<CACHE_TYPE>;

// Strides in elements; a head's are neighbours.
struct CacheShape {
    int page_size, page_stride, token_stride, head_stride;

    PASCALINE_INLINE size_t place(int64_t slot, int head) const {
        const int64_t page = slot / page_size;
        const int inside = int(slot - page * page_size);
        return size_t(page) * page_stride + size_t(inside) * token_stride + size_t(head) * head_stride;
    }
};

// To the nearest numbers that the cache has: in fp16 the largest for those beyond. NaN stays NaN.
PASCALINE_INLINE void store_in_cache(CacheElement::Stored* place, Vector vector) {
    if constexpr (CACHE_TYPE == FP16) {
        constexpr float largest = 65504.0f;
#pragma unroll
        for (int i = 0; i < WIDTH; i++) {
            float& value = vector.values[i];
            value = value > largest ? largest : value < -largest ? -largest : value;
        }
    }
    store_vector<CACHE_TYPE>(place, vector);
}
