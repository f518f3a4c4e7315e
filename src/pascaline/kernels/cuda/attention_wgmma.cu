// As attention_prefill.cu, by products of warpgroups (chips of capability 9.0): caches of fp16 or bf16.
//
// A warp has 16 rows, its queries in registers. Scores of the next tile of 64 tokens are multiplied while those of the
// own are made weights; then come the products of these with the values. Keys, and the values of the tile before, come
// together through STAGES places each in shared memory, STAGES - 1 of them ahead.
//
// Definitions: those of attention_call.py, HEAD_DIM a multiple of 64; MATRIX_TYPE; WARPS, a multiple of 4; ROW_TILES 1;
// TILE_TOKENS 64; STAGES; MIN_BLOCKS.
#include "number_pairs.cuh"
#include "page_numbers.cuh"
#include "warpgroup_attention.cuh"

constexpr int THREADS = 32 * WARPS, WARP_ROWS = 16, BLOCK_ROWS = WARP_ROWS * WARPS;

#include "prefill_shares.cuh"

static_assert(CACHE_TYPE == MATRIX_TYPE && HEAD_DIM % 64 == 0, "whole products of numbers as they are");
static_assert(WARPS % 4 == 0 && ROW_TILES == 1 && TILE_TOKENS == 64 && STAGES >= 2, "products of 64 by 64");

constexpr int STEPS = HEAD_DIM / 16;  // of 16 inputs, to a score
constexpr int TILE_PAGES = TILE_TOKENS / PAGE_SIZE;
// In shared memory a tile's tokens are rows of 64 numbers, the first 64 of all of them, then the next.
constexpr int ROW_BYTES = 128, PART_BYTES = TILE_TOKENS * ROW_BYTES, PARTS = HEAD_DIM / 64;
constexpr int TILE_BYTES = PARTS * PART_BYTES, ALIGNMENT = 1024;

// Of the warp's 16 rows and all steps, as the products take them.
using Queries = uint32_t[STEPS][4];

// Rows beyond the sequence's end are its last.
PASCALINE_INLINE void load_queries(Queries& queries, const float* query, const PrefillTile& tile, int head,
                                   int query_stride) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int row = tile.existing_row(Rows::row(half));
        const float* const own = query + size_t(tile.first_token + row / GROUP) * query_stride +
                                 (head * GROUP + row % GROUP) * HEAD_DIM + threadIdx.x % 4 * 2;
#pragma unroll
        for (int eight = 0; eight < HEAD_DIM / 8; eight++) {
            const float2 pair = load_handed_on(reinterpret_cast<const float2*>(own + 8 * eight));
            queries[eight / 2][eight % 2 * 2 + half] = pair_of(pair.x, pair.y);
        }
    }
}

// Begins to copy a tile to `place`: from page `first_page` of those that are copied; from token `existing` on, zeros.
PASCALINE_INLINE void copy_rows(uint8_t* place, const HeadCache& cache, const PageNumbers& pages, int first_page,
                                int existing) {
    constexpr int ROW_PIECES = HEAD_DIM / 8, PAGE_PIECES = PAGE_SIZE * ROW_PIECES;
    static_assert(THREADS % (8 * ROW_PIECES) == 0, "a thread's pieces are in the same places of their eight rows");
    const int own_token = threadIdx.x / ROW_PIECES, piece = threadIdx.x % ROW_PIECES;
    const SharedAddress shared = shared_address(place) + piece / 8 * PART_BYTES + own_token * ROW_BYTES +
                                 (piece % 8 ^ own_token % 8) * 16;
#pragma unroll
    for (int page = 0; page < TILE_PAGES; page++) {
        const uint8_t* const source = cache.page_numbers(pages.number(first_page + page)) + threadIdx.x * 16;
#pragma unroll
        for (int begin = 0; begin < PAGE_PIECES; begin += THREADS) {
            if (PAGE_PIECES < THREADS && threadIdx.x >= PAGE_PIECES) break;
            const int token = page * PAGE_SIZE + begin / ROW_PIECES;
            copy_or_clear(shared + token * ROW_BYTES, reinterpret_cast<const uint4*>(source + begin * 16),
                          token + own_token < existing);
        }
    }
}

// Begins the products of all queries with a tile's keys.
PASCALINE_INLINE void multiply_keys(Scores& scores, const Queries& queries, const uint8_t* keys) {
    const SwizzledOperand b = swizzled_operand(keys);
#pragma unroll
    for (int step = 0; step < STEPS; step++) {
        multiply_64x64x16<false>(scores[0], queries[step], forward(b, step / 4 * PART_BYTES + step % 4 * 32));
    }
}

using Outputs = float[PARTS][8][4];

