// A tile's sums over some of its pages, as they come together: of a warp's lanes, of a block's warps, of several blocks.
//
// Weights are powers of two of scores less the largest score so far, `most`; sums of values times these, and the weights'
// own, are multiplied by a power of two when it grows. `most` begins below every score and finite: what has seen nothing
// then weighs nothing.
//
// Definitions: those of page_products.cuh.
#pragma once
#include "arrivals.cuh"
#include "page_products.cuh"
#include "platform_exponential.cuh"

constexpr float LOWEST = -1.0e30f;
constexpr int THREADS = 32 * WARPS;
constexpr int QUADS = HEAD_DIM / 4;
constexpr int SUM_STRIDE = HEAD_DIM + 4;  // of a row; not a multiple of 32, for the sake of the banks
// What a block leaves: a row's sums, then `most` and `total` of all rows.
constexpr int PARTIAL_FLOATS = TILE_ROWS * (HEAD_DIM + 2);

// Of a lane: two rows, 2 * (lane % 4) and the next.
struct LaneSums {
    Sums sums;
    float most[2], total[2];

    PASCALINE_INLINE LaneSums() : sums{}, most{LOWEST, LOWEST}, total{0.0f, 0.0f} {}

    // The rows' largest scores of some more tokens.
    PASCALINE_INLINE void raise(const float (&largest)[2]) {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const float before = most[i];
            most[i] = fmaxf(before, largest[i]);
            const float factor = power_of_two(before - most[i]);
            total[i] *= factor;
#pragma unroll
            for (auto& four : sums) {
                four[i] *= factor;
                four[i + 2] *= factor;
            }
        }
    }
};

PASCALINE_INLINE float4 plus_times(const float4& sum, const float4& value, float factor) {
    return make_float4(sum.x + value.x * factor, sum.y + value.y * factor, sum.z + value.z * factor,
                       sum.w + value.w * factor);
}

// True in the block that comes last of a segment's sharers.
PASCALINE_INLINE bool comes_last_of(const Segment& segment, uint32_t* arrivals) {
    __shared__ uint32_t arrived;
    return comes_last(arrivals + segment.number, segment.sharers, arrived);
}

// Of a block's warps, in shared memory.
class SegmentSums {
  public:
    // A row's in memory: [warp][row].
    static constexpr int FLOATS = WARPS * TILE_ROWS * (SUM_STRIDE + 2);

    // shared: of nobody else's use from one barrier of the block to the next.
    PASCALINE_INLINE SegmentSums(float* shared, int rows)
        : rows_(rows), sums_(shared), most_(shared + WARPS * TILE_ROWS * SUM_STRIDE), total_(most_ + WARPS * TILE_ROWS) {}

    PASCALINE_INLINE void gather(LaneSums& own, int warp, int lane) {
        const int group = lane / 4, row = warp * TILE_ROWS + 2 * (lane % 4);
        __syncthreads();
#pragma unroll
        for (int i = 0; i < 2; i++) {
#pragma unroll
            for (int mask = 4; mask < 32; mask *= 2) own.total[i] += shuffle_xor(own.total[i], mask);
            if (group == 0) {
                most_[row + i] = own.most[i];
                total_[row + i] = own.total[i];
            }
            store_row(own.sums, i, sums_ + (row + i) * SUM_STRIDE, group);
        }
        __syncthreads();
    }

    // The rows of y, where there is no more to come.
    template <typename Output>
    PASCALINE_INLINE void finish(Output row_of_y) const {
        for (int item = threadIdx.x; item < rows_ * QUADS; item += THREADS) {
            const int row = item / QUADS, quad = item % QUADS;
            float most, total;
            const float4 sum = summed(row, quad, most, total);
            store(row_of_y(row), quad, sum, 1.0f / total);
        }
    }

    // For the block that comes last.
    PASCALINE_INLINE void leave(float* partial) const {
        for (int item = threadIdx.x; item < rows_ * QUADS; item += THREADS) {
            const int row = item / QUADS, quad = item % QUADS;
            float most, total;
            const float4 sum = summed(row, quad, most, total);
            reinterpret_cast<float4*>(partial)[row * QUADS + quad] = sum;
            if (quad == 0) {
                partial[TILE_ROWS * HEAD_DIM + row] = most;
                partial[TILE_ROWS * HEAD_DIM + TILE_ROWS + row] = total;
            }
        }
    }

