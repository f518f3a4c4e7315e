// Blocks that share a tile of rows of attention_prefill.cu: each goes through some of the tokens that these see, and the
// last of them brings together what they found.
//
// Definitions: those of running_softmax.cuh; THREADS.
#pragma once
#include "arrivals.cuh"
#include "running_softmax.cuh"

constexpr int LEAST_SHARE_TOKENS = 256;
constexpr int ROW_QUADS = VALUE_BLOCKS + 1;  // of a thread's 16 rows: sums, then shifts and totals
constexpr int SHARE_QUADS = ROW_TILES * ROW_QUADS * THREADS;

// A block's share of the `tiles` of TILE_TOKENS tokens that the rows see.
struct TileShare {
    int index, count;  // of those that have some
    int first, units;  // its first tile; a tile's keys are one, and its values

    PASCALINE_INLINE TileShare(int own, int most, int tiles) : index(own) {
        count = max(1, min(most, tiles * TILE_TOKENS / LEAST_SHARE_TOKENS));
        first = own * tiles / count;
        units = own < count ? 2 * ((own + 1) * tiles / count - first) : 0;
    }
};

// True in the block that comes last, whose sums are then those of all tokens.
PASCALINE_INLINE bool gather_shares(Rows& rows, Sums& sums, const TileShare& share, float4* partials,
                                    uint32_t* arrivals, int number, int most_shares) {
    __shared__ uint32_t arrived;
    float4* const parts = partials + size_t(number) * most_shares * SHARE_QUADS + threadIdx.x;
    float4* const own = parts + size_t(share.index) * SHARE_QUADS;
#pragma unroll
    for (int tile = 0; tile < ROW_TILES; tile++) {
        float4* const quads = own + tile * ROW_QUADS * THREADS;
#pragma unroll
        for (int block = 0; block < VALUE_BLOCKS; block++) {
            const float(&four)[4] = sums[tile][block];
            quads[block * THREADS] = make_float4(four[0], four[1], four[2], four[3]);
        }
        quads[VALUE_BLOCKS * THREADS] = make_float4(rows.shifts[2 * tile], rows.shifts[2 * tile + 1],
                                                    rows.totals[2 * tile], rows.totals[2 * tile + 1]);
    }
    if (!comes_last(arrivals + number, share.count, arrived)) return false;

#pragma unroll
    for (int tile = 0; tile < ROW_TILES; tile++) {
        const float4* const quads = parts + tile * ROW_QUADS * THREADS;
        float(&shifts)[Rows::COUNT] = rows.shifts;
        for (int each = 0; each < share.count; each++) {
            const float4 ends = load_fresh(quads + size_t(each) * SHARE_QUADS + VALUE_BLOCKS * THREADS);
            shifts[2 * tile] = fmaxf(shifts[2 * tile], ends.x);
            shifts[2 * tile + 1] = fmaxf(shifts[2 * tile + 1], ends.y);
        }
        rows.totals[2 * tile] = rows.totals[2 * tile + 1] = 0.0f;
#pragma unroll
        for (int block = 0; block < VALUE_BLOCKS; block++) {
            float(&four)[4] = sums[tile][block];
            four[0] = four[1] = four[2] = four[3] = 0.0f;
        }
        for (int each = 0; each < share.count; each++) {
            const float4* const part = quads + size_t(each) * SHARE_QUADS;
            const float4 ends = load_fresh(part + VALUE_BLOCKS * THREADS);
            const float first = power_of_two(ends.x - shifts[2 * tile]);
            const float second = power_of_two(ends.y - shifts[2 * tile + 1]);
            rows.totals[2 * tile] += ends.z * first;
            rows.totals[2 * tile + 1] += ends.w * second;
#pragma unroll
            for (int block = 0; block < VALUE_BLOCKS; block++) {
                const float4 addend = load_fresh(part + block * THREADS);
                float(&four)[4] = sums[tile][block];
                four[0] += addend.x * first;
                four[1] += addend.y * first;
                four[2] += addend.z * second;
                four[3] += addend.w * second;
            }
        }
    }
    return true;
}