// Begins those of weights with a tile's values.
PASCALINE_INLINE void multiply_values(Sums& sums, const uint32_t (&weights)[TILE_TOKENS / 16][4],
                                      const uint8_t* values) {
    const SwizzledOperand b = swizzled_operand(values);
    Outputs& outputs = reinterpret_cast<Outputs&>(sums);
#pragma unroll
    for (int step = 0; step < TILE_TOKENS / 16; step++) {
#pragma unroll
        for (int part = 0; part < PARTS; part++) {
            multiply_64x64x16<true>(outputs[part], weights[step],
                                    forward(b, part * PART_BYTES + step * 16 * ROW_BYTES));
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, MIN_BLOCKS)
attention_wgmma(const float* query, const uint8_t* key_cache, const uint8_t* value_cache, const float* key_scales,
                const float* value_scales, const int32_t* page_table, const int32_t* query_start,
                const int32_t* context_lengths, float* y, int tokens, int sequences, int table_width,
                int key_value_heads, int query_stride, int window, uint32_t soft_cap_bits, uint32_t scale_bits,
                float4* partials, uint32_t* arrivals, int most_shares) {
    DYNAMIC_SHARED(uint4, shared);
    __shared__ PrefillTile tile;
    wait_for_launches_before();
    let_next_launch_begin();
    const int number = (gridDim.x - 1 - blockIdx.x) / most_shares, head = number % key_value_heads;
    find_tile(tile, number / key_value_heads, query_start, context_lengths, sequences);
    if (tile.sequence < 0) return;

    const int seen_tile = HAS_WINDOW ? max(tile.first_position - window + 1, 0) / TILE_TOKENS : 0;
    const TileShare share(blockIdx.x % most_shares, most_shares, (tile.end - 1) / TILE_TOKENS + 1 - seen_tile);
    if (share.units == 0) return;
    const int first_tile = seen_tile + share.first, tiles = share.units / 2;

    uint8_t* const key_places =
        reinterpret_cast<uint8_t*>((reinterpret_cast<uint64_t>(shared) + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT);
    uint8_t* const value_places = key_places + STAGES * TILE_BYTES;
    const HeadCache keys = {key_cache, key_scales, key_value_heads, head};
    const HeadCache values = {value_cache, value_scales, key_value_heads, head};
    const auto existing_tokens = [&](int index) { return tile.end - (first_tile + index) * TILE_TOKENS; };
    const int32_t* const table = page_table + size_t(tile.sequence) * table_width;
    const int page_count = (tile.end - 1) / PAGE_SIZE + 1;
    PageNumbers key_pages(table, first_tile * TILE_PAGES, page_count), value_pages = key_pages;

    // Keys of a tile, and the values of the one before.
    const auto copy = [&](int index) {
        if (index < tiles) {
            const int page = index * TILE_PAGES;
            if (index > 0 && page % PageNumbers::COUNT == 0) {
                key_pages.advance(table, first_tile * TILE_PAGES + page, page_count);
            }
            copy_rows(key_places + index % STAGES * TILE_BYTES, keys, key_pages, page, existing_tokens(index));
        }
        if (index > 0 && index <= tiles) {
            const int before = index - 1, page = before * TILE_PAGES;
            if (before > 0 && page % PageNumbers::COUNT == 0) {
                value_pages.advance(table, first_tile * TILE_PAGES + page, page_count);
            }
            copy_rows(value_places + before % STAGES * TILE_BYTES, values, value_pages, page,
                        existing_tokens(before));
        }
        close_copies();
    };
#pragma unroll
    for (int stage = 0; stage < STAGES; stage++) copy(stage);

    Queries queries;
    load_queries(queries, query, tile, head, query_stride);
    const float scale = bits_to_float(scale_bits), soft_cap = bits_to_float(soft_cap_bits);
    const float factor = HAS_SOFT_CAP ? 1.0f : scale * LOG2_E;
    Rows rows;
    Sums sums = {};
    Scores scores = {};
    wait_for_copies<STAGES - 1>();
    publish_copies();
    __syncthreads();
    begin_products();
    multiply_keys(scores, queries, key_places);
    close_products();
    wait_for_products<0>();
#pragma unroll 1
    for (int index = 0; index < tiles; index++) {
        // The next tile's keys, and this one's values; places that were read take others.
        wait_for_copies<STAGES - 2>();
        publish_copies();
        __syncthreads();
        Scores next = {};
        if (index + 1 < tiles) {
            begin_products();
            multiply_keys(next, queries, key_places + (index + 1) % STAGES * TILE_BYTES);
            close_products();
        }
        copy(index + STAGES);

        const int first = (first_tile + index) * TILE_TOKENS;
        if constexpr (HAS_SOFT_CAP) cap(scores, scale, soft_cap);
        // The first row does not see all, or the last one does not.
        if (first + TILE_TOKENS - 1 > tile.first_position || (HAS_WINDOW && first < tile.end - window)) {
            Rows::mask(scores, tile, first, window);
        }
        float corrections[Rows::COUNT];
        if (rows.weigh(scores, corrections, factor)) Rows::scale_sums(sums, corrections);
        uint32_t weights[TILE_TOKENS / 16][4];
#pragma unroll
        for (int step = 0; step < TILE_TOKENS / 16; step++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const float(&four)[4] = scores[0][2 * step + i / 2];
                weights[step][i] = pair_of(four[i % 2 * 2], four[i % 2 * 2 + 1]);
            }
        }
        begin_products();
        multiply_values(sums, weights, value_places + index % STAGES * TILE_BYTES);
        close_products();
        wait_for_products<0>();
#pragma unroll
        for (int block = 0; block < TOKEN_BLOCKS; block++) {
#pragma unroll
            for (int i = 0; i < 4; i++) scores[0][block][i] = next[0][block][i];
        }
    }
    wait_for_copies<0>();
    if (share.count > 1 && !gather_shares(rows, sums, share, partials, arrivals, number, most_shares)) return;
    rows.store(y, sums, tile, head, key_value_heads);
}
