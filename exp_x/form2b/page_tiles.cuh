// Keys and values of a sequence on their way from pages to shared memory, TILE_TOKENS tokens of one head at a time.
//
// A page of one head is PAGE_SIZE * HEAD_DIM numbers in one piece. In shared memory a token has ROW_BYTES, of 16-bit
// numbers, 16 more than it needs: eight tokens' pieces of 16 bytes then lie in different banks. Codes of 8 bits come as
// they are, with their tokens' scales behind them, and are made numbers of 16 bits there.
//
// Tokens beyond the end are zeros, whatever the pages hold there.
//
// Definitions: HEAD_DIM, a multiple of 16; CACHE_TYPE; MATRIX_TYPE; TILE_TOKENS, a multiple of 32; THREADS.
#pragma once
#include "async_copy.cuh"
#include "number_pairs.cuh"

constexpr int INT8 = 3;  // of caches
constexpr int PAGE_SIZE = 16, TILE_PAGES = TILE_TOKENS / PAGE_SIZE;
constexpr bool HAS_CODES = CACHE_TYPE == INT8;
constexpr int NUMBER_BYTES = HAS_CODES ? 1 : 2;
constexpr int ROW_BYTES = 2 * HEAD_DIM + 16, TILE_BYTES = TILE_TOKENS * ROW_BYTES;
// As tiles come.
constexpr int PLACE_BYTES = HAS_CODES ? TILE_TOKENS * (HEAD_DIM + int(sizeof(float))) : TILE_BYTES;
static_assert(HEAD_DIM % 16 == 0 && TILE_TOKENS % 32 == 0 && 32 % TILE_PAGES == 0, "whole fragments and pages");

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

// Begins to copy a tile to `place`: from page `first_page` of those that are copied; from token `existing` on, zeros.
PASCALINE_INLINE void copy_tile(uint8_t* place, const HeadCache& cache, const PageNumbers& pages, int first_page,
                                int existing) {
    constexpr int ROW_PIECES = HEAD_DIM * NUMBER_BYTES / 16, PAGE_PIECES = PAGE_SIZE * ROW_PIECES;
    constexpr int STRIDE = HAS_CODES ? HEAD_DIM : ROW_BYTES;
    const SharedAddress shared = shared_address(place);
    const auto shared_piece = [](int piece) { return piece / ROW_PIECES * STRIDE + piece % ROW_PIECES * 16; };
#pragma unroll
    for (int page = 0; page < TILE_PAGES; page++) {
        const uint8_t* const source = cache.page_numbers(pages.number(first_page + page)) + threadIdx.x * 16;
#pragma unroll
        for (int begin = 0; begin < PAGE_PIECES; begin += THREADS) {
            const int piece = begin + threadIdx.x;
            if (PAGE_PIECES % THREADS != 0 && piece >= PAGE_PIECES) break;
            // Where rows begin with the same threads, the one is the other and a constant.
            const int offset = THREADS % ROW_PIECES == 0 ? begin / ROW_PIECES * STRIDE + shared_piece(threadIdx.x)
                                                         : shared_piece(piece);
            const int token = page * PAGE_SIZE + piece / ROW_PIECES;
            copy_or_clear(shared + page * PAGE_SIZE * STRIDE + offset,
                          reinterpret_cast<const uint4*>(source + begin * 16), token < existing);
        }
    }
    if constexpr (HAS_CODES) {
        constexpr int FOURS = TILE_TOKENS / 4;
        const int token = threadIdx.x % FOURS * 4;
        const float* const page = cache.page_scales(pages.number(first_page + token / PAGE_SIZE));
        const SharedAddress scales = shared + TILE_TOKENS * HEAD_DIM;
        if (threadIdx.x < FOURS) {
            copy_or_clear(scales + token * int(sizeof(float)),
                          reinterpret_cast<const uint4*>(page + token % PAGE_SIZE), token < existing);
        }
    }
}

// Codes of a tile, once they are there, times their scales: rounded to numbers of 16 bits.
PASCALINE_INLINE void widen_tile(uint8_t* tile, const uint8_t* place, int existing) {
    constexpr int ROW_PIECES = HEAD_DIM / 16, PIECES = TILE_TOKENS * ROW_PIECES;
    const float* const scales = reinterpret_cast<const float*>(place + TILE_TOKENS * HEAD_DIM);
#pragma unroll 2
    for (int piece = threadIdx.x; piece < PIECES; piece += THREADS) {
        const int token = piece / ROW_PIECES, part = piece % ROW_PIECES;
        const uint4 codes = reinterpret_cast<const uint4*>(place)[piece];
        const float scale = token < existing ? scales[token] : 0.0f;
        const uint32_t words[4] = {codes.x, codes.y, codes.z, codes.w};
        uint32_t pairs[8];
#pragma unroll
        for (int pair = 0; pair < 8; pair++) {
            float values[2];
#pragma unroll
            for (int i = 0; i < 2; i++) {
                // 2^23 + code + 128, of which the last byte is the code with its sign flipped.
                const uint32_t byte = uint32_t(pair % 2 * 2 + i);
                const uint32_t bits = permute_bytes(words[pair / 2] ^ 0x80808080u, 0x4B000000u, 0x7540u | byte);
                values[i] = (bits_to_float(bits) - 8388736.0f) * scale;
            }
            pairs[pair] = pair_of(values[0], values[1]);
        }
        uint4* const row = reinterpret_cast<uint4*>(tile + token * ROW_BYTES + part * 32);
        row[0] = make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
        row[1] = make_uint4(pairs[4], pairs[5], pairs[6], pairs[7]);
    }
}
