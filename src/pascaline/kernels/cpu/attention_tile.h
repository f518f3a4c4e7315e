// Attention of some rows, each one head of one token, over a block of keys.
//
// The order of operations on an element is fixed, whatever else is computed beside it: a score is one chain over the
// elements of the head, an output one over the keys, and the keys of a block share a maximum. Blocks lie at
// multiples of their size in the sequence.

#pragma once

#include "wide.h"

namespace attention {

constexpr int PAGE = 16;
constexpr int BLOCK_PAGES = 4;
constexpr int BLOCK = BLOCK_PAGES * PAGE;
// PERF: as many as the registers hold with what they are multiplied by.
constexpr int MOST_ROWS = LANES == 16 ? 8 : 6;

// Where the keys and values of a block are, page by page. Keys: 16 neighbours for each element of the head.
// Values: `width` elements for each key.
template <class Number>
struct Block {
    using Element = Number;
    const Element* keys[BLOCK_PAGES];  // something to read also where no row sees a key
    const Element* values[BLOCK_PAGES];
};

// A block that is read once, and `next`, which is fetched meanwhile.
template <class Number>
struct PassingBlock : Block<Number> {
    Block<Number> next;
};

// PERF: line by line beside the arithmetic, a block ahead. 8192 keys, 12 heads on 2 of size 128, one thread: 13.6
// instead of 7.4 GB/s for fp16, 23 instead of 10 for fp32.
template <class Element>
INLINE void fetch_keys(const PassingBlock<Element>& block, int page, int64_t at) {
    __builtin_prefetch(block.next.keys[page] + at, 0, 2);
}
template <class Element>
INLINE void fetch_values(const PassingBlock<Element>& block, int page, int64_t at) {
    __builtin_prefetch(block.next.values[page] + at, 0, 2);
}
template <class Element>
INLINE void fetch_keys(const Block<Element>&, int, int64_t) {}
template <class Element>
INLINE void fetch_values(const Block<Element>&, int, int64_t) {}

struct Head {
    int64_t size;
    int64_t width;  // the size up to a multiple of 16
    float scale;
    float softcap;
};

// Which keys of a block a row sees.
struct Range {
    int first;
    int stop;
    bool empty() const { return first >= stop; }
};

// What is known of a row after some keys: `width` sums of weights times values, 16 sums of weights to be added up,
// and the largest score, which the weights are relative to.
INLINE int64_t state_size(int64_t width) { return width + 2 * 16; }
INLINE float* weight_sums(float* state, int64_t width) { return state + width; }
INLINE float& largest_score(float* state, int64_t width) { return state[width + 16]; }

INLINE void clear(float* state, int64_t width) {
    for (int64_t i = 0; i < width + 16; i += 16) store_wide(state + i, zero_wide());
    largest_score(state, width) = -INFINITE;
}

// Scores of R rows and PAGES pages from `first` on. `query` holds R neighbours for each element of the head.
template <int R, int PAGES, class Keys>
INLINE void score(const float* query, const Keys& block, int first, int64_t size, float* scores) {
    Wide sums[PAGES][R];
    for (int page = 0; page < PAGES; page++)
        for (int row = 0; row < R; row++) sums[page][row] = zero_wide();
    for (int64_t i = 0; i < size; i++)
        for (int page = 0; page < PAGES; page++) {
            const Wide key = load_wide(block.keys[first + page] + i * PAGE);
            fetch_keys(block, first + page, i * PAGE);
            for (int row = 0; row < R; row++)
                sums[page][row] = multiply_add(key, every_float(query + i * R + row), sums[page][row]);
        }
    for (int page = 0; page < PAGES; page++)
        for (int row = 0; row < R; row++)
            store_wide(scores + row * BLOCK + (first + page) * PAGE, sums[page][row]);
}

// sums = sums * corrections + weights * values, for VECTORS times 16 elements of R rows, from element `at` on.
template <int R, int VECTORS, class Values>
INLINE void weigh(const float* weights, const Values& block, int64_t at, int64_t width, Range keys,
                  const float* corrections, float* states) {
    const int64_t stride = state_size(width);
    Wide sums[VECTORS][R];
    for (int vector = 0; vector < VECTORS; vector++)
        for (int row = 0; row < R; row++)
            sums[vector][row] =
                multiply(load_wide(states + row * stride + at + vector * 16), every_float(corrections + row));
    for (int key = keys.first; key < keys.stop;) {
        const int page = key / PAGE, stop = keys.stop < (page + 1) * PAGE ? keys.stop : (page + 1) * PAGE;
        for (; key < stop; key++) {
            const int64_t start = key % PAGE * width + at;
            for (int vector = 0; vector < VECTORS; vector++) {
                const Wide value = load_wide(block.values[page] + start + vector * 16);
                fetch_values(block, page, start + vector * 16);
                for (int row = 0; row < R; row++)
                    sums[vector][row] =
                        multiply_add(value, every_float(weights + row * BLOCK + key), sums[vector][row]);
            }
        }
    }
    for (int vector = 0; vector < VECTORS; vector++)
        for (int row = 0; row < R; row++)
            store_wide(states + row * stride + at + vector * 16, sums[vector][row]);
}

// The same for all elements of the head.
template <int R, class Values>
INLINE void weigh_all(const float* weights, const Values& block, int64_t width, Range keys, const float* corrections,
                      float* states) {
    // PERF: chains enough to hide what a multiply-add takes, and no more than there are registers.
    constexpr int VECTORS = LANES == 16 ? (R <= 6 ? 4 : 2) : (R == 1 ? 4 : R <= 3 ? 2 : 1);
    int64_t at = 0;
    for (; at + 16 * VECTORS <= width; at += 16 * VECTORS)
        weigh<R, VECTORS>(weights, block, at, width, keys, corrections, states);
    for (; at < width; at += 16) weigh<R, 1>(weights, block, at, width, keys, corrections, states);
}

// Scores become weights, and the rows' sums of weights grow by them; `corrections` are what earlier sums shrink by.
template <int R>
INLINE void weights_of(float* scores, const Range* ranges, const Head& head, float* corrections, float* states) {
    const int64_t stride = state_size(head.width);
    alignas(64) float before[16] = {}, after[16] = {};
    const Floats scale = every_float(head.softcap > 0 ? head.scale / head.softcap : head.scale);
    for (int row = 0; row < R; row++) {
        const Range range = ranges[row];
        if (range.empty()) continue;
        Wide most = every_wide(-INFINITE);
        for (int at = range.first / PAGE * PAGE; at < range.stop; at += PAGE) {
            Wide score = multiply(load_wide(scores + row * BLOCK + at), scale);
            if (head.softcap > 0) score = multiply(hyperbolic_tangent(score), every_float(head.softcap));
            if (at < range.first || at + PAGE > range.stop)
                score = only(score, range.first > at ? range.first - at : 0,
                             range.stop < at + PAGE ? range.stop - at : PAGE);
            store_wide(scores + row * BLOCK + at, score);
            most = largest(score, most);
        }
        float& seen = largest_score(states + row * stride, head.width);
        const float now = largest_of_all(most);
        before[row] = seen;
        after[row] = seen = now > seen ? now : seen;
    }
    store_wide(corrections, exponential(subtract(load_wide(before), load_wide(after))));
    for (int row = 0; row < R; row++) {
        const Range range = ranges[row];
        if (range.empty()) continue;
        Wide sum = zero_wide();
        for (int at = range.first / PAGE * PAGE; at < range.stop; at += PAGE) {
            float* page = scores + row * BLOCK + at;
            const Wide weight = exponential(subtract(load_wide(page), every_float(after + row)));
            store_wide(page, weight);
            sum = add(sum, weight);
        }
        float* sums = weight_sums(states + row * stride, head.width);
        store_wide(sums, multiply_add(load_wide(sums), every_float(corrections + row), sum));
    }
}

// R rows go on from `states` over a block, of which each sees its range.
template <class Keys, int R>
void attend(const float* query, const Keys& block, const Head& head, const Range* ranges, float* states) {
    // PERF: pages together, so that there are chains enough to hide what a multiply-add takes.
    constexpr int PAGES = LANES == 16 ? (R <= 2 ? 4 : 2) : (R == 1 ? 4 : R <= 3 ? 2 : 1);
    alignas(64) float scores[R * BLOCK];
    alignas(64) float corrections[16];
    Range any = ranges[0], all = ranges[0];
    for (int row = 1; row < R; row++) {
        const Range range = ranges[row];
        if (range.first > all.first) all.first = range.first;
        if (range.stop < all.stop) all.stop = range.stop;
        if (range.empty()) continue;
        if (any.empty() || range.first < any.first) any.first = range.first;
        if (any.empty() || range.stop > any.stop) any.stop = range.stop;
    }
    for (int page = any.first / (PAGES * PAGE) * PAGES; page * PAGE < any.stop; page += PAGES)
        score<R, PAGES>(query, block, page, head.size, scores);
    weights_of<R>(scores, ranges, head, corrections, states);
    if (all.first == any.first && all.stop == any.stop) {
        weigh_all<R>(scores, block, head.width, all, corrections, states);
        return;
    }
    // Rows that see less or more: values that a row does not see may be anything, and 0 * NaN is not 0.
    const float ones[8] = {1, 1, 1, 1, 1, 1, 1, 1};
    const int64_t stride = state_size(head.width);
    const auto alone = [&](int row, int first, int stop, const float* correction) {
        weigh_all<1>(scores + row * BLOCK, block, head.width, {first, stop}, correction, states + row * stride);
    };
    if (all.empty()) {
        for (int row = 0; row < R; row++)
            if (!ranges[row].empty()) alone(row, ranges[row].first, ranges[row].stop, corrections + row);
        return;
    }
    for (int row = 0; row < R; row++) alone(row, ranges[row].first, all.first, corrections + row);
    weigh_all<R>(scores, block, head.width, all, ones, states);
    for (int row = 0; row < R; row++)
        if (ranges[row].stop > all.stop) alone(row, all.stop, ranges[row].stop, ones);
}

template <class Keys>
using Attend = void (*)(const float*, const Keys&, const Head&, const Range*, float*);

template <class Keys>
INLINE Attend<Keys> attend_rows(int rows) {
    switch (rows) {
        case 1: return attend<Keys, 1>;
        case 2: return attend<Keys, 2>;
        case 3: return attend<Keys, 3>;
        case 4: return attend<Keys, 4>;
        case 5: return attend<Keys, 5>;
#if defined(__AVX512VNNI__)
        case 7: return attend<Keys, 7>;
        case 8: return attend<Keys, 8>;
#endif
        default: return attend<Keys, 6>;
    }
}

// `sum` goes on over the keys that `part` is about.
INLINE void merge(float* sum, float* part, int64_t width) {
    const float mine = largest_score(sum, width), other = largest_score(part, width);
    const float most = other > mine ? other : mine;
    alignas(64) float factors[16] = {mine - most, other - most};
    store_wide(factors, exponential(load_wide(factors)));
    const Floats keep = every_float(factors), take = every_float(factors + 1);
    for (int64_t i = 0; i < width + 16; i += 16)
        store_wide(sum + i, multiply_add(load_wide(part + i), take, multiply(load_wide(sum + i), keep)));
    largest_score(sum, width) = most;
}

}  // namespace attention
