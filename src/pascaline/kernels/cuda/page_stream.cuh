// Pages of keys and values of one head on their way through shared memory, a warp's own, in units of 16 bytes.
//
// A warp has every WARPS-th page of a segment, and STAGES places for keys and as many for values. A page's place is free
// again once all lanes have read it: the page that is STAGES turns later is asked for at once. Nothing waits for other
// warps.
//
// Where rows are multiples of 128 bytes, units are stored in an order of their own within each 128, so that lanes which
// read the same unit of several tokens at once find them in different banks.
//
// Definitions: HEAD_DIM; CACHE_TYPE; WARPS; STAGES.
#pragma once
#include "async_copy.cuh"
#include "attention_shares.cuh"

constexpr int INT8 = 3;
constexpr bool IS_INT8 = CACHE_TYPE == INT8;
constexpr int ROW_BYTES = HEAD_DIM * (IS_INT8 ? 1 : 2);
constexpr int UNIT_BYTES = 16, ROW_UNITS = ROW_BYTES / UNIT_BYTES, PAGE_UNITS = PAGE_SIZE * ROW_UNITS;
constexpr int PAGE_BYTES = PAGE_SIZE * ROW_BYTES;
constexpr int SCALE_BYTES = IS_INT8 ? PAGE_SIZE * 4 : 0;
constexpr int PLACE_BYTES = PAGE_BYTES + SCALE_BYTES;  // a page's scales come after its numbers
constexpr int STREAM_BYTES = 2 * STAGES * PLACE_BYTES;

enum class Kind { keys, values };

// What a token's units are exchanged by: lanes read keys of neighbouring tokens, and values of every second one.
template <Kind kind>
PASCALINE_INLINE int exchanged(int token) {
    if constexpr (ROW_UNITS % 8 != 0) return 0;
    if constexpr (kind == Kind::values) return token & 6;
    return IS_INT8 ? (token & 3) << 1 : (token & 1) << 2;
}

// NBYTES of a token's row, which lie within a unit.
template <Kind kind, int NBYTES>
PASCALINE_INLINE void read_row(const uint8_t* place, int token, int byte, uint32_t (&words)[(NBYTES + 3) / 4]) {
    const int unit = (byte / UNIT_BYTES) ^ exchanged<kind>(token);
    const uint8_t* const address = place + token * ROW_BYTES + unit * UNIT_BYTES + byte % UNIT_BYTES;
    if constexpr (NBYTES == 16) {
        const uint4 four = *reinterpret_cast<const uint4*>(address);
        words[0] = four.x;
        words[1] = four.y;
        words[2] = four.z;
        words[3] = four.w;
    } else if constexpr (NBYTES == 8) {
        const uint2 two = *reinterpret_cast<const uint2*>(address);
        words[0] = two.x;
        words[1] = two.y;
    } else if constexpr (NBYTES == 4) {
        words[0] = *reinterpret_cast<const uint32_t*>(address);
    } else {
        words[0] = *reinterpret_cast<const uint16_t*>(address);
    }
}

// Of a token's keys or values.
PASCALINE_INLINE float scale_of(const uint8_t* place, int token) {
    return reinterpret_cast<const float*>(place + PAGE_BYTES)[token];
}

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
          shared_(shared) {
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
    PASCALINE_INLINE const uint8_t* wait(int page) const {
        wait_for_copies<2 * STAGES - 1>();
        sync_warp();
        return shared_ + place<kind>(page);
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
            const auto* const source =
                reinterpret_cast<const uint4*>((kind == Kind::keys ? cache_.keys : cache_.values) + index * PAGE_BYTES);
            const SharedAddress target = shared_address(shared_) + place<kind>(page);
            // Nobody wrote what lies behind the sequence's end: it may be no number, and 0 times that is none.
            const int tokens = context_ - page * WARPS * PAGE_SIZE;
#pragma unroll
            for (int i = 0; i < (PAGE_UNITS + 31) / 32; i++) {
                const int unit = 32 * i + lane_;
                if (PAGE_UNITS % 32 != 0 && unit >= PAGE_UNITS) break;
                const int token = unit / ROW_UNITS, own = (unit % ROW_UNITS) ^ exchanged<kind>(token);
                copy_or_clear(target + token * ROW_BYTES + own * UNIT_BYTES, source + unit, token < tokens);
            }
            if constexpr (IS_INT8) {
                const float* const scales =
                    (kind == Kind::keys ? cache_.key_scales : cache_.value_scales) + index * PAGE_SIZE;
                if (lane_ < PAGE_SIZE / 4) {
                    copy_or_clear(target + PAGE_BYTES + lane_ * UNIT_BYTES, reinterpret_cast<const uint4*>(scales) + lane_,
                                  4 * lane_ < tokens);
                }
            }
        }
        close_copies();
    }

    Cache cache_;
    const int32_t* page_ids_;
    int head_, pages_, context_, lane_;
    uint8_t* shared_;
    int ids_, next_ids_;
};
