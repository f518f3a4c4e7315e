// A tile's sums over some of its pages, as they come together: of a warp's lanes, of a block's warps, of several blocks.
//
// Weights are powers of two of scores less the largest score so far, `most`; sums of values times these, and the weights'
// own, are multiplied by a power of two when it grows. `most` begins below every score and finite: what has seen nothing
// then weighs nothing.
//
// Definitions: those of attention_shares.cuh; HEAD_DIM; WARPS.
#pragma once
#include "arrivals.cuh"
#include "attention_shares.cuh"
#include "platform_exponential.cuh"

constexpr float LOWEST = -1.0e30f;
constexpr int THREADS = 32 * WARPS;
constexpr int QUADS = HEAD_DIM / 4;
constexpr int SUM_STRIDE = HEAD_DIM + 4;  // of a row; not a multiple of 32, for the sake of the banks
// What a block leaves of a head: a row's sums, then `most` and `total` of all rows.
constexpr int PARTIAL_FLOATS = TILE_ROWS * (HEAD_DIM + 2);

PASCALINE_INLINE float4 plus_times(const float4& sum, const float4& value, float factor) {
    return make_float4(sum.x + value.x * factor, sum.y + value.y * factor, sum.z + value.z * factor,
                       sum.w + value.w * factor);
}

// Of a block's warps, in shared memory. Each has pages of one of HEADS heads: warp w has those of head w % HEADS.
template <int HEADS>
class SegmentSums {
  public:
    // shared: of nobody else's use from one barrier of the block to the next; rows: of each head.
    PASCALINE_INLINE SegmentSums(float* shared, int rows)
        : rows_(rows), sums_(shared), most_(shared + WARPS * TILE_ROWS * SUM_STRIDE), total_(most_ + WARPS * TILE_ROWS) {}

    // own: as LaneSums is.
    template <typename Own>
    PASCALINE_INLINE void gather(Own& own, int warp, int lane) {
        const int first = warp * TILE_ROWS;
        __syncthreads();
        own.store(sums_ + first * SUM_STRIDE, most_ + first, total_ + first, lane);
        __syncthreads();
    }

    // The rows of y, where there is no more to come: row_of_y(head, row).
    template <typename Output>
    PASCALINE_INLINE void finish(Output row_of_y) const {
        for (int index = threadIdx.x; index < items(); index += THREADS) {
            const Item item(index, rows_);
            float most, total;
            const float4 sum = summed(item, most, total);
            store(row_of_y(item.head, item.row), item.quad, sum, divide_fast(1.0f, total));
        }
    }

    // For the block that comes last.
    PASCALINE_INLINE void leave(const Segment& segment, float* partials) const {
        float* const own = partials + size_t(segment.slot) * HEADS * PARTIAL_FLOATS;
        for (int index = threadIdx.x; index < items(); index += THREADS) {
            const Item item(index, rows_);
            float most, total;
            const float4 sum = summed(item, most, total);
            float* const partial = own + item.head * PARTIAL_FLOATS;
            reinterpret_cast<float4*>(partial)[item.row * QUADS + item.quad] = sum;
            if (item.quad == 0) {
                partial[TILE_ROWS * HEAD_DIM + item.row] = most;
                partial[TILE_ROWS * HEAD_DIM + TILE_ROWS + item.row] = total;
            }
        }
    }

