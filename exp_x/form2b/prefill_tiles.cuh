// Which rows of queries a block of attention_prefill.cu has.
//
// A row is a query head's of one new token; those of the GROUP heads that share a key/value head follow one another, and
// then come those of the next token. A tile is BLOCK_ROWS rows of one sequence and one key/value head. Sequences of one
// new token, or of none, have no tiles.
//
// Definitions: GROUP; BLOCK_ROWS.
#pragma once
#include "platform.cuh"

struct PrefillTile {
    int sequence;     // -1: there is no such tile
    int first_token;  // the sequence's first row of `query`
    int tokens;       // its new ones
    int first_row;    // of the tile, among the sequence's
    int context;      // its tokens in all
    int first_position, end;  // tokens that the first row sees are up to this one; those that the last sees, below this

    PASCALINE_INLINE int rows() const { return tokens * GROUP; }
    // Beyond the sequence's end: its last row.
    PASCALINE_INLINE int existing_row(int row) const { return min(first_row + row, rows() - 1); }
    PASCALINE_INLINE int position(int row) const { return context - tokens + existing_row(row) / GROUP; }
};

// Finds tile `number` of all sequences' tiles; all threads of the block call it, and have the tile after its barrier.
PASCALINE_INLINE void find_tile(PrefillTile& tile, int number, const int32_t* query_start,
                                const int32_t* context_lengths, int sequences) {
    if (threadIdx.x < 32) {
        const int lane = threadIdx.x;
        if (lane == 0) tile.sequence = -1;
        sync_warp();
        int before = 0;  // tiles of earlier sequences
        for (int first = 0; first < sequences && before <= number; first += 32) {
            const int own = min(first + lane, sequences);
            const int start = load_handed_on(query_start + own);
            const int tokens = load_handed_on(query_start + min(own + 1, sequences)) - start;
            const int tiles = tokens > 1 ? (tokens * GROUP + BLOCK_ROWS - 1) / BLOCK_ROWS : 0;
            int until = tiles;  // those of this lane and the ones below it
#pragma unroll
            for (int distance = 1; distance < 32; distance *= 2) {
                const int below = shuffle_from(until, max(lane - distance, 0));
                if (lane >= distance) until += below;
            }
            until += before;
            if (number < until && number >= until - tiles) {
                tile.sequence = own;
                tile.first_token = start;
                tile.tokens = tokens;
                tile.first_row = (number - (until - tiles)) * BLOCK_ROWS;
                tile.context = load_handed_on(context_lengths + own);
                tile.first_position = tile.position(0);
                tile.end = tile.position(BLOCK_ROWS - 1) + 1;
            }
            before = shuffle_from(until, 31);
        }
    }
    __syncthreads();
}
