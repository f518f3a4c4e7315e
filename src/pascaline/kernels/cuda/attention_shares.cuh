// Which pages of keys and values a block of threads has, and for which rows of a batch.
//
// Rows of a sequence are its new tokens, each with the GROUP query heads of a key/value head. A *tile* is 8 of these rows:
// it reads all pages of its sequence that some row sees. Tiles' pages are counted through the whole batch, and every block
// has as long a run of them: it may end one tile, begin the next, and have whole ones in between. Where all tiles are
// alike, a run is cut where tiles end: pages are counted as if each tile had a whole number of runs.
//
// All is found from the lengths in memory: launches are replayed with others.
//
// Definitions: GROUP; MOST_ROWS, sequences with more new tokens are others' to compute; HAS_WINDOW.
#pragma once
#include "platform.cuh"

constexpr int PAGE_SIZE = 16;
constexpr int TILE_ROWS = 8;
constexpr int ROW_BITS = 4;
static_assert(MOST_ROWS < (1 << ROW_BITS), "a sequence's rows are kept in so many bits");

// A batch as attention's kernels are given it.
struct Batch {
    const int32_t* query_start;
    const int32_t* context_lengths;
    int sequences, key_value_heads, window;
};

PASCALINE_INLINE int rows_of(const Batch& batch, int sequence) {
    return load_handed_on(batch.query_start + sequence + 1) - load_handed_on(batch.query_start + sequence);
}

// The new tokens of a sequence that is not others' to compute: its last.
struct Sequence {
    int first_token, rows, context;

    PASCALINE_INLINE Sequence(const Batch& batch, int sequence)
        : first_token(load_handed_on(batch.query_start + sequence)), rows(MOST_ROWS == 1 ? 1 : rows_of(batch, sequence)),
          context(load_handed_on(batch.context_lengths + sequence)) {}

    // Tokens that a row sees end there.
    PASCALINE_INLINE int end(int row) const { return context - (rows - 1 - row); }

    // The first token that a row sees.
    PASCALINE_INLINE int begin(int row, const Batch& batch) const {
        return HAS_WINDOW ? max(end(row) - batch.window, 0) : 0;
    }

    PASCALINE_INLINE int first_page(const Batch& batch) const { return begin(0, batch) / PAGE_SIZE; }
    PASCALINE_INLINE int pages(const Batch& batch) const {
        return (context + PAGE_SIZE - 1) / PAGE_SIZE - first_page(batch);
    }
};

constexpr PASCALINE_INLINE int row_tiles(int rows) { return (rows * GROUP + TILE_ROWS - 1) / TILE_ROWS; }

// A run of pages of one tile.
struct Segment {
    int sequence, tile;               // the tile is counted through all of the sequence's key/value heads
    int number;                       // of the tile, in arrays that have as many for each sequence
    int first_page, pages;            // of those that the tile reads
    bool is_whole;                    // the tile has no others
    int first_sharer, sharers, slot;  // blocks that have some of the tile; where the own sums of it lie
    bool begins_tile_late;            // the first sharer has the end of another tile before
};

class Shares {
  public:
    // Memory that `shared` has, in words.
    static constexpr PASCALINE_INLINE int words(int sequences) { return 2 * sequences + 2; }

    // least_pages: shorter runs are not worth their sums; shared: of nobody else's use as long as this lives.
    PASCALINE_INLINE Shares(const Batch& batch, int least_pages, int32_t* shared)
        : batch_(batch), extents_(shared), before_(shared + batch.sequences) {
        for (int sequence = threadIdx.x; sequence < batch.sequences; sequence += blockDim.x) {
            const int rows = rows_of(batch, sequence);
            const Sequence own(batch, sequence);
            const bool is_taken = rows >= 1 && rows <= MOST_ROWS;
            extents_[sequence] = is_taken ? own.pages(batch) << ROW_BITS | rows : 0;
        }
        __syncthreads();
        if (threadIdx.x < 32) count(least_pages);
        __syncthreads();
        const int length = before_[batch.sequences + 1];
        run_ = length;
        next_ = min(int(blockIdx.x) * length, before_[batch.sequences]);
        begin_ = next_;
        end_ = min(next_ + length, before_[batch.sequences]);
    }

