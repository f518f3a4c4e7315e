// Attention of sequences with several new tokens over keys and values in pages, by tensor cores; chips from 8.0 on.
//
//     y[t, h] = sum over j of softmax_j(cap(scale * query[t, h] . key[j])) * value[j]
//
// as kernels/paged_attention.py has it; sequences of one new token are left to others. Queries, and keys and values of 8
// bits times their scales, are rounded to the 16-bit numbers of the cache, and so are weights before they multiply
// values; scores, weights' sums and y are sums in fp32. The order is that of FlashAttention-2 (Dao 2023,
// arXiv:2307.08691).
//
// A block has a tile of rows (prefill_tiles.cuh), a warp 16 * ROW_TILES of them, and goes through the tokens that they
// see, or a share of these (prefill_shares.cuh), TILE_TOKENS at a time: scores, the maximum so far, weights, and values
// times these. Keys and values come in turns through STAGES places in shared memory, STAGES - 1 of them ahead. Tiles of
// a sequence's last tokens, which see the most, begin first.
//
// Definitions: those of attention_call.py; CACHE_TYPE FP16, BF16 or INT8; MATRIX_TYPE; WARPS; ROW_TILES; TILE_TOKENS;
// STAGES; MIN_BLOCKS.
#include "matrix.cuh"
#include "platform_fragments.cuh"

constexpr int THREADS = 32 * WARPS;
constexpr int WARP_ROWS = 16 * ROW_TILES, BLOCK_ROWS = WARP_ROWS * WARPS;

#include "page_tiles.cuh"
#include "prefill_shares.cuh"

static_assert(CACHE_TYPE == FP16 || CACHE_TYPE == BF16 || CACHE_TYPE == INT8, "what tensor cores multiply");
static_assert(STAGES == 2 || STAGES == 4, "one unit is used while others come");

constexpr int STEPS = HEAD_DIM / 16;  // of 16 inputs, to a score
constexpr int STEP_BYTES = 32;
constexpr int QUERY_BYTES = BLOCK_ROWS * ROW_BYTES;

PASCALINE_INLINE void multiply(float (&sums)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    const uint32_t b[2] = {b0, b1};
    if constexpr (MATRIX_TYPE == FP16) {
        multiply_16x8x16_half(sums, a, b);
    } else {
        multiply_16x8x16_bfloat16(sums, a, b);
    }
}

// The tile's queries, rounded, to shared memory; rows beyond the sequence's end are its last.
PASCALINE_INLINE void store_queries(uint8_t* shared, const float* query, const PrefillTile& tile, int head,
                                    int query_stride) {
    constexpr int ROW_PIECES = HEAD_DIM / 8, PIECES = BLOCK_ROWS * ROW_PIECES;
#pragma unroll 4
    for (int piece = threadIdx.x; piece < PIECES; piece += THREADS) {
        const int row = piece / ROW_PIECES, part = piece % ROW_PIECES, existing = tile.existing_row(row);
        const float* const source = query + size_t(tile.first_token + existing / GROUP) * query_stride +
                                    (head * GROUP + existing % GROUP) * HEAD_DIM + part * 8;
        const float4 first = load_handed_on(reinterpret_cast<const float4*>(source));
        const float4 second = load_handed_on(reinterpret_cast<const float4*>(source) + 1);
        *reinterpret_cast<uint4*>(shared + row * ROW_BYTES + part * 16) =
            make_uint4(pair_of(first.x, first.y), pair_of(first.z, first.w), pair_of(second.x, second.y),
                       pair_of(second.z, second.w));
    }
}

// Of the warp's rows and a tile's tokens.
PASCALINE_INLINE void multiply_keys(Scores& scores, SharedAddress queries, SharedAddress keys) {
#pragma unroll
    for (int step = 0; step < STEPS; step++) {
        uint32_t own[ROW_TILES][4];
#pragma unroll
        for (int tile = 0; tile < ROW_TILES; tile++) {
            load_fragments(own[tile], queries + tile * 16 * ROW_BYTES + step * STEP_BYTES);
        }
#pragma unroll
        for (int pair = 0; pair < TOKEN_BLOCKS / 2; pair++) {
            uint32_t key[4];
            load_fragments(key, keys + pair * 16 * ROW_BYTES + step * STEP_BYTES);
#pragma unroll
            for (int tile = 0; tile < ROW_TILES; tile++) {
                multiply(scores[tile][2 * pair], own[tile], key[0], key[2]);
                multiply(scores[tile][2 * pair + 1], own[tile], key[1], key[3]);
            }
        }
    }
}