    // The rows of y from what all of a segment's sharers have left.
    template <typename Output>
    PASCALINE_INLINE void finish_parts(const Segment& segment, const float* partials, Output row_of_y) {
        const int sharers = segment.sharers;
        float* const numbers = sums_;  // [sharer][head][row], `most` and `total`
        for (int index = threadIdx.x; index < sharers * HEAD_ROWS; index += THREADS) {
            const int row = index % TILE_ROWS;
            const float* const own = part_of(segment, partials, index / HEAD_ROWS, index / TILE_ROWS % HEADS) +
                                     TILE_ROWS * HEAD_DIM + row;
            const bool is_there = row < rows_;
            numbers[2 * index] = is_there ? load_fresh(own) : LOWEST;
            numbers[2 * index + 1] = is_there ? load_fresh(own + TILE_ROWS) : 0.0f;
        }
        for (int first = 0; first < items(); first += THREADS) {
            const bool is_there = first + int(threadIdx.x) < items();
            const Item item(first + threadIdx.x, rows_);
            // PERF: the first parts come while the numbers do, all others while those before are added.
            float4 parts[AT_ONCE];
            load_parts(parts, segment, partials, 0, item, is_there);
            if (first == 0) __syncthreads();
            if (!is_there) continue;
            const float* const own_numbers = numbers + 2 * (item.head * TILE_ROWS + item.row);
            float most = LOWEST, total = 0.0f;
            for (int sharer = 0; sharer < sharers; sharer++) most = fmaxf(most, own_numbers[2 * sharer * HEAD_ROWS]);
            float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll 1
            for (int begin = 0; begin < sharers; begin += AT_ONCE) {
                float4 next[AT_ONCE];
                load_parts(next, segment, partials, begin + AT_ONCE, item, true);
#pragma unroll
                for (int i = 0; i < AT_ONCE; i++) {
                    if (begin + i >= sharers) break;
                    const float* const own = own_numbers + 2 * (begin + i) * HEAD_ROWS;
                    const float factor = power_of_two(own[0] - most);
                    total += factor * own[1];
                    sum = plus_times(sum, parts[i], factor);
                }
#pragma unroll
                for (int i = 0; i < AT_ONCE; i++) parts[i] = next[i];
            }
            store(row_of_y(item.head, item.row), item.quad, sum, divide_fast(1.0f, total));
        }
    }

  private:
    static constexpr int AT_ONCE = 8;  // parts of sums that are loaded
    static constexpr int HEAD_ROWS = HEADS * TILE_ROWS;

    // Four numbers of a head's row.
    struct Item {
        int head, row, quad;

        PASCALINE_INLINE Item(int index, int rows)
            : head(HEADS == 1 ? 0 : index / QUADS / rows), row(index / QUADS - head * rows), quad(index % QUADS) {}
    };

    PASCALINE_INLINE int items() const { return HEADS * rows_ * QUADS; }

    static PASCALINE_INLINE void load_parts(float4 (&parts)[AT_ONCE], const Segment& segment, const float* partials,
                                            int first, const Item& item, bool is_there) {
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            parts[i] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            if (!is_there || first + i >= segment.sharers) continue;
            const float* const own = part_of(segment, partials, first + i, item.head);
            parts[i] = load_fresh(reinterpret_cast<const float4*>(own) + (item.row * QUADS + item.quad));
        }
    }

    static PASCALINE_INLINE const float* part_of(const Segment& segment, const float* partials, int sharer, int head) {
        return partials + (size_t(Shares::slot_of(segment, sharer)) * HEADS + head) * PARTIAL_FLOATS;
    }

    static PASCALINE_INLINE void store(float* row, int quad, const float4& sum, float factor) {
        const float4 zero = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        reinterpret_cast<float4*>(row)[quad] = plus_times(zero, sum, factor);
    }

    // Over all warps of the head.
    PASCALINE_INLINE float4 summed(const Item& item, float& most, float& total) const {
        most = LOWEST;
        total = 0.0f;
#pragma unroll
        for (int warp = 0; warp < WARPS; warp += HEADS) {
            most = fmaxf(most, most_[(warp + item.head) * TILE_ROWS + item.row]);
        }
        float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll
        for (int warp = 0; warp < WARPS; warp += HEADS) {
            const int own = (warp + item.head) * TILE_ROWS + item.row;
            const float factor = power_of_two(most_[own] - most);
            total += factor * total_[own];
            sum = plus_times(sum, reinterpret_cast<const float4*>(sums_ + own * SUM_STRIDE)[item.quad], factor);
        }
        return sum;
    }

    int rows_;
    float *sums_, *most_, *total_;
};