    // The rows of y from what all of a segment's sharers have left.
    template <typename Output>
    PASCALINE_INLINE void finish_parts(const Segment& segment, const float* partials, Output row_of_y) {
        const int sharers = segment.sharers;
        float* const numbers = sums_;  // [sharer][row], `most` and `total`
        for (int index = threadIdx.x; index < sharers * TILE_ROWS; index += THREADS) {
            const float* const own = numbers_of(segment, partials, index / TILE_ROWS) + index % TILE_ROWS;
            const bool is_there = index % TILE_ROWS < rows_;
            numbers[2 * index] = is_there ? load_fresh(own) : LOWEST;
            numbers[2 * index + 1] = is_there ? load_fresh(own + TILE_ROWS) : 0.0f;
        }
        for (int first = 0; first < rows_ * QUADS; first += THREADS) {
            const int item = first + threadIdx.x, row = item / QUADS, quad = item % QUADS;
            const bool is_there = item < rows_ * QUADS;
            // PERF: the first parts come while the numbers do, all others while those before are added.
            float4 parts[AT_ONCE];
            load_parts(parts, segment, partials, 0, item, is_there);
            if (first == 0) __syncthreads();
            if (!is_there) continue;
            float most = LOWEST, total = 0.0f;
            for (int sharer = 0; sharer < sharers; sharer++) {
                most = fmaxf(most, numbers[2 * (sharer * TILE_ROWS + row)]);
            }
            float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll 1
            for (int begin = 0; begin < sharers; begin += AT_ONCE) {
                float4 next[AT_ONCE];
                load_parts(next, segment, partials, begin + AT_ONCE, item, true);
#pragma unroll
                for (int i = 0; i < AT_ONCE; i++) {
                    if (begin + i >= sharers) break;
                    const float* const own = numbers + 2 * ((begin + i) * TILE_ROWS + row);
                    const float factor = power_of_two(own[0] - most);
                    total += factor * own[1];
                    sum = plus_times(sum, parts[i], factor);
                }
#pragma unroll
                for (int i = 0; i < AT_ONCE; i++) parts[i] = next[i];
            }
            store(row_of_y(row), quad, sum, 1.0f / total);
        }
    }

  private:
    static constexpr int AT_ONCE = 8;  // parts of sums that are loaded

    static PASCALINE_INLINE void load_parts(float4 (&parts)[AT_ONCE], const Segment& segment, const float* partials,
                                            int first, int item, bool is_there) {
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            parts[i] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            if (!is_there || first + i >= segment.sharers) continue;
            const float* const own = partials + size_t(Shares::slot_of(segment, first + i)) * PARTIAL_FLOATS;
            parts[i] = load_fresh(reinterpret_cast<const float4*>(own) + item);
        }
    }

    static PASCALINE_INLINE const float* numbers_of(const Segment& segment, const float* partials, int sharer) {
        return partials + size_t(Shares::slot_of(segment, sharer)) * PARTIAL_FLOATS + TILE_ROWS * HEAD_DIM;
    }

    static PASCALINE_INLINE void store(float* row, int quad, const float4& sum, float factor) {
        const float4 zero = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        reinterpret_cast<float4*>(row)[quad] = plus_times(zero, sum, factor);
    }

    // Four of a row's sums over all warps.
    PASCALINE_INLINE float4 summed(int row, int quad, float& most, float& total) const {
        most = LOWEST;
        total = 0.0f;
#pragma unroll
        for (int warp = 0; warp < WARPS; warp++) most = fmaxf(most, most_[warp * TILE_ROWS + row]);
        float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll
        for (int warp = 0; warp < WARPS; warp++) {
            const int own = warp * TILE_ROWS + row;
            const float factor = power_of_two(most_[own] - most);
            total += factor * total_[own];
            sum = plus_times(sum, reinterpret_cast<const float4*>(sums_ + own * SUM_STRIDE)[quad], factor);
        }
        return sum;
    }

    int rows_;
    float *sums_, *most_, *total_;
};
