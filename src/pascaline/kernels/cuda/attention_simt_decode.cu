// Attention of one new token a sequence over its keys and values in pages, in fp32: bound by reading them once.
//
// A block takes a split of one sequence's tokens and HEADS query heads of one key/value head; its warps take tiles of
// two pages in turn. For scores four lanes share a token, each of them eight numbers of every 32, and a lane has four
// tokens at a time: one shared-memory load of four numbers of a query serves 16 multiply-adds. A transposed sum over
// the four lanes leaves each lane one token's scores. For values a lane has eight numbers of every VALUE_TOKENS-th
// token. The last split of a sequence to arrive merges all of them.
//
// Sequences that do not have exactly one new token are left alone. The grid is (splits at most, key/value heads *
// ROW_TILES, sequences): how many splits are at work follows from each sequence's length.
//
// Definitions: those of attention_simt.cuh; WARPS of a block; MIN_BLOCKS a multiprocessor.
#include "attention_simt_splits.cuh"
#include "reduction.cuh"

// Products of four tokens' keys with all heads' queries in a lane's eight numbers; `query` points at the first head's.
PASCALINE_INLINE void add_products(const CacheVector (&keys)[LANE_TOKENS], const float* query,
                                   float (&scores)[LANE_TOKENS * HEADS]) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float numbers[LANE_TOKENS][4];
#pragma unroll
        for (int token = 0; token < LANE_TOKENS; token++) {
#pragma unroll
            for (int i = 0; i < 4; i++) numbers[token][i] = keys[token].number(4 * half + i);
        }
#pragma unroll
        for (int head = 0; head < HEADS; head++) {
            const float4 four = *reinterpret_cast<const float4*>(query + head * PADDED_DIM + 4 * half);
            const float queries[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
            for (int i = 0; i < 4; i++) {
#pragma unroll
                for (int token = 0; token < LANE_TOKENS; token++) {
                    float& score = scores[token * HEADS + head];
                    score = fmaf(queries[i], numbers[token][i], score);
                }
            }
        }
    }
}

// A tile's tokens of one key/value head, by their rows in the cache. What is behind the sequence's end is its last
// token once more: places that nobody wrote are not read. The second page is the first again if there is only one.
struct Tile {
    uint32_t pages[2];  // the first row of each
    int last;           // token of the tile that may be read

    // Of a token of page `half`.
    PASCALINE_INLINE uint32_t row(int half, int token) const {
        return (half == 0 ? pages[0] : pages[1]) + min(token, last) % PAGE_SIZE;
    }
};

// Which of a sequence's tokens are seen, and the block's share of them in tiles.
//
// PERF: read from shared memory, as registers are all taken.
struct alignas(16) Range {
    int context, first_token;
    int splits, first_tile, last_tile;

    PASCALINE_INLINE void set(int length, int window) {
        context = length;
        first_token = HAS_WINDOW ? max(length - window, 0) : 0;
        const int tiles = (last_page() - first_page()) / 2 + 1;
        splits = min(int(gridDim.x), (tiles + WARPS - 1) / WARPS);  // each warp of a split has a tile
        first_tile = tiles * int(blockIdx.x) / splits;
        last_tile = tiles * (int(blockIdx.x) + 1) / splits;
    }

    PASCALINE_INLINE int first_page() const { return first_token / PAGE_SIZE; }
    PASCALINE_INLINE int last_page() const { return (context - 1) / PAGE_SIZE; }
    PASCALINE_INLINE int start(int tile) const { return first_page() * PAGE_SIZE + tile * TILE; }
};

