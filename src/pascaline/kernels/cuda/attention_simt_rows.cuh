// Which rows of which sequence a block of attention_simt_prefill.cu has: pairs of a new token and a query head of the
// key/value head's group, token by token, BLOCK_ROWS together.
//
// Definitions: those of attention_simt.cuh; THREAD_ROWS.
#pragma once
#include "attention_simt.cuh"

constexpr int THREADS = 128;
constexpr int COLUMN_LANES = 16, ROW_GROUPS = THREADS / COLUMN_LANES;
constexpr int BLOCK_ROWS = ROW_GROUPS * THREAD_ROWS;

struct BlockRows {
    int sequence;
    int query_row;  // of the sequence's first new token
    int tokens;     // new ones
    int first;      // of the sequence's rows

    // Those of the `index`-th block of all sequences with several new tokens; false where there are not so many. Every
    // warp finds them for itself.
    PASCALINE_INLINE bool find(const int32_t* query_start, int sequences, int index, int lane) {
#pragma unroll 1
        for (int base = 0; base < sequences; base += 32) {
            const int own = min(base + lane, sequences - 1);
            const int start = load_handed_on(query_start + own);
            const int count = base + lane < sequences ? load_handed_on(query_start + own + 1) - start : 0;
            const int blocks = count > 1 ? (count * GROUP + BLOCK_ROWS - 1) / BLOCK_ROWS : 0;
            int until = blocks;  // of this lane and those below
#pragma unroll
            for (int distance = 1; distance < 32; distance *= 2) {
                const int below = shuffle_from(until, (lane - distance) & 31);
                until += lane >= distance ? below : 0;
            }
            const uint32_t behind = lanes_where(index < until);
            if (behind != 0u) {
                const int source = __ffs(int(behind)) - 1;
                sequence = base + source;
                query_row = shuffle_from(start, source);
                tokens = shuffle_from(count, source);
                first = (index - shuffle_from(until - blocks, source)) * BLOCK_ROWS;
                return true;
            }
            index -= shuffle_from(until, 31);
        }
        return false;
    }

    // The new token of a row, and its head in the group; rows behind the last are the last again.
    PASCALINE_INLINE int token(int row) const { return min((first + row) / GROUP, tokens - 1); }
    PASCALINE_INLINE int head(int row) const { return (first + row) % GROUP; }
    PASCALINE_INLINE bool has(int row) const { return first + row < tokens * GROUP; }
};
