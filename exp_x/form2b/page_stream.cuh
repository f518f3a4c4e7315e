// Pages of keys and values of one head on their way through shared memory, a warp's own, in units of 16 bytes.
//
// A warp has every WARPS-th page of a segment, STEP_PAGES of them at a time, and places for keys and values of STAGES such
// steps. A step's places are free again once all lanes have read them: the step that is STAGES later is asked for at once.
// Nothing waits for other warps, nor do the next segment's first steps for the end of one.
//
// A token's units are stored in an order of their own, so that eight tokens' units of one number lie in different banks.
//
// Definitions: HEAD_DIM; CACHE_TYPE; WARPS; STAGES; STEP_PAGES.
#pragma once
#include "async_copy.cuh"
#include "attention_shares.cuh"
#include "platform_fragments.cuh"

constexpr int INT8 = 3;
constexpr bool IS_INT8 = CACHE_TYPE == INT8;
constexpr int ROW_BYTES = HEAD_DIM * (IS_INT8 ? 1 : 2);
constexpr int UNIT_BYTES = 16, ROW_UNITS = ROW_BYTES / UNIT_BYTES, PAGE_UNITS = PAGE_SIZE * ROW_UNITS;
constexpr int PAGE_BYTES = PAGE_SIZE * ROW_BYTES;
constexpr int SCALE_BYTES = IS_INT8 ? PAGE_SIZE * 4 : 0;
constexpr int PLACE_BYTES = PAGE_BYTES + SCALE_BYTES;  // a page's scales come after its numbers
constexpr int STREAM_BYTES = 2 * STAGES * STEP_PAGES * PLACE_BYTES;

enum class Kind { keys, values };

// Units that are exchanged with each other: the largest power of two that rows are multiples of.
constexpr int EXCHANGED_UNITS = ROW_UNITS % 8 == 0 ? 8 : ROW_UNITS % 4 == 0 ? 4 : ROW_UNITS % 2 == 0 ? 2 : 1;

// Where a token's unit is stored; the same 8 tokens later.
PASCALINE_INLINE int place_of_unit(int token, int unit) {
    return token * ROW_UNITS + (unit ^ (token / (8 / EXCHANGED_UNITS) % EXCHANGED_UNITS));
}

// Blocks of 8 tokens' units, four at a time: of a page's two halves and of two neighbouring units. A lane gives the place
// of one row of one block (platform_fragments.cuh).
class UnitPairs {
  public:
    static constexpr int COUNT = (ROW_UNITS + 1) / 2;

    // token, unit: of the first pair's row that the lane gives.
    PASCALINE_INLINE UnitPairs(int token, int unit) {
#pragma unroll
        for (int i = 0; i < PERIOD; i++) offsets_[i] = place_of_unit(token, 2 * i + unit) * UNIT_BYTES;
        last_ = place_of_unit(token, ROW_UNITS - 1) * UNIT_BYTES;
    }

    // Of an odd number of units the last makes a pair with itself.
    PASCALINE_INLINE SharedAddress row(SharedAddress place, int pair) const {
        if (ROW_UNITS % 2 != 0 && pair == COUNT - 1) return place + last_;
        return place + offsets_[pair % PERIOD] + pair / PERIOD * (PERIOD * 2 * UNIT_BYTES);
    }

  private:
    static constexpr int PERIOD = EXCHANGED_UNITS > 2 ? EXCHANGED_UNITS / 2 : 1;
    int offsets_[PERIOD], last_;
};

struct Cache {
    const uint8_t *keys, *values;
    const float *key_scales, *value_scales;  // null unless INT8
    int key_value_heads;
};

// A warp's pages of a segment: the last of `count` ends at the sequence's end, or later.
struct WarpPages {
    int head, count;
    int tokens;            // from the first page on, to the sequence's end
    const int32_t* ids;    // of the first page; the next one's are WARPS later
    int own_id, later_id;  // this lane's of the first 32, and of the 32 after those

    PASCALINE_INLINE WarpPages(int head, int count, int tokens, const int32_t* ids)
        : head(head), count(count), tokens(tokens), ids(ids), own_id(id(0)), later_id(id(32)) {}

    PASCALINE_INLINE int steps() const { return (count + STEP_PAGES - 1) / STEP_PAGES; }

    // Whether a step has so many pages: the last may have less than others.
    PASCALINE_INLINE bool has(int step, int page) const { return page == 0 || step * STEP_PAGES + page < count; }

    // Of the lane's of 32 pages.
    PASCALINE_INLINE int id(int first) const {
        const int page = first + int(threadIdx.x & 31);
        return page < count ? load_handed_on(ids + page * WARPS) : 0;
    }
};

