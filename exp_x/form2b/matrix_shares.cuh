// Which turns at a product's slabs a block of threads has, and how sums of a block of the result that several have
// turns at come together.
//
// Turns are counted through all blocks of the result, each of which has as many. The first `whole_blocks` are a block
// of threads' work each. What is left is shared by `sharers` more, as evenly as turns allow: each has a run of turns,
// which may end one block of the result and begin the next. Sums of a part of a block's turns meet in memory, where
// the last one to come adds them, in the order of the turns.
#pragma once
#include "arrivals.cuh"

// Some turns at one block of the result.
struct Stretch {
    int block;
    int first_turn, turns;  // of the block's
};

class Shares {
  public:
    PASCALINE_INLINE Shares(int turns, int whole_blocks, int blocks, int sharers)
        : turns_(turns), whole_blocks_(whole_blocks), shared_turns_((blocks - whole_blocks) * turns), sharers_(sharers) {
        const int own = blockIdx.x;
        const bool is_sharer = own >= whole_blocks;
        next_ = is_sharer ? first_turn(own - whole_blocks) : own * turns;
        end_ = is_sharer ? first_turn(own - whole_blocks + 1) : next_ + turns;
    }

    PASCALINE_INLINE bool is_done() const { return next_ >= end_; }

    PASCALINE_INLINE Stretch take() {
        const int block = next_ / turns_, first = next_ - block * turns_;
        const Stretch stretch = {block, first, min(turns_ - first, end_ - next_)};
        next_ += stretch.turns;
        return stretch;
    }

    PASCALINE_INLINE bool is_whole(const Stretch& stretch) const { return stretch.turns == turns_; }

    // True in the block of threads that comes last of those that have written their sums of the stretch's block.
    //
    // arrivals: a zero a shared block, and zero again at the end.
    PASCALINE_INLINE bool is_last(const Stretch& stretch, uint32_t* arrivals) const {
        __shared__ uint32_t arrived;
        return comes_last(arrivals + shared_block(stretch), last_sharer(stretch) - first_sharer(stretch) + 1, arrived);
    }

    // Who has turns at the stretch's block, in their order.
    PASCALINE_INLINE int first_sharer(const Stretch& stretch) const { return sharer_of(stretch.block * turns_); }
    PASCALINE_INLINE int last_sharer(const Stretch& stretch) const {
        return sharer_of((stretch.block + 1) * turns_ - 1);
    }
    PASCALINE_INLINE int own_sharer() const { return int(blockIdx.x) - whole_blocks_; }

    // Which of the sums in memory are a sharer's of the stretch's block: along the turns one of both grows.
    PASCALINE_INLINE int slot(const Stretch& stretch, int sharer) const { return shared_block(stretch) + sharer; }

  private:
    PASCALINE_INLINE int shared_block(const Stretch& stretch) const { return stretch.block - whole_blocks_; }

    PASCALINE_INLINE int first_turn(int sharer) const {
        return whole_blocks_ * turns_ + int(int64_t(shared_turns_) * sharer / sharers_);
    }

    // Who has a turn: first_turn(sharer) <= turn < first_turn(sharer + 1).
    PASCALINE_INLINE int sharer_of(int turn) const {
        const int64_t shared_turn = turn - whole_blocks_ * turns_;
        return int(((shared_turn + 1) * sharers_ - 1) / shared_turns_);
    }

    int turns_, whole_blocks_, shared_turns_, sharers_;
    int next_, end_;
};
