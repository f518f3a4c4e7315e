// Where a sequence's keys and values lie: numbers of its pages, and one head's part of a page.
//
// Definitions: HEAD_DIM; CACHE_TYPE, FP16, BF16 or INT8.
#pragma once
#include "platform.cuh"

constexpr int INT8 = 3;  // of caches
constexpr int PAGE_SIZE = 16;
constexpr bool HAS_CODES = CACHE_TYPE == INT8;
constexpr int NUMBER_BYTES = HAS_CODES ? 1 : 2;

// Numbers of the pages that are copied next, of which each lane has one, and of those after them.
struct PageNumbers {
    static constexpr int COUNT = 32;
    int32_t own, later;

    // table: a sequence's row; first: the first page of all; pages: that the sequence has.
    PASCALINE_INLINE PageNumbers(const int32_t* table, int first, int pages)
        : own(load(table, first, pages)), later(load(table, first + COUNT, pages)) {}

    // Once COUNT pages are copied; `first` comes next.
    PASCALINE_INLINE void advance(const int32_t* table, int first, int pages) {
        own = later;
        later = load(table, first + COUNT, pages);
    }

    // All lanes ask, each for a page of its own; counted from the first of all.
    PASCALINE_INLINE int32_t number(int page) const { return shuffle_from(own, page % COUNT); }

  private:
    static PASCALINE_INLINE int32_t load(const int32_t* table, int first, int pages) {
        const int page = first + threadIdx.x % COUNT;
        return page < pages ? load_handed_on(table + page) : 0;
    }
};

// One head's keys, or values, in all pages.
struct HeadCache {
    const uint8_t* numbers;
    const float* scales;  // of codes of 8 bits
    int heads, head;

    PASCALINE_INLINE const uint8_t* page_numbers(int32_t page) const {
        return numbers + (size_t(page) * heads + head) * (PAGE_SIZE * HEAD_DIM * NUMBER_BYTES);
    }
    PASCALINE_INLINE const float* page_scales(int32_t page) const {
        return scales + (size_t(page) * heads + head) * PAGE_SIZE;
    }
};