class PageStream {
  public:
    PASCALINE_INLINE PageStream(const Cache& cache, uint8_t* shared)
        : cache_(cache), lane_(threadIdx.x & 31), shared_(shared), address_(shared_address(shared)) {
#pragma unroll
        for (int i = 0; i < COPIES_PERIOD; i++) {
            const int unit = 32 * i + lane_;
            places_[i] = place_of_unit(unit / ROW_UNITS, unit % ROW_UNITS) * UNIT_BYTES;
        }
    }

    // The first steps are asked for.
    PASCALINE_INLINE void begin(WarpPages& pages) const {
#pragma unroll 1
        for (int step = 0; step < STAGES; step++) {
            copy<Kind::keys>(pages, step);
            copy<Kind::values>(pages, step);
        }
    }

    // Until a step's keys or values have come, for all lanes. Keys and values are waited for in turns.
    PASCALINE_INLINE void wait() const {
        wait_for_copies<2 * STAGES - 1>();
        sync_warp();
    }

    template <Kind kind>
    PASCALINE_INLINE SharedAddress place(int step, int page) const {
        return address_ + offset<kind>(step, page);
    }

    // Of a token's keys or values.
    template <Kind kind>
    PASCALINE_INLINE float scale(int step, int page, int token) const {
        return reinterpret_cast<const float*>(shared_ + offset<kind>(step, page) + PAGE_BYTES)[token];
    }

    // No lane reads the step's places any more.
    template <Kind kind>
    PASCALINE_INLINE void release(WarpPages& pages, int step) const {
        sync_warp();
        copy<kind>(pages, step + STAGES);
    }

  private:
    template <Kind kind>
    static PASCALINE_INLINE int offset(int step, int page) {
        return ((2 * (step % STAGES) + (kind == Kind::values)) * STEP_PAGES + page) * PLACE_BYTES;
    }

    // Keys are asked for before values.
    template <Kind kind>
    PASCALINE_INLINE void copy(WarpPages& pages, int step) const {
        const int first = step * STEP_PAGES;
        if (kind == Kind::keys && first > 0 && first % 32 == 0) {
            pages.own_id = pages.later_id;
            pages.later_id = pages.id(first + 32);
        }
#pragma unroll
        for (int i = 0; i < STEP_PAGES; i++) {
            const int id = shuffle_from(pages.own_id, (first + i) % 32);
            if (first + i < pages.count) copy_page<kind>(pages, first + i, id, address_ + offset<kind>(step, i));
        }
        close_copies();
    }

    template <Kind kind>
    PASCALINE_INLINE void copy_page(const WarpPages& pages, int page, int id, SharedAddress target) const {
        const size_t index = size_t(id) * cache_.key_value_heads + pages.head;
        const uint8_t* const source =
            (kind == Kind::keys ? cache_.keys : cache_.values) + (index * PAGE_BYTES + lane_ * UNIT_BYTES);
        // Nobody wrote what lies behind the sequence's end: it may be no number, and 0 times that is none.
        const int tokens = pages.tokens - page * WARPS * PAGE_SIZE;
        if (kind == Kind::keys || tokens >= PAGE_SIZE) {
            for_each_unit([&](int, int from, int to) { copy_bytes<UNIT_BYTES>(target + to, source + from); });
        } else {
            for_each_unit([&](int token, int from, int to) {
                copy_or_clear(target + to, reinterpret_cast<const uint4*>(source + from), token < tokens);
            });
        }
        if constexpr (IS_INT8) {
            const float* const scales =
                (kind == Kind::keys ? cache_.key_scales : cache_.value_scales) + index * PAGE_SIZE;
            if (lane_ < SCALE_BYTES / UNIT_BYTES) {
                copy_bytes<UNIT_BYTES>(target + PAGE_BYTES + lane_ * UNIT_BYTES,
                                       reinterpret_cast<const uint8_t*>(scales) + lane_ * UNIT_BYTES);
            }
        }
    }

    // Of the lane's units of a page: copy(token, bytes from the lane's first, and from the page's place).
    template <typename Copy>
    PASCALINE_INLINE void for_each_unit(Copy copy) const {
#pragma unroll
        for (int i = 0; i < COPIES; i++) {
            if (PAGE_UNITS % 32 != 0 && 32 * i + lane_ >= PAGE_UNITS) break;
            copy((32 * i + lane_) / ROW_UNITS, 32 * i * UNIT_BYTES,
                 places_[i % COPIES_PERIOD] + i / COPIES_PERIOD * (COPIES_PERIOD * 32 * UNIT_BYTES));
        }
    }

    // Of a lane, and after how many of them tokens are a multiple of 8 later.
    static constexpr int COPIES = (PAGE_UNITS + 31) / 32, COPIES_PERIOD = ROW_UNITS % 4 == 0 ? ROW_UNITS / 4 : COPIES;

    Cache cache_;
    int lane_;
    uint8_t* shared_;
    SharedAddress address_;
    int places_[COPIES_PERIOD];
};
