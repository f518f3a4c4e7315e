// Which pages of keys and values a block of threads has, and for which rows of a batch.
//
// Rows of a sequence are its new tokens, each with the GROUP query heads of a key/value head. A *tile* is 8 of these rows:
// it reads all pages of its sequence that some row sees. Each head has as many blocks: its tiles' pages are counted through
// the whole batch, and each block has as long a run of them: it may end one tile, begin the next, and have whole ones in
// between. Where all tiles are alike, each is a whole number of runs instead.
//
// PERF: the heads of a run are neighbours in the grid, and heads of a page are neighbours in memory: read together they
// come faster, by a quarter where pages lie anywhere.
//
// All is found from the lengths in memory: launches are replayed with others.
//
// Definitions: GROUP; MOST_ROWS, sequences with more new tokens are others' to compute; HAS_WINDOW.
#pragma once
#include "platform_votes.cuh"

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
    int sequence, tile;               // the tile is one of the sequence's
    int first_page, pages;            // of the sequence's
    bool is_whole;                    // the tile has no others
    int first_sharer, sharers, slot;  // blocks that have some of the tile; where the own sums of it lie
    bool begins_tile_late;            // the first sharer has the end of another tile before
};

// Every warp finds the same. Places are counted in units of some pages.
class Shares {
  public:
    // Memory that `shared` has, in words.
    static constexpr PASCALINE_INLINE int words(int sequences) { return 3 * sequences; }

    // least_pages: shorter runs are never worth their sums; shared: of nobody else's use as long as this lives.
    PASCALINE_INLINE Shares(const Batch& batch, int least_pages, int32_t* shared)
        : batch_(batch), lane_(threadIdx.x & 31), first_tokens_(shared), contexts_(shared + batch.sequences),
          rows_(contexts_ + batch.sequences) {
        for (int number = threadIdx.x; number < batch.sequences; number += blockDim.x) {
            const int first = load_handed_on(batch.query_start + number);
            const int end = load_handed_on(batch.query_start + number + 1);
            const Sequence own = {first, end - first, load_handed_on(batch.context_lengths + number)};
            first_tokens_[number] = first;
            contexts_[number] = own.context;
            rows_[number] = own.is_taken() ? own.rows : 0;
        }
        __syncthreads();
        choose_run(least_pages);
        begin_ = int(blockIdx.y) * run_;
        next_ = begin_;
        chunk_end_ = 0;
        load_chunk(0);
    }

    // Whether there is no other segment in the own run.
    PASCALINE_INLINE bool is_done() {
        if (next_ >= begin_ + run_) return true;
        while (next_ >= chunk_end_) {
            if (chunk_ + 32 >= batch_.sequences) return true;
            load_chunk(chunk_ + 32);
        }
        return false;
    }

    PASCALINE_INLINE Sequence sequence(int number) const {
        return {first_tokens_[number], MOST_ROWS == 1 ? 1 : rows_[number], contexts_[number]};
    }

    // The next segment of the own run, which has one.
    PASCALINE_INLINE Segment take() {
        const int from = last_lane_of(before_ <= next_);
        Segment segment;
        segment.sequence = chunk_ + from;
        const Sequence own = sequence(segment.sequence);
        const int length = shuffle_from(length_, from), before = shuffle_from(before_, from), pages = own.pages(batch_);
        segment.tile = MOST_ROWS == 1 && GROUP <= TILE_ROWS ? 0 : (next_ - before) / length;
        const int begin = before + segment.tile * length, end = min(begin + length, begin_ + run_);
        segment.first_page = (next_ - begin) * unit_;
        segment.pages = min((end - begin) * unit_, pages) - segment.first_page;
        segment.is_whole = segment.pages == pages;
        segment.first_sharer = run_ == 1 ? begin : begin / run_;
        segment.sharers = (run_ == 1 ? begin + length - 1 : (begin + length - 1) / run_) - segment.first_sharer + 1;
        segment.begins_tile_late = segment.first_sharer * run_ < begin;
        segment.slot = slot_of(blockIdx.y) + int(begin_ < begin);
        segment.first_page += own.first_page(batch_);
        next_ = end;
        return segment;
    }