// Adds the tile's values, times their weights.
PASCALINE_INLINE void multiply_values(Sums& sums, const Scores& weights, SharedAddress values) {
#pragma unroll
    for (int step = 0; step < TILE_TOKENS / 16; step++) {
        // The sums' fragments of two blocks of 8 tokens are the operand's of 16.
        uint32_t own[ROW_TILES][4];
#pragma unroll
        for (int tile = 0; tile < ROW_TILES; tile++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const float(&four)[4] = weights[tile][2 * step + i / 2];
                own[tile][i] = pair_of(four[i % 2 * 2], four[i % 2 * 2 + 1]);
            }
        }
#pragma unroll
        for (int pair = 0; pair < VALUE_BLOCKS / 2; pair++) {
            uint32_t value[4];
            load_transposed_fragments(value, values + step * 16 * ROW_BYTES + pair * STEP_BYTES);
#pragma unroll
            for (int tile = 0; tile < ROW_TILES; tile++) {
                multiply(sums[tile][2 * pair], own[tile], value[0], value[1]);
                multiply(sums[tile][2 * pair + 1], own[tile], value[2], value[3]);
            }
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, MIN_BLOCKS)
attention_prefill(const float* query, const uint8_t* key_cache, const uint8_t* value_cache, const float* key_scales,
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

    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int seen_tile = HAS_WINDOW ? max(tile.first_position - window + 1, 0) / TILE_TOKENS : 0;
    const TileShare share(blockIdx.x % most_shares, most_shares, (tile.end - 1) / TILE_TOKENS + 1 - seen_tile);
    if (share.units == 0) return;
    const int first_tile = seen_tile + share.first, units = share.units;

    uint8_t* const queries = reinterpret_cast<uint8_t*>(shared);
    uint8_t* const places = queries + QUERY_BYTES;
    uint8_t* const widened = places + STAGES * PLACE_BYTES;
    const HeadCache keys = {key_cache, key_scales, key_value_heads, head};
    const HeadCache values = {value_cache, value_scales, key_value_heads, head};
    const auto page_numbers = [&] { return page_table + size_t(tile.sequence) * table_width; };
    const auto page_count = [&] { return (tile.end - 1) / PAGE_SIZE + 1; };
    PageNumbers pages(page_numbers(), first_tile * TILE_PAGES, page_count());

    // A unit is a tile's keys, or its values.
    const auto existing_tokens = [&](int unit) { return tile.end - (first_tile + unit / 2) * TILE_TOKENS; };
    const auto copy_unit = [&](int unit) {
        if (unit < units) {
            const int page = unit / 2 * TILE_PAGES;  // of those that are copied
            if (unit > 0 && unit % (2 * PageNumbers::COUNT / TILE_PAGES) == 0) {
                pages.advance(page_numbers(), first_tile * TILE_PAGES + page, page_count());
            }
            copy_tile(places + unit % STAGES * PLACE_BYTES, unit % 2 == 0 ? keys : values, pages, page,
                      existing_tokens(unit));
        }
        close_copies();
    };
    // When all threads have the unit and are done with the one before; a further one is on its way then.
    const auto take_unit = [&](int unit) {
        wait_for_copies<STAGES - 2>();
        __syncthreads();
        copy_unit(unit + STAGES - 1);
        uint8_t* const place = places + unit % STAGES * PLACE_BYTES;
        if constexpr (!HAS_CODES) return shared_address(place);
        widen_tile(widened, place, existing_tokens(unit));
        __syncthreads();
        return shared_address(widened);
    };
#pragma unroll
    for (int unit = 0; unit < STAGES - 1; unit++) copy_unit(unit);
    store_queries(queries, query, tile, head, query_stride);

    const float scale = bits_to_float(scale_bits), soft_cap = bits_to_float(soft_cap_bits);
    const float factor = HAS_SOFT_CAP ? 1.0f : scale * LOG2_E;
    // Of the lane's row of fragments: blocks of 8 by 8 numbers are two rows high and two wide.
    const int row_offset = lane % 16 * ROW_BYTES + lane / 16 * 16;
    const SharedAddress own_queries = shared_address(queries) + warp * WARP_ROWS * ROW_BYTES + row_offset;
    Rows rows;
    Sums sums = {};
#pragma unroll 1
    for (int unit = 0; unit < units; unit += 2) {
        const int first = (first_tile + unit / 2) * TILE_TOKENS;
        Scores scores = {};
        multiply_keys(scores, own_queries, take_unit(unit) + row_offset);
        if constexpr (HAS_SOFT_CAP) cap(scores, scale, soft_cap);
        // The first row does not see all, or the last one does not.
        if (first + TILE_TOKENS - 1 > tile.first_position || (HAS_WINDOW && first < tile.end - window)) {
            Rows::mask(scores, tile, first, window);
        }
        rows.weigh(scores, sums, factor);
        multiply_values(sums, scores, take_unit(unit + 1) + row_offset);
    }
    wait_for_copies<0>();
    if (share.count > 1 && !gather_shares(rows, sums, share, partials, arrivals, number, most_shares)) return;

#pragma unroll
    for (int i = 0; i < Rows::COUNT; i++) {
        float total = rows.totals[i];
        total += shuffle_xor(total, 1);
        total += shuffle_xor(total, 2);
        const float inverse = 1.0f / total;
        const int row = tile.first_row + Rows::row(i);
        if (row >= tile.rows()) continue;
        float* const own = y + (size_t(tile.first_token + row / GROUP) * key_value_heads + head) * (GROUP * HEAD_DIM) +
                           row % GROUP * HEAD_DIM + lane % 4 * 2;
#pragma unroll
        for (int block = 0; block < VALUE_BLOCKS; block++) {
            const float(&four)[4] = sums[i / 2][block];
            *reinterpret_cast<float2*>(own + 8 * block) =
                make_float2(four[i % 2 * 2] * inverse, four[i % 2 * 2 + 1] * inverse);
        }
    }
}