extern "C" __global__ void __launch_bounds__(32 * WARPS, MIN_BLOCKS)
attention_simt_decode(const float* query, const void* key_cache, const void* value_cache, const float* key_scales,
                      const float* value_scales, const int32_t* page_table, const int32_t* query_start,
                      const int32_t* context_lengths, float* y, int tokens, int sequences, int table_width,
                      int key_value_heads, int query_stride, int window, uint32_t soft_cap_bits, uint32_t scale_bits,
                      float* partials, uint32_t* arrivals) {
    __shared__ Shared shared;
    __shared__ Range range;
    let_next_launch_begin();
    wait_for_launches_before();
    const int sequence = blockIdx.z;
    const int query_row = load_handed_on(query_start + sequence);
    const int next_row = load_handed_on(query_start + sequence + 1);
    const int context = load_handed_on(context_lengths + sequence);
    if (next_row - query_row != 1) return;
    Range found;
    found.set(context, window);
    if (int(blockIdx.x) >= found.splits) return;
    if (threadIdx.x == 0) range = found;
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const int key_value_head = blockIdx.y / ROW_TILES, first_head = blockIdx.y % ROW_TILES * HEADS;
    const Stored* const keys = static_cast<const Stored*>(key_cache);
    const Stored* const values = static_cast<const Stored*>(value_cache);
    const int32_t* const table = page_table + size_t(sequence) * table_width;
    const int part = lane % TOKEN_LANES, key_token = lane / TOKEN_LANES;
    const int value_token = lane / VALUE_LANES, value_part = min(lane % VALUE_LANES, VECTORS - 1);
    const float* const own_part = shared.query + part * VECTOR;

    const auto tile_of = [&](const Range& range, int number) {
        const int page = range.first_page() + 2 * number;
        const auto row_of = [&](int index) {
            return (uint32_t(load_handed_on(table + index)) * key_value_heads + key_value_head) * PAGE_SIZE;
        };
        const int last = min(range.context - 1 - range.start(number), TILE - 1);
        return Tile{{row_of(page), row_of(min(page + 1, range.last_page()))}, last};
    };

    // Four vectors a lane are on their way while four others are multiplied: a tile's keys, chunk by chunk, then its
    // values, then the next tile's keys.
    CacheVector ahead[AT_ONCE];
    const auto load_keys = [&](const Tile& tile, int chunk) {
#pragma unroll
        for (int i = 0; i < LANE_TOKENS; i++) {
            if (HEAD_DIM % CHUNK == 0 || chunk * TOKEN_LANES + part < VECTORS) {
                const uint32_t row = tile.row(i * KEY_TOKENS / PAGE_SIZE, i * KEY_TOKENS + key_token);
                ahead[i].load(keys + size_t(row) * HEAD_DIM + chunk * CHUNK + part * VECTOR);
            } else {
                ahead[i].clear();
            }
        }
    };
    const auto load_values = [&](const Tile& tile, int step) {
#pragma unroll
        for (int i = 0; i < STEPS_AT_ONCE; i++) {
            const int token = (step + i) * VALUE_TOKENS + value_token;
            const uint32_t row = tile.row(token / PAGE_SIZE, token);
            ahead[i].load(values + size_t(row) * HEAD_DIM + value_part * VECTOR);
        }
    };

    int number = found.first_tile + warp;
    Tile tile = {{0, 0}, 0};
    if (number < found.last_tile) {
        tile = tile_of(found, number);
        load_keys(tile, 0);
    }

    const Scoring scoring(scale_bits, soft_cap_bits);
    const float* const own_query =
        query + size_t(query_row) * query_stride + (key_value_head * GROUP + first_head) * HEAD_DIM;
#pragma unroll
    for (int first = 0; first < HEADS * PADDED_DIM; first += 32 * WARPS) {
        const int i = first + threadIdx.x;
        if (i >= HEADS * PADDED_DIM) break;
        const int head = i / PADDED_DIM, column = i % PADDED_DIM;
        const bool is_there = column < HEAD_DIM && first_head + head < GROUP;
        shared.query[i] = is_there ? load_handed_on(own_query + head * HEAD_DIM + column) * scoring.factor : 0.0f;
    }

    WarpState& state = shared.warps[warp];
    Totals totals;
#pragma unroll
    for (int head = 0; head < HEADS; head++) {
        if (lane == 0) state.maxima.values[head] = NOTHING_SEEN;
        state.sums[lane].values[head] = 0.0f;
#pragma unroll
        for (int i = 0; i < VECTOR; i++) totals.heads[head][i] = 0.0f;
    }
    __syncthreads();

#pragma unroll 1
    while (number < range.last_tile) {
        const int own_token = part * KEY_TOKENS + key_token;
        float key_scale = 1.0f, value_scale = 1.0f;
        if constexpr (CACHE_TYPE == INT8) {
            const uint32_t row = tile.row(own_token / PAGE_SIZE, own_token);
            key_scale = load_fresh(key_scales + row);
            value_scale = load_fresh(value_scales + row);
        }
        float scores[LANE_TOKENS * HEADS];
#pragma unroll
        for (float& score : scores) score = 0.0f;
#pragma unroll 1
        for (int chunk = 0; chunk < CHUNKS; chunk++) {
            CacheVector now[LANE_TOKENS];
#pragma unroll
            for (int i = 0; i < LANE_TOKENS; i++) now[i] = ahead[i];
            if (chunk + 1 < CHUNKS) {
                load_keys(tile, chunk + 1);
            } else {
                load_values(tile, 0);
            }
            add_products(now, own_part + chunk * CHUNK, scores);
        }

        reduce_lanes<TOKEN_LANES>(scores, lane);
        const bool is_seen =
            own_token <= tile.last && (!HAS_WINDOW || range.start(number) + own_token >= range.first_token);
#pragma unroll
        for (int head = 0; head < HEADS; head++) {
            const float scaled = CACHE_TYPE == INT8 ? scores[head] * key_scale : scores[head];
            scores[head] = is_seen ? scoring.score(scaled) : minus_infinity();
        }
        totals.make_room(state, scores, lane);
        weigh(state, scores, value_scale, lane, own_token);
        sync_warp();

        const Tile current = tile;
        number += WARPS;
        if (number < range.last_tile) tile = tile_of(range, number);
#pragma unroll 1
        for (int step = 0; step < STEPS; step += STEPS_AT_ONCE) {
            CacheVector now[STEPS_AT_ONCE];
#pragma unroll
            for (int i = 0; i < STEPS_AT_ONCE; i++) now[i] = ahead[i];
            if (step + STEPS_AT_ONCE < STEPS) {
                load_values(current, step + STEPS_AT_ONCE);
            } else if (number < range.last_tile) {
                load_keys(tile, 0);
            }
#pragma unroll
            for (int i = 0; i < STEPS_AT_ONCE; i++) {
                totals.add(now[i], state.weights[(step + i) * VALUE_TOKENS + value_token]);
            }
        }
        sync_warp();
    }

    bring_together(shared, totals, lane, warp);
    const Split own = {int(blockIdx.x), range.splits, load_handed_on(query_start + sequence), key_value_heads,
                       key_value_head, first_head};
    if (own.count == 1) {
        own.store_alone(shared, y);
    } else {
        const size_t place = size_t(blockIdx.z) * gridDim.y + blockIdx.y;
        float* const parts = partials + place * gridDim.x * PART_FLOATS;
        own.leave_part(shared, parts);
        if (comes_last(arrivals + place, own.count, shared.arrived)) own.merge(parts, y);
    }
}
