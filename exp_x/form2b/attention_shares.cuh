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

// A batch as attention's kernels are given it.
struct Batch {
    const int32_t* query_start;
    const int32_t* context_lengths;
    int sequences, key_value_heads, window;
};

// The new tokens of a sequence, its last.
struct Sequence {
    int first_token, rows, context;

    PASCALINE_INLINE bool is_taken() const { return rows >= 1 && rows <= MOST_ROWS && context > 0; }

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
    int first_page, pages;            // of the sequence's
    bool is_whole;                    // the tile has no others
    int first_sharer, sharers, slot;  // blocks that have some of the tile; where the own sums of it lie
    bool begins_tile_late;            // the first sharer has the end of another tile before
};

class Shares {
  public:
    // Memory that `shared` has, in words.
    static constexpr PASCALINE_INLINE int words(int sequences) { return 5 * sequences + 2; }

    // least_pages: shorter runs are not worth their sums; shared: of nobody else's use as long as this lives.
    PASCALINE_INLINE Shares(const Batch& batch, int least_pages, int32_t* shared)
        : batch_(batch), first_tokens_(shared), contexts_(shared + batch.sequences), rows_(contexts_ + batch.sequences),
          lengths_(rows_ + batch.sequences), before_(lengths_ + batch.sequences) {
        for (int sequence = threadIdx.x; sequence < batch.sequences; sequence += blockDim.x) {
            const int first = load_handed_on(batch.query_start + sequence);
            const int end = load_handed_on(batch.query_start + sequence + 1);
            const Sequence own = {first, end - first, load_handed_on(batch.context_lengths + sequence)};
            first_tokens_[sequence] = first;
            contexts_[sequence] = own.context;
            rows_[sequence] = own.is_taken() ? own.rows : 0;
        }
        __syncthreads();
        if (threadIdx.x < 32) count(least_pages);
        __syncthreads();
        run_ = before_[batch.sequences + 1];
        next_ = min(int(blockIdx.x) * run_, before_[batch.sequences]);
        begin_ = next_;
        end_ = min(next_ + run_, before_[batch.sequences]);
    }

    PASCALINE_INLINE bool is_done() const { return next_ >= end_; }

    PASCALINE_INLINE Sequence sequence(int number) const {
        return {first_tokens_[number], MOST_ROWS == 1 ? 1 : rows_[number], contexts_[number]};
    }

    // The next segment of the own run.
    PASCALINE_INLINE Segment take() {
        int number = 0;
        for (int above = batch_.sequences; above - number > 1;) {
            const int middle = (number + above) / 2;
            (before_[middle] <= next_ ? number : above) = middle;
        }
        const Sequence own = sequence(number);
        const int length = lengths_[number], pages = own.pages(batch_);
        Segment segment;
        segment.sequence = number;
        segment.tile = (next_ - before_[number]) / length;
        segment.number = number * batch_.key_value_heads * row_tiles(MOST_ROWS) + segment.tile;
        const int begin = before_[number] + segment.tile * length, end = min(begin + length, end_);
        segment.first_page = next_ - begin;
        segment.pages = min(end - begin, pages) - segment.first_page;
        segment.is_whole = segment.pages == pages;
        segment.first_sharer = begin / run_;
        segment.sharers = (begin + length - 1) / run_ - segment.first_sharer + 1;
        segment.begins_tile_late = segment.first_sharer * run_ < begin;
        segment.slot = 2 * int(blockIdx.x) + int(begin_ < begin);
        segment.first_page += own.first_page(batch_);
        next_ = end;
        return segment;
    }

    // Where the sums of one of a tile's sharers lie.
    static PASCALINE_INLINE int slot_of(const Segment& segment, int sharer) {
        return 2 * (segment.first_sharer + sharer) + int(sharer == 0 && segment.begins_tile_late);
    }

  private:
    static PASCALINE_INLINE int in_units(int pages, int unit) {
        return unit == 1 ? pages : (pages + unit - 1) / unit * unit;
    }

    // How long runs are, and how many pages come before each sequence: by one warp.
    PASCALINE_INLINE void count(int least_pages) {
        const int lane = threadIdx.x;
        int work = 0, tiles = 0, most = 0;
        for (int number = lane; number < batch_.sequences; number += 32) {
            const int rows = rows_[number];
            const Sequence own = {0, rows, contexts_[number]};
            const int pages = rows > 0 ? own.pages(batch_) : 0, own_tiles = batch_.key_value_heads * row_tiles(rows);
            lengths_[number] = pages;
            work += pages * own_tiles;
            tiles += own_tiles;
            most = max(most, pages);
        }
#pragma unroll
        for (int mask = 16; mask > 0; mask /= 2) {
            work += shuffle_xor(work, mask);
            tiles += shuffle_xor(tiles, mask);
            most = max(most, shuffle_xor(most, mask));
        }
        const int blocks = gridDim.x;
        int run = max(least_pages, (work + blocks - 1) / blocks), unit = 1;
        const int runs_a_tile = tiles > 0 ? blocks / tiles : 0;
        if (runs_a_tile > 0) {
            // PERF: a run of one tile has its sums brought together once. Blocks with less to read than others cost
            // nothing as long as these keep memory busy.
            const int even = max(least_pages, (most + runs_a_tile - 1) / runs_a_tile);
            if (4 * even <= 5 * run) run = unit = even;
        }
        int total = 0;
        for (int first = 0; first < batch_.sequences; first += 32) {
            const int number = first + lane;
            int own = 0;
            if (number < batch_.sequences) {
                const int length = in_units(lengths_[number], unit);
                lengths_[number] = length;
                own = length * batch_.key_value_heads * row_tiles(rows_[number]);
            }
            int sum = own;
#pragma unroll
            for (int distance = 1; distance < 32; distance *= 2) {
                const int other = shuffle_from(sum, max(lane - distance, 0));
                sum += lane >= distance ? other : 0;
            }
            if (number < batch_.sequences) before_[number] = total + sum - own;
            total += shuffle_from(sum, 31);
        }
        if (lane == 0) {
            before_[batch_.sequences] = total;
            before_[batch_.sequences + 1] = run;
        }
    }

    Batch batch_;
    int32_t *first_tokens_, *contexts_;  // of each sequence
    int32_t* rows_;                      // 0 where others compute them
    int32_t* lengths_;                   // pages that are counted of each of its tiles
    int32_t* before_;                    // pages of the tiles of all sequences before; then of all; then a run's
    int run_, begin_, next_, end_;
};
