// As attention_decode.cu, by bulk copies (chips from 9.0 on): caches of fp16 or bf16.
//
// A warp's pages go through shared memory as they lie, asked for by one lane (bulk_stream.cuh). A block has BLOCK_HEADS
// neighbouring heads, whose parts of a page lie together: their warps ask for them at about the same time.
//
// Definitions: those of attention_call.py, HEAD_DIM 64 or 128; MATRIX_TYPE, the cache's; MOST_ROWS; WARPS; BLOCK_HEADS; STAGES;
// KEY_PIECES; VALUE_PIECES; MIN_BLOCKS.
#include "bulk_sums.cuh"
#include "score_scale.cuh"

static_assert(CACHE_TYPE == MATRIX_TYPE && HEAD_DIM <= 128, "numbers as they are, sums in registers");

extern "C" __global__ void __launch_bounds__(32 * WARPS, MIN_BLOCKS)
attention_bulk_decode(const float* __restrict__ query, const uint8_t* __restrict__ key_cache,
                      const uint8_t* __restrict__ value_cache, const float*, const float*,
                      const int32_t* __restrict__ page_table, const int32_t* __restrict__ query_start,
                      const int32_t* __restrict__ context_lengths, float* __restrict__ y, int, int sequences,
                      int table_width, int key_value_heads, int query_stride, int window, uint32_t soft_cap_bits,
                      uint32_t scale_bits, float* partials, uint32_t* arrivals, int least_pages, int sums_bytes) {
    let_next_launch_begin();
    wait_for_launches_before();
    DYNAMIC_SHARED(uint8_t, shared);
    __shared__ BulkStream::Barriers barriers[WARPS];
    __shared__ uint32_t arrived;
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, group = lane / 4, member = lane % 4;
    const int first_head = blockIdx.x * BLOCK_HEADS, own_head = first_head + warp % BLOCK_HEADS;
    const Batch batch = {query_start, context_lengths, sequences, key_value_heads, window};
    const ScoreScale score_scale(bits_to_float(scale_bits), bits_to_float(soft_cap_bits));
    Shares shares(batch, least_pages, reinterpret_cast<int32_t*>(shared));
    if (shares.is_done()) return;
    // Sequences' numbers, then sums, then the warps' pages.
    uint8_t* const shared_sums = shared + (4 * Shares::words(sequences) + 15) / 16 * 16;
    const size_t head_bytes = size_t(own_head) * PAGE_BYTES;
    BulkStream stream(key_cache + head_bytes, value_cache + head_bytes, size_t(key_value_heads) * PAGE_BYTES,
                      barriers[warp], shared_sums + sums_bytes + warp * STREAM_BYTES);
    const auto pages_of = [&](const Segment& segment) {
        const Sequence sequence = shares.sequence(segment.sequence);
        const int stream_number = warp / BLOCK_HEADS, first_page = segment.first_page + stream_number;
        return WarpPages(segment.pages > stream_number ? (segment.pages - stream_number - 1) / STREAMS + 1 : 0,
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
        const int first_row = segment.tile * TILE_ROWS;
        const int rows = min(sequence.rows * GROUP - first_row, TILE_ROWS);
        const auto offset_of = [&](int head, int row, int stride) {
            return size_t(sequence.first_token + (first_row + row) / GROUP) * stride +
                   size_t(head * GROUP + (first_row + row) % GROUP) * HEAD_DIM;
        };
        const Queries queries(group < rows ? query + offset_of(own_head, group, query_stride) : nullptr, member);
        const float factor = queries.unit * score_scale.factor;
        // Tokens that the lane's row sees, from the segment's first on.
        const int token_row = min((first_row + group) / GROUP, sequence.rows - 1);
        const int end = sequence.end(token_row) - sequence.context + pages.tokens;
        const int begin = sequence.begin(token_row, batch) - sequence.context + pages.tokens;

        LaneSums own;
#pragma unroll 1
        for (int page = 0; page < pages.count; page++) {
            const int first_token = page * STREAMS * PAGE_SIZE;
            float scores[4];
            stream.wait();
            multiply_keys(scores, stream.place<Kind::keys>(), queries, lane);
            const Values values(stream.place<Kind::values>(), pages.tokens - first_token, lane);
            stream.advance(pages, page);
            float largest = LOWEST;
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int token = first_token + token_of(i / 2, 2 * member + i % 2);
                const bool is_visible = token < end && (!HAS_WINDOW || token >= begin);
                scores[i] = is_visible ? score_scale.capped(scores[i] * factor) : bits_to_float(0xFF800000u);
                largest = fmaxf(largest, scores[i]);
            }
            largest = fmaxf(largest, shuffle_xor(largest, 1));
            largest = fmaxf(largest, shuffle_xor(largest, 2));
            own.raise(largest);
#pragma unroll
            for (int i = 0; i < 4; i++) {
                scores[i] = power_of_two(scores[i] - own.most + WEIGHT_EXPONENT);
                own.total += scores[i];
            }
            multiply_values(own.sums, values, scores);
        }

        if (!is_last) stream.begin(next_pages);
        const auto row_of_y = [&](int head, int row) {
            return y + offset_of(first_head + head, row, HEAD_DIM * GROUP * key_value_heads);
        };
        SegmentSums<BLOCK_HEADS> sums(reinterpret_cast<float*>(shared_sums), rows);
        sums.gather(own, warp, lane);
        if (segment.is_whole) {
            sums.finish(row_of_y);
        } else {
            sums.leave(segment, partials);
            if (comes_last(arrivals + shares.number_of(segment), segment.sharers, arrived)) {
                sums.finish_parts(segment, partials, row_of_y);
            }
        }
    }
}
