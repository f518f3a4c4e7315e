// Attention of sequences with one new token, or a few, over keys and values in pages, by tensor cores; chips from 8.0 on.
//
//     y[t, h] = sum over j of softmax_j(cap(scale * query[t, h] . key[j])) * value[j]
//
// as kernels/paged_attention.py has it. It is bound by reading keys and values once: they go through shared memory, some
// pages of a warp on their way (page_stream.cuh). Queries and weights are taken in two parts (page_products.cuh), so
// that only fp32's arithmetic errs, or bf16's twofold. The running maximum is that of Milakov and Gimelshein 2018,
// arXiv:1805.02867.
//
// Blocks of threads share the pages of the whole batch evenly (attention_shares.cuh). A block's warps take a segment's
// pages in turns, and bring their sums together in shared memory; blocks that have some of the same tile each leave theirs
// in `partials`, where the last of them brings them together: flash decoding (Dao et al. 2023) in one launch.
//
// Definitions: those of attention_call.py; CACHE_TYPE FP16, BF16 or INT8; MATRIX_TYPE, BF16 for caches of that and FP16
// else; MOST_ROWS; WARPS; STAGES; STEP_PAGES; MIN_BLOCKS.
#include "page_products.cuh"
#include "platform_exponential.cuh"
#include "segment_sums.cuh"

static_assert(CACHE_TYPE == FP16 || CACHE_TYPE == BF16 || CACHE_TYPE == INT8, "what tensor cores multiply");

// Weights are so many powers of two larger: what is below the least number of 16 bits is then negligible. Scales of values
// up to 1000 multiply them.
constexpr float WEIGHT_EXPONENT = CACHE_TYPE == FP16 ? 14.0f : CACHE_TYPE == INT8 ? 6.0f : 0.0f;

// What scores in the queries' units are multiplied by, and a soft cap, both to powers of two.
struct ScoreScale {
    float factor, cap;

    PASCALINE_INLINE ScoreScale(float scale, float soft_cap) : factor(scale * LOG2_E), cap(soft_cap * LOG2_E) {
        // tanh(x) = 1 - 2 / (exp(2 x) + 1)
        if constexpr (HAS_SOFT_CAP) factor *= divide_fast(2.0f, soft_cap);
    }

    PASCALINE_INLINE float capped(float score) const {
        if constexpr (!HAS_SOFT_CAP) return score;
        return cap * (1.0f - divide_fast(2.0f, power_of_two(score) + 1.0f));
    }
};

// The tokens that a lane's two rows see: begin ... end - 1, from the segment's first on.
struct Visible {
    int begin[2], end[2];

    PASCALINE_INLINE bool operator()(int token, int which) const {
        return token < end[which] && (!HAS_WINDOW || token >= begin[which]);
    }
};

