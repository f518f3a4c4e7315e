// Pages of keys and values of one head on their way through shared memory, a warp's own, in units of 16 bytes.
//
// A warp has every WARPS-th page of a segment, and STAGES places for keys and as many for values. A page's place is free
// again once all lanes have read it: the page that is STAGES turns later is asked for at once. Nothing waits for other
// warps.
//
// A token's units are stored in an order of their own, so that eight tokens' units of one number lie in different banks.
//
// Definitions: HEAD_DIM; CACHE_TYPE; WARPS; STAGES.
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
constexpr int STREAM_BYTES = 2 * STAGES * PLACE_BYTES;

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

class PageStream {
  public:
    // pages: of the warp; page_ids: of the first of them; context: tokens from the first of them to the sequence's end.
    PASCALINE_INLINE PageStream(const Cache& cache, int head, const int32_t* page_ids, int pages, int context,
                                uint8_t* shared)
        : cache_(cache), page_ids_(page_ids), head_(head), pages_(pages), context_(context), lane_(threadIdx.x & 31),
          shared_(shared), address_(shared_address(shared)) {
#pragma unroll
        for (int i = 0; i < COPIES_PERIOD; i++) {
            const int unit = 32 * i + lane_;
            places_[i] = place_of_unit(unit / ROW_UNITS, unit % ROW_UNITS) * UNIT_BYTES;
        }
        ids_ = ids_from(0);
        next_ids_ = ids_from(32);
#pragma unroll 1
        for (int page = 0; page < STAGES; page++) {
            copy<Kind::keys>(page);
            copy<Kind::values>(page);
        }
    }

    // Where a page's keys or values have come to, for all lanes. Keys and values are waited for in turns.
    template <Kind kind>
    PASCALINE_INLINE SharedAddress wait(int page) const {
        wait_for_copies<2 * STAGES - 1>();
        sync_warp();
        return address_ + place<kind>(page);
    }

    // Of a token's keys or values, which have come.
    template <Kind kind>
    PASCALINE_INLINE float scale(int page, int token) const {
        return reinterpret_cast<const float*>(shared_ + place<kind>(page) + PAGE_BYTES)[token];
    }

    // No lane reads the page's place any more.
    template <Kind kind>
    PASCALINE_INLINE void release(int page) {
        sync_warp();
        copy<kind>(page + STAGES);
    }

  private:
    // Of 32 of the warp's pages, one a lane.
    PASCALINE_INLINE int ids_from(int first) const {
        const int page = first + lane_;
        return page < pages_ ? load_handed_on(page_ids_ + page * WARPS) : 0;
    }

    template <Kind kind>
    static PASCALINE_INLINE int place(int page) {
        return (2 * (page % STAGES) + (kind == Kind::values)) * PLACE_BYTES;
    }

    // Keys are asked for before values.
    template <Kind kind>
    PASCALINE_INLINE void copy(int page) {
        if (kind == Kind::keys && page > 0 && page % 32 == 0) {
            ids_ = next_ids_;
            next_ids_ = ids_from(page + 32);
        }
        const int id = shuffle_from(ids_, page % 32);
        if (page < pages_) {
            const size_t index = size_t(id) * cache_.key_value_heads + head_;
            const uint8_t* const source =
                (kind == Kind::keys ? cache_.keys : cache_.values) + (index * PAGE_BYTES + lane_ * UNIT_BYTES);
            const SharedAddress target = address_ + place<kind>(page);
            // Nobody wrote what lies behind the sequence's end: it may be no number, and 0 times that is none.
            const int tokens = context_ - page * WARPS * PAGE_SIZE;
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
        close_copies();
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
    const int32_t* page_ids_;
    int head_, pages_, context_, lane_;
    uint8_t* shared_;
    SharedAddress address_;
    int places_[COPIES_PERIOD];
    int ids_, next_ids_;
};
