// Pages of keys and values of one head on their way through shared memory, a warp's own, by bulk copies.
//
// A warp has every STREAMS-th page of a segment, and places for keys and values of STAGES of them. A page's place is free
// again once all lanes have read it: the page that is STAGES later is asked for at once. Nothing waits for other warps.
//
// A page is copied as it lies, in one piece or several. Its rows are 256 bytes (or 128), so that all begin in one bank;
// pieces lie GAP bytes further apart, and their rows in other banks (bulk_products.cuh says which matter).
//
// Definitions: HEAD_DIM; WARPS; BLOCK_HEADS; STAGES; KEY_PIECES and VALUE_PIECES, 1, 2 or 4.
#pragma once
#include "attention_shares.cuh"
#include "bulk_copies.cuh"

static_assert(WARPS % BLOCK_HEADS == 0, "heads of a block have as many warps each");
static_assert(HEAD_DIM % 64 == 0, "rows of 128 bytes, or of multiples");

constexpr int STREAMS = WARPS / BLOCK_HEADS;
constexpr int ROW_BYTES = HEAD_DIM * 2, PAGE_BYTES = PAGE_SIZE * ROW_BYTES;

enum class Kind { keys, values };

constexpr PASCALINE_INLINE int pieces_of(Kind kind) { return kind == Kind::keys ? KEY_PIECES : VALUE_PIECES; }

// Between pieces, so that all of them together begin in all banks.
constexpr PASCALINE_INLINE int gap_of(Kind kind) { return pieces_of(kind) == 1 ? 0 : 128 / pieces_of(kind); }

constexpr PASCALINE_INLINE int place_bytes(Kind kind) { return PAGE_BYTES + (pieces_of(kind) == 1 ? 0 : 128); }
constexpr int STAGE_BYTES = place_bytes(Kind::keys) + place_bytes(Kind::values);
constexpr int STREAM_BYTES = STAGES * STAGE_BYTES;

// Where a token's row begins in its place.
template <Kind kind>
PASCALINE_INLINE int row_offset(int token) {
    return token * ROW_BYTES + token / (PAGE_SIZE / pieces_of(kind)) * gap_of(kind);
}

// A warp's pages of a segment: the last of `count` ends at the sequence's end, or later.
struct WarpPages {
    int count;
    int tokens;            // from the first page on, to the sequence's end
    const int32_t* ids;    // of the first page; the next one's are STREAMS later
    int own_id, later_id;  // this lane's of the first 32, and of the 32 after those

    PASCALINE_INLINE WarpPages(int count, int tokens, const int32_t* ids)
        : count(count), tokens(tokens), ids(ids), own_id(id(0)), later_id(id(32)) {}

    // Of the lane's of 32 pages.
    PASCALINE_INLINE int id(int first) const {
        const int page = first + int(threadIdx.x & 31);
        return page < count ? load_handed_on(ids + page * STREAMS) : 0;
    }
};

class BulkStream {
  public:
    // A warp's, in shared memory.
    using Barriers = BytesBarrier[STAGES];

    // key_cache, value_cache: of the head, in the first page; page_stride: bytes from there to the next page's.
    PASCALINE_INLINE BulkStream(const uint8_t* key_cache, const uint8_t* value_cache, size_t page_stride,
                                Barriers& barriers, uint8_t* shared)
        : key_cache_(key_cache), value_cache_(value_cache), page_stride_(page_stride), barriers_(barriers),
          lane_(threadIdx.x & 31), stage_(0), round_(0), address_(shared_address(shared)) {
        if (lane_ == 0) {
            for (auto& barrier : barriers) barrier.start();
            BytesBarrier::publish();
        }
        sync_warp();
    }

    // The first pages are asked for, when all those before have been read.
    PASCALINE_INLINE void begin(WarpPages& pages) const {
#pragma unroll 1
        for (int page = 0; page < STAGES; page++) {
            copy(pages, page, stage_ + page < STAGES ? stage_ + page : stage_ + page - STAGES);
        }
    }

    // Until this page has come, for all lanes.
    PASCALINE_INLINE void wait() const { barriers_[stage_].wait(round_); }

    template <Kind kind>
    PASCALINE_INLINE SharedAddress place() const {
        return place<kind>(stage_);
    }

    // No lane reads this page, the segment's `page`-th, any more; the next one has its turn.
    PASCALINE_INLINE void advance(WarpPages& pages, int page) {
        sync_warp();
        copy(pages, page + STAGES, stage_);
        stage_++;
        if (stage_ == STAGES) {
            stage_ = 0;
            round_ ^= 1;
        }
    }

  private:
    template <Kind kind>
    PASCALINE_INLINE SharedAddress place(int stage) const {
        return address_ + stage * STAGE_BYTES + (kind == Kind::values ? place_bytes(Kind::keys) : 0);
    }

    PASCALINE_INLINE void copy(WarpPages& pages, int page, int stage) const {
        if (page > 0 && page % 32 == 0) {
            pages.own_id = pages.later_id;
            pages.later_id = pages.id(page + 32);
        }
        const int id = shuffle_from(pages.own_id, page % 32);
        if (page >= pages.count || lane_ != 0) return;
        BytesBarrier& barrier = barriers_[stage];
        barrier.expect(2 * PAGE_BYTES);
        copy_pieces<Kind::keys>(barrier, place<Kind::keys>(stage), key_cache_ + id * page_stride_);
        copy_pieces<Kind::values>(barrier, place<Kind::values>(stage), value_cache_ + id * page_stride_);
    }

    template <Kind kind>
    static PASCALINE_INLINE void copy_pieces(BytesBarrier& barrier, SharedAddress place, const uint8_t* source) {
        constexpr int PIECES = pieces_of(kind), PIECE_BYTES = PAGE_BYTES / PIECES;
#pragma unroll
        for (int piece = 0; piece < PIECES; piece++) {
            barrier.copy(place + piece * (PIECE_BYTES + gap_of(kind)), source + piece * PIECE_BYTES, PIECE_BYTES);
        }
    }

    const uint8_t *key_cache_, *value_cache_;
    size_t page_stride_;
    Barriers& barriers_;
    int lane_, stage_, round_;
    SharedAddress address_;
};
