// Rows of x on their way to the tensor cores: slabs of 128 inputs, in shared memory some turns ahead of their use.
//
// A row of a stage is 16 pieces of 16 bytes, loaded in the order that they lie in memory. Piece j of a quarter (its
// words 2 * j and 2 * j + 1) goes to place 8 * (quarter / 2) + (quarter ^ 2 * j), in odd rows xor 4: the eight lanes
// that write at once (two quarters of a row) and those that read at once (piece j of four quarters, two rows) meet
// all banks.
//
// Definitions: INPUT_TYPE; MATRIX_TYPE; IS_COPIED: x is of MATRIX_TYPE, in the weight's order of inputs, and its rows
// begin at multiples of 16 bytes; BLOCK_ROWS, a multiple of 8; WARPS_ALONG_OUTPUTS, that share a slab;
// WARPS_ALONG_INPUTS, groups that take turns at slabs; STAGES of every group, of TURNS_PER_STAGE slabs each.
#pragma once
#include "async_copy.cuh"
#include "number_pairs.cuh"
#include "packed_weight.cuh"

constexpr int GROUP_THREADS = WARPS_ALONG_OUTPUTS * 32;
constexpr int ROW_PIECES = 16;
constexpr int SLAB_PIECES = BLOCK_ROWS * ROW_PIECES;
constexpr int ROWS_AT_ONCE = GROUP_THREADS / ROW_PIECES;  // even: a thread's rows are all even or all odd

// Where piece j of a quarter lies in its row.
PASCALINE_INLINE int place_of(int row, int quarter, int j) {
    return 8 * (quarter / 2) + (quarter ^ (2 * j) ^ ((row & 1) * 4));
}

// Where a lane of a warp reads the operand's eight rows: row lane / 4, quarter lane % 4.
struct InputPlaces {
    int pieces[WORDS / 2];

    PASCALINE_INLINE explicit InputPlaces(int lane) {
#pragma unroll
        for (int j = 0; j < WORDS / 2; j++) pieces[j] = lane / 4 * ROW_PIECES + place_of(lane / 4, lane % 4, j);
    }

    // Pieces j of rows 8 * block + lane / 4: words 2 * j, then 2 * j + 1.
    PASCALINE_INLINE uint4 piece(const uint4* stage, int block, int j) const {
        return stage[pieces[j] + block * 8 * ROW_PIECES];
    }
};

// The slabs that a group of warps has its turns at, in their order: all from `first` on to the end, every
// WARPS_ALONG_INPUTS, then those before. (Blocks that begin at different slabs do not all ask the second cache for the
// same lines of x at once.)
struct SlabTurns {
    int first, end, last;  // end: of all groups' turns, which may be beyond the last slab
    int slab;

    PASCALINE_INLINE SlabTurns(int first_turn, int turns, int skipped, int slabs, int group) {
        first = first_turn * WARPS_ALONG_INPUTS;
        end = first + turns * WARPS_ALONG_INPUTS;
        last = min(slabs, end);
        slab = first + skipped * WARPS_ALONG_INPUTS + group;
    }

    // A single group has all of its turns.
    PASCALINE_INLINE bool is_there() const { return WARPS_ALONG_INPUTS == 1 || slab < last; }
    // The turn's slab, or one that is there.
    PASCALINE_INLINE int existing() const { return WARPS_ALONG_INPUTS == 1 ? slab : min(slab, last - 1); }

    PASCALINE_INLINE void step() {
        slab += WARPS_ALONG_INPUTS;
        if (slab >= end) slab -= end - first;
    }
};

