// Attention of sequences with several new tokens over their keys and values in pages, in fp32: bound by multiply-adds.
//
// A block has BLOCK_ROWS rows, pairs of a new token and a query head of one key/value head, and walks over the tokens
// that any of them sees, TILE at a time: two tiled products from shared memory, of queries and keys 16 columns at a
// time, then of weights and values VALUE_STEP tokens at a time. What comes next is stored to shared memory, and what
// comes after that is on its way to registers, while they multiply. Numbers become fp32 on their way to shared memory.
// A thread has THREAD_ROWS rows and of both products every 16th, or four of every 64, columns; rows lie in a warp, so
// that only a warp's lanes have to agree on maxima.
//
// The grid is (key/value heads, blocks of rows at most, splits at most); the last rows, which see most, come first.
// Where rows are few, blocks share the tokens that they see, and the last of them to arrive merges what they make of
// these.
//
// Definitions: those of attention_simt.cuh; THREAD_ROWS, a multiple of 4; HAS_SPLITS; MIN_BLOCKS a multiprocessor.
#include "attention_simt_sums.cuh"

constexpr int TILES_A_SPLIT = 2;  // at least
constexpr int STEP = 16;  // columns of queries and keys
constexpr int PIECES = STEP / VECTOR;
constexpr int STEPS = (HEAD_DIM + STEP - 1) / STEP;

constexpr int PADDED_DIM = 64 * VALUE_PARTS;
constexpr int VALUE_STEP = HEAD_DIM <= 64 ? 16 : 8;
constexpr int VALUE_STEPS = TILE / VALUE_STEP;
constexpr int VALUE_VECTORS = (VALUE_STEP * VECTORS + THREADS - 1) / THREADS;  // a thread's

static_assert(BLOCK_ROWS * PIECES <= THREADS && TILE * PIECES == THREADS, "a piece of a row or a token is a thread's");

struct QuerySteps {
    float query[2][STEP][BLOCK_ROWS];
    float keys[2][STEP][TILE];  // four of a thread side by side: token 16 * j + i at place 4 * i + j
};

struct Shared {
    // Stores of eight rows, of eight neighbouring tokens or two groups of rows, meet all banks.
    union {
        alignas(16) QuerySteps steps;
        alignas(16) float weights[TILE][BLOCK_ROWS + 4];
    };
    alignas(16) float values[2][VALUE_STEP][PADDED_DIM];
    uint32_t rows[2][TILE];             // of the cache: of this tile's tokens, or the next one's
    alignas(16) float maxima[BLOCK_ROWS];  // of scores, as far as weights are relative to
    uint32_t arrived;
};

// totals += rows of `a` times columns of `b`, of DEPTH of both: a thread's rows lie side by side in a, of its columns
// four in every 64 of b.
template <int DEPTH, int A_STRIDE, int B_STRIDE, int PARTS>
PASCALINE_INLINE void multiply(const float* a, const float* b, float (&totals)[THREAD_ROWS][4 * PARTS]) {
#pragma unroll
    for (int k = 0; k < DEPTH; k++) {
        float rows[THREAD_ROWS], columns[4 * PARTS];
        load_rows(rows, a + k * A_STRIDE);
#pragma unroll
        for (int part = 0; part < PARTS; part++) put_four(columns + 4 * part, b + k * B_STRIDE + 64 * part);
#pragma unroll
        for (int i = 0; i < THREAD_ROWS; i++) {
#pragma unroll
            for (int step = 0; step < 4 * PARTS; step++) {
                // To and fro: each product shares an operand with the one before, which chips up to 6.x then need not
                // read from its register bank again.
                const int j = i % 2 ? 4 * PARTS - 1 - step : step;
                totals[i][j] = fmaf(rows[i], columns[j], totals[i][j]);
            }
        }
    }
}

// What a block has.
//
// PERF: read from shared memory, as registers are all taken.
struct alignas(16) Block {
    BlockRows rows;
    int history;     // tokens before the new ones
    int last_seen;   // token, of any row
    int start, end;  // of the block's tiles
    int splits;      // blocks that share the rows