    // Where the sums of one of a tile's sharers lie.
    static PASCALINE_INLINE int slot_of(const Segment& segment, int sharer) {
        return slot_of(segment.first_sharer + sharer) + int(sharer == 0 && segment.begins_tile_late);
    }

    // Of the tile, in arrays that have as many for each sequence and head.
    PASCALINE_INLINE int number_of(const Segment& segment) const {
        return (segment.sequence * batch_.key_value_heads + int(blockIdx.x)) * row_tiles(MOST_ROWS) + segment.tile;
    }

  private:
    // A block has sums of two tiles to leave at most: of the one that it ends, and of that which it begins.
    static PASCALINE_INLINE int slot_of(int block) { return 2 * (int(blockIdx.x * gridDim.y) + block); }

    PASCALINE_INLINE int pages_of(int number) const {
        const Sequence own = {0, MOST_ROWS == 1 ? 1 : rows_[number], contexts_[number]};
        return rows_[number] > 0 ? own.pages(batch_) : 0;
    }
    PASCALINE_INLINE int tiles_of(int number) const {
        return MOST_ROWS == 1 ? min(rows_[number], 1) * row_tiles(1) : row_tiles(rows_[number]);
    }

    PASCALINE_INLINE void choose_run(int least_pages) {
        int work = 0, tiles = 0, most = 0;
        for (int number = lane_; number < batch_.sequences; number += 32) {
            const int pages = pages_of(number), own_tiles = tiles_of(number);
            work += pages * own_tiles;
            tiles += own_tiles;
            most = max(most, pages);
        }
        work = sum_of_lanes(work);
        tiles = sum_of_lanes(tiles);
        most = largest_of_lanes(most);
        const int blocks = gridDim.y;
        int runs_a_tile = tiles > 0 ? blocks / tiles : 0;
        // PERF: blocks that share a tile take time to bring their sums together, each of them: the fewer, the shorter it is.
        const int least = least_pages << (31 - __clz(max(most / PAGE_SIZE, 1))) / 2;
        if (runs_a_tile < 4 && most <= 4 * least_pages) runs_a_tile = min(runs_a_tile, 1);
        run_ = max(least, (work + blocks - 1) / blocks);
        unit_ = 1;
        if (runs_a_tile > 0) {
            // PERF: a run of one tile has its sums brought together once. Blocks with less to read than others cost
            // nothing as long as these keep memory busy.
            const int even = max(least, (most + runs_a_tile - 1) / runs_a_tile);
            if (4 * even <= 5 * run_ || even <= 4 * least_pages) {
                unit_ = even;
                run_ = 1;
            }
        }
    }

    // Places of 32 sequences, one a lane.
    PASCALINE_INLINE void load_chunk(int first) {
        const int number = first + lane_;
        int own = 0;
        length_ = 0;
        if (number < batch_.sequences) {
            const int pages = pages_of(number);
            length_ = unit_ == 1 ? pages : (pages + unit_ - 1) / unit_;
            own = length_ * tiles_of(number);
        }
        int sum = own;
        if (batch_.sequences > 1) {
#pragma unroll
            for (int distance = 1; distance < 32; distance *= 2) {
                const int other = shuffle_from(sum, max(lane_ - distance, 0));
                sum += lane_ >= distance ? other : 0;
            }
        }
        before_ = chunk_end_ + sum - own;
        // PERF: what comes after a single sequence is its length, without a scan.
        chunk_end_ += batch_.sequences > 1 ? shuffle_from(sum, 31) : shuffle_from(sum, 0);
        if (number >= batch_.sequences) before_ = chunk_end_;
        chunk_ = first;
    }

    Batch batch_;
    int lane_;
    int32_t *first_tokens_, *contexts_;  // of each sequence
    int32_t* rows_;                      // 0 where others compute them
    int unit_, run_;                     // pages of a unit, units of a run
    int begin_, next_;                   // of the own run, in units
    // Of 32 sequences: units before all of them are done; of this lane's, those of a tile and those before it.
    int chunk_, chunk_end_, length_, before_;
};