extern "C" __global__ void __launch_bounds__(32 * WARPS, MIN_BLOCKS)
attention_decode(const float* __restrict__ query, const void* __restrict__ key_cache,
                 const void* __restrict__ value_cache, const float* __restrict__ key_scales,
                 const float* __restrict__ value_scales, const int32_t* __restrict__ page_table,
                 const int32_t* __restrict__ query_start, const int32_t* __restrict__ context_lengths,
                 float* __restrict__ y, int, int sequences, int table_width, int key_value_heads, int query_stride,
                 int window, uint32_t soft_cap_bits, uint32_t scale_bits, float* partials, uint32_t* arrivals,
                 int least_pages, int sums_bytes) {
    let_next_launch_begin();
    wait_for_launches_before();
    DYNAMIC_SHARED(uint8_t, shared);
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, group = lane / 4, member = lane % 4;
    const Batch batch = {query_start, context_lengths, sequences, key_value_heads, window};
    const Cache cache = {static_cast<const uint8_t*>(key_cache), static_cast<const uint8_t*>(value_cache), key_scales,
                         value_scales, key_value_heads};
    const ScoreScale score_scale(bits_to_float(scale_bits), bits_to_float(soft_cap_bits));
    Shares shares(batch, least_pages, reinterpret_cast<int32_t*>(shared));
    if (shares.is_done()) return;
    // Sequences' numbers, then sums, then the warps' pages.
    uint8_t* const shared_sums = shared + (4 * Shares::words(sequences) + 15) / 16 * 16;
    const PageStream stream(cache, shared_sums + sums_bytes + warp * STREAM_BYTES);
    const auto pages_of = [&](const Segment& segment) {
        const Sequence sequence = shares.sequence(segment.sequence);
        const int first_page = segment.first_page + warp;
        return WarpPages(segment.tile / row_tiles(sequence.rows),
                         segment.pages > warp ? (segment.pages - warp - 1) / WARPS + 1 : 0,
                         sequence.context - first_page * PAGE_SIZE,
                         page_table + size_t(segment.sequence) * table_width + first_page);
    };
    Segment next_segment = shares.take();
    WarpPages next_pages = pages_of(next_segment);
    stream.begin(next_pages);
#pragma unroll 1
    for (bool is_last = false; !is_last;) {
        const Segment segment = next_segment;
        WarpPages pages = next_pages;
        is_last = shares.is_done();
        if (!is_last) {
            next_segment = shares.take();
            next_pages = pages_of(next_segment);
        }
        const Sequence sequence = shares.sequence(segment.sequence);
        const int first_row = segment.tile % row_tiles(sequence.rows) * TILE_ROWS;
        const int rows = min(sequence.rows * GROUP - first_row, TILE_ROWS);
        const int head = pages.head;
        const auto offset_of = [&](int row, int stride) {
            return size_t(sequence.first_token + (first_row + row) / GROUP) * stride +
                   size_t(head * GROUP + (first_row + row) % GROUP) * HEAD_DIM;
        };
        const Queries queries(group < rows ? query + offset_of(group, query_stride) : nullptr, member);
        float factors[2];
        Visible visible;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            factors[i] = shuffle_from(queries.unit, 4 * (2 * member + i)) * score_scale.factor;
            const int token = min((first_row + 2 * member + i) / GROUP, sequence.rows - 1);
            visible.end[i] = sequence.end(token) - sequence.context + pages.tokens;
            visible.begin[i] = sequence.begin(token, batch) - sequence.context + pages.tokens;
        }

        LaneSums own;
        const int steps = pages.steps();
#pragma unroll 1
        for (int step = 0; step < steps; step++) {
            float scores[STEP_PAGES][4];
            stream.wait();
#pragma unroll
            for (int page = 0; page < STEP_PAGES; page++) {
                if (!pages.has(step, page)) {
#pragma unroll
                    for (float& score : scores[page]) score = 0.0f;
                    continue;
                }
                multiply_keys(scores[page], stream.place<Kind::keys>(step, page), queries, lane);
                if constexpr (IS_INT8) {
#pragma unroll
                    for (int i = 0; i < 4; i++) {
                        scores[page][i] *= stream.scale<Kind::keys>(step, page, group + 8 * (i / 2));
                    }
                }
            }
            stream.release<Kind::keys>(pages, step);
            float largest[2] = {LOWEST, LOWEST};
#pragma unroll
            for (int page = 0; page < STEP_PAGES; page++) {
                const int first_token = (step * STEP_PAGES + page) * WARPS * PAGE_SIZE + group;
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    float& score = scores[page][i];
                    const bool is_visible = pages.has(step, page) && visible(first_token + 8 * (i / 2), i % 2);
                    score = is_visible ? score_scale.capped(score * factors[i % 2]) : bits_to_float(0xFF800000u);
                    largest[i % 2] = fmaxf(largest[i % 2], score);
                }
            }
#pragma unroll
            for (int i = 0; i < 2; i++) {
#pragma unroll
                for (int mask = 4; mask < 32; mask *= 2) largest[i] = fmaxf(largest[i], shuffle_xor(largest[i], mask));
            }
            own.raise(largest);
#pragma unroll
            for (int page = 0; page < STEP_PAGES; page++) {
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    float& weight = scores[page][i];
                    weight = power_of_two(weight - own.most[i % 2] + WEIGHT_EXPONENT);
                    own.total[i % 2] += weight;
                }
            }
            stream.wait();
#pragma unroll
            for (int page = 0; page < STEP_PAGES; page++) {
                if (!pages.has(step, page)) break;
                if constexpr (IS_INT8) {
#pragma unroll
                    for (int i = 0; i < 4; i++) {
                        // A scale that nobody wrote may be no number.
                        const float scale = stream.scale<Kind::values>(step, page, group + 8 * (i / 2));
                        scores[page][i] = scores[page][i] > 0.0f ? scores[page][i] * scale : 0.0f;
                    }
                }
                multiply_values(own.sums, stream.place<Kind::values>(step, page), Weights(scores[page]), lane);
            }
            stream.release<Kind::values>(pages, step);
        }

        if (!is_last) stream.begin(next_pages);
        const auto row_of_y = [&](int row) { return y + offset_of(row, HEAD_DIM * GROUP * key_value_heads); };
        SegmentSums sums(reinterpret_cast<float*>(shared_sums), rows);
        sums.gather(own, warp, lane);
        if (segment.is_whole) {
            sums.finish(row_of_y);
        } else {
            sums.leave(partials + size_t(segment.slot) * PARTIAL_FLOATS);
            if (comes_last_of(segment, arrivals)) sums.finish_parts(segment, partials, row_of_y);
        }
    }
}