    PASCALINE_INLINE void set(const BlockRows& found, int context, int window) {
        rows = found;
        history = context - rows.tokens;
        last_seen = history + rows.token(BLOCK_ROWS - 1);
        const int first_seen = HAS_WINDOW ? max(history + rows.token(0) - window + 1, 0) : 0;
        const int first_token = first_seen / PAGE_SIZE * PAGE_SIZE;
        const int tiles = (last_seen - first_token) / TILE + 1;
        splits = HAS_SPLITS ? min(int(gridDim.z), (tiles + TILES_A_SPLIT - 1) / TILES_A_SPLIT) : 1;
        const int split = HAS_SPLITS ? blockIdx.z : 0;
        start = first_token + tiles * split / splits * TILE;
        end = first_token + tiles * (split + 1) / splits * TILE;
    }

    // Whether every row sees the whole tile from there on.
    PASCALINE_INLINE bool all_see(int start, int window) const {
        return start + TILE - 1 <= history + rows.token(0) && (!HAS_WINDOW || start > last_seen - window);
    }
};

extern "C" __global__ void __launch_bounds__(THREADS, MIN_BLOCKS)
attention_simt_prefill(const float* query, const void* key_cache, const void* value_cache, const float* key_scales,
                       const float* value_scales, const int32_t* page_table, const int32_t* query_start,
                       const int32_t* context_lengths, float* y, int tokens, int sequences, int table_width,
                       int key_value_heads, int query_stride, int window, uint32_t soft_cap_bits, uint32_t scale_bits,
                       float* partials, uint32_t* arrivals) {
    __shared__ Shared shared;
    __shared__ Block own;
    let_next_launch_begin();
    wait_for_launches_before();
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const int key_value_head = blockIdx.x;
    BlockRows found;
    if (!found.find(query_start, sequences, gridDim.y - 1 - blockIdx.y, lane)) return;
    if (threadIdx.x == 0) own.set(found, load_handed_on(context_lengths + found.sequence), window);
    __syncthreads();
    if (HAS_SPLITS && int(blockIdx.z) >= own.splits) return;

    const auto row_of = [&](int token) {
        // What is behind the last token that is seen is that token again: places that nobody wrote are not read.
        token = min(token, own.last_seen);
        const int32_t* const table = page_table + size_t(own.rows.sequence) * table_width;
        const uint32_t page = load_handed_on(table + token / PAGE_SIZE);
        return (page * key_value_heads + key_value_head) * PAGE_SIZE + token % PAGE_SIZE;
    };

    const Stored* const keys = static_cast<const Stored*>(key_cache);
    const Stored* const values = static_cast<const Stored*>(value_cache);
    const int place = threadIdx.x % TILE, piece = threadIdx.x / TILE;
    const int key_token = place % THREAD_TOKENS * COLUMN_LANES + place / THREAD_TOKENS;
    const bool has_query = place < BLOCK_ROWS;
    const float* own_query = query + size_t(found.query_row + found.token(place)) * query_stride +
                             (key_value_head * GROUP + found.head(place)) * HEAD_DIM + piece * VECTOR;

    float4 query_ahead[2];
    CacheVector key_ahead, value_ahead[VALUE_VECTORS];
    const auto load_step = [&](int step, const uint32_t* rows) {
        const int column = step * STEP;
        if (HEAD_DIM % STEP == 0 || column + piece * VECTOR < HEAD_DIM) {
            if (has_query) {
                const auto* const fours = reinterpret_cast<const float4*>(own_query + column);
                query_ahead[0] = load_fresh(fours);
                query_ahead[1] = load_fresh(fours + 1);
            }
            key_ahead.load(keys + size_t(rows[key_token]) * HEAD_DIM + column + piece * VECTOR);
        } else {
            query_ahead[0] = query_ahead[1] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            key_ahead.clear();
        }
    };
    const auto store_step = [&](int buffer) {
        if (has_query) {
            const float numbers[VECTOR] = {query_ahead[0].x, query_ahead[0].y, query_ahead[0].z, query_ahead[0].w,
                                           query_ahead[1].x, query_ahead[1].y, query_ahead[1].z, query_ahead[1].w};
#pragma unroll
            for (int i = 0; i < VECTOR; i++) shared.steps.query[buffer][piece * VECTOR + i][place] = numbers[i];
        }
#pragma unroll
        for (int i = 0; i < VECTOR; i++) {
            shared.steps.keys[buffer][piece * VECTOR + i][place] = key_ahead.number(i);
        }
    };
    const auto each_value = [&](auto call) {
#pragma unroll
        for (int i = 0; i < VALUE_VECTORS; i++) {
            const int vector = i * THREADS + threadIdx.x;
            if (VALUE_STEP * VECTORS % THREADS == 0 || vector < VALUE_STEP * VECTORS) {
                call(value_ahead[i], vector / VECTORS, vector % VECTORS * VECTOR);
            }
        }
    };
    const auto load_values = [&](int step, const uint32_t* rows) {
        each_value([&](CacheVector& ahead, int token, int column) {
            ahead.load(values + size_t(rows[step * VALUE_STEP + token]) * HEAD_DIM + column);
        });
    };
    const auto store_values = [&](int buffer) {
        each_value([&](CacheVector& ahead, int token, int column) {
            float numbers[VECTOR];
#pragma unroll
            for (int i = 0; i < VECTOR; i++) numbers[i] = ahead.number(i);
#pragma unroll
            for (int i = 0; i < VECTOR; i += 4) store_four(&shared.values[buffer][token][column + i], numbers + i);
        });
    };

    // A warp's two groups of rows are 16 rows apart: neighbouring tokens' weights of both meet different banks.
    const int column_lane = lane >> 1;
    const int first_row = ((warp & 1) + 2 * (lane & 1) + 4 * (warp >> 1)) * THREAD_ROWS;
    const Scoring scoring(scale_bits, soft_cap_bits);
    Rows rows;
#pragma unroll
    for (int i = 0; i < THREAD_ROWS; i++) {
        rows.sums[i] = 0.0f;
#pragma unroll
        for (int j = 0; j < 4 * VALUE_PARTS; j++) rows.totals[i][j] = 0.0f;
    }

    if (threadIdx.x < BLOCK_ROWS) shared.maxima[threadIdx.x] = NOTHING_SEEN;
    if (threadIdx.x < TILE) shared.rows[0][threadIdx.x] = row_of(own.start + threadIdx.x);
    __syncthreads();
    load_step(0, shared.rows[0]);
    int buffer = 0;  // of the tile's rows
#pragma unroll 1
    for (int start = own.start; start < own.end; start += TILE, buffer ^= 1) {
        const uint32_t* const cache_rows = shared.rows[buffer];
        uint32_t next_row = 0;
        if (threadIdx.x < TILE) next_row = row_of(start + TILE + threadIdx.x);
        float token_factors[THREAD_TOKENS], value_scales_of[THREAD_TOKENS];
#pragma unroll
        for (int j = 0; j < THREAD_TOKENS; j++) {
            token_factors[j] = scoring.factor;
            if constexpr (CACHE_TYPE == INT8) {
                const uint32_t row = cache_rows[j * COLUMN_LANES + column_lane];
                token_factors[j] *= load_fresh(key_scales + row);
                value_scales_of[j] = load_fresh(value_scales + row);
            }
        }

        float scores[THREAD_ROWS][THREAD_TOKENS];
#pragma unroll
        for (int i = 0; i < THREAD_ROWS; i++) {
#pragma unroll
            for (int j = 0; j < THREAD_TOKENS; j++) scores[i][j] = 0.0f;
        }
        store_step(0);
        if (STEPS > 1) load_step(1, cache_rows);
        __syncthreads();
#pragma unroll 1
        for (int step = 0; step < STEPS; step++) {
            if (step + 1 < STEPS) store_step((step + 1) & 1);
            if (step + 2 < STEPS) load_step(step + 2, cache_rows);
            if (step + 1 == STEPS) load_values(0, cache_rows);
            multiply<STEP, BLOCK_ROWS, TILE, 1>(&shared.steps.query[step & 1][0][first_row],
                                                &shared.steps.keys[step & 1][0][4 * column_lane], scores);
            __syncthreads();
        }

        const bool is_whole = own.all_see(start, window);
#pragma unroll
        for (int i = 0; i < THREAD_ROWS; i++) {
#pragma unroll
            for (int j = 0; j < THREAD_TOKENS; j++) {
                scores[i][j] = scoring.score(scores[i][j] * token_factors[j]);
            }
            if (is_whole) continue;
            const int position = own.history + own.rows.token(first_row + i);
#pragma unroll
            for (int j = 0; j < THREAD_TOKENS; j++) {
                const int token = start + j * COLUMN_LANES + column_lane;
                if (token > position || (HAS_WINDOW && token <= position - window)) scores[i][j] = minus_infinity();
            }
        }
        rows.make_room(scores, &shared.maxima[first_row], column_lane == 0);
        float maxima[THREAD_ROWS];
        load_rows(maxima, &shared.maxima[first_row]);
#pragma unroll
        for (int j = 0; j < THREAD_TOKENS; j++) {
            float weights[THREAD_ROWS];
#pragma unroll
            for (int i = 0; i < THREAD_ROWS; i++) {
                const float weight = power_of_two(scores[i][j] - maxima[i]);
                rows.sums[i] += weight;
                weights[i] = CACHE_TYPE == INT8 ? weight * value_scales_of[j] : weight;
            }
            float* const target = &shared.weights[j * COLUMN_LANES + column_lane][first_row];
#pragma unroll
            for (int i = 0; i < THREAD_ROWS; i += 4) store_four(target + i, weights + i);
        }
        if (threadIdx.x < TILE) shared.rows[buffer ^ 1][threadIdx.x] = next_row;
        store_values(0);
        if (VALUE_STEPS > 1) load_values(1, cache_rows);
        __syncthreads();
#pragma unroll 1
        for (int step = 0; step < VALUE_STEPS; step++) {
            if (step + 1 < VALUE_STEPS) store_values((step + 1) & 1);
            if (step + 2 < VALUE_STEPS) load_values(step + 2, cache_rows);
            if (step + 1 == VALUE_STEPS && start + TILE < own.end) load_step(0, shared.rows[buffer ^ 1]);
            multiply<VALUE_STEP, BLOCK_ROWS + 4, PADDED_DIM, VALUE_PARTS>(
                &shared.weights[step * VALUE_STEP][first_row], &shared.values[step & 1][0][4 * column_lane],
                rows.totals);
            __syncthreads();
        }
    }

#pragma unroll
    for (int i = 0; i < THREAD_ROWS; i++) {
        rows.sums[i] = over_columns(rows.sums[i], [](float a, float b) { return a + b; });
    }
    if (HAS_SPLITS && own.splits > 1) {
        const size_t index = size_t(blockIdx.y) * gridDim.x + blockIdx.x;
        float* const parts = partials + index * gridDim.z * PART_FLOATS;
        rows.leave(parts + size_t(blockIdx.z) * PART_FLOATS, &shared.maxima[first_row], first_row, column_lane == 0);
        if (!comes_last(arrivals + index, own.splits, shared.arrived)) return;
        rows.gather(parts, own.splits, first_row);
    }
#pragma unroll
    for (int i = 0; i < THREAD_ROWS; i++) {
        const int row = first_row + i;
        if (!own.rows.has(row)) continue;
        const size_t query_row = own.rows.query_row + own.rows.token(row);
        const size_t head = key_value_head * GROUP + own.rows.head(row);
        float* const target = y + (query_row * key_value_heads * GROUP + head) * HEAD_DIM;
        const float share = 1.0f / rows.sums[i];
#pragma unroll
        for (int part = 0; part < VALUE_PARTS; part++) {
            const int column = 64 * part + 4 * column_lane;
            if (HEAD_DIM % 64 != 0 && column >= HEAD_DIM) continue;
            const float* const totals = rows.totals[i] + 4 * part;
            *reinterpret_cast<float4*>(target + column) =
                make_float4(totals[0] * share, totals[1] * share, totals[2] * share, totals[3] * share);
        }
    }
}