    PASCALINE_INLINE bool is_done() const { return next_ >= end_; }

    // The next segment of the own run.
    PASCALINE_INLINE Segment take() {
        int sequence = 0;
        for (int above = batch_.sequences; above - sequence > 1;) {
            const int middle = (sequence + above) / 2;
            (before_[middle] <= next_ ? sequence : above) = middle;
        }
        const int tiles = tiles_of(sequence), pages = extents_[sequence] >> ROW_BITS;
        const int length = (before_[sequence + 1] - before_[sequence]) / tiles;
        Segment segment;
        segment.sequence = sequence;
        segment.tile = (next_ - before_[sequence]) / length;
        segment.number = sequence * batch_.key_value_heads * row_tiles(MOST_ROWS) + segment.tile;
        const int begin = before_[sequence] + segment.tile * length, end = min(begin + length, end_);
        segment.first_page = next_ - begin;
        segment.pages = min(end - begin, pages) - segment.first_page;
        segment.is_whole = segment.pages == pages;
        segment.first_sharer = begin / run_;
        segment.sharers = (begin + length - 1) / run_ - segment.first_sharer + 1;
        segment.begins_tile_late = segment.first_sharer * run_ < begin;
        segment.slot = 2 * int(blockIdx.x) + int(begin_ < begin);
        next_ = end;
        return segment;
    }

    // Where the sums of one of a tile's sharers lie.
    static PASCALINE_INLINE int slot_of(const Segment& segment, int sharer) {
        return 2 * (segment.first_sharer + sharer) + int(sharer == 0 && segment.begins_tile_late);
    }

  private:
    PASCALINE_INLINE int tiles_of(int sequence) const {
        const int rows = MOST_ROWS == 1 ? 1 : extents_[sequence] & ((1 << ROW_BITS) - 1);
        return batch_.key_value_heads * row_tiles(rows);
    }

    static PASCALINE_INLINE int in_units(int pages, int unit) { return (pages + unit - 1) / unit * unit; }

    // How long runs are, and how many pages come before each sequence: by one warp.
    PASCALINE_INLINE void count(int least_pages) {
        const int lane = threadIdx.x;
        int work = 0, tiles = 0, most = 0;
        for (int sequence = lane; sequence < batch_.sequences; sequence += 32) {
            const int pages = extents_[sequence] >> ROW_BITS;
            if (pages == 0) continue;
            work += pages * tiles_of(sequence);
            tiles += tiles_of(sequence);
            most = max(most, pages);
        }
#pragma unroll
        for (int mask = 16; mask > 0; mask /= 2) {
            work += shuffle_xor(work, mask);
            tiles += shuffle_xor(tiles, mask);
            most = max(most, shuffle_xor(most, mask));
        }
        const int blocks = gridDim.x;
        int length = max(least_pages, (work + blocks - 1) / blocks), unit = 1;
        const int runs_a_tile = tiles > 0 ? blocks / tiles : 0;
        if (runs_a_tile > 0) {
            // PERF: a run of one tile has its sums brought together once. Blocks with less to read than others cost
            // nothing as long as these keep memory busy.
            const int even = max(least_pages, (most + runs_a_tile - 1) / runs_a_tile);
            if (4 * even <= 5 * length) length = unit = even;
        }
        int total = 0;
        for (int first = 0; first < batch_.sequences; first += 32) {
            const int sequence = first + lane;
            int own = 0;
            if (sequence < batch_.sequences) {
                own = in_units(extents_[sequence] >> ROW_BITS, unit) * tiles_of(sequence);
            }
            int sum = own;
#pragma unroll
            for (int distance = 1; distance < 32; distance *= 2) {
                const int other = shuffle_from(sum, max(lane - distance, 0));
                sum += lane >= distance ? other : 0;
            }
            if (sequence < batch_.sequences) before_[sequence] = total + sum - own;
            total += shuffle_from(sum, 31);
        }
        if (lane == 0) {
            before_[batch_.sequences] = total;
            before_[batch_.sequences + 1] = length;
        }
    }

    Batch batch_;
    int32_t* extents_;  // a sequence's pages, and its rows in the lowest bits; 0 where others compute it
    int32_t* before_;   // pages of the tiles of all sequences before one; then of all; then a run's
    int run_, begin_, next_, end_;
};