class InputStages {
  public:
    PASCALINE_INLINE InputStages(const void* x, const int* inputs, int rows, int columns, int first_row,
                                 const SlabTurns& turns, uint4* shared, int group)
        : inputs_(inputs), columns_(columns), turns_(turns) {
        turns_left_ = (turns.end - turns.first) / WARPS_ALONG_INPUTS;
        const int thread = threadIdx.x % GROUP_THREADS;
        own_row_ = thread / ROW_PIECES;
        const int piece = thread % ROW_PIECES;
        own_input_ = 8 * piece;
        block_rows_ = rows - first_row;
        x_ = static_cast<const Stored*>(x) + size_t(first_row) * columns;
        source_ = x_ + size_t(own_row_) * columns + own_input_;
        stages_ = shared + group * PLACES * SLAB_PIECES;
        own_place_ = own_row_ * ROW_PIECES + place_of(own_row_, piece / 4, piece % 4);
        address_ = shared_address(stages_ + own_place_);
    }

    // Groups of copies that may be on their way when a stage is read.
    static constexpr int PENDING = (STAGES - 2) * TURNS_PER_STAGE;

    // Begins to load the slabs of all stages but the last.
    PASCALINE_INLINE void load_first() {
        for (int turn = 0; turn < PLACES - TURNS_PER_STAGE; turn++) load_next();
    }

    // Begins to load the group's next slab, if there is one; rows and inputs that are not there are zeros.
    PASCALINE_INLINE void load_next() {
        const bool is_there = turns_left_ > 0 && turns_.is_there();
        // No branch is between products, across which compilers would not mix them with what is beside.
        if (IS_COPIED || is_there) load_slab(loading_ * SLAB_PIECES, is_there);
        turns_.step();
        turns_left_--;
        close_copies();
        loading_ = next(loading_);
    }

    // The slab of the next turn.
    PASCALINE_INLINE const uint4* take() {
        const uint4* const slab = stages_ + taken_ * SLAB_PIECES;
        taken_ = next(taken_);
        return slab;
    }

  private:
    using Number = Element<INPUT_TYPE>;
    using Stored = Number::Stored;
    static constexpr int PLACES = STAGES * TURNS_PER_STAGE;

    static PASCALINE_INLINE int next(int place) { return place == PLACES - 1 ? 0 : place + 1; }

    PASCALINE_INLINE void load_slab(int place, bool is_there) const {
        const int first = turns_.slab * SLAB + own_input_;
        const Stored* source = source_ + turns_.slab * SLAB;
#pragma unroll
        for (int i = 0; i < (BLOCK_ROWS + ROWS_AT_ONCE - 1) / ROWS_AT_ONCE; i++) {
            const int row = own_row_ + i * ROWS_AT_ONCE;
            if (BLOCK_ROWS % ROWS_AT_ONCE != 0 && row >= BLOCK_ROWS) break;
            if constexpr (IS_COPIED) {
                copy_or_clear(address_ + (place + i * GROUP_THREADS) * 16, reinterpret_cast<const uint4*>(source),
                              is_there && row < block_rows_ && first < columns_);
                source += size_t(ROWS_AT_ONCE) * columns_;
            } else {
                stages_[place + i * GROUP_THREADS + own_place_] = gathered(row, first);
            }
        }
    }

    // Eight inputs one by one, converted.
    PASCALINE_INLINE uint4 gathered(int row, int first) const {
        float values[8];
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const int stored = first + i;
            const int feature = inputs_ != nullptr ? load_constant(inputs_ + stored) : stored < columns_ ? stored : -1;
            const bool is_there = row < block_rows_ && feature >= 0;
            values[i] = is_there ? Number::widen(load_handed_on(x_ + size_t(row) * columns_ + feature)) : 0.0f;
        }
        return make_uint4(pair_of(values[0], values[1]), pair_of(values[2], values[3]), pair_of(values[4], values[5]),
                          pair_of(values[6], values[7]));
    }

    const Stored* x_;       // the block's first row
    const Stored* source_;  // of the thread's first piece of the first slab
    const int* inputs_;
    int columns_, block_rows_;
    int own_row_, own_input_, own_place_;
    SlabTurns turns_;
    int turns_left_;
    uint4* stages_;
    SharedAddress address_;  // of the thread's first piece of the first stage
    int loading_ = 0, taken_ = 0;  // places of slabs
};
